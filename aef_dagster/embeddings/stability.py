"""How stable the embedding of a basin is from year to year.

Here: cosines between years, correlation of bands, drift against spread with a test, odd years and
odd basins, missing years. A yearly frame comes in (gauge_id, year, A00..A63), small frames go out.
All vectors are made unit length first, so that only their direction counts. Distance is
1 - cosine: 0 = same direction, 1 = at right angles.
Not here: one vector from many years (pooling.py), what donors make of it (similarity/drift.py),
pictures (evaluation/maps.py).

Robust z-scores are those of Iglewicz and Hoaglin (1993), How to detect and handle outliers, ASQC:
z = (x - median) / (1.4826 MAD), flagged above 3.5. MAD is the median absolute deviation; where it
is 0 (more than half of the values equal), 1.2533 times the mean absolute deviation stands in.
"""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import unit_or_error, year_ranges
from aef_dagster.errors import UserError

OUTLIER_Z = 3.5

# Distances that differ by less are equal: products of float32 numbers carry no more.
DECIMALS = 9

# Orders of the years tried at once, which holds the largest array near 30 MB.
_CHUNK = 5000


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
        As for `year_to_year`.
    """
    cube = _cube(frame)
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
        A finished mean without years, fewer than two years, a basin twice in a year, or a vector
        without direction.
    """
    return _steps(_cube(frame))


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
        As for `year_to_year`.
    """
    steps = _steps(_cube(frame))
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
        As for `year_to_year`.
    """
    cube = _cube(frame)
    median = _nan_median(_gram(cube), axis=0)
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
        As for `year_to_year`.
    """
    cube = _cube(frame)
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


def drift_against_spread(
    frame: pd.DataFrame, *, n_permutations: int = 19_999, seed: int = 0, level: float = 0.05
) -> pd.DataFrame:
    """Whether a basin moves in one direction, or only to and fro.

    With u_t the unit vector of year t and m their mean over the basin's n years:

    - drift = distance between the mean of the first and the mean of the last n // 3 years (at
      least one);
    - spread = mean over years of the distance between u_t and m;
    - slope = length of the vector b of the least-squares line u_t = a + b t, per year: it uses all
      years and their true distances, also where some are missing.

    The test: were the years in any other order, would the slope be as large? All orders are tried
    where there are no more than `n_permutations` (up to seven years), else that many drawn ones,
    p = (1 + orders with a slope as large) / (1 + orders drawn), after Phipson and Smyth (2010). An
    order and its reverse have the same slope, so n years cannot give a p below 2 / n!: 0.08 for
    four. Basins are many tests: q is p after Benjamini and Hochberg (1995) over all of them.

    The test asks whether years can be exchanged. Slow wandering without an aim, and a jump of all
    basins at once (`year_pairs`), count as drift too.

    Parameters
    ----------
    frame
        Columns gauge_id, year, A00..A63.
    n_permutations
        Orders of the years to draw. The smallest p is 1 / (n + 1); for one drifting basin among
        671 to be found at 0.05 it must be below 0.05 / 671 = 7.5e-5, hence the default.
    seed
        Of the drawn orders.
    level
        A basin drifts if q is at most this: the accepted share of false ones among them.

    Returns
    -------
    DataFrame
        gauge_id, n_years, drift, spread, ratio (drift / spread; NaN if spread is 0), slope (1 /
        year), p, q, drifts; sorted by gauge_id. All numbers are NaN for a basin with fewer than
        three years.

    Raises
    ------
    UserError
        As for `year_to_year`.

    References
    ----------
    Phipson, Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9(1), 39.
    Benjamini, Hochberg (1995), Journal of the Royal Statistical Society B 57(1), 289-300.
    """
    from scipy.stats import false_discovery_control

    cube = _cube(frame)
    gram = _gram(cube)
    n_basins = len(cube.gauge_ids)
    numbers = {name: np.full(n_basins, np.nan) for name in ("drift", "spread", "slope", "p")}
    # Basins with the same years share the orders that are tried.
    patterns, pattern_of = np.unique(cube.has, axis=0, return_inverse=True)
    for number, has in enumerate(patterns):
        if has.sum() < 3:
            continue
        here = np.flatnonzero(pattern_of.ravel() == number)
        products = gram[np.ix_(here, has, has)]
        numbers["drift"][here] = _drift(products)
        numbers["spread"][here] = _spread(products)
        trend = _trend_weights(cube.years[has])
        numbers["slope"][here] = np.sqrt(np.maximum(_squared_length(products, trend), 0))
        numbers["p"][here] = _p_of_order(products, trend, n_permutations, seed)
    spread, p = numbers["spread"], numbers["p"]
    q = np.full(n_basins, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    ratio = np.divide(numbers["drift"], spread, out=np.full(n_basins, np.nan), where=spread > 0)
    return pd.DataFrame(
        {
            "gauge_id": cube.gauge_ids,
            "n_years": cube.has.sum(axis=1),
            "drift": numbers["drift"],
            "spread": spread,
            "ratio": ratio,
            "slope": numbers["slope"],
            "p": p,
            "q": q,
            "drifts": q <= level,
        }
    )


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
        As for `year_to_year`.
    """
    cube = _cube(frame)
    distance = _distance_to_other_years(cube)
    scores = _robust_z(distance, at_least=4)
    rows = []
    for i, year in enumerate(cube.years):
        z, share = _common(scores[:, i], threshold)
        median = float(_nan_median(distance[:, i], axis=0))
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
        As for `year_to_year`.
    """
    cube = _cube(frame)
    steps = _steps(cube)
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


@dataclass(frozen=True)
class _Cube:
    """Unit vectors, shape [basin, year, 64], zeros where `has` [basin, year] is False."""

    gauge_ids: NDArray
    years: NDArray[np.int64]
    vectors: NDArray[np.float64]
    has: NDArray[np.bool_]


def _cube(frame: pd.DataFrame) -> _Cube:
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
    return _Cube(gauge_ids, years, vectors, times > 0)


def _steps(cube: _Cube) -> pd.DataFrame:
    """`year_to_year` of a cube."""
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


def _gram(cube: _Cube) -> NDArray[np.float64]:
    """Cosines between all years of a basin, shape [basin, year, year]; NaN where one is missing."""
    products = cube.vectors @ cube.vectors.transpose(0, 2, 1)
    both = cube.has[:, :, None] & cube.has[:, None, :]
    return np.where(both, np.clip(products, -1.0, 1.0), np.nan)


def _distance_to_other_years(cube: _Cube) -> NDArray[np.float64]:
    """Distance of each year to the mean of the basin's others, shape [basin, year]."""
    others = cube.vectors.sum(axis=1, keepdims=True) - cube.vectors
    length = np.linalg.norm(others, axis=2)
    product = np.einsum("ytb,ytb->yt", cube.vectors, others)
    known = cube.has & (length > 1e-9)  # years may cancel, or be alone
    return 1 - np.divide(product, length, out=np.full_like(product, np.nan), where=known)


