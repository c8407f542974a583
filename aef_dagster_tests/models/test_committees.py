"""A model of several networks, from the engine to the checkpoint and back."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models import worker
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.committees import parted, united
from aef_dagster.models.data import TrainingData
from aef_dagster.models.engine import cpu
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import Budget, Recipe
from aef_dagster.models.simulate import predict
from aef_dagster.models.training import train

THREE = Budget("three", hidden=8, updates=20, batch=8, window=60, networks=3)


@pytest.fixture
def job(make_job):
    return make_job(budget=THREE)


def bits(trained):
    return {name: array.tobytes() for name, array in trained.weights.items()}


def test_each_network_has_random_numbers_of_its_own(toy, job, make_job):
    inputs = prepare(job, toy)
    networks = [cpu.train(each) for each in inputs.of_networks()]
    assert len({bits(each)["lstm.weight_hh_l0"] for each in networks}) == 3
    assert len({each.simulation.tobytes() for each in networks}) == 3
    alone = cpu.train(prepare(make_job(budget=replace(THREE, networks=1)), toy))
    assert bits(alone) == bits(networks[0])
    assert job.budget.basin_days == 3 * 20 * 8 * 60


def test_a_budget_has_at_least_one_network():
    with pytest.raises(UserError, match="budget 'none': a model needs at least one network"):
        replace(THREE, name="none", networks=0)


def test_networks_are_united(toy, job):
    networks = [cpu.train(each) for each in prepare(job, toy).of_networks()]
    model = united(networks)
    mean = np.mean([each.simulation for each in networks], axis=0, dtype=np.float64)
    np.testing.assert_allclose(model.simulation, mean, rtol=1e-6)
    assert model.simulation.dtype == np.float32
    assert [row["update"] for row in model.curve] == [10, 20, 30, 40, 50, 60]
    assert [row["network"] for row in model.curve] == [0, 0, 1, 1, 2, 2]
    assert [row["basin_days"] for row in model.curve] == [4800 * i for i in range(1, 7)]
    assert np.all(np.diff([row["seconds"] for row in model.curve]) >= 0)
    assert (model.updates, model.best_update) == (60, sum(n.best_update for n in networks))
    assert model.seconds == sum(each.seconds for each in networks)
    for weights, network in zip(parted(model.weights), networks, strict=True):
        assert {name: a.tobytes() for name, a in weights.items()} == bits(network)
    assert united(networks[:1]) is networks[0]
    assert parted(networks[0].weights) == [networks[0].weights]


def test_more_than_ten_networks_keep_their_order():
    weights = {f"{number}/w": np.full(1, number, np.float32) for number in reversed(range(12))}
    assert [int(network["w"][0]) for network in parted(weights)] == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", ["streaming", "windowed"])
def test_a_checkpoint_simulates_as_its_training_did(toy, job, tmp_path, evaluation):
    recipe = Recipe(validations=2, spinup_days=60, evaluation=evaluation)
    job = replace(job, recipe=recipe)
    told = []
    (outcome,) = train([job], toy, tmp_path, on_progress=told.append)
    assert outcome.error is None
    assert (told[0].phase, told[0].updates) == ("prepare", 60)
    assert (told[-1].phase, told[-1].update, told[-1].updates) == ("save", 60, 60)
    assert [each.update for each in told] == sorted(each.update for each in told)
    checkpoint = Checkpoint.open(tmp_path, job.hash)
    run = checkpoint.run()
    assert (run["updates"], run["basin_days"]) == (60, job.budget.basin_days)
    kept = checkpoint.simulation()
    again = predict(checkpoint, toy, job.targets, job.periods.test_start, job.periods.test_end)
    np.testing.assert_allclose(again["sim"], kept["sim"], atol=1e-6)
    networks = [cpu.train(each) for each in prepare(job, toy).of_networks()]
    mean = np.mean([each.simulation[0] for each in networks], axis=0, dtype=np.float64)
    np.testing.assert_array_equal(kept["sim"], mean.astype(np.float32))


def test_stopped_between_networks_it_goes_on_with_the_next(toy, job, tmp_path):
    """One network finished, one half done, one not begun: the same model as in one go."""
    whole = united([cpu.train(each) for each in prepare(job, toy).of_networks()])
    toy.save(tmp_path / "data")
    data, channel = TrainingData.open(tmp_path / "data"), io.StringIO()
    for folder in ("checkpoints", "scratch"):
        (tmp_path / folder).mkdir()
    desk = worker._Desk(channel, data, tmp_path / "checkpoints", tmp_path / "scratch", 0.0)
    first, second, _ = prepare(job, toy).of_networks()
    cpu.train(first, keep=lambda state: desk.keep(first, state))
    half = cpu.Training(second)
    for _ in range(7):
        half.step()
    desk.keep(second, half.state())
    assert len(list((tmp_path / "checkpoints" / ".unfinished").iterdir())) == 2

    worker._train_in_turn([job], desk)
    assert json.loads(channel.getvalue().splitlines()[-1])["event"] == "done"
    checkpoint = Checkpoint.open(tmp_path / "checkpoints", job.hash)
    assert checkpoint.run()["resumed_at"] == 27
    assert not list((tmp_path / "checkpoints" / ".unfinished").iterdir())
    found = checkpoint.weights()
    assert {name: a.tobytes() for name, a in found.items()} == bits(whole)


def test_groups_train_all_networks_of_a_job(toy, job, make_job, tmp_path):
    """The GPU's engine on CPU tensors: networks of several jobs side by side."""
    toy.save(tmp_path / "data")
    data, channel = TrainingData.open(tmp_path / "data"), io.StringIO()
    for folder in ("checkpoints", "scratch"):
        (tmp_path / folder).mkdir()
    desk = worker._Desk(channel, data, tmp_path / "checkpoints", tmp_path / "scratch", 0.0)
    gone = replace(job, donors=("00000099",))
    other = make_job(seed=5)
    # Diverges in each of its networks; told once.
    wild = replace(job, recipe=Recipe(validations=2, spinup_days=60, learning_rate=1e30))
    worker.train_together([job, gone, other, wild], desk, "cpu")
    told = [json.loads(line) for line in channel.getvalue().splitlines()]
    ended = [(m["job"], m["event"]) for m in told if m["event"] != "progress"]
    assert sorted(ended) == sorted(
        [(job.hash, "done"), (gone.hash, "failed"), (other.hash, "done"), (wild.hash, "failed")]
    )
    checkpoint = Checkpoint.open(tmp_path / "checkpoints", job.hash)
    by_cpu = united([cpu.train(each) for each in prepare(job, toy).of_networks()])
    np.testing.assert_allclose(checkpoint.simulation()["sim"], by_cpu.simulation[0], atol=2e-3)
    assert sorted(checkpoint.weights()) == sorted(by_cpu.weights)
    assert len(checkpoint.curve()) == 6


