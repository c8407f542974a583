from dataclasses import replace

import numpy as np
import pytest
import torch

from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.losses import nse_by_basin
from aef_dagster.models.engine.running import new_network, simulate
from aef_dagster.models.engine.validation import Validation
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import PAPER, Recipe


def drawn_network(inputs, recipe):
    network = new_network(inputs.scaler, recipe, hidden=8)
    network.initialise(recipe.forget_bias, Draws(4))
    return network


def validated(toy, job):
    inputs = prepare(job, toy)
    network = drawn_network(inputs, job.recipe)
    validation = Validation(inputs, Draws(job.random_key()))
    return inputs, network, validation, validation.run(network)


@pytest.mark.parametrize("recipe", [Recipe(spinup_days=60), PAPER], ids=["strong", "paper"])
def test_the_score_is_the_median_nse_of_donors_after_the_spinup(toy, make_job, recipe):
    inputs, network, validation, score = validated(toy, make_job(recipe=recipe))
    assert len(validation.rows) == 7
    days = slice(inputs.valid.start - recipe.spinup_days, inputs.valid.stop)
    model = inputs.donor_rows, inputs.donor_statics, inputs.donor_flow_units
    flow = simulate(network, inputs.scaler, toy.forcing, *model, days, inputs.valid)
    nse = nse_by_basin(flow, toy.streamflow[1:, inputs.valid])
    assert score["valid_nse"] == pytest.approx(np.median(nse), rel=1e-6)
    assert ("valid_loss" in score) == (recipe.loss == "rmse")


def test_the_loss_is_that_of_training_over_the_validation_years(toy, make_job):
    flow = toy.streamflow.copy()
    flow[1, toy.span("2002-12-01", "2003-06-30")] = np.nan
    gappy = replace(toy, streamflow=flow)
    inputs, network, _, score = validated(gappy, make_job(recipe=PAPER))
    weather = np.swapaxes(inputs.scaler.scale_forcing(toy.forcing[1:, inputs.valid]), 0, 1)
    with torch.no_grad():
        scaled = network(
            torch.from_numpy(np.ascontiguousarray(weather)),
            torch.from_numpy(inputs.donor_statics),
        ).numpy()
    wanted = inputs.scaler.scale_flow(flow[1:, inputs.valid].T, inputs.donor_flow_units)
    error = (scaled - wanted)[np.isfinite(wanted)]
    assert error.size == 7 * 365 - 212
    assert score["valid_loss"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_basins_without_flow_in_these_years_are_not_validated_on(toy, make_job):
    flow = toy.streamflow.copy()
    flow[3, toy.span("2002-10-01", "2003-09-30")] = np.nan
    validation, score = validated(replace(toy, streamflow=flow), make_job())[2:]
    assert len(validation.rows) == 6
    assert np.isfinite(score["valid_nse"])


@pytest.mark.parametrize("recipe", [Recipe(), PAPER], ids=["strong", "paper"])
def test_without_any_flow_there_is_no_score(toy, make_job, recipe):
    flow = toy.streamflow.copy()
    flow[:, toy.span("2002-10-01", "2003-09-30")] = np.nan
    validation, score = validated(replace(toy, streamflow=flow), make_job(recipe=recipe))[2:]
    assert not validation.scorable
    assert all(np.isnan(value) for value in score.values())
    assert set(score) == ({"valid_nse", "valid_loss"} if recipe is PAPER else {"valid_nse"})


def test_at_most_so_many_basins_are_chosen_and_always_the_same(toy, make_job):
    few = Recipe(spinup_days=60, validation_basins=2)
    scores = {}
    for seed in range(8):
        job = make_job(recipe=few, seed=seed)
        inputs = prepare(job, toy)
        network = drawn_network(inputs, few)
        score = Validation(inputs, Draws(job.random_key())).run(network)
        assert score == Validation(inputs, Draws(job.random_key())).run(network)
        assert len(Validation(inputs, Draws(job.random_key())).rows) == 2
        days = inputs.with_spinup(inputs.valid)
        model = inputs.donor_rows, inputs.donor_statics, inputs.donor_flow_units
        flow = simulate(network, inputs.scaler, toy.forcing, *model, days, inputs.valid)
        nse = nse_by_basin(flow, toy.streamflow[1:, inputs.valid])
        pairs = {
            (one, other): (nse[one] + nse[other]) / 2 for one in range(7) for other in range(one)
        }
        scores[seed] = min(pairs, key=lambda pair: abs(pairs[pair] - score["valid_nse"]))
        assert pairs[scores[seed]] == pytest.approx(score["valid_nse"], rel=1e-6)
    assert len(set(scores.values())) > 1  # another seed, other basins


def test_flow_that_never_changes_gives_no_score_and_no_warning(toy, make_job):
    flow = toy.streamflow.copy()
    flow[:, toy.span("2002-10-01", "2003-09-30")] = 0.5
    score = validated(replace(toy, streamflow=flow), make_job())[3]
    assert np.isnan(score["valid_nse"])
