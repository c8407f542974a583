import numpy as np
import pytest
import torch

from aef_dagster.models.engine import running
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.engine.running import (
    new_network,
    simulate,
    simulate_targets,
    simulate_windowed,
)
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import PAPER, Recipe

RECIPES = {"strong": Recipe(), "softplus": Recipe(softplus=True), "paper": PAPER}


@pytest.fixture(params=RECIPES.values(), ids=RECIPES.keys())
def model(request, toy, make_job):
    """A network as drawn, and what `simulate` takes before its days."""
    inputs = prepare(make_job(recipe=request.param), toy)
    network = new_network(inputs.scaler, request.param, hidden=8)
    network.initialise(3.0, Draws(4))  # so that it remembers, whatever the recipe says
    with torch.no_grad():
        network.output.weight *= 5.0  # a new network says nearly the same every day
    rows, statics = inputs.donor_rows, inputs.donor_statics
    return network, inputs.scaler, toy.forcing, rows, statics, inputs.donor_flow_units


def by_hand(model, row, days):
    """Flow of one basin, mm/day, a day at a time with the memory handed on."""
    network, scaler, forcing, rows, statics, units = model
    scaled = torch.from_numpy(scaler.scale_forcing(forcing[rows[row], days]))
    basin = torch.from_numpy(statics[row]) @ network.static_weight.T + network.input_bias
    memory, flow = None, []
    with torch.no_grad():
        for day in scaled:
            joined = torch.relu(network.forcing_weight @ day + basin)
            state, memory = network.lstm(joined[None, None], memory)
            output = network.output(state)[0, 0, 0]
            if network.floor is not None:
                output = torch.nn.functional.softplus(output) + network.floor
            flow.append(float(output))
    return np.maximum(scaler.unscale_flow(np.array(flow), units[row]), 0.0)


def test_one_pass_keeps_its_memory_from_the_first_day_on(model):
    flow = simulate(*model, slice(100, 160), slice(130, 160))
    assert flow.shape == (7, 30)
    assert flow.dtype == np.float32
    for row in range(7):
        expected = by_hand(model, row, slice(100, 160))[30:]
        assert expected.std() > 0
        np.testing.assert_allclose(flow[row], expected, rtol=1e-4, atol=1e-5)


def test_windows_are_last_days_of_passes_of_their_own(model):
    flow = simulate_windowed(*model, slice(110, 150), slice(130, 150), 21)
    assert flow.shape == (7, 20)
    assert flow.dtype == np.float32
    for row in (0, 6):
        expected = [by_hand(model, row, slice(day - 20, day + 1))[-1] for day in range(130, 150)]
        np.testing.assert_allclose(flow[row], expected, rtol=1e-4, atol=1e-5)
    # Not what one pass gives, except on its first day, whose window it is.
    streaming = simulate(*model, slice(110, 150), slice(130, 150))
    np.testing.assert_allclose(flow[:, 0], streaming[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(flow - streaming).max() > 1e-3
    # Days that no window reaches change nothing.
    longer = simulate_windowed(*model, slice(50, 150), slice(130, 150), 21)
    np.testing.assert_array_equal(longer, flow)


@pytest.mark.parametrize("wanted", [slice(10, 40), slice(0, 25), slice(5, 12), slice(20, 22)])
def test_only_windows_that_would_begin_before_the_record_are_shorter(model, wanted):
    flow = simulate_windowed(*model, slice(0, wanted.stop), wanted, 21)
    assert flow.shape == (7, wanted.stop - wanted.start)
    for row in (0, 6):
        expected = [
            by_hand(model, row, slice(max(0, day - 20), day + 1))[-1]
            for day in range(wanted.start, wanted.stop)
        ]
        np.testing.assert_allclose(flow[row], expected, rtol=1e-4, atol=1e-5)


def test_a_long_windowed_simulation_tells_how_far_it_is(model, monkeypatch):
    monkeypatch.setattr(running, "WINDOWS_AT_ONCE", 15)
    told = []
    simulate_windowed(
        *model, slice(0, 40), slice(10, 40), 21, lambda done, days: told.append((done, days))
    )
    # Of each basin ten cut windows, then fifteen and five whole ones.
    assert told == [(30 * row + done, 7 * 30) for row in range(7) for done in (25, 30)]


@pytest.mark.parametrize("evaluation", ["streaming", "windowed"])
def test_targets_are_simulated_as_the_recipe_wants(toy, make_job, evaluation):
    recipe = Recipe(spinup_days=40, evaluation=evaluation)
    inputs = prepare(make_job(recipe=recipe), toy)
    network = new_network(inputs.scaler, recipe, hidden=8)
    network.initialise(3.0, Draws(4))
    with torch.no_grad():
        network.output.weight *= 5.0
    flow = simulate_targets(network, inputs)
    test = inputs.test
    assert flow.shape == (1, test.stop - test.start)
    target = (
        network, inputs.scaler, toy.forcing, inputs.target_rows, inputs.target_statics,
        inputs.target_flow_units,
    )  # fmt: skip
    assert inputs.job.budget.window == 60
    for day in (test.start, test.start + 70):
        first = test.start - 40 if evaluation == "streaming" else day - 59
        expected = by_hand(target, 0, slice(first, day + 1))[-1]
        assert flow[0, day - test.start] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_window_of_one_day_has_no_memory(model):
    flow = simulate_windowed(*model, slice(130, 135), slice(130, 135), 1)
    expected = [by_hand(model, 2, slice(day, day + 1))[0] for day in range(130, 135)]
    np.testing.assert_allclose(flow[2], expected, rtol=1e-4, atol=1e-5)


def test_how_many_are_simulated_at_once_does_not_matter(model, monkeypatch):
    days = slice(100, 150), slice(130, 150)
    whole, windowed = simulate(*model, *days), simulate_windowed(*model, *days, 31)
    monkeypatch.setattr(running, "SIMULATED_AT_ONCE", 2)
    monkeypatch.setattr(running, "WINDOWS_AT_ONCE", 7)
    np.testing.assert_allclose(simulate(*model, *days), whole, rtol=1e-5, atol=1e-6)
    again = simulate_windowed(*model, *days, 31)
    np.testing.assert_allclose(again, windowed, rtol=1e-5, atol=1e-6)


def test_flow_is_never_negative(model):
    network = model[0]
    with torch.no_grad():
        network.output.bias -= 50.0
    assert simulate(*model, slice(100, 150), slice(120, 150)).min() == pytest.approx(0.0, abs=1e-5)
    windowed = simulate_windowed(*model, slice(110, 135), slice(130, 135), 21)
    assert windowed.min() == pytest.approx(0.0, abs=1e-5)
    assert windowed.min() >= 0.0


def test_the_network_fits_scaler_and_recipe(toy, make_job):
    recipe = Recipe(static_layers=(6, 3), softplus=True)
    scaler = prepare(make_job(recipe=recipe), toy).scaler
    network = new_network(scaler, recipe, hidden=5)
    assert isinstance(network, BasinLSTM)
    assert network.forcing_weight.shape == (5, 7)
    assert network.static_weight.shape == (5, 3)
    assert network.static_layers[0].in_features == scaler.static_size == 4
    assert network.floor == scaler.no_flow
    assert new_network(scaler, Recipe(), hidden=5).floor is None
