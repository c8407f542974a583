"""Donors drawn by weight: which weights there can be, who is drawn how often, on both engines."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from aef_dagster.errors import UserError
from aef_dagster.models.engine import cpu
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.gpu import train_jobs
from aef_dagster.models.engine.grouped_batches import Alike, DeviceData, GroupBatches, Widths
from aef_dagster.models.engine.groups import Group
from aef_dagster.models.engine.members import Member
from aef_dagster.models.engine.windows import RandomSampler, windows_of
from aef_dagster.models.inputs import prepare
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import Recipe

WEIGHTS = (0.0, 3.0, 1.0, 0.5, 0.0, 4.0, 0.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(inputs, count):
    return RandomSampler(windows_of(inputs), count, Draws(0)).draw(0)


def test_donors_are_drawn_in_proportion_to_their_weights(toy, make_job):
    basins, _ = drawn(prepare(make_job(donor_weights=WEIGHTS), toy), 40_000)
    counts = np.bincount(basins, minlength=7)
    expected = 40_000 * np.array(WEIGHTS) / sum(WEIGHTS)
    assert (counts[expected == 0] == 0).all()
    # Four standard deviations of a binomial count.
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all()


def test_a_basins_windows_are_drawn_evenly_whatever_its_weight(toy, make_job):
    basins, starts = drawn(prepare(make_job(donor_weights=WEIGHTS), toy), 40_000)
    plain_basins, plain = drawn(prepare(make_job(), toy), 40_000)
    of_basin, of_plain = starts[basins == 1], plain[plain_basins == 1]
    assert of_basin.min() <= of_plain.min() + 2
    assert of_basin.max() >= of_plain.max() - 2
    middle = (of_plain.min() + of_plain.max()) / 2
    assert np.mean(of_basin < middle) == pytest.approx(0.5, abs=4 * 0.5 / len(of_basin) ** 0.5)


def test_a_donor_without_flow_leaves_its_share_to_the_others(toy, make_job):
    flow = toy.streamflow.copy()
    flow[2, : toy.span("2002-10-01", "2002-10-01").start] = np.nan  # the donor of weight 3
    inputs = prepare(make_job(donor_weights=WEIGHTS), replace(toy, streamflow=flow))
    basins, _ = drawn(inputs, 20_000)
    assert set(basins) == {2, 3, 5}
    assert np.mean(basins == 5) == pytest.approx(4 / 5.5, abs=0.015)
    only = replace(inputs.job, donor_weights=(0, 1, 0, 0, 0, 0, 0))
    with pytest.raises(UserError, match="none of the 1 donors with a weight above 0 has flow"):
        windows_of(replace(inputs, job=only))


def test_weights_follow_their_donors(make_job):
    job = make_job(donors=("00000005", "00000002", "00000004"), donor_weights=(5, 2, 4))
    assert job.donors == ("00000002", "00000004", "00000005")
    assert job.donor_weights == (2.0, 4.0, 5.0)
    turned = make_job(donors=("00000002", "00000005", "00000004"), donor_weights=(2.0, 5.0, 4.0))
    assert (turned, turned.hash) == (job, job.hash)
    assert replace(job, seed=1).donor_weights == job.donor_weights
    from_array = replace(job, donor_weights=np.array([2, 4, 5], dtype=np.float32))
    assert from_array == job
    assert TrainingJob.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_weights_are_in_the_hash_where_there_are_any(make_job):
    hashes = {make_job(donor_weights=w).hash for w in ((), WEIGHTS, WEIGHTS[::-1], (1,) * 7)}
    assert len(hashes) == 4
    # The draws start from the same numbers, so that a comparison is one of weights alone.
    assert make_job(donor_weights=WEIGHTS).random_key() == make_job().random_key()


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ((1.0,) * 6, "6 weights for 7 donors: give one for each"),
        ((1.0,) * 6 + (-0.1,), "the weight of donor 00000008 is -0.1: it must be a number from 0"),
        ((np.nan,) + (1.0,) * 6, "the weight of donor 00000002 is nan"),
        ((np.inf,) + (1.0,) * 6, "the weight of donor 00000002 is inf"),
        ((0.0,) * 7, "every donor has the weight 0"),
    ],
)
def test_weights_that_cannot_be(make_job, weights, sentence):
    with pytest.raises(UserError, match=sentence):
        make_job(donor_weights=weights)


def test_epochs_know_no_weights(make_job):
    recipe = Recipe(name="paper", sampling="epochs")
    with pytest.raises(UserError, match="recipe 'paper' sees every window once an epoch"):
        make_job(recipe=recipe, donor_weights=WEIGHTS)


def test_nothing_of_a_donor_of_weight_0_is_learned_but_its_statistics(toy, make_job):
    job = make_job(donor_weights=WEIGHTS, recipe=Recipe(validations=1, spinup_days=60))
    inputs = prepare(job, toy)

    def bits(basin):
        flow = toy.streamflow.copy()
        flow[basin] = flow[basin] * 3.0 + 1.0
        other = cpu.train(replace(inputs, streamflow=flow))  # with the scaler as it was
        return {name: values.tobytes() for name, values in other.weights.items()}

    unchanged = {n: v.tobytes() for n, v in cpu.train(inputs).weights.items()}
    assert bits(1) == unchanged
    assert bits(2) != unchanged


@pytest.fixture
def make_inputs(toy, make_job):
    """Three jobs with different weights, the second without its first donor."""
    first = make_job(donor_weights=WEIGHTS, recipe=Recipe(validations=2, spinup_days=60))
    second = replace(first, seed=1, donors=first.donors[1:], donor_weights=WEIGHTS[1:])
    third = replace(first, seed=2, donor_weights=(1.0, 0, 0, 0, 0, 0, 1e-3))
    return [prepare(job, toy) for job in (first, second, third)]


def test_both_engines_draw_the_same_windows(make_inputs, toy):
    alike, widths = Alike.of(make_inputs[0]), Widths.of(make_inputs)
    # A place more than there are models: nobody is drawn there, and nothing fails.
    batches = GroupBatches(DeviceData(make_inputs, torch.device("cpu")), alike, widths, 4)
    for place, inputs in enumerate(make_inputs):
        batches.load(place, inputs, windows_of(inputs))
    # A place that had more donors before: what they left is not searched.
    few = replace(make_inputs[0].job, donors=("00000002", "00000003"), donor_weights=(1.0, 1.0))
    members = [prepare(few, toy), *make_inputs[1:]]
    batches.load(0, members[0], windows_of(members[0]))
    for update in range(20):
        donors, starts, _ = batches.draw(torch.full((4,), update))
        for place, inputs in enumerate(members):
            draws = Draws(inputs.random_key)
            expected = RandomSampler(windows_of(inputs), 8, draws).draw(update)
            np.testing.assert_array_equal(donors[place], expected[0])
            np.testing.assert_array_equal(starts[place], expected[1])


def test_both_engines_train_the_same_model(make_inputs, make_job, toy):
    alone = prepare(replace(make_inputs[0].job, donor_weights=()), toy)
    every = [*make_inputs, alone]
    assert Alike.of(alone) != Alike.of(make_inputs[0])
    for index, result in train_jobs(every, "cpu"):
        assert not isinstance(result, UserError)
        expected = cpu.train(every[index])
        for name, values in result.weights.items():
            np.testing.assert_allclose(values, expected.weights[name], rtol=0, atol=1e-4)
        np.testing.assert_allclose(result.simulation, expected.simulation, rtol=0, atol=1e-3)


def test_a_weighted_update_stays_on_its_device(make_inputs):
    """What a CUDA graph can record: see the same test of other choices in the GPU engine's."""
    data = DeviceData(make_inputs, torch.device("meta"))
    group = Group(data, Alike.of(make_inputs[0]), Widths.of(make_inputs), 3)
    members = {place: Member(place, each) for place, each in enumerate(make_inputs)}
    for place, member in members.items():
        group.load(place, member)
    group.step(members)
    assert [member.course.update for member in members.values()] == [1] * 3