def test_a_job_whose_network_failed_is_told_of_once_and_costs_no_other(
    toy, job, make_job, tmp_path
):
    """One of three networks diverges, the others go on: nothing more is heard of the job."""
    toy.save(tmp_path / "data")
    data, channel = TrainingData.open(tmp_path / "data"), io.StringIO()
    for folder in ("checkpoints", "scratch"):
        (tmp_path / folder).mkdir()
    desk = worker._Desk(channel, data, tmp_path / "checkpoints", tmp_path / "scratch", 0.0)
    first, *_ = prepare(job, toy).of_networks()
    spoiled = cpu.Training(first).state()
    for name, array in spoiled.arrays.items():
        if name.startswith("weights."):
            array[:] = np.nan
    desk.keep(first, spoiled)
    other = make_job(seed=5)
    worker.train_together([job, other], desk, "cpu")
    told = [json.loads(line) for line in channel.getvalue().splitlines()]
    of_job = [message["event"] for message in told if message["job"] == job.hash]
    assert of_job.count("failed") == 1
    assert of_job[-1] == "failed"
    assert [m["event"] for m in told if m["job"] == other.hash][-1] == "done"


def test_seconds_of_networks_side_by_side_are_not_added_up(toy, job):
    networks = [cpu.train(each) for each in prepare(job, toy).of_networks()]
    longest = max(each.seconds for each in networks)
    together = united(networks, side_by_side=True)
    assert together.seconds == longest
    assert max(row["seconds"] for row in together.curve) <= round(longest, 2)
