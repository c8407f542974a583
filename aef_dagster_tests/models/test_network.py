import numpy as np
import pytest
import torch
from torch import nn

from aef_dagster.models.losses import masked_nse_loss, nse_by_basin, nse_weights
from aef_dagster.models.network import BasinLSTM


def network(statics=4, hidden=8, seed=0):
    made = BasinLSTM(7, statics, hidden)
    made.initialise(3.0, np.random.default_rng(seed))
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


def test_a_new_network_remembers_and_depends_on_its_seed_only():
    model, again, other = network(), network(), network(seed=1)
    total = model.lstm.bias_ih_l0 + model.lstm.bias_hh_l0
    torch.testing.assert_close(total[8:16], torch.full((8,), 3.0))
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name])
    assert not torch.equal(model.forcing_weight, other.forcing_weight)


def test_works_without_static_inputs():
    model = network(statics=0)
    flow = model(torch.randn(5, 2, 7), torch.zeros(2, 0))
    flow.sum().backward()
    assert flow.shape == (5, 2)
    assert torch.isfinite(model.forcing_weight.grad).all()


def test_the_size_of_the_published_network():
    # arXiv:2601.01558: 141,441 parameters with 64 embeddings, 135,425 with 17 attributes.
    for statics, count in ((64, 141_441), (17, 135_425)):
        model = BasinLSTM(7, statics, 128)
        assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert isinstance(model.lstm, nn.LSTM)


def test_loss_equals_a_hand_computation():
    weights = torch.from_numpy(nse_weights(np.array([0.4, 1.9]), epsilon=0.1))
    np.testing.assert_allclose(weights, [4.0, 0.25], rtol=1e-6)
    observed = torch.tensor([[1.0, 2.0], [torch.nan, 4.0]])
    simulated = torch.tensor([[3.0, 2.0], [9.0, 1.0]], requires_grad=True)
    # (4 * (3 - 1)^2 + 0.25 * 0 + 0.25 * (1 - 4)^2) / 3 observed days
    loss = masked_nse_loss(simulated, observed, weights)
    assert loss.item() == pytest.approx((16 + 0 + 2.25) / 3)
    loss.backward()
    assert simulated.grad[1, 0] == 0.0
    assert simulated.grad[0, 0] == pytest.approx(4 * 2 * 2 / 3)


def test_loss_without_any_observation_is_zero():
    nothing = torch.full((3, 2), torch.nan)
    assert masked_nse_loss(torch.ones(3, 2), nothing, torch.ones(2)).item() == 0.0


def test_nse_by_basin():
    observed = np.array([[1, 2, 3, np.nan], [5, 5, 5, 5], [np.nan] * 4], dtype=np.float32)
    simulated = np.array([[1, 2, 4, 9], [5, 5, 5, 5], [0, 0, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(nse_by_basin(simulated, observed), [0.5, np.nan, np.nan])
