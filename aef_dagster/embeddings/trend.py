"""Whether the embedding of a basin moves in one direction over the years, or only to and fro.

Here: drift against spread, with a test of the order of the years. A yearly frame comes in
(gauge_id, year, A00..A63), a row a basin goes out. Distance is 1 - cosine: 0 = same direction,
1 = at right angles.
Not here: years and basins that stand out (outliers.py), cosines as such (stability.py).
"""

import math
from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.embeddings.year_vectors import DECIMALS, cosines_between_years, year_vectors

# Orders of the years tried at once, which holds the largest array near 30 MB.
_CHUNK = 5000


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
        As for `year_vectors`.

    References
    ----------
    Phipson, Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9(1), 39.
    Benjamini, Hochberg (1995), Journal of the Royal Statistical Society B 57(1), 289-300.
    """
    from scipy.stats import false_discovery_control

    cube = year_vectors(frame)
    gram = cosines_between_years(cube)
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
