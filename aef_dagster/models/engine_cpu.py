"""The CPU engine: trains one model of one job, and simulates with it.

Here: the training loop, validation, simulation; arrays in, arrays out, the same bits every time.
Not here: processes (worker.py, training.py), files (checkpoints.py). Numpy and torch only, so
that it runs wherever a torch does. Nothing here reads or sets torch's global random state.

Measured on one core (donor budget, torch 2.13): oneDNN's LSTM takes 85-90 % of an update. Flushing
denormal numbers changed neither the time nor a digit of the result, so it is left alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.inputs import JobInputs
from aef_dagster.models.losses import masked_nse_loss, nse_by_basin, nse_weights
from aef_dagster.models.network import BasinLSTM
from aef_dagster.models.scalers import Scaler
from aef_dagster.models.windows import WindowSampler, gather

# Basins simulated at once: enough to fill the matrix products, few enough for the memory.
SIMULATED_AT_ONCE = 64

Report = Callable[[str, int], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """What training one job gave.

    Parameters
    ----------
    weights
        The best checkpoint's parameters by name.
    curve
        Per validation: update, basin_days, learning_rate, train_loss (mean since the last one),
        valid_nse (median over the validated donors; NaN without any), seconds since the start.
    best_update
        Updates made when these weights were kept.
    simulation
        Targets over the test period, float32 [target, day], mm/day.
    donors_left_out
        Donors without any flow to learn from.
    """

    weights: dict[str, NDArray[np.float32]]
    curve: list[dict[str, Any]]
    best_update: int
    simulation: NDArray[np.float32]
    donors_left_out: int


def train(inputs: JobInputs, report: Report = lambda phase, update: None) -> Trained:
    """Train the model of a job and simulate its targets over the test period.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the job.
    report
        Called with the phase ("train", "validate", "simulate") and the updates made so far.

    Raises
    ------
    UserError
        Training diverged, or there is nothing to learn from.
    """
    job = inputs.job
    recipe, budget = job.recipe, job.budget
    torch.set_num_threads(job.threads)
    # Every random number of a job comes from its key, through numpy: so an engine on another
    # device can draw the same ones, and torch's global state is neither read nor set.
    first, windows, noise, validated = np.random.default_rng(job.random_key).spawn(4)
    network = BasinLSTM(len(inputs.scaler.forcing_names), inputs.scaler.static_size, budget.hidden)
    network.initialise(recipe.forget_bias, first)
    # Fused: one pass over all parameters instead of a dozen small operations on each.
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=True)
    batches = _Batches(inputs, windows, noise)
    validation = _Validation(inputs, validated)
    marks = _validation_marks(budget.updates, recipe.validations)

    curve: list[dict[str, Any]] = []
    losses: list[torch.Tensor] = []
    best_nse, best_update, best = -np.inf, 0, None
    started = time.monotonic()
    for update in range(1, budget.updates + 1):
        learning_rate = budget.rate_factor * recipe.learning_rate_at(update - 1, budget.updates)
        optimiser.param_groups[0]["lr"] = learning_rate
        loss = batches.loss(network)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimiser.step()
        losses.append(loss.detach())
        report("train", update)
        if update not in marks:
            continue

        report("validate", update)
        train_loss = float(torch.stack(losses).mean())
        if not np.isfinite(train_loss):
            raise UserError(
                f"training diverged before update {update} of {budget.updates}: lower the "
                f"learning rate of recipe {recipe.name!r} ({recipe.learning_rate})"
            )
        losses.clear()
        nse = validation.median_nse(network)
        curve.append(
            {
                "update": update,
                "basin_days": update * budget.batch * budget.window,
                "learning_rate": learning_rate,
                "train_loss": train_loss,
                "valid_nse": nse,
                "seconds": round(time.monotonic() - started, 2),
            }
        )
        # Where no donor has flow in the validation years, the last weights are taken.
        if nse > best_nse or not validation.basins:
            best_nse, best_update, best = nse, update, _copy_of_weights(network)

    if best is None:
        raise UserError(f"training diverged: no validation of job {job.hash} gave a number")
    report("simulate", budget.updates)
    network.load_state_dict(best)
    return Trained(
        weights={name: tensor.numpy() for name, tensor in best.items()},
        curve=curve,
        best_update=best_update,
        simulation=simulate(
            network,
            inputs.scaler,
            inputs.forcing,
            inputs.target_rows,
            inputs.target_statics,
            inputs.with_spinup(inputs.test),
            inputs.test,
        ),
        donors_left_out=batches.donors_left_out,
    )


def simulate(
    network: BasinLSTM,
    scaler: Scaler,
    forcing: NDArray[np.float32],
    rows: NDArray[np.int64],
    statics: NDArray[np.float32],
    days: slice,
    wanted: slice,
) -> NDArray[np.float32]:
    """Simulate basins in one pass over a span of days, starting from an empty memory.

    Parameters
    ----------
    network, scaler
        A trained model.
    forcing
        Unscaled, shape [basin, date, variable].
    rows, statics
        Rows of `forcing` to simulate, and their scaled static inputs.
    days
        Days that pass through the network.
    wanted
        Days returned; they end where `days` end.

    Returns
    -------
    ndarray
        float32, shape [row, wanted day], mm/day, never negative.
    """
    skip = wanted.start - days.start
    parts = []
    with torch.no_grad():
        for first in range(0, len(rows), SIMULATED_AT_ONCE):
            some = slice(first, first + SIMULATED_AT_ONCE)
            weather = np.stack([forcing[row, days] for row in rows[some]], axis=1)
            scaled = network(
                torch.from_numpy(scaler.scale_forcing(weather)),
                torch.from_numpy(statics[some]),
                skip=skip,
            )
            flow = scaled * scaler.flow_std + scaler.flow_mean
            parts.append(flow.clamp(min=0.0).T.numpy())
    return np.ascontiguousarray(np.concatenate(parts))


class _Batches:
    """Draws batches of a job and computes their loss."""

    def __init__(self, inputs: JobInputs, windows: np.random.Generator, noise: np.random.Generator):
        job = inputs.job
        self._inputs, self._noise = inputs, noise
        self._warmup = job.recipe.warmup_days(job.budget.window)
        self._sampler = WindowSampler(
            (inputs.streamflow[row] for row in inputs.donor_rows),
            inputs.train,
            inputs.first,
            job.budget.window,
            self._warmup,
            windows,
        )
        self.donors_left_out = self._sampler.basins_left_out
        # A donor without flow has no weight, and the sampler never draws it.
        stds = [inputs.scaler.donor_flow_std.get(gauge_id, np.nan) for gauge_id in job.donors]
        self._weights = torch.from_numpy(nse_weights(np.array(stds), job.recipe.nse_epsilon))

    def loss(self, network: BasinLSTM) -> torch.Tensor:
        """Loss of the next batch."""
        inputs, warmup = self._inputs, self._warmup
        recipe, budget, scaler = inputs.job.recipe, inputs.job.budget, inputs.scaler
        donors, starts = self._sampler.draw(budget.batch)
        rows = inputs.donor_rows[donors]
        weather = gather(inputs.forcing, rows, starts, budget.window)
        observed = gather(inputs.streamflow, rows, starts + warmup, budget.window - warmup)
        statics = inputs.donor_statics[donors]
        if recipe.static_noise > 0:
            noise = self._noise.standard_normal(statics.shape, dtype=np.float32)
            statics = statics + np.float32(recipe.static_noise) * noise
        scaled = network(
            torch.from_numpy(scaler.scale_forcing(weather)),
            torch.from_numpy(statics),
            skip=warmup,
            keep=self._dropout_mask((len(observed), budget.batch, budget.hidden), recipe.dropout),
        )
        simulated = scaled * scaler.flow_std + scaler.flow_mean
        return masked_nse_loss(simulated, torch.from_numpy(observed), self._weights[donors])

    def _dropout_mask(self, shape: tuple[int, ...], dropout: float) -> torch.Tensor | None:
        if dropout == 0:
            return None
        # A byte per output, an eighth of the time of torch's bernoulli_ (8 % of an update).
        share = round((1.0 - dropout) * 256)
        draws = self._noise.integers(256, size=shape, dtype=np.uint8)
        return torch.from_numpy((draws < share) * np.float32(256 / share))


class _Validation:
    """Scores a network on the validation years of a fixed choice of donors."""

    def __init__(self, inputs: JobInputs, rng: np.random.Generator):
        self._inputs = inputs
        flow = np.stack([inputs.streamflow[row, inputs.valid] for row in inputs.donor_rows])
        usable = np.flatnonzero(np.isfinite(flow).any(axis=1))
        limit = inputs.job.recipe.validation_basins
        if len(usable) > limit:
            usable = np.sort(rng.choice(usable, size=limit, replace=False))
        self.basins = len(usable)
        self._donors, self._observed = usable, flow[usable]

    def median_nse(self, network: BasinLSTM) -> float:
        """Median NSE over the chosen donors; NaN where there are none."""
        if not self.basins:
            return float("nan")
        inputs = self._inputs
        simulated = simulate(
            network,
            inputs.scaler,
            inputs.forcing,
            inputs.donor_rows[self._donors],
            inputs.donor_statics[self._donors],
            inputs.with_spinup(inputs.valid),
            inputs.valid,
        )
        return float(np.nanmedian(nse_by_basin(simulated, self._observed)))


def _validation_marks(updates: int, validations: int) -> set[int]:
    """Updates after which the run is validated: evenly spread, the last one among them."""
    count = max(1, min(validations, updates))
    return {round(updates * (i + 1) / count) for i in range(count)}


def _copy_of_weights(network: BasinLSTM) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
