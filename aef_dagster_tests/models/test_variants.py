"""Architectures beside the default one: their arithmetic, their training, their checkpoints."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from aef_dagster.errors import UserError
from aef_dagster.models import jobs, worker
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import TrainingData
from aef_dagster.models.engine.cpu import Training, has_bf16_products, train
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.gpu import train_jobs
from aef_dagster.models.engine.variants import NETWORKS, network_of
from aef_dagster.models.inputs import prepare
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import (
    CHOICES,
    RECIPES,
    STRONG,
    VARIANTS,
    Budget,
    Recipe,
    recipe_named,
)
from aef_dagster.models.simulate import parameter_count, predict

OTHERS = ("concatenation", "ea_lstm", "experts")
SHORT = Recipe(validations=2, spinup_days=60)


def made(architecture, statics=3, hidden=6, floor=None, **choices):
    network = network_of(Recipe(architecture=architecture, **choices), 7, statics, hidden, floor)
    network.initialise(3.0, Draws(5))
    return network


def some_inputs(days=20, basins=4, statics=3):
    generator = torch.Generator().manual_seed(1)
    weather = torch.randn(days, basins, 7, generator=generator)
    return weather, torch.randn(basins, statics, generator=generator)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_every_architecture_that_can_be_named_can_be_made():
    assert set(NETWORKS) == set(CHOICES["architecture"])
    for recipe in VARIANTS.values():
        assert parameter_count(recipe, 7, 17, 32) != parameter_count(STRONG, 7, 17, 32)


def test_the_ea_lstm_equals_its_equations_day_by_day():
    network, (weather, statics) = made("ea_lstm"), some_inputs()
    with torch.no_grad():
        network.weather_weight *= 3.0  # so that no gate stays near its middle
        flow = network(weather, statics).numpy()
    weights = {n: p.detach().numpy().astype(float) for n, p in network.named_parameters()}
    x, s = weather.numpy().astype(float), statics.numpy().astype(float)
    i = sigmoid(s @ weights["gate.weight"].T + weights["gate.bias"])
    wf, wg, wo = np.split(weights["weather_weight"], 3)
    uf, ug, uo = np.split(weights["state_weight"], 3)
    bf, bg, bo = np.split(weights["bias"], 3)
    np.testing.assert_array_equal(bf, 3.0)
    h, c, expected = np.zeros((4, 6)), np.zeros((4, 6)), []
    for day in x:
        f = sigmoid(day @ wf.T + h @ uf.T + bf)
        g = np.tanh(day @ wg.T + h @ ug.T + bg)
        o = sigmoid(day @ wo.T + h @ uo.T + bo)
        c = f * c + i * g
        h = o * np.tanh(c)
        expected.append(h @ weights["output.weight"][0] + weights["output.bias"][0])
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(flow, expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_ea_lstm_are_those_of_finite_differences():
    network, (weather, statics) = made("ea_lstm"), some_inputs(days=8)
    network(weather, statics).square().mean().backward()
    twin = made("ea_lstm").double()
    for (name, parameter), single in zip(
        twin.named_parameters(), network.parameters(), strict=True
    ):
        losses = []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                parameter.view(-1)[-1] += step
                states = ea_states_in_double(twin, weather.double(), statics.double())
                losses.append(float(twin.output(states).square().mean()))
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-4
        slope = (losses[0] - losses[1]) / 2e-4
        assert single.grad is not None
        assert float(single.grad.view(-1)[-1]) == pytest.approx(slope, rel=1e-3, abs=1e-7), name


def ea_states_in_double(network, weather, statics):
    """States of the EA-LSTM, a day at a time."""
    i = torch.sigmoid(network.gate(statics))
    h = c = torch.zeros(len(statics), network.outputs, dtype=torch.float64)
    states = []
    for day in weather:
        rest = day @ network.weather_weight.T + h @ network.state_weight.T + network.bias
        f, g, o = rest.chunk(3, dim=1)
        c = torch.sigmoid(f) * c + i * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states)


def test_the_basin_alone_opens_the_input_gate():
    network, (weather, statics) = made("ea_lstm"), some_inputs()
    with torch.no_grad():
        network.gate.weight.zero_()
        network.gate.bias.fill_(-100.0)
        shut = network(weather, statics)
        torch.testing.assert_close(shut, network.output.bias.expand_as(shut))
        network.gate.bias.fill_(0.0)
        half = network(weather, statics)
        assert float((half - shut).abs().min(dim=1).values[-1]) > 0
        # Weights of 0: all basins have the same gate, whatever they are.
        torch.testing.assert_close(network(weather, statics + 1.0), half)


@pytest.mark.parametrize("chosen", range(4))
def test_experts_with_a_gate_forced_to_one_are_that_expert(chosen):
    network, (weather, statics) = made("experts"), some_inputs()
    with torch.no_grad():
        network.gate.weight.zero_()
        network.gate.bias.fill_(-1e4)
        network.gate.bias[chosen] = 0.0
        basin = statics @ network.static_weight.T + network.input_bias
        states, _ = network.experts[chosen](torch.relu(weather @ network.forcing_weight.T + basin))
        alone = states @ network.output_weight[chosen] + network.output_bias[chosen]
        torch.testing.assert_close(network(weather, statics), alone)
        shares = network.shares(statics)
    assert shares[:, chosen].tolist() == [1.0] * 4


def test_experts_are_shared_out_by_the_basin_and_not_by_its_weather():
    network, (weather, statics) = made("experts"), some_inputs()
    with torch.no_grad():
        network.gate.weight *= 5.0
        shares = network.shares(statics)
        torch.testing.assert_close(shares.sum(1), torch.ones(4))
        assert float(shares.std(dim=0).max()) > 0.05
        flows = []
        for chosen in range(4):
            twin = made("experts")
            twin.gate.weight.zero_()
            twin.gate.bias.fill_(-1e4)
            twin.gate.bias[chosen] = 0.0
            flows.append(twin(weather, statics))
        mixed = (torch.stack(flows, dim=-1) * shares).sum(-1)
        torch.testing.assert_close(network(weather, statics), mixed)


def test_concatenation_is_an_lstm_on_weather_and_statics():
    network, (weather, statics) = made("concatenation"), some_inputs()
    states, _ = network.lstm(torch.cat([weather, statics.expand(20, 4, 3)], dim=2))
    torch.testing.assert_close(network(weather, statics), network.output(states).squeeze(-1))
    assert network.lstm.input_size == 10
    nothing = made("concatenation", statics=0)
    assert nothing(weather, torch.zeros(4, 0)).shape == (20, 4)


@pytest.mark.parametrize("architecture", OTHERS)
def test_parts_common_to_all_networks(architecture):
    weather, statics = some_inputs()
    network = made(architecture)
    with torch.no_grad():
        flow = network(weather, statics)
        torch.testing.assert_close(network(weather, statics, skip=8), flow[8:])
        kept = torch.ones(12, 4, network.outputs)
        torch.testing.assert_close(network(weather, statics, skip=8, keep=kept), flow[8:])
        dropped = network(weather, statics, skip=8, keep=0.0 * kept)
        assert float(dropped.std(dim=0).max()) == 0.0  # no day differs from another
        # One basin's static inputs serve all windows.
        one = network(weather, statics[:1])
        torch.testing.assert_close(one, network(weather, statics[:1].expand(4, 3)))
        floored = made(architecture, floor=-0.7)(weather, statics)
        torch.testing.assert_close(floored, torch.nn.functional.softplus(flow) - 0.7)
        layered = made(architecture, static_layers=(5, 2))
        first, second = layered.static_layers
        told = torch.tanh(second(torch.tanh(first(statics))))
        behind = made(architecture, statics=2)
        names = [n for n, _ in layered.named_parameters() if not n.startswith("static_layers")]
        behind.load_state_dict({name: layered.state_dict()[name] for name in names})
        torch.testing.assert_close(layered(weather, statics), behind(weather, told))


@pytest.mark.parametrize("architecture", OTHERS)
def test_initial_weights_are_uniform_within_the_bounds_of_pytorch(architecture):
    network = network_of(Recipe(architecture=architecture), 7, 17, 64)
    network.initialise(None, Draws(0))
    statics = {"gate.weight", "gate.bias"}
    joined = {"forcing_weight", "static_weight", "input_bias"}
    state = 32 if architecture == "experts" else 64
    for name, parameter in network.named_parameters():
        bound = (17 if name in statics else 24 if name in joined else state) ** -0.5
        values = parameter.detach().numpy().ravel() / bound
        assert np.abs(values).max() <= 1.0, name
        if values.size > 1000:
            assert np.abs(values).max() > 0.99, name
            assert values.var() == pytest.approx(1 / 3, abs=4 * (4 / 45 / values.size) ** 0.5)
    drawn = torch.cat([parameter.ravel() for parameter in network.parameters()])
    assert drawn.unique().numel() > 0.99 * drawn.numel()


@pytest.mark.parametrize("architecture", OTHERS)
def test_the_forget_bias_is_set_and_the_other_weights_stay(architecture):
    plain, remembering = (network_of(Recipe(architecture=architecture), 7, 3, 8) for _ in range(2))
    plain.initialise(None, Draws(0))
    remembering.initialise(3.0, Draws(0))
    changed = {
        name: int((parameter != plain.state_dict()[name]).sum())
        for name, parameter in remembering.state_dict().items()
    }
    expected = {"concatenation": 2 * 8, "ea_lstm": 8, "experts": 2 * 4 * 4}
    assert sum(changed.values()) == expected[architecture]


@pytest.mark.parametrize("architecture", ["ea_lstm", "experts"])
def test_what_static_inputs_steer_needs_some(make_job, architecture):
    recipe = replace(SHORT, architecture=architecture)
    with pytest.raises(UserError, match=f"'{architecture}' is steered by static inputs"):
        make_job(recipe=recipe, representation="none")
    with pytest.raises(UserError, match=f"'{architecture}' is steered by static inputs"):
        parameter_count(recipe, 7, 0, 8)


def test_an_expert_has_a_state():
    with pytest.raises(UserError, match="choose a larger one"):
        parameter_count(VARIANTS["strong+experts"], 7, 3, 1)


def test_sizes_of_the_networks():
    count = {
        name: parameter_count(recipe_named(name), 7, 64, 128) for name in ("strong", *VARIANTS)
    }
    lstm, output = 4 * 128 * (128 + 2), 129
    assert count["strong"] == 141_441  # arXiv:2601.01558
    assert count["strong+concatenation"] == lstm + 4 * 128 * 71 + output
    assert count["strong+ea_lstm"] == 128 * 65 + 3 * 128 * (7 + 128 + 1) + output
    assert count["strong+experts"] == 128 * 72 + 4 * (4 * 64 * (128 + 64 + 2) + 65) + 4 * 65
    assert count["strong+mlp16"] == count["strong"] + 16 * 65 - 128 * (64 - 16)
    assert count["strong+mlp64-32"] == count["strong"] + 64 * 65 + 32 * 65 - 128 * (64 - 32)


def test_recipes_are_found_by_name():
    assert recipe_named("strong") is STRONG
    assert all(recipe_named(name).name == name for name in (*RECIPES, *VARIANTS))
    for recipe in VARIANTS.values():
        plain = replace(recipe, name="strong", architecture="one_layer", static_layers=())
        assert plain == STRONG
    with pytest.raises(UserError, match="unknown recipe 'weak': choose one of strong, paper"):
        recipe_named("weak")


def test_names_of_models_trained_before_there_were_architectures(make_job, monkeypatch):
    # As this job and this recipe were named by the version "4" of the training code.
    monkeypatch.setattr(jobs, "CODE_VERSION", "4")
    assert make_job().hash == "fe9ac6335836f529"
    assert make_job(recipe=STRONG).hash != make_job().hash
    older = make_job().to_json()
    del older["donor_weights"], older["recipe"]["architecture"]
    again = TrainingJob.from_json(json.loads(json.dumps(older)))
    assert again == make_job()
    assert again.hash == "fe9ac6335836f529"
    hashes = {make_job(recipe=replace(SHORT, architecture=a)).hash for a in CHOICES["architecture"]}
    assert len(hashes) == 4
    assert "fe9ac6335836f529" in hashes
    changed = make_job(recipe=VARIANTS["strong+experts"])
    assert TrainingJob.from_json(json.loads(json.dumps(changed.to_json()))) == changed


@pytest.mark.parametrize("static_layers", [(), (4,)])
@pytest.mark.parametrize("architecture", OTHERS)
def test_every_architecture_learns(toy, make_job, architecture, static_layers):
    recipe = replace(
        SHORT, validations=5, learning_rate=1e-2, architecture=architecture,
        static_layers=static_layers,
    )  # fmt: skip
    budget = Budget("toy", hidden=8, updates=60, batch=16, window=60)
    inputs = prepare(make_job(recipe=recipe, budget=budget), toy)
    began = {name: p.detach().clone() for name, p in Training(inputs).network.named_parameters()}
    result = train(inputs)
    assert result.curve[-1]["train_loss"] < 0.9 * result.curve[0]["train_loss"]
    assert np.isfinite(result.simulation).all()
    assert result.simulation.min() >= 0.0
    for name, values in result.weights.items():
        assert np.abs(values - began[name].numpy()).max() > 0, name


@pytest.mark.skipif(not has_bf16_products(), reason="no products of bfloat16 here")
@pytest.mark.parametrize("architecture", OTHERS)
def test_half_precision_is_close(toy, make_job, architecture):
    job = make_job(recipe=replace(SHORT, architecture=architecture))
    losses = []
    for precision in ("fp32", "bf16"):
        training = Training(prepare(replace(job, precision=precision), toy))
        losses.append(float(training._batches.loss(training.network, 0).detach()))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def bits(result):
    return {name: values.tobytes() for name, values in result.weights.items()}


@pytest.mark.parametrize("architecture", OTHERS)
def test_a_training_taken_up_again_ends_as_if_it_had_never_stopped(toy, make_job, architecture):
    recipe = replace(STRONG, validations=3, spinup_days=60, architecture=architecture)
    inputs = prepare(make_job(recipe=recipe), toy)
    whole, states = train(inputs), []
    train(inputs, keep=states.append, keep_every_s=0.0)
    assert bits(train(inputs, unfinished=states[6])) == bits(whole)
    again = train(inputs, unfinished=states[18])
    assert bits(again) == bits(whole)
    assert again.simulation.tobytes() == whole.simulation.tobytes()
    other = {name: values + 1.0 for name, values in states[6].arrays.items()}
    assert bits(train(inputs, unfinished=replace(states[6], arrays=other))) != bits(whole)


@pytest.mark.parametrize("evaluation", ["streaming", "windowed"])
@pytest.mark.parametrize("architecture", OTHERS)
def test_a_checkpoint_simulates_what_training_simulated(
    toy, make_job, tmp_path, architecture, evaluation
):
    recipe = replace(SHORT, architecture=architecture, evaluation=evaluation, softplus=True)
    budget = Budget("micro", hidden=8, updates=4, batch=8, window=60, networks=2)
    job = make_job(recipe=recipe, budget=budget)
    toy.save(tmp_path / "data")
    for folder in ("models", "scratch"):
        (tmp_path / folder).mkdir()
    channel = io.StringIO()
    folders = tmp_path / "data", tmp_path / "models", tmp_path / "scratch"
    worker.serve([json.dumps([job.to_json()])], channel, *folders, 20.0, "cpu")
    assert json.loads(channel.getvalue().splitlines()[-1])["event"] == "done"
    checkpoint = Checkpoint.open(tmp_path / "models", job.hash)
    assert checkpoint.job() == job
    stored = checkpoint.simulation()
    again = predict(checkpoint, toy, job.targets, "2003-10-01", "2004-09-30")
    np.testing.assert_allclose(again["sim"], stored["sim"], rtol=0, atol=1e-6)
    assert stored["sim"].std() > 0


def test_groups_of_a_gpu_leave_other_architectures_to_the_cpu(toy, make_job, tmp_path):
    """What a worker does on a GPU, on CPU tensors."""
    toy.save(tmp_path / "data")
    for folder in ("models", "scratch"):
        (tmp_path / folder).mkdir()
    channel = io.StringIO()
    data = TrainingData.open(tmp_path / "data")
    desk = worker._Desk(channel, data, tmp_path / "models", tmp_path / "scratch", 20.0)
    every = [make_job(recipe=replace(SHORT, architecture=a)) for a in CHOICES["architecture"]]
    worker.train_together(every, desk, "cpu")
    told = [json.loads(line) for line in channel.getvalue().splitlines()]
    ended = {message["job"]: message["event"] for message in told if message["event"] != "progress"}
    assert ended == {job.hash: "done" for job in every}
    for job in every:
        checkpoint = Checkpoint.open(tmp_path / "models", job.hash)
        engine = "gpu" if job.recipe.architecture == "one_layer" else "cpu"
        assert checkpoint.run()["engine"] == engine
        if engine == "cpu":
            expected = train(prepare(job, toy)).simulation[0]
            np.testing.assert_array_equal(checkpoint.simulation()["sim"], expected)
    ((_, refused),) = train_jobs([prepare(every[-1], toy)], "cpu")
    assert isinstance(refused, UserError)
    assert "have no architecture 'experts': train it on device cpu" in str(refused)
