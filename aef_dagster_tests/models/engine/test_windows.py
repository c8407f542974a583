import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.windows import EpochSampler, RandomSampler, Windows, gather

TRAIN, WINDOW, WARMUP = slice(30, 100), 20, 8


def windows(flow, train=TRAIN, first_day=0):
    return Windows(flow, train, first_day, WINDOW, WARMUP)


def drawn_at_random(flow, count, seed=0, train=TRAIN):
    return RandomSampler(windows(flow, train), count, Draws(seed)).draw(0)


def test_the_loss_never_sees_a_day_outside_the_training_period():
    flow = np.ones((3, 130), dtype=np.float32)
    basins, starts = drawn_at_random(flow, 20_000)
    loss_starts, ends = starts + WARMUP, starts + WINDOW
    assert loss_starts.min() == TRAIN.start
    assert ends.max() == TRAIN.stop
    assert set(basins) == {0, 1, 2}


def test_the_warmup_does_not_begin_before_the_record():
    flow = np.ones((1, 130), dtype=np.float32)
    _, starts = drawn_at_random(flow, 5000, train=slice(3, 60))
    assert starts.min() == 0
    later = windows(flow, train=slice(3, 60), first_day=2)
    assert later.starts.min() == 2


def test_every_window_shows_the_loss_an_observation():
    flow = np.full((2, 130), np.nan, dtype=np.float32)
    flow[0, 60], flow[1, 30:100] = 1.0, 1.0
    flow[0, 100:] = 1.0  # outside the training period: no reason to draw a window
    basins, starts = drawn_at_random(flow, 5000)
    of_first = starts[basins == 0]
    assert of_first.min() == 60 - WINDOW + 1
    assert of_first.max() == 60 - WARMUP
    assert abs(np.mean(basins == 0) - 0.5) < 0.03  # basins count alike, whatever they recorded


def test_basins_without_flow_in_training_are_left_out_and_counted():
    flow = np.full((3, 130), np.nan, dtype=np.float32)
    flow[1] = 1.0
    flow[2, 100:] = 1.0
    assert windows(flow).basins_left_out == 2
    assert set(drawn_at_random(flow, 500)[0]) == {1}


def test_windows_of_a_basin_are_drawn_evenly():
    flow = np.full((2, 130), np.nan, dtype=np.float32)
    flow[0, 60:70], flow[1, 30:100] = 1.0, 1.0
    basins, starts = drawn_at_random(flow, 40_000)
    for basin, first, last in ((0, 41, 61), (1, 22, 80)):
        of_basin = starts[basins == basin]
        counts = np.bincount(of_basin - first, minlength=last - first + 1)
        assert counts.size == last - first + 1
        expected = of_basin.size / counts.size
        chi_square = ((counts - expected) ** 2 / expected).sum()
        freedom = counts.size - 1
        assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("kind", [RandomSampler, EpochSampler])
def test_an_update_draws_the_same_windows_whatever_was_drawn_before(kind):
    flow = np.ones((3, 130), dtype=np.float32)
    in_order = kind(windows(flow), 50, Draws(1))
    expected = [in_order.draw(update) for update in range(9)]
    jumping, other = kind(windows(flow), 50, Draws(1)), kind(windows(flow), 50, Draws(2))
    for update in (8, 3, 0, 5):
        np.testing.assert_array_equal(jumping.draw(update), expected[update])
        assert not np.array_equal(other.draw(update), expected[update])
    assert not np.array_equal(expected[0], expected[1])


def test_an_epoch_shows_every_window_once():
    flow = np.ones((3, 130), dtype=np.float32)
    flow[1] = np.nan  # a donor without windows: the rows of the others stay their own
    flow[2, 95:] = np.nan
    flow[2, :90] = np.nan
    sampler = EpochSampler(windows(flow), 8, Draws(3))
    # Starts 22 to 80 of the first basin; of the third, those whose loss sees a day of 90 to 94.
    expected = {(0, start) for start in range(22, 81)} | {(2, start) for start in range(71, 81)}
    assert len(expected) == 69
    assert sampler.updates_per_epoch == 9  # eight of 8, and one of 5
    orders = []
    for epoch in range(2):
        drawn = [sampler.draw(9 * epoch + update) for update in range(9)]
        assert [len(basins) for basins, _ in drawn] == [8] * 8 + [5]
        pairs = [pair for basins, starts in drawn for pair in zip(basins, starts, strict=True)]
        assert len(pairs) == 69
        assert set(pairs) == expected
        orders.append(pairs)
    assert orders[0] != orders[1]
    # In random order: neighbours in the epoch are rarely neighbours in the record.
    firsts = np.array(orders[0])[:, 1]
    assert np.mean(np.diff(firsts) == 1) < 0.1


def test_batches_that_fit_leave_no_empty_one():
    flow = np.ones((1, 130), dtype=np.float32)
    assert EpochSampler(windows(flow), 59, Draws(0)).updates_per_epoch == 1
    assert EpochSampler(windows(flow), 58, Draws(0)).updates_per_epoch == 2
    assert EpochSampler(windows(flow), 500, Draws(0)).updates_per_epoch == 1


def test_impossible_windows_are_explained():
    flow = np.ones((1, 130), dtype=np.float32)
    with pytest.raises(UserError, match="a window of 20 days does not fit into the 10 days"):
        windows(flow, train=slice(0, 10))
    with pytest.raises(UserError, match="none of the 1 donors has flow"):
        windows(flow * np.nan)


def test_gather_copies_the_right_days_time_first(toy):
    basins, starts = np.array([2, 0, 2]), np.array([5, 100, 6])
    batch = gather(toy.forcing, basins, starts, 30)
    assert batch.shape == (30, 3, 7)
    assert batch.flags.c_contiguous
    for column, (basin, start) in enumerate(zip(basins, starts, strict=True)):
        np.testing.assert_array_equal(batch[:, column], toy.forcing[basin, start : start + 30])
    flow = gather(toy.streamflow, basins, starts, 30)
    np.testing.assert_array_equal(flow[:, 1], toy.streamflow[0, 100:130])
