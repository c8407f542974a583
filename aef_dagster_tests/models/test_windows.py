import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models.windows import WindowSampler, gather

TRAIN, WINDOW, WARMUP = slice(30, 100), 20, 8


def sampler(flow, seed=0, train=TRAIN):
    return WindowSampler(flow, train, 0, WINDOW, WARMUP, np.random.default_rng(seed))


def test_the_loss_never_sees_a_day_outside_the_training_period():
    flow = np.ones((3, 130), dtype=np.float32)
    basins, starts = sampler(flow).draw(20_000)
    loss_starts, ends = starts + WARMUP, starts + WINDOW
    assert loss_starts.min() == TRAIN.start
    assert ends.max() == TRAIN.stop
    assert set(basins) == {0, 1, 2}


def test_the_warmup_does_not_begin_before_the_record():
    flow = np.ones((1, 130), dtype=np.float32)
    _, starts = sampler(flow, train=slice(3, 60)).draw(5000)
    assert starts.min() == 0


def test_every_window_shows_the_loss_an_observation():
    flow = np.full((2, 130), np.nan, dtype=np.float32)
    flow[0, 60], flow[1, 30:100] = 1.0, 1.0
    flow[0, 100:] = 1.0  # outside the training period: no reason to draw a window
    drawn = sampler(flow)
    basins, starts = drawn.draw(5000)
    of_first = starts[basins == 0]
    assert of_first.min() == 60 - WINDOW + 1
    assert of_first.max() == 60 - WARMUP
    assert abs(np.mean(basins == 0) - 0.5) < 0.03  # basins count alike, whatever they recorded


def test_basins_without_flow_in_training_are_left_out_and_counted():
    flow = np.full((3, 130), np.nan, dtype=np.float32)
    flow[1] = 1.0
    flow[2, 100:] = 1.0
    drawn = sampler(flow)
    assert drawn.basins_left_out == 2
    assert set(drawn.draw(500)[0]) == {1}


def test_the_same_generator_draws_the_same_windows():
    flow = np.ones((3, 130), dtype=np.float32)
    first, again, other = (sampler(flow, seed).draw(50) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_impossible_windows_are_explained():
    flow = np.ones((1, 130), dtype=np.float32)
    with pytest.raises(UserError, match="a window of 20 days does not fit into the 10 days"):
        sampler(flow, train=slice(0, 10))
    with pytest.raises(UserError, match="none of the 1 donors has flow"):
        sampler(flow * np.nan)


def test_gather_copies_the_right_days_time_first(toy):
    basins, starts = np.array([2, 0, 2]), np.array([5, 100, 6])
    batch = gather(toy.forcing, basins, starts, 30)
    assert batch.shape == (30, 3, 7)
    assert batch.flags.c_contiguous
    for column, (basin, start) in enumerate(zip(basins, starts, strict=True)):
        np.testing.assert_array_equal(batch[:, column], toy.forcing[basin, start : start + 30])
    flow = gather(toy.streamflow, basins, starts, 30)
    np.testing.assert_array_equal(flow[:, 1], toy.streamflow[0, 100:130])
