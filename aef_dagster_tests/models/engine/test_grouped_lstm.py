import threading

import numpy as np
import pytest
import torch
from torch import nn

from aef_dagster.models.engine.device_draws import DeviceDraws, limit_of, mixed
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.grouped_lstm import GroupedLSTM, day_backward, day_forward
from aef_dagster.models.engine.grouped_network import Layout, LongRun, forward
from aef_dagster.models.engine.network import BasinLSTM

MODELS, DAYS, WINDOWS, INPUTS, HIDDEN, SKIP = 3, 40, 5, 6, 8, 10
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    ),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lstms_and_stack(device):
    """Some LSTMs, and their weights as stacks that want gradients."""
    torch.manual_seed(0)
    lstms = [nn.LSTM(INPUTS, HIDDEN).to(device) for _ in range(MODELS)]
    parts = (
        [lstm.weight_ih_l0 for lstm in lstms],
        [lstm.weight_hh_l0 for lstm in lstms],
        [lstm.bias_ih_l0 + lstm.bias_hh_l0 for lstm in lstms],
    )
    return lstms, [torch.stack(part).detach().requires_grad_() for part in parts]


@pytest.mark.parametrize("device", DEVICES)
def test_equals_torchs_lstm_there_and_back(device):
    lstms, stack = lstms_and_stack(device)
    inputs = torch.randn(MODELS, DAYS, WINDOWS, INPUTS, device=device, requires_grad=True)
    gradient = torch.randn(MODELS, DAYS - SKIP, WINDOWS, HIDDEN, device=device)
    states = GroupedLSTM.apply(inputs, *stack, SKIP, torch.float32)
    states.backward(gradient)
    for model, lstm in enumerate(lstms):
        own = inputs.detach()[model].requires_grad_()
        expected = lstm(own)[0][SKIP:]
        expected.backward(gradient[model])
        torch.testing.assert_close(states[model], expected, rtol=0, atol=1e-5)
        pairs = (
            (inputs.grad, own.grad),
            (stack[0].grad, lstm.weight_ih_l0.grad),
            (stack[1].grad, lstm.weight_hh_l0.grad),
            (stack[2].grad, lstm.bias_ih_l0.grad),
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours[model], theirs, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    shapes = ((2, 5, 3, 4), (2, 12, 4), (2, 12, 3), (2, 12))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(GroupedLSTM.apply, (*inputs, 2, torch.float64))


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_rounds_products_and_nothing_else(device):
    _, stack = lstms_and_stack(device)
    inputs = torch.randn(MODELS, DAYS, WINDOWS, INPUTS, device=device)
    exact = GroupedLSTM.apply(inputs, *stack, SKIP, torch.float32)
    rounded = GroupedLSTM.apply(inputs, *stack, SKIP, torch.bfloat16)
    difference = (rounded - exact).abs().max().item()
    assert 0 < difference < 0.02
    grads = torch.autograd.grad(rounded.square().sum(), stack)
    wanted = torch.autograd.grad(exact.square().sum(), stack)
    for ours, theirs in zip(grads, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.slow
def test_compiled_functions_give_the_same_numbers():
    """What a GPU runs, compiled for this machine; on another thread, as autograd calls it."""
    torch.manual_seed(0)
    there, back, bits = (torch.compile(each) for each in (day_forward, day_backward, mixed))
    found = []

    def compare():
        with torch.no_grad():
            for size in (2, 3):
                days = torch.randn(size, 4, 5, 32)
                given, of_hidden, of_cell, cell, new_cell = torch.randn(5, size, 5, 8)
                recurrent, gates = torch.randn(size, 5, 32), torch.rand(size, 5, 32)
                for day in range(4):
                    told = (recurrent, days[:, day], cell)
                    found.extend(zip(there(*told), day_forward(*told), strict=True))
                told = (given, of_hidden, of_cell, gates, cell, new_cell)
                found.extend(zip(back(*told), day_backward(*told), strict=True))
                start = torch.randint(-(2**62), 2**62, (size, 1))
                found.append((bits(torch.arange(99), start), mixed(torch.arange(99), start)))

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    assert len(found) == 2 * (4 * 3 + 2 + 1)
    for ours, plain in found:
        torch.testing.assert_close(ours, plain)


def networks(statics=(3, 5), layers=(), floor=None):
    made = []
    for key, count in enumerate(statics):
        network = BasinLSTM(7, count, HIDDEN, layers, floor)
        network.initialise(3.0, Draws(key))
        made.append(network)
    return made


def rows_of(layout, made):
    weights = [{name: p.detach().numpy() for name, p in n.named_parameters()} for n in made]
    return torch.from_numpy(np.stack([layout.row(each) for each in weights])), weights


@pytest.mark.parametrize("layers", [(), (4, 6)])
@pytest.mark.parametrize("floor", [None, -0.7])
def test_a_stack_of_networks_equals_each_of_them(layers, floor):
    torch.manual_seed(0)
    made = networks(layers=layers, floor=floor)
    layout = Layout.of(made[1])
    rows, weights = rows_of(layout, made)
    weather, statics = torch.randn(2, 20, 4, 7), torch.randn(2, 4, 5)
    statics[0, :, 3:] = 0.0  # the first network has three static inputs only
    dropped, share = torch.rand(2, 15, 4, HIDDEN) < 0.4, torch.tensor([0.6, 0.6])
    floors = None if floor is None else torch.full((2,), floor)
    flow = forward(layout.views(rows), weather, statics, floors, 5, dropped, share)
    for model, network in enumerate(made):
        told = statics[model, :, : weights[model][layout.first_static_weight].shape[1]]
        expected = network(weather[model], told, skip=5, keep=~dropped[model] / 0.6)
        torch.testing.assert_close(flow[model], expected, rtol=0, atol=1e-5)
        alone = forward(
            layout.views(rows[model : model + 1]), weather[model : model + 1],
            statics[model : model + 1], None if floors is None else floors[:1], 5,
            dropped[model : model + 1], share[:1],
        )  # fmt: skip
        torch.testing.assert_close(alone[0], expected, rtol=0, atol=1e-5)


def test_a_row_keeps_every_parameter():
    made = networks()
    layout = Layout.of(made[1])
    rows, weights = rows_of(layout, made)
    assert layout.size == rows.shape[1] == sum(p.numel() for p in made[1].parameters())
    for model, count in enumerate((3, 5)):
        again = layout.weights(rows[model].numpy(), count)
        assert list(again) == list(weights[model])
        for name, values in weights[model].items():
            np.testing.assert_array_equal(again[name], values)
    # cuDNN finds its four parameters as they lie.
    views = layout.views(rows)
    at = [views[f"lstm.{name}_l0"].storage_offset() for name in
          ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
    square = 4 * HIDDEN * HIDDEN
    assert at == [0, square, 2 * square, 2 * square + 4 * HIDDEN]


def test_a_long_run_in_parts_equals_one_pass():
    torch.manual_seed(0)
    made = networks(statics=(5, 5))
    layout = Layout.of(made[0])
    rows, _ = rows_of(layout, made)
    weather, statics = torch.randn(2, 30, 4, 7), torch.randn(2, 4, 5)
    run = LongRun(layout.views(rows), statics, None)
    parts = torch.cat([run.go_on(part) for part in weather.split([7, 16, 7], dim=1)], dim=1)
    whole = forward(layout.views(rows), weather, statics, None)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_random_numbers_are_those_of_the_host(device):
    keys, updates = (2**63 + 12345, 7), (3, 40_000)
    draws = DeviceDraws(2, torch.device(device))
    for place, key in enumerate(keys):
        draws.load(place, key)
    update = torch.tensor(updates, device=device)
    uniform = draws.uniform("windows", update, 33).cpu().numpy()
    # Of the first model a smaller batch, of the second fewer static inputs, as epochs end.
    rows, columns = torch.tensor([3, 5], device=device), torch.tensor([5, 3], device=device)
    normal = draws.normal("statics", update, rows, columns, (5, 5)).cpu().numpy()
    shares = (0.6, 0.9)
    limit = torch.tensor([limit_of(share) for share in shares], dtype=torch.int16, device=device)
    dropped = draws.dropped("dropout", update, rows, (6, 5, 8), limit).cpu().numpy()
    for place, (key, at) in enumerate(zip(keys, updates, strict=True)):
        host, (r, c) = Draws(key), ((3, 5), (5, 3))[place]
        np.testing.assert_array_equal(uniform[place], host.uniform("windows", at, 33))
        expected = host.normal("statics", at, (r, c))
        np.testing.assert_allclose(normal[place, :r, :c], expected, rtol=0, atol=1e-6)
        assert not normal[place, r:].any()
        assert not normal[place, :, c:].any()
        kept = host.dropout("dropout", at, (6, r, 8), shares[place]) > 0
        np.testing.assert_array_equal(dropped[place, :, :r], ~kept)
