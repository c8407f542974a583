import numpy as np
import pytest
import torch

from aef_dagster.models.engine.losses import (
    masked_nse_loss,
    masked_rmse_loss,
    nse_by_basin,
    nse_weights,
)


def test_nse_loss_equals_a_hand_computation():
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


def test_nse_loss_without_any_observation_is_zero():
    nothing = torch.full((3, 2), torch.nan)
    assert masked_nse_loss(torch.ones(3, 2), nothing, torch.ones(2)).item() == 0.0


def test_rmse_loss_equals_a_hand_computation():
    observed = torch.tensor([[0.0, torch.nan], [1.0, 4.0]])
    simulated = torch.tensor([[1.0, 2.0], [3.0, 2.0]], requires_grad=True)
    # sqrt((1 + 4 + 4) / 3), over all observed values at once and not basin by basin
    loss = masked_rmse_loss(simulated, observed)
    assert loss.item() == pytest.approx(3**0.5)
    loss.backward()
    # error / (3 values * loss)
    expected = np.array([[1, 0], [2, -2]]) / (3 * 3**0.5)
    np.testing.assert_allclose(simulated.grad, expected, rtol=1e-6)


def test_rmse_loss_without_any_observation_is_no_number():
    nothing = torch.full((3, 2), torch.nan)
    assert torch.isnan(masked_rmse_loss(torch.ones(3, 2), nothing))


def test_nse_by_basin():
    observed = np.array([[1, 2, 3, np.nan], [5, 5, 5, 5], [np.nan] * 4], dtype=np.float32)
    simulated = np.array([[1, 2, 4, 9], [5, 5, 5, 5], [0, 0, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(nse_by_basin(simulated, observed), [0.5, np.nan, np.nan])
