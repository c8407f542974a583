"""A table of embeddings by year as unit vectors of each basin and year, and their cosines.

Here: the array that every comparison of years starts from, which refuses tables that it cannot be
made of; cosines between a basin's years; a median that leaves out what is missing. All vectors are
made unit length, so that only their direction counts.
Not here: what the cosines tell (stability.py, trend.py, outliers.py).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import unit_or_error
from aef_dagster.errors import UserError

# Distances that differ by less are equal: products of float32 numbers carry no more.
DECIMALS = 9


@dataclass(frozen=True)
class YearVectors:
    """Unit vectors, shape [basin, year, 64], zeros where `has` [basin, year] is False."""

    gauge_ids: NDArray
    years: NDArray[np.int64]
    vectors: NDArray[np.float64]
    has: NDArray[np.bool_]


def year_vectors(frame: pd.DataFrame) -> YearVectors:
    """Unit vectors of each basin and year.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63: one row per basin and year.

    Raises
    ------
    UserError
        A finished mean without years, fewer than two years, a basin twice in a year, or a vector
        without direction.
    """
    if frame["year"].isna().any():
        raise UserError(
            "a finished mean has no years to compare; take a source with embeddings by year"
        )
    units = unit_or_error(frame[list(BANDS)].to_numpy(dtype=np.float64), frame["gauge_id"])
    years, column = np.unique(frame["year"].to_numpy(dtype=np.int64), return_inverse=True)
    gauge_ids, row = np.unique(frame["gauge_id"].to_numpy(dtype=object), return_inverse=True)
    if len(years) < 2:
        raise UserError(
            f"stability needs embeddings of two years or more, and there are {len(years)}; fetch "
            "more years"
        )
    times = np.zeros((len(gauge_ids), len(years)), dtype=np.int64)
    np.add.at(times, (row, column), 1)
    if times.max() > 1:
        twice = np.argwhere(times > 1)[0]
        raise UserError(
            f"basin {gauge_ids[twice[0]]} occurs more than once in {years[twice[1]]}; mend the "
            "table of embeddings"
        )
    vectors = np.zeros((len(gauge_ids), len(years), len(BANDS)))
    vectors[row, column] = units
    return YearVectors(gauge_ids, years, vectors, times > 0)


def steps_of(cube: YearVectors) -> pd.DataFrame:
    """Cosine of each year and the next that a basin has, as `stability.year_to_year` tells it."""
    basin, year = np.nonzero(cube.has)  # by basin, then by year
    first = np.flatnonzero(basin[1:] == basin[:-1])
    rows, start, end = basin[first], year[first], year[first + 1]
    cosine = np.einsum("nb,nb->n", cube.vectors[rows, start], cube.vectors[rows, end])
    return pd.DataFrame(
        {
            "gauge_id": cube.gauge_ids[rows],
            "year_from": cube.years[start],
            "year_to": cube.years[end],
            "gap": cube.years[end] - cube.years[start],
            "cosine": np.clip(cosine, -1.0, 1.0),
        }
    )


def cosines_between_years(cube: YearVectors) -> NDArray[np.float64]:
    """Cosines between all years of a basin, shape [basin, year, year]; NaN where one is missing."""
    products = cube.vectors @ cube.vectors.transpose(0, 2, 1)
    both = cube.has[:, :, None] & cube.has[:, None, :]
    return np.where(both, np.clip(products, -1.0, 1.0), np.nan)


def nan_median(values: ArrayLike, axis: int) -> NDArray[np.float64]:
    """Median of what is known; NaN, without numpy's warning, where nothing is."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=axis)  # NaN comes last
    known = (~np.isnan(ordered)).sum(axis=axis, keepdims=True)
    lower, upper = (
        np.take_along_axis(ordered, at, axis) for at in (np.maximum(known - 1, 0) // 2, known // 2)
    )
    return ((lower + upper) / 2).squeeze(axis)
