"""Simulations of targets as tables: the long table that is stored, and a row of scores per basin.

Here: the shapes in which a checkpoint keeps its simulation and its scores.
Not here: the metrics themselves (evaluation/metrics.py).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aef_dagster.models.jobs import TrainingJob

if TYPE_CHECKING:
    import pandas as pd


def simulation_table(
    gauge_ids: tuple[str, ...],
    dates: NDArray[np.datetime64],
    observed: NDArray[np.float32],
    simulated: NDArray[np.float32],
    spread: NDArray[np.float32] | None = None,
) -> "pd.DataFrame":
    """One row per basin and day.

    Parameters
    ----------
    gauge_ids, dates
        Basins and days.
    observed, simulated
        mm/day, shape [basin, day]; NaN in `observed` = missing.
    spread
        Standard deviation over the members of an ensemble, shape [basin, day]; None = one model,
        whose spread is missing.

    Returns
    -------
    DataFrame
        gauge_id, date, obs, sim, sim_std, ordered by basin and day.
    """
    import pandas as pd

    if spread is None:
        spread = np.full_like(simulated, np.nan)
    return pd.DataFrame(
        {
            "gauge_id": np.repeat(np.array(gauge_ids, dtype=object), len(dates)),
            "date": np.tile(dates.astype("datetime64[ms]"), len(gauge_ids)),
            "obs": np.asarray(observed, dtype=np.float32).ravel(),
            "sim": np.asarray(simulated, dtype=np.float32).ravel(),
            "sim_std": np.asarray(spread, dtype=np.float32).ravel(),
        }
    )


def score_rows(
    job: TrainingJob,
    dates: NDArray[np.datetime64],
    observed: NDArray[np.float32],
    simulated: NDArray[np.float32],
) -> list[dict[str, Any]]:
    """Scores of a job's targets, in their order.

    Parameters
    ----------
    job
        Gives targets and role.
    dates
        Days of the test period.
    observed, simulated
        mm/day, shape [target, day]. A target without flow has n_days 0 and scores NaN.

    Returns
    -------
    list of dict
        gauge_id, role, n_days, period_start, period_end, and each metric of
        `evaluation.metrics.METRICS`.
    """
    from aef_dagster.evaluation.metrics import score

    metrics = score(observed, simulated, dates)
    counted = np.isfinite(observed).sum(axis=1)
    return [
        {
            "gauge_id": gauge_id,
            "role": job.role,
            "n_days": int(counted[row]),
            "period_start": str(dates[0]),
            "period_end": str(dates[-1]),
            **{name: float(values[row]) for name, values in metrics.items()},
        }
        for row, gauge_id in enumerate(job.targets)
    ]
