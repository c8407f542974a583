from dataclasses import replace

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.engine.course import validation_marks
from aef_dagster.models.engine.cpu import Training, has_bf16_products, train
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.losses import nse_by_basin
from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.engine.running import simulate
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import PAPER, STRONG, Budget, Recipe, Scaling


def trained(job, data):
    return train(prepare(job, data))


def weights_bits(result):
    return {name: values.tobytes() for name, values in result.weights.items()}


def altered(data: TrainingData, basins, days, series=("forcing", "streamflow"), statics=False):
    """The data with other values for some basins and days."""
    copies = {name: getattr(data, name).copy() for name in ("forcing", "streamflow")}
    for name in series:
        copies[name][basins, days] = copies[name][basins, days] * 3.0 + 1.0
    tables = data.statics
    if statics:
        table = tables["attributes17"]
        numeric = table.numeric.copy()
        numeric[basins] += 10.0
        tables = tables | {"attributes17": replace(table, numeric=numeric)}
    return replace(data, **copies, statics=tables)


def test_the_same_job_gives_the_same_bits(toy, make_job):
    first, again = trained(make_job(), toy), trained(make_job(), toy)
    assert weights_bits(first) == weights_bits(again)
    assert first.simulation.tobytes() == again.simulation.tobytes()
    assert weights_bits(trained(make_job(seed=1), toy)) != weights_bits(first)


def test_nothing_of_the_target_reaches_the_weights(toy, make_job):
    job = make_job()
    other = altered(toy, 0, slice(None), statics=True)
    assert prepare(job, other).scaler == prepare(job, toy).scaler
    assert weights_bits(trained(job, other)) == weights_bits(trained(job, toy))
    # The alteration is one that a leak would show: donors' data do reach the weights.
    assert weights_bits(trained(job, altered(toy, 1, slice(None)))) != weights_bits(
        trained(job, toy)
    )


def test_nothing_of_the_test_period_reaches_the_weights(toy, make_job):
    job = make_job(role="gauged", targets=("00000002",))
    after = altered(toy, slice(None), toy.span("2003-10-01", "2004-09-30"))
    first, again = trained(job, toy), trained(job, after)
    assert weights_bits(first) == weights_bits(again)
    assert first.simulation.tobytes() != again.simulation.tobytes()


def test_validation_years_only_pick_the_checkpoint(toy, make_job):
    job = make_job(recipe=Recipe(validations=1, spinup_days=60))
    later = altered(toy, slice(None), toy.span("2002-10-01", "2003-09-30"))
    assert prepare(job, later).scaler == prepare(job, toy).scaler
    first, again = trained(job, toy), trained(job, later)
    assert weights_bits(first) == weights_bits(again)
    assert first.curve[0]["valid_nse"] != again.curve[0]["valid_nse"]


def test_learns_linear_reservoirs_it_has_never_seen(toy, make_job):
    job = make_job(
        targets=("00000004", "00000006"),
        donors=tuple(g for g in toy.gauge_ids if g not in ("00000004", "00000006")),
        budget=Budget("toy", hidden=16, updates=150, batch=16, window=90),
        recipe=Recipe(learning_rate=1e-2, dropout=0.0, static_noise=0.0, spinup_days=90),
    )
    inputs = prepare(job, toy)
    result = train(inputs)
    nse = nse_by_basin(result.simulation, toy.streamflow[inputs.target_rows, inputs.test])
    assert nse.min() > 0.5
    assert result.curve[-1]["train_loss"] < 0.3 * result.curve[0]["train_loss"]


def test_the_best_validated_weights_are_kept(toy, make_job):
    recipe = Recipe(validations=10, learning_rate=0.3, spinup_days=60)
    result = trained(make_job(recipe=recipe), toy)
    scores = [row["valid_nse"] for row in result.curve]
    assert len(set(scores)) > 1
    assert result.best_update == result.curve[int(np.argmax(scores))]["update"]


def test_a_target_without_flow_is_simulated_all_the_same(toy, make_job):
    flow = toy.streamflow.copy()
    flow[0] = np.nan
    without = trained(make_job(), replace(toy, streamflow=flow))
    assert without.simulation.tobytes() == trained(make_job(), toy).simulation.tobytes()
    assert without.simulation.shape == (1, 366)
    assert np.isfinite(without.simulation).all()
    assert without.simulation.min() >= 0.0


