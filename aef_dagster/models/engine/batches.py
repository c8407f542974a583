"""What one update sees: windows of donors, their noise and dropout, and the loss of it all.

Not here: which windows there are (windows.py), the losses' formulas (losses.py).
"""

import numpy as np
import torch

from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.losses import donor_weights, masked_nse_loss, masked_rmse_loss
from aef_dagster.models.engine.network import BasinNetwork
from aef_dagster.models.engine.windows import (
    EpochSampler,
    RandomSampler,
    Sampler,
    gather,
    windows_of,
)
from aef_dagster.models.inputs import JobInputs


class Batches:
    """Batches of a job and their loss.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the job.
    draws
        The job's random numbers.

    Attributes
    ----------
    donors_left_out
        Donors without any flow to learn from.
    windows
        How many windows training may see.
    """

    def __init__(self, inputs: JobInputs, draws: Draws):
        job = inputs.job
        self._inputs, self._draws = inputs, draws
        self._warmup = job.recipe.warmup_days(job.budget.window)
        windows = windows_of(inputs)
        self.donors_left_out, self.windows = windows.basins_left_out, windows.starts.size
        self._sampler: Sampler
        if job.recipe.sampling == "epochs":
            self._sampler = EpochSampler(windows, job.budget.batch, draws)
        else:
            self._sampler = RandomSampler(windows, job.budget.batch, draws)
        # A donor without flow has no weight, and the sampler never draws it.
        self._weights = torch.from_numpy(donor_weights(inputs))

    def loss(self, network: BasinNetwork, update: int) -> torch.Tensor:
        """Loss of the batch of an update, counted from 0."""
        inputs, warmup, scaler = self._inputs, self._warmup, self._inputs.scaler
        recipe, budget = inputs.job.recipe, inputs.job.budget
        donors, starts = self._sampler.draw(update)
        rows, units = inputs.donor_rows[donors], inputs.donor_flow_units[donors]
        weather = gather(inputs.forcing, rows, starts, budget.window)
        observed = gather(inputs.streamflow, rows, starts + warmup, budget.window - warmup)
        statics = inputs.donor_statics[donors]
        if recipe.static_noise > 0:
            noise = self._draws.normal("statics", update, statics.shape)
            statics = statics + np.float32(recipe.static_noise) * noise
        scaled = network(
            torch.from_numpy(scaler.scale_forcing(weather)),
            torch.from_numpy(statics),
            skip=warmup,
            keep=self._dropout_mask(update, (*observed.shape, network.outputs)),
        )
        if recipe.loss == "rmse":
            return masked_rmse_loss(scaled, torch.from_numpy(scaler.scale_flow(observed, units)))
        simulated = scaler.unscale_flow(scaled, torch.from_numpy(units))
        return masked_nse_loss(simulated, torch.from_numpy(observed), self._weights[donors])

    def _dropout_mask(self, update: int, shape: tuple[int, ...]) -> torch.Tensor | None:
        share = 1.0 - self._inputs.job.recipe.dropout
        if share == 1.0:
            return None
        return torch.from_numpy(self._draws.dropout("dropout", update, shape, share))