# What follows works on cosines between years alone: a weighted sum of years has the squared
# length w'Gw, so that 64 bands are summed over once and not for each order of the years.


def _squared_length(products: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Squared length of the weighted sum of years, shape [basin]."""
    return np.einsum("i,bij,j->b", weights, products, weights)


def _drift(products: NDArray) -> NDArray[np.float64]:
    """Distance between the means of the first and last third of the years, shape [basin]."""
    n = products.shape[1]
    third = max(1, n // 3)
    first, last = np.zeros(n), np.zeros(n)
    first[:third] = last[n - third :] = 1
    length = np.sqrt(
        np.maximum(_squared_length(products, first) * _squared_length(products, last), 0)
    )
    product = np.einsum("i,bij,j->b", first, products, last)
    return 1 - np.divide(product, length, out=np.full_like(product, np.nan), where=length > 1e-9)


def _spread(products: NDArray) -> NDArray[np.float64]:
    """Mean distance of the years to their mean, shape [basin]."""
    # The mean cosine of the years to their sum s is sum(u.s) / (n |s|) = |s| / n.
    n = products.shape[1]
    length = np.sqrt(np.maximum(products.sum(axis=(1, 2)), 0))
    return np.round(1 - length / n, DECIMALS + 3)


def _trend_weights(years: NDArray) -> NDArray[np.float64]:
    """Weights of the years in the slope of a least-squares line, per year."""
    centred = years - years.mean()
    return centred / (centred**2).sum()


def _p_of_order(
    products: NDArray, trend: NDArray, n_permutations: int, seed: int
) -> NDArray[np.float64]:
    """Share of orders of the years whose slope is as large as that of the true one."""
    n = len(trend)
    every_order = math.factorial(n) <= n_permutations
    if every_order:
        orders = np.array(list(permutations(range(n))))
    else:
        orders = np.argsort(np.random.default_rng(seed).random((n_permutations, n)), axis=1)
    # The products of a pair stand twice in the square, off the diagonal.
    i, j = np.triu_indices(n)
    pairs = products[:, i, j] * np.where(i == j, 1.0, 2.0)
    observed = pairs @ (trend[i] * trend[j])
    # Orders that tie with the true one, as its reverse does, differ from it by rounding.
    bar = observed - 10.0**-DECIMALS * (trend**2).sum()
    as_large = np.zeros(len(products), dtype=np.int64)
    for start in range(0, len(orders), _CHUNK):
        weights = trend[orders[start : start + _CHUNK]]
        as_large += ((weights[:, i] * weights[:, j]) @ pairs.T >= bar).sum(axis=0)
    return as_large / len(orders) if every_order else (1 + as_large) / (1 + len(orders))


def _robust_z(values: NDArray, *, at_least: int) -> NDArray[np.float64]:
    """Robust z of each value within its row; NaN in rows with fewer known values."""
    values = np.round(values, DECIMALS)
    away = values - _nan_median(values, axis=1)[:, None]
    scale = 1.4826 * _nan_median(np.abs(away), axis=1)
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


def _nan_median(values: ArrayLike, axis: int) -> NDArray[np.float64]:
    """Median of what is known; NaN, without numpy's warning, where nothing is."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=axis)  # NaN comes last
    known = (~np.isnan(ordered)).sum(axis=axis, keepdims=True)
    lower, upper = (
        np.take_along_axis(ordered, at, axis) for at in (np.maximum(known - 1, 0) // 2, known // 2)
    )
    return ((lower + upper) / 2).squeeze(axis)


def _correlation(before: NDArray, after: NDArray) -> NDArray[np.float64]:
    """Pearson's r of each column, shape [band]."""
    if len(before) < 3:
        return np.full(before.shape[1], np.nan)
    x, y = before - before.mean(axis=0), after - after.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    product = (x * y).sum(axis=0)
    return np.divide(product, size, out=np.full_like(product, np.nan), where=size > 1e-12)
