"""How stable the embedding of a basin is from year to year.

Here: missing years, cosines between years, correlation of bands. A yearly frame comes in
(gauge_id, year, A00..A63), small frames go out. Only the direction of a vector counts: a cosine of
1 is the same direction, 0 at right angles.
Not here: whether a basin drifts (trend.py), odd years and odd basins (outliers.py), one vector from
many years (pooling.py), what donors make of it (similarity/drift.py), pictures
(evaluation/heatmaps.py).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import year_ranges
from aef_dagster.embeddings.year_vectors import (
    cosines_between_years,
    nan_median,
    steps_of,
    year_vectors,
)


def missing_years(frame: pd.DataFrame) -> pd.DataFrame:
    """Basins that lack years which others have.

    Every function here uses the years that a basin has. Steps over a gap are told by `gap`, and
    are left out where steps of one year are compared.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.

    Returns
    -------
    DataFrame
        gauge_id, n_years, missing ("2019,2021-2022"), in_the_middle (a missing year lies between
        years that the basin has); only basins with missing years, sorted by gauge_id.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    cube = year_vectors(frame)
    rows = []
    for gauge_id, has in zip(cube.gauge_ids, cube.has, strict=True):
        if has.all():
            continue
        inside = slice(int(has.argmax()), len(has) - int(has[::-1].argmax()))
        missing = year_ranges(cube.years[~has])
        rows.append((gauge_id, int(has.sum()), missing, not has[inside].all()))
    return pd.DataFrame(rows, columns=["gauge_id", "n_years", "missing", "in_the_middle"])


def year_to_year(frame: pd.DataFrame) -> pd.DataFrame:
    """Cosine between each year of a basin and the next year that it has.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63: one row per basin and year.

    Returns
    -------
    DataFrame
        gauge_id, year_from, year_to, gap (years between them: 1 = neighbours, more where years are
        missing), cosine in [-1, 1]; sorted by gauge_id and year. A basin with one year has no row.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    return steps_of(year_vectors(frame))


def median_cosines(frame: pd.DataFrame) -> pd.DataFrame:
    """Median over basins of the cosine between any two years.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.

    Returns
    -------
    DataFrame
        Square, index and columns the years, ones on the diagonal; NaN for two years that no basin
        has both of.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    cube = year_vectors(frame)
    median = nan_median(cosines_between_years(cube), axis=0)
    np.fill_diagonal(median, 1.0)
    return pd.DataFrame(median, index=cube.years, columns=cube.years)


def band_stability(frame: pd.DataFrame) -> pd.DataFrame:
    """Correlation of each band with itself one year on, over basins.

    Pearson's r over the basins that have both years. Near 1 a band ranks basins alike in both
    years; a low one tells more of the year than of the basin.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.

    Returns
    -------
    DataFrame
        band, year_from, year_to, gap (years), n_basins, correlation (NaN with fewer than three
        basins or a constant band). Years are paired with the next year that any basin has.

    Raises
    ------
    UserError
        As for `year_vectors`.
    """
    cube = year_vectors(frame)
    parts = []
    for i in range(len(cube.years) - 1):
        both = cube.has[:, i] & cube.has[:, i + 1]
        before, after = cube.vectors[both, i], cube.vectors[both, i + 1]
        year_from, year_to = int(cube.years[i]), int(cube.years[i + 1])
        parts.append(
            pd.DataFrame(
                {
                    "band": BANDS,
                    "year_from": year_from,
                    "year_to": year_to,
                    "gap": year_to - year_from,
                    "n_basins": int(both.sum()),
                    "correlation": _correlation(before, after),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _correlation(before: NDArray, after: NDArray) -> NDArray[np.float64]:
    """Pearson's r of each column, shape [band]."""
    if len(before) < 3:
        return np.full(before.shape[1], np.nan)
    x, y = before - before.mean(axis=0), after - after.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    product = (x * y).sum(axis=0)
    return np.divide(product, size, out=np.full_like(product, np.nan), where=size > 1e-12)
