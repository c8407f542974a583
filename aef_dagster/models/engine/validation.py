"""Scoring a network, while it trains, on donors' validation years.

Not here: when that happens and what follows from it (cpu.py).
"""

import numpy as np
import torch

from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.losses import masked_rmse_loss, nse_by_basin
from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.engine.running import run_network
from aef_dagster.models.inputs import JobInputs

# Basins in one batch of a validated loss: torchhydro's.
VALIDATED_AT_ONCE = 384


class Validation:
    """The validation years of a fixed choice of donors.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the job.
    draws
        The job's random numbers, which choose the donors.

    Attributes
    ----------
    basins
        How many donors are validated on; 0 where none has flow in these years.
    """

    def __init__(self, inputs: JobInputs, draws: Draws):
        self._inputs = inputs
        flow = np.stack([inputs.streamflow[row, inputs.valid] for row in inputs.donor_rows])
        usable = np.flatnonzero(np.isfinite(flow).any(axis=1))
        limit = inputs.job.recipe.validation_basins
        if limit is not None and len(usable) > limit:
            order = np.argsort(draws.uniform("validation", 0, len(usable)), kind="stable")
            usable = np.sort(usable[order[:limit]])
        self.basins = len(usable)
        self._donors, self._observed = usable, flow[usable]

    def score(self, network: BasinLSTM) -> dict[str, float]:
        """Median NSE over the chosen donors, and where the recipe picks by it, the loss."""
        inputs, donors = self._inputs, self._donors
        by_loss = inputs.job.recipe.loss == "rmse"
        if not self.basins:
            nothing = float("nan")
            return {"valid_nse": nothing} | ({"valid_loss": nothing} if by_loss else {})
        scaler, units = inputs.scaler, inputs.donor_flow_units[donors]
        scaled = run_network(
            network,
            scaler,
            inputs.forcing,
            inputs.donor_rows[donors],
            inputs.donor_statics[donors],
            inputs.with_spinup(inputs.valid),
            inputs.valid,
        )
        simulated = scaler.unscale_flow(scaled, units[:, None]).clip(min=0.0)
        nse = nse_by_basin(simulated, self._observed)
        nse = nse[np.isfinite(nse)]  # flow that never varies has none
        scores = {"valid_nse": float(np.median(nse)) if nse.size else float("nan")}
        if by_loss:
            wanted = torch.from_numpy(scaler.scale_flow(self._observed.T, units))
            pairs = zip(
                torch.from_numpy(scaled.T).split(VALIDATED_AT_ONCE, dim=1),
                wanted.split(VALIDATED_AT_ONCE, dim=1),
                strict=True,
            )
            scores["valid_loss"] = float(np.mean([float(masked_rmse_loss(*p)) for p in pairs]))
        return scores
