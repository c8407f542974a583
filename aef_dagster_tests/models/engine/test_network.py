import numpy as np
import pytest
import torch
from torch import nn

from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.network import BasinLSTM


def network(statics=4, hidden=8, seed=0, forget_bias=3.0, **choices):
    made = BasinLSTM(7, statics, hidden, **choices)
    made.initialise(forget_bias, Draws(seed))
    return made


def test_equals_a_linear_layer_on_forcing_and_statics_side_by_side():
    torch.manual_seed(0)
    model = network()
    forcing, statics = torch.randn(25, 3, 7), torch.randn(3, 4)
    joined = torch.cat([forcing, statics.expand(25, 3, 4)], dim=2)
    weight = torch.cat([model.forcing_weight, model.static_weight], dim=1)
    states, _ = model.lstm(torch.relu(joined @ weight.T + model.input_bias))
    expected = model.output(states).squeeze(-1)
    torch.testing.assert_close(model(forcing, statics), expected)
    torch.testing.assert_close(model(forcing, statics, skip=10), expected[10:])


def test_dropout_mask_acts_on_the_outputs_of_the_lstm():
    model = network()
    forcing, statics = torch.randn(5, 2, 7), torch.randn(2, 4)
    nothing = model(forcing, statics, skip=2, keep=torch.zeros(3, 2, 8))
    torch.testing.assert_close(nothing, model.output.bias.expand(3, 2))
    keep = (torch.arange(48).reshape(3, 2, 8) % 3 > 0) / 0.6
    basin = statics @ model.static_weight.T + model.input_bias
    states, _ = model.lstm(torch.relu(forcing @ model.forcing_weight.T + basin))
    expected = model.output(states[2:] * keep).squeeze(-1)
    torch.testing.assert_close(model(forcing, statics, skip=2, keep=keep), expected)


def test_a_new_network_remembers_and_depends_on_its_seed_only():
    model, again, other = network(), network(), network(seed=1)
    total = model.lstm.bias_ih_l0 + model.lstm.bias_hh_l0
    torch.testing.assert_close(total[8:16], torch.full((8,), 3.0))
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name])
    assert not torch.equal(model.forcing_weight, other.forcing_weight)


def test_initial_weights_are_uniform_within_the_bounds_of_pytorch():
    model = network(statics=17, hidden=64, forget_bias=None)
    # nn.Linear and nn.LSTM draw within 1 / sqrt(inputs) and 1 / sqrt(hidden).
    bounds = {"forcing_weight": 24, "static_weight": 24, "input_bias": 24}
    for name, parameter in model.named_parameters():
        bound = bounds.get(name, 64) ** -0.5
        values = parameter.detach().numpy().ravel() / bound
        assert np.abs(values).max() <= 1.0, name
        if values.size > 1000:  # uniform on [-1, 1]: mean 0, variance 1/3
            assert np.abs(values).max() > 0.99, name
            assert abs(values.mean()) < 4 * (1 / 3 / values.size) ** 0.5, name
            assert values.var() == pytest.approx(1 / 3, abs=4 * (4 / 45 / values.size) ** 0.5)
    drawn = torch.cat([parameter.ravel() for parameter in model.parameters()])
    assert drawn.unique().numel() > 0.99 * drawn.numel()


def test_without_a_forget_bias_the_other_weights_are_the_same():
    plain, remembering = network(forget_bias=None), network(forget_bias=3.0)
    for name, parameter in plain.state_dict().items():
        other = remembering.state_dict()[name]
        if name.startswith("lstm.bias"):
            assert not torch.equal(parameter[8:16], other[8:16])
            parameter, other = parameter.clone(), other.clone()
            parameter[8:16] = other[8:16] = 0.0
        assert torch.equal(parameter, other)


def test_static_layers_come_before_the_input_layer():
    torch.manual_seed(0)
    model = network(static_layers=(5, 3))
    assert model.static_weight.shape == (8, 3)
    forcing, statics = torch.randn(6, 2, 7), torch.randn(2, 4)
    first, second = model.static_layers
    told = torch.tanh(second(torch.tanh(first(statics))))
    basin = told @ model.static_weight.T + model.input_bias
    states, _ = model.lstm(torch.relu(forcing @ model.forcing_weight.T + basin))
    torch.testing.assert_close(model(forcing, statics), model.output(states).squeeze(-1))


def test_no_output_lies_below_the_floor():
    torch.manual_seed(0)
    forcing, statics = 5 * torch.randn(50, 4, 7), torch.randn(4, 4)
    model, floored = network(), network(floor=-0.7)
    with torch.no_grad():
        for made in (model, floored):
            made.output.weight *= 20
    scaled = model(forcing, statics)
    assert scaled.min() < -0.7
    expected = torch.log1p(torch.exp(scaled)) - 0.7
    torch.testing.assert_close(floored(forcing, statics), expected)
    assert floored(forcing, statics).min() >= -0.7


def test_works_without_static_inputs():
    model = network(statics=0)
    flow = model(torch.randn(5, 2, 7), torch.zeros(2, 0))
    flow.sum().backward()
    assert flow.shape == (5, 2)
    assert torch.isfinite(model.forcing_weight.grad).all()


def test_static_layers_without_static_inputs_are_none_at_all():
    model = network(statics=0, static_layers=(5, 3))
    assert torch.isfinite(model(torch.randn(5, 2, 7), torch.zeros(2, 0))).all()
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in network(statics=0).named_parameters()]


def test_the_size_of_the_published_network():
    # arXiv:2601.01558: 141,441 parameters with 64 embeddings, 135,425 with 17 attributes.
    for statics, count in ((64, 141_441), (17, 135_425)):
        model = BasinLSTM(7, statics, 128)
        assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert isinstance(model.lstm, nn.LSTM)