def test_donors_without_flow_are_left_out_and_counted(toy, make_job):
    flow = toy.streamflow.copy()
    flow[1, : toy.span("2002-10-01", "2002-10-01").start] = np.nan
    result = trained(make_job(), replace(toy, streamflow=flow))
    assert result.donors_left_out == 1
    assert all(np.isfinite(values).all() for values in result.weights.values())


def test_without_validation_flow_the_last_weights_are_taken(toy, make_job):
    flow = toy.streamflow.copy()
    flow[:, toy.span("2002-10-01", "2003-09-30")] = np.nan
    result = trained(make_job(), replace(toy, streamflow=flow))
    assert result.best_update == 20
    assert np.isnan(result.curve[-1]["valid_nse"])


def test_divergence_is_told(toy, make_job):
    recipe = Recipe(learning_rate=1e30, validations=2, spinup_days=60)
    with pytest.raises(UserError, match="training diverged"):
        trained(make_job(recipe=recipe), toy)


def test_a_missing_forcing_value_names_basin_and_day(toy, make_job):
    forcing = toy.forcing.copy()
    forcing[3, toy.span("2001-05-04", "2001-05-06"), 2] = np.nan
    with pytest.raises(UserError, match="basin 00000004: forcing srad is missing on 2001-05-04"):
        prepare(make_job(), replace(toy, forcing=forcing))
    # Only basins and days of the job matter.
    prepare(make_job(donors=("00000002", "00000003")), replace(toy, forcing=forcing))


def test_basins_simulated_together_or_alone_are_the_same(toy, make_job, monkeypatch):
    from aef_dagster.models.engine import running

    inputs = prepare(make_job(targets=("00000001",)), toy)
    network = BasinLSTM(7, inputs.scaler.static_size, 8)
    network.initialise(3.0, Draws(0))
    rows, units = inputs.donor_rows, inputs.donor_flow_units
    arguments = (network, inputs.scaler, toy.forcing, rows, inputs.donor_statics, units)
    whole = simulate(*arguments, slice(100, 200), slice(150, 200))
    monkeypatch.setattr(running, "SIMULATED_AT_ONCE", 2)
    np.testing.assert_allclose(
        simulate(*arguments, slice(100, 200), slice(150, 200)), whole, rtol=1e-5, atol=1e-6
    )


def test_validations_are_spread_evenly_and_end_with_the_last_update():
    assert sorted(validation_marks(600, 8, None)) == [75, 150, 225, 300, 375, 450, 525, 600]
    assert sorted(validation_marks(3, 8, None)) == [1, 2, 3]
    assert sorted(validation_marks(10, 8, 4)) == [4, 8, 10]
    assert sorted(validation_marks(8, 1, 4)) == [4, 8]


def test_progress_is_reported(toy, make_job):
    told = []
    train(prepare(make_job(), toy), lambda *message: told.append(message))
    assert told.count(("train", 20, 20)) == 1
    assert [phase for phase, _, _ in told].count("validate") == 2
    assert told[-1] == ("simulate", 20, 20)


RECIPES_TO_RESUME = {
    "plain": Recipe(validations=3, spinup_days=60),
    "strong": replace(STRONG, validations=3, spinup_days=60),
    "averaged": Recipe(validations=3, spinup_days=60, averaging=0.3),
    "epochs": replace(PAPER, learning_rate=1e-2, patience=None),
}


