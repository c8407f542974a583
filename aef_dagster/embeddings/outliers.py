"""Years and basins whose embeddings stand out: jumps of most basins, odd years, restless basins.

Here: robust z-scores of distances between years. A yearly frame comes in (gauge_id, year,
A00..A63), small frames go out. Distance is 1 - cosine: 0 = same direction, 1 = at right angles.
Not here: slow change in one direction (trend.py), cosines as such (stability.py).

Robust z-scores are those of Iglewicz and Hoaglin (1993), How to detect and handle outliers, ASQC:
z = (x - median) / (1.4826 MAD), flagged above 3.5. MAD is the median absolute deviation; where it
is 0 (more than half of the values equal), 1.2533 times the mean absolute deviation stands in.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.embeddings.year_vectors import (
    DECIMALS,
    YearVectors,
    nan_median,
    steps_of,
    year_vectors,
)

OUTLIER_Z = 3.5


def year_pairs(frame: pd.DataFrame, threshold: float = OUTLIER_Z) -> pd.DataFrame:
    """Each step from one year to the next, over all basins, and whether most basins jump there.

    A basin jumps where its distance stands out among its own steps: robust z, over the basin's
    steps of one year, above the threshold. If the median of z over basins is above it, at least
    half of them jump: something common to all, as a new version of the product, and not their
    landscapes. A single odd year makes two jumps, into it and out of it. At least four steps are
    needed: the z of three cannot tell.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.
    threshold
        Robust z-score above which a step is a jump.

    Returns
    -------
    DataFrame
        year_from, year_to, gap (years), n_basins, median, q05, q95 (of the cosine over basins), z
        (median over basins), share_jumping (of basins), jump. One row a pair of years that is
        next to each other in at least one basin; z and share_jumping are NaN, and jump False, for
        gaps above 1 and where no basin has four steps.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    steps = steps_of(year_vectors(frame))
    # One step at most leads a basin into a year, so basin and year name it.
    distance = (1 - steps["cosine"]).where(steps["gap"] == 1)
    wide = steps.assign(distance=distance).pivot(
        index="gauge_id", columns="year_to", values="distance"
    )
    own_z = pd.DataFrame(_robust_z(wide.to_numpy(), at_least=4), wide.index, wide.columns)
    long = own_z.reset_index().melt(id_vars="gauge_id", value_name="z")
    steps = steps.merge(long.astype({"year_to": np.int64}), on=["gauge_id", "year_to"])
    rows = []
    for _, group in steps.groupby(["year_from", "year_to"]):
        year_from, year_to, gap = (
            int(group[name].iloc[0]) for name in ("year_from", "year_to", "gap")
        )
        q05, median, q95 = group["cosine"].quantile([0.05, 0.5, 0.95])
        z, share = _common(group["z"].to_numpy(), threshold)
        rows.append((year_from, year_to, gap, len(group), median, q05, q95, z,
                     share, z > threshold))  # fmt: skip
    columns = ["year_from", "year_to", "gap", "n_basins", "median", "q05", "q95", "z",
               "share_jumping", "jump"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def outlier_years(frame: pd.DataFrame, threshold: float = OUTLIER_Z) -> pd.DataFrame:
    """Years that lie apart from the other years in most basins.

    A year's distance in a basin is that between its vector and the mean of the basin's other
    years; its z there is the robust z among the basin's years. A year is an outlier if the median
    of z over basins is above the threshold, so in at least half of the basins. A lasting change
    leaves no year apart: `year_pairs` shows it as a jump.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.
    threshold
        Robust z-score above which a year lies apart.

    Returns
    -------
    DataFrame
        year, n_basins, distance (median over basins), z (median over basins), share_apart (of
        basins), outlier; sorted by year. Basins with fewer than four years have no z.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    cube = year_vectors(frame)
    distance = _distance_to_other_years(cube)
    scores = _robust_z(distance, at_least=4)
    rows = []
    for i, year in enumerate(cube.years):
        z, share = _common(scores[:, i], threshold)
        median = float(nan_median(distance[:, i], axis=0))
        rows.append((int(year), int(cube.has[:, i].sum()), median, z, share, z > threshold))
    columns = ["year", "n_basins", "distance", "z", "share_apart", "outlier"]
    return pd.DataFrame(rows, columns=columns)


def outlier_basins(frame: pd.DataFrame, threshold: float = OUTLIER_Z) -> pd.DataFrame:
    """Basins that change more from year to year than other basins do.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.
    threshold
        Robust z-score above which a basin stands out. Distances cannot be negative and may have a
        long upper tail: then some stand out of any large set.

    Returns
    -------
    DataFrame
        gauge_id, n_steps (of one year; steps over a gap do not count), distance (median over
        them), z (robust, over basins), outlier, worst_year (the year reached by the largest step)
        and worst_distance; the most restless first, then by gauge_id. A basin without neighbouring
        years has NaN and comes last.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    cube = year_vectors(frame)
    steps = steps_of(cube)
    steps = steps[steps["gap"] == 1]
    steps = steps.assign(distance=1 - steps["cosine"])
    by_basin = steps.groupby("gauge_id")
    largest = steps.loc[by_basin["distance"].idxmax()].set_index("gauge_id")
    table = pd.DataFrame(index=pd.Index(cube.gauge_ids, name="gauge_id"))
    table["n_steps"] = by_basin.size().reindex(table.index, fill_value=0)
    table["distance"] = by_basin["distance"].median()
    table["z"] = _robust_z(table["distance"].to_numpy()[None, :], at_least=4)[0]
    table["outlier"] = table["z"] > threshold
    table["worst_year"] = largest["year_to"].astype("Int64")
    table["worst_distance"] = largest["distance"]
    return table.reset_index().sort_values(
        ["distance", "gauge_id"], ascending=[False, True], ignore_index=True
    )


def _distance_to_other_years(cube: YearVectors) -> NDArray[np.float64]:
    """Distance of each year to the mean of the basin's others, shape [basin, year]."""
    others = cube.vectors.sum(axis=1, keepdims=True) - cube.vectors
    length = np.linalg.norm(others, axis=2)
    product = np.einsum("ytb,ytb->yt", cube.vectors, others)
    known = cube.has & (length > 1e-9)  # years may cancel, or be alone
    return 1 - np.divide(product, length, out=np.full_like(product, np.nan), where=known)


def _robust_z(values: NDArray, *, at_least: int) -> NDArray[np.float64]:
    """Robust z of each value within its row; NaN in rows with fewer known values."""
    values = np.round(values, DECIMALS)
    away = values - nan_median(values, axis=1)[:, None]
    scale = 1.4826 * nan_median(np.abs(away), axis=1)
    known = (~np.isnan(values)).sum(axis=1)
    mean_away = np.nansum(np.abs(away), axis=1) / np.maximum(known, 1)
    scale = np.where(scale > 0, scale, 1.2533 * mean_away)[:, None]
    z = np.divide(away, scale, out=np.where(np.isnan(away), np.nan, 0.0), where=scale > 0)
    return np.where(known[:, None] >= at_least, z, np.nan)


def _common(z: NDArray, threshold: float) -> tuple[float, float]:
    """Median of z over basins, and share of basins above the threshold; NaN if none has a z."""
    known = z[~np.isnan(z)]
    if known.size == 0:
        return np.nan, np.nan
    return float(np.median(known)), float(np.mean(known > threshold))
