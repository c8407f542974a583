"""Running a network over days: numpy arrays in, mm/day out.

Here: one pass over a span of days, the last days of many windows, and which of them a job wants.
Not here: training (cpu.py), a stack of models at once (grouped_runs.py), checkpoints and tables
(simulate.py). Numpy and torch only.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.models.engine.network import BasinNetwork
from aef_dagster.models.engine.variants import network_of
from aef_dagster.models.engine.windows import gather
from aef_dagster.models.inputs import JobInputs
from aef_dagster.models.recipes import Recipe
from aef_dagster.models.scalers import Scaler

# Basins simulated at once: enough to fill the matrix products, few enough for the memory.
SIMULATED_AT_ONCE = 32
# Windows simulated at once where each day has one of its own.
WINDOWS_AT_ONCE = 512

Report = Callable[[int, int], None]


def new_network(scaler: Scaler, recipe: Recipe, hidden: int) -> BasinNetwork:
    """The network that fits a scaler's inputs and a recipe."""
    floor = scaler.no_flow if recipe.softplus else None
    forcings, statics = len(scaler.forcing_names), scaler.static_size
    return network_of(recipe, forcings, statics, hidden, floor)


def simulate_targets(
    network: BasinNetwork, inputs: JobInputs, report: Report = lambda done, days: None
) -> NDArray[np.float32]:
    """Simulate a job's targets over its test period, as its recipe wants it.

    Parameters
    ----------
    network
        With the weights that are kept.
    inputs
        What `inputs.prepare` made of the job.
    report
        See `simulate_windowed`; one pass over all days reports nothing.

    Returns
    -------
    ndarray
        float32, shape [target, day], mm/day, never negative.
    """
    scaler, units = inputs.scaler, inputs.target_flow_units
    basins = inputs.forcing, inputs.target_rows, inputs.target_statics
    if inputs.job.recipe.evaluation == "streaming":
        days = inputs.with_spinup(inputs.test)
        return simulate(network, scaler, *basins, units, days, inputs.test)
    window = inputs.job.budget.window
    days = inputs.before(inputs.test, window)
    return simulate_windowed(
        network, scaler, *basins, units, days, inputs.test, window, report
    )  # fmt: skip


def simulate(
    network: BasinNetwork,
    scaler: Scaler,
    forcing: NDArray[np.float32],
    rows: NDArray[np.int64],
    statics: NDArray[np.float32],
    units: NDArray[np.float32],
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
    rows, statics, units
        Rows of `forcing` to simulate, their scaled static inputs, and what their flow was divided
        by (`inputs.flow_units`).
    days
        Days that pass through the network.
    wanted
        Days returned; they end where `days` end.

    Returns
    -------
    ndarray
        float32, shape [row, wanted day], mm/day, never negative.
    """
    scaled = run_network(network, scaler, forcing, rows, statics, days, wanted)
    return scaler.unscale_flow(scaled, units[:, None]).clip(min=0.0)


def simulate_windowed(
    network: BasinNetwork,
    scaler: Scaler,
    forcing: NDArray[np.float32],
    rows: NDArray[np.int64],
    statics: NDArray[np.float32],
    units: NDArray[np.float32],
    days: slice,
    wanted: slice,
    window: int,
    report: Report = lambda done, days: None,
) -> NDArray[np.float32]:
    """Simulate each wanted day as the last day of a window of its own.

    The memory is empty at the start of each window: hundreds of times the work of `simulate`.

    Parameters
    ----------
    network, scaler, forcing, rows, statics, units, wanted
        As in `simulate`.
    days
        Days that may be used: from the first one of the record, or any day from which on all
        windows are whole.
    window
        Days per window, its last one included. A window that would begin before `days` is cut:
        it begins with them, and is shorter.
    report
        Called now and then with the days simulated so far, of all basins, and how many there are.

    Returns
    -------
    ndarray
        As from `simulate`.
    """
    whole = min(max(wanted.start, days.start + window - 1), wanted.stop)
    cut = slice(wanted.start, whole)
    firsts = np.arange(whole, wanted.stop) - window + 1
    simulation = np.empty((len(rows), wanted.stop - wanted.start), dtype=np.float32)
    count = cut.stop - cut.start
    if count:
        # Cut windows all begin on the same day: they are the beginnings of one pass.
        passed = slice(days.start, cut.stop)
        simulation[:, :count] = run_network(network, scaler, forcing, rows, statics, passed, cut)
    with torch.no_grad():
        for row, basin in enumerate(rows):
            of_basin = torch.from_numpy(statics[row : row + 1])
            for at in range(0, len(firsts), WINDOWS_AT_ONCE):
                some = firsts[at : at + WINDOWS_AT_ONCE]
                weather = gather(forcing, np.full(len(some), basin), some, window)
                scaled = network(
                    torch.from_numpy(scaler.scale_forcing(weather)), of_basin, skip=window - 1
                )
                last = count + at + len(some)
                simulation[row, last - len(some) : last] = scaled[0].numpy()
                report(row * simulation.shape[1] + last, simulation.size)
    return scaler.unscale_flow(simulation, units[:, None]).clip(min=0.0)


def run_network(
    network: BasinNetwork,
    scaler: Scaler,
    forcing: NDArray[np.float32],
    rows: NDArray[np.int64],
    statics: NDArray[np.float32],
    days: slice,
    wanted: slice,
) -> NDArray[np.float32]:
    """What the network gives, still scaled: see `simulate`."""
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
            parts.append(scaled.T.numpy())
    return np.ascontiguousarray(np.concatenate(parts))
