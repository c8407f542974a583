"""Scoring a network, while it trains, on donors' validation years.

Not here: when that happens and what follows from it (course.py).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.losses import masked_rmse_loss, nse_by_basin
from aef_dagster.models.engine.network import BasinNetwork
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
    rows, statics
        The validated donors: rows of the data, and scaled static inputs [donor, static].
    scorable
        Whether they have the flow that a score needs.
    """

    def __init__(self, inputs: JobInputs, draws: Draws):
        self._inputs = inputs
        recipe = inputs.job.recipe
        flow = np.stack([inputs.streamflow[row, inputs.valid] for row in inputs.donor_rows])
        usable = np.flatnonzero(np.isfinite(flow).any(axis=1))
        limit = recipe.validation_basins
        if limit is not None and len(usable) > limit:
            order = np.argsort(draws.uniform("validation", 0, len(usable)), kind="stable")
            usable = np.sort(usable[order[:limit]])
        self.rows, self.statics = inputs.donor_rows[usable], inputs.donor_statics[usable]
        self._units, self._observed = inputs.donor_flow_units[usable], flow[usable]
        self._by_loss = recipe.loss == "rmse"
        varies = [np.ptp(one[np.isfinite(one)]) > 0 for one in self._observed]
        self.scorable = len(usable) > 0 if self._by_loss else any(varies)

    def run(self, network: BasinNetwork) -> dict[str, float]:
        """Scores of a network."""
        if not self.scorable:
            return self.scores(np.zeros((0, 0), dtype=np.float32))
        inputs = self._inputs
        scaled = run_network(
            network,
            inputs.scaler,
            inputs.forcing,
            self.rows,
            self.statics,
            inputs.with_spinup(inputs.valid),
            inputs.valid,
        )
        return self.scores(scaled)

    def scores(self, scaled: NDArray[np.float32]) -> dict[str, float]:
        """Scores of what a network gave, still scaled, shape [donor, validation day].

        Returns
        -------
        dict
            valid_nse, the median over the donors whose flow varies, and where the recipe picks by
            it, valid_loss; NaN where there is nothing to score.
        """
        if not self.scorable:
            return {"valid_nse": np.nan} | ({"valid_loss": np.nan} if self._by_loss else {})
        scaler = self._inputs.scaler
        simulated = scaler.unscale_flow(scaled, self._units[:, None]).clip(min=0.0)
        nse = nse_by_basin(simulated, self._observed)
        nse = nse[np.isfinite(nse)]
        scores = {"valid_nse": float(np.median(nse)) if nse.size else np.nan}
        if self._by_loss:
            wanted = torch.from_numpy(scaler.scale_flow(self._observed.T, self._units))
            given = torch.from_numpy(np.ascontiguousarray(scaled.T))
            pairs = zip(
                given.split(VALIDATED_AT_ONCE, dim=1),
                wanted.split(VALIDATED_AT_ONCE, dim=1),
                strict=True,
            )
            scores["valid_loss"] = float(np.mean([float(masked_rmse_loss(*p)) for p in pairs]))
        return scores
