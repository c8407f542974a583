"""From yearly embeddings to one vector per basin.

Here: unit length, and the mean over years in the two ways that are in use.
Not here: the mean over the pixels of a basin, which whoever made the table has taken.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError

POOLINGS: tuple[str, ...] = ("unit_mean", "plain_mean")


def unit(vectors: ArrayLike) -> NDArray[np.float64]:
    """Rows made unit length.

    Parameters
    ----------
    vectors
        Shape [n, dim].

    Returns
    -------
    ndarray
        Shape [n, dim], float64; a row of zeros has no direction and becomes NaN.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norm, out=np.full_like(vectors, np.nan), where=norm > 0)


def pool_years(
    frame: pd.DataFrame,
    *,
    how: Literal["unit_mean", "plain_mean"] = "unit_mean",
    years: Sequence[int] | None = None,
) -> pd.DataFrame:
    """One vector per basin: the mean over years.

    `unit_mean` takes the mean of unit vectors and makes it unit again, as the makers of AlphaEarth
    ask for any mean of embeddings. `plain_mean` is what the study did: the mean of the vectors as
    published, of whatever length. A basin that some years lack gets the mean of those it has.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63: one row per basin and year. A finished multi-year mean
        has no year (NA), and is one row per basin.
    how
        The kind of mean.
    years
        Years to use; all that the frame has if not given.

    Returns
    -------
    DataFrame
        gauge_id, n_years (0 for a finished mean), years ("2017-2024", "2017-2019,2022",
        "finished mean"), norm (length of this vector: 1 for `unit_mean`), A00..A63 float32;
        sorted by gauge_id.

    Raises
    ------
    UserError
        None of the years is there, or a vector has length zero.
    """
    if how not in POOLINGS:
        raise ValueError(f"how must be one of {POOLINGS}, not {how!r}")
    if years is not None:
        chosen = frame[frame["year"].isin(years)]
        if chosen.empty:
            raise UserError(
                f"no embeddings of {_year_ranges(years)}; there are those of "
                f"{_year_ranges(frame['year'].dropna()) or 'no year'}"
            )
        frame = chosen
    # Sorted, so that the last bits of a sum do not depend on the order of the rows.
    frame = frame.sort_values(["gauge_id", "year"])
    vectors = frame[list(BANDS)].to_numpy(dtype=np.float64)
    # Checked for either mean: a mean over years would pass over a missing one without a word.
    units = _unit_or_error(vectors, frame["gauge_id"])
    if how == "unit_mean":
        vectors = units
    by_basin = pd.DataFrame(vectors, columns=list(BANDS)).groupby(frame["gauge_id"].to_numpy())
    mean = by_basin.mean()
    if how == "unit_mean":
        mean[:] = _unit_or_error(mean.to_numpy(), mean.index)
    mean = mean.astype(np.float32)
    years_of = frame.groupby("gauge_id")["year"]
    pooled = pd.DataFrame(
        {
            "gauge_id": mean.index.to_numpy(),
            "n_years": years_of.count().to_numpy(),
            "years": [_year_ranges(years.dropna()) or "finished mean" for _, years in years_of],
            "norm": np.linalg.norm(mean.to_numpy(), axis=1),
        }
    )
    return pd.concat([pooled, mean.reset_index(drop=True)], axis=1)


def _unit_or_error(vectors: NDArray[np.float64], gauge_ids: Iterable[str]) -> NDArray[np.float64]:
    """Rows made unit length; a row without direction is an error that names its basin."""
    rows = unit(vectors)
    broken = np.array(list(gauge_ids))[~np.isfinite(rows).all(axis=1)].tolist()
    if broken:
        raise UserError(
            f"the embedding of {', '.join(broken[:5])} ({len(broken)} vectors) has length zero or "
            "holds NaN: it has no direction to compare; mend the table or leave these basins out"
        )
    return rows


def _year_ranges(years: Iterable[int]) -> str:
    """Years as runs: 2017, 2018, 2019, 2022 -> "2017-2019,2022"."""
    runs: list[list[int]] = []
    for year in sorted({int(year) for year in years}):
        if runs and year == runs[-1][1] + 1:
            runs[-1][1] = year
        else:
            runs.append([year, year])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
