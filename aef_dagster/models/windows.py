"""Windows of days cut from donors' records: which may be drawn, drawing them, gathering them.

Here: sampling of (basin, start) for training, and the copy into one batch.
Not here: scaling (scalers.py), the loss (losses.py).

A window is a warm-up, which only fills the LSTM's memory, and the days after it, which the loss
sees. Days of the loss lie inside the training period; the warm-up may begin before it, where the
record does, because weather of earlier years tells nothing of what is tested.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError


class WindowSampler:
    """Draws windows: a basin uniformly, then one of its eligible starts uniformly.

    A start is eligible when the loss would see at least one observation. Basins that have none
    are left out (`basins_left_out`).

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
    rng
        Where the draws come from.

    Raises
    ------
    UserError
        The training period is shorter than the days of the loss, or no window is eligible.
    """

    def __init__(
        self,
        streamflow: Iterable[NDArray[np.float32]],
        train: slice,
        first_day: int,
        window: int,
        warmup: int,
        rng: np.random.Generator,
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
        self._counts = counts[self.basins]
        self._offsets = np.cumsum(self._counts) - self._counts
        self._starts = np.concatenate(eligible)
        self._rng = rng

    def draw(self, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Basins and starts of one batch.

        Returns
        -------
        basins
            Which of the donors, shape [batch].
        starts
            Positions of the first day of each window, shape [batch].
        """
        chosen = self._rng.integers(self.basins.size, size=batch)
        within = self._rng.integers(self._counts[chosen])
        return self.basins[chosen], self._starts[self._offsets[chosen] + within].astype(np.int64)


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
