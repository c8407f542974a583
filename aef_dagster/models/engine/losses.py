"""What training makes small, and what picks the checkpoint.

Here: the NSE loss in mm/day with its weights, the RMSE loss of scaled flow (torch), and the NSE of
validation (numpy). The losses of a stack of models are in grouped_batches.py.
Not here: the metrics that are reported (evaluation/metrics.py), which engines must not import.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.models.inputs import JobInputs


def nse_weights(flow_std: NDArray[np.float64], epsilon: float) -> NDArray[np.float32]:
    """Weight of each basin in the NSE loss: 1 / (std + epsilon)^2.

    Parameters
    ----------
    flow_std
        Standard deviation of each basin's observed flow in the training period, mm/day.
    epsilon
        Keeps rivers nearly dry from ruling the loss, mm/day.

    References
    ----------
    Kratzert et al. 2019, doi:10.5194/hess-23-5089-2019, eq. 13.
    """
    return (1.0 / (flow_std + epsilon) ** 2).astype(np.float32)


def donor_weights(inputs: JobInputs) -> NDArray[np.float32]:
    """Weight of each donor of a job in the NSE loss, shape [donor]; NaN without any flow."""
    stds = [inputs.scaler.donor_flow_std.get(gauge_id, np.nan) for gauge_id in inputs.job.donors]
    return nse_weights(np.array(stds), inputs.job.recipe.nse_epsilon)


def masked_nse_loss(
    simulated: torch.Tensor, observed: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Mean over the observed days of `weight * (simulated - observed)^2`.

    Parameters
    ----------
    simulated, observed
        mm/day, shape [day, window]; NaN in `observed` = missing, which counts for nothing.
    weights
        Of each window's basin, shape [window].

    Returns
    -------
    Tensor
        A scalar; 0 where nothing is observed.
    """
    missing = torch.isnan(observed)
    error = (simulated - torch.nan_to_num(observed)).masked_fill(missing, 0.0)
    return (error.square() * weights).sum() / (~missing).sum().clamp(min=1)


def masked_rmse_loss(simulated: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Root mean squared error over all observed values at once, NaN in `observed` = missing.

    Parameters
    ----------
    simulated, observed
        Scaled flow, shape [day, window].

    Returns
    -------
    Tensor
        A scalar; NaN where nothing is observed.
    """
    missing = torch.isnan(observed)
    error = (simulated - torch.nan_to_num(observed)).masked_fill(missing, 0.0)
    return (error.square().sum() / (~missing).sum()).sqrt()


def nse_by_basin(
    simulated: NDArray[np.float32], observed: NDArray[np.float32]
) -> NDArray[np.float64]:
    """NSE of each basin, shape [basin, day] -> [basin]; NaN where the observed flow is constant."""
    known = np.isfinite(observed)
    count = np.maximum(known.sum(1), 1)
    flow = np.where(known, observed, 0.0).astype(np.float64)
    spread = np.where(known, flow - (flow.sum(1) / count)[:, None], 0.0)
    error = np.where(known, simulated - flow, 0.0)
    total = (spread**2).sum(1)
    varies = total > 0
    return np.where(varies, 1.0 - (error**2).sum(1) / np.where(varies, total, 1.0), np.nan)
