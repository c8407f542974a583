"""Running a network over days: numpy arrays in, mm/day out.

Here: one pass over a span of days, and the last days of many windows.
Not here: training (cpu.py); checkpoints and tables (simulate.py). Numpy and torch only.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.engine.windows import gather
from aef_dagster.models.jobs import Recipe
from aef_dagster.models.scalers import Scaler

# Basins simulated at once: enough to fill the matrix products, few enough for the memory.
SIMULATED_AT_ONCE = 32
# Windows simulated at once where each day has one of its own.
WINDOWS_AT_ONCE = 512


def new_network(scaler: Scaler, recipe: Recipe, hidden: int) -> BasinLSTM:
    """The network that fits a scaler's inputs and a recipe."""
    floor = scaler.no_flow if recipe.softplus else None
    forcings, statics = len(scaler.forcing_names), scaler.static_size
    return BasinLSTM(forcings, statics, hidden, recipe.static_layers, floor)


def simulate(
    network: BasinLSTM,
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
    network: BasinLSTM,
    scaler: Scaler,
    forcing: NDArray[np.float32],
    rows: NDArray[np.int64],
    statics: NDArray[np.float32],
    units: NDArray[np.float32],
    days: slice,
    wanted: slice,
) -> NDArray[np.float32]:
    """Simulate each wanted day as the last day of a window of its own.

    As `simulate`, but the memory is empty at the start of each window, whose length is the number
    of days before `wanted` that `days` has, plus one: hundreds of times the work.
    """
    length = wanted.start - days.start + 1
    firsts = np.arange(days.start, wanted.stop - length + 1)
    simulation = np.empty((len(rows), len(firsts)), dtype=np.float32)
    with torch.no_grad():
        for row, basin in enumerate(rows):
            told = torch.from_numpy(statics[row : row + 1])
            for at in range(0, len(firsts), WINDOWS_AT_ONCE):
                some = firsts[at : at + WINDOWS_AT_ONCE]
                weather = gather(forcing, np.full(len(some), basin), some, length)
                scaled = network(
                    torch.from_numpy(scaler.scale_forcing(weather)), told, skip=length - 1
                )
                simulation[row, at : at + len(some)] = scaled[0].numpy()
    return scaler.unscale_flow(simulation, units[:, None]).clip(min=0.0)


def run_network(
    network: BasinLSTM,
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