@pytest.mark.parametrize("name", RECIPES_TO_RESUME)
@pytest.mark.parametrize("stopped_after", [1, 7, 19])
def test_a_training_taken_up_again_ends_as_if_it_had_never_stopped(
    toy, make_job, name, stopped_after
):
    job = make_job(recipe=RECIPES_TO_RESUME[name], donors=("00000002", "00000003"))
    job = replace(job, budget=replace(job.budget, batch=90))
    inputs = prepare(job, toy)
    whole = train(inputs)
    states = []
    train(inputs, keep=states.append, keep_every_s=0.0)
    # The windowed evaluation of `paper` takes so long that the end is kept as well.
    assert [state.update for state in states][:20] == list(range(1, 21))
    again = train(inputs, unfinished=states[stopped_after - 1])
    assert weights_bits(again) == weights_bits(whole)
    assert again.simulation.tobytes() == whole.simulation.tobytes()
    assert [row["valid_nse"] for row in again.curve] == [row["valid_nse"] for row in whole.curve]
    assert [row["train_loss"] for row in again.curve] == [row["train_loss"] for row in whole.curve]
    # A state from elsewhere does change the end, so that equality above means something.
    other = states[0].arrays | {"weights.input_bias": states[0].arrays["weights.input_bias"] + 1}
    assert weights_bits(train(inputs, unfinished=replace(states[0], arrays=other))) != weights_bits(
        whole
    )


def test_validation_years_that_are_learnt_from_reach_weights_and_scaler(toy, make_job):
    job = make_job(recipe=Recipe(learn_validation_years=True, validations=2, spinup_days=60))
    later = altered(toy, slice(None), toy.span("2002-10-01", "2003-09-30"))
    first, again = trained(job, toy), trained(job, later)
    assert weights_bits(first) != weights_bits(again)
    assert prepare(job, later).scaler != prepare(job, toy).scaler
    assert first.best_update == 20
    after = altered(toy, slice(None), toy.span("2003-10-01", "2004-09-30"))
    assert weights_bits(trained(job, after)) == weights_bits(first)


def test_averaged_weights_are_those_validated_and_kept(toy, make_job):
    recipe = Recipe(validations=1, spinup_days=60, averaging=0.5)
    averaged = trained(make_job(recipe=recipe), toy)
    plain = trained(make_job(recipe=replace(recipe, averaging=0.0)), toy)
    assert weights_bits(averaged) != weights_bits(plain)
    # Averaging only watches: the path of the weights is the same, and so is the loss.
    assert averaged.curve[0]["train_loss"] == plain.curve[0]["train_loss"]
    assert averaged.curve[0]["valid_nse"] != plain.curve[0]["valid_nse"]


@pytest.mark.parametrize(
    "change",
    [
        {"softplus": True},
        {"static_layers": (4, 3)},
        {"scaling": Scaling(flow_by_prcp=True)},
        {"scaling": Scaling(log_sqrt=True, one_hot=False)},
        {"loss": "rmse"},
        {"sampling": "epochs", "max_epochs": 2},
        {"evaluation": "windowed"},
        {"clip_norm": None, "forget_bias": None},
    ],
)
def test_every_choice_of_a_recipe_learns(toy, make_job, change):
    recipe = replace(Recipe(validations=5, spinup_days=60, learning_rate=1e-2), **change)
    batch = 200 if recipe.sampling == "epochs" else 16  # some 30 updates an epoch
    budget = Budget("toy", hidden=8, updates=60, batch=batch, window=60)
    result = trained(make_job(recipe=recipe, budget=budget), toy)
    assert len(result.curve) > 1
    assert result.curve[-1]["train_loss"] < 0.9 * result.curve[0]["train_loss"]
    assert np.isfinite(result.simulation).all()
    assert result.simulation.min() >= 0.0


@pytest.mark.skipif(not has_bf16_products(), reason="no products of bfloat16 here")
def test_half_precision_is_another_path_to_the_same_skill(toy, make_job):
    budget = Budget("toy", hidden=16, updates=100, batch=16, window=60)
    recipe = Recipe(learning_rate=1e-2, spinup_days=60)
    job = make_job(budget=budget, recipe=recipe)
    single, half = trained(job, toy), trained(replace(job, precision="bf16"), toy)
    assert weights_bits(trained(replace(job, precision="bf16"), toy)) == weights_bits(half)
    assert weights_bits(half) != weights_bits(single)
    assert half.weights["lstm.weight_hh_l0"].dtype == np.float32
    assert half.curve[-1]["valid_nse"] == pytest.approx(single.curve[-1]["valid_nse"], abs=0.05)
    first = [prepare(replace(job, precision=p), toy) for p in ("fp32", "bf16")]
    losses = [float(Training(i)._batches.loss(Training(i).network, 0).detach()) for i in first]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
