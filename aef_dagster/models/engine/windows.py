"""Windows of days cut from donors' records: which may be drawn, drawing them, gathering them.

Here: sampling of (basin, start) for training, and the copy into one batch. Numpy only.
Not here: scaling (scalers.py), the loss (losses.py).

A window is a warm-up, which only fills the LSTM's memory, and the days after it, which the loss
sees. Days of the loss lie inside the training period; the warm-up may begin before it, where the
record does, because weather of earlier years tells nothing of what is tested.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.inputs import JobInputs

Drawn = tuple[NDArray[np.int64], NDArray[np.int64]]


class Windows:
    """The windows that training may see: those whose loss would see at least one observation.

    Parameters
    ----------
    streamflow
        Observed flow per donor, shape [date], over the whole record; NaN = missing.
    train
        Positions of the training period.
    first_day
        Position of the first day that a window may begin on.
    window, warmup
        Days per window, and how many of them come before the loss.
    weights
        How often each donor is drawn, relative to the others; None = all alike.

    Attributes
    ----------
    basins
        Donors that have such windows; the others are left out (`basins_left_out`).
    counts, offsets
        Per basin of these, how many windows it has and where its first one lies in `starts`.
    starts
        Positions of their first days, basin after basin.
    shares_up_to
        Per basin of these, the share of draws that goes to it and those before it, float64; None
        where all are drawn alike.

    Raises
    ------
    UserError
        The training period is shorter than the days of the loss, or there is no such window, or
        none of a donor with a weight.
    """

    def __init__(
        self,
        streamflow: Iterable[NDArray[np.float32]],
        train: slice,
        first_day: int,
        window: int,
        warmup: int,
        weights: Sequence[float] | None = None,
    ):
        first = max(first_day, train.start - warmup)
        last = train.stop - window
        if last < first:
            raise UserError(
                f"a window of {window} days does not fit into the {train.stop - train.start} days "
                "of the training period: choose a smaller budget or a longer period"
            )
        starts = np.arange(first, last + 1)
        eligible = []
        for flow in streamflow:
            # seen[i] = observations on the days before position i.
            seen = np.concatenate([[0], np.cumsum(np.isfinite(flow[: train.stop]))])
            eligible.append(starts[seen[starts + window] > seen[starts + warmup]].astype(np.int32))
        counts = np.array([len(found) for found in eligible])
        self.basins = np.flatnonzero(counts)
        self.basins_left_out = int(np.sum(counts == 0))
        if self.basins.size == 0:
            raise UserError(
                f"none of the {len(counts)} donors has flow on a day that training could see"
            )
        self.counts = counts[self.basins]
        self.offsets = np.cumsum(self.counts) - self.counts
        self.starts = np.concatenate(eligible)
        self.shares_up_to: NDArray[np.float64] | None = None
        if weights is not None:
            summed = np.cumsum(np.array(weights, dtype=np.float64)[self.basins] / max(weights))
            if summed[-1] == 0:
                raise UserError(
                    f"none of the {np.count_nonzero(weights)} donors with a weight above 0 has "
                    "flow on a day that training could see: give others a weight"
                )
            # The last is 1 exactly, and every draw lies below it.
            self.shares_up_to = summed / summed[-1]


def windows_of(inputs: JobInputs) -> Windows:
    """The windows of a job's donors; raises what `Windows` does."""
    window = inputs.job.budget.window
    return Windows(
        (inputs.streamflow[row] for row in inputs.donor_rows),
        inputs.train,
        inputs.first,
        window,
        inputs.job.recipe.warmup_days(window),
        inputs.job.donor_weights or None,
    )


class Sampler(Protocol):
    """Which windows an update sees."""

    def draw(self, update: int) -> Drawn:
        """Windows of an update, counted from 0: rows of donors and positions of first days.

        Both of shape [batch], and the same whatever was drawn before.
        """
        ...


class RandomSampler:
    """A basin, uniformly or by its weight, then one of its windows uniformly, with replacement."""

    def __init__(self, windows: Windows, batch: int, draws: Draws):
        self._windows, self._batch, self._draws = windows, batch, draws

    def draw(self, update: int) -> Drawn:
        """See `Sampler`."""
        windows = self._windows
        uniform = self._draws.uniform("windows", update, 2 * self._batch)
        if windows.shares_up_to is None:
            chosen = (uniform[: self._batch] * windows.basins.size).astype(np.int64)
        else:
            # On the right: a basin of weight 0 ends where it begins, and is passed over.
            chosen = np.searchsorted(windows.shares_up_to, uniform[: self._batch], side="right")
        within = (uniform[self._batch :] * windows.counts[chosen]).astype(np.int64)
        starts = windows.starts[windows.offsets[chosen] + within]
        return windows.basins[chosen], starts.astype(np.int64)


class EpochSampler:
    """Every window once an epoch, in an order of its own; an epoch's last batch may be smaller."""

    def __init__(self, windows: Windows, batch: int, draws: Draws):
        self._windows, self._batch, self._draws = windows, batch, draws
        self.updates_per_epoch = -(-windows.starts.size // batch)
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def draw(self, update: int) -> Drawn:
        """See `Sampler`."""
        epoch, batch = divmod(update, self.updates_per_epoch)
        windows = self._windows
        if epoch != self._epoch:
            seed = int(self._draws.bits("epoch", epoch, 1)[0])
            self._order = np.random.default_rng(seed).permutation(windows.starts.size)
            self._epoch = epoch
        drawn = self._order[batch * self._batch : (batch + 1) * self._batch]
        basin = np.searchsorted(windows.offsets, drawn, side="right") - 1
        return windows.basins[basin], windows.starts[drawn].astype(np.int64)


def gather(
    series: NDArray[np.float32], basins: NDArray[np.int64], starts: NDArray[np.int64], days: int
) -> NDArray[np.float32]:
    """Copy windows into one contiguous batch, time first, as the LSTM takes it.

    Parameters
    ----------
    series
        Shape [basin, date, ...], contiguous; it may be mapped from a file.
    basins, starts
        Row and first position of each window, shape [batch].
    days
        Length of the windows.

    Returns
    -------
    ndarray
        Shape [days, batch, ...].
    """
    flat = series.reshape(-1, *series.shape[2:])
    first = basins * series.shape[1] + starts
    return np.take(flat, first[None, :] + np.arange(days)[:, None], axis=0)
