"""What vectors of basins know: attributes that can be read from them, and their true dimension.

Here: cross-validated ridge regression from vectors to each attribute, rank correlations of single
bands with a correction for many tests, effective dimension.
Not here: whether neighbours in vector space have like rivers (coherence.py).

Basins next to each other share soil, climate and satellite scene. Random folds let a model look
at the neighbour; `groups` (such as HUC-2 regions) holds whole regions out, and is the harder and
more honest question where a vector is to be carried to a region it has not seen.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.embeddings.bands import BANDS

# Ridge penalties tried, for z-scored columns: from nearly none to nearly the mean.
ALPHAS = np.logspace(-2, 5, 15)

LEVEL = 0.05


def ridge_skill(
    vectors: ArrayLike,
    attribute: ArrayLike,
    n_folds: int = 5,
    seed: int = 0,
    *,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, float]:
    """How much of an attribute a linear model reads from vectors of basins that it has not seen.

    Ridge regression in folds. Scaling is fitted, and the penalty chosen by leave-one-out error,
    within the training folds alone. R2 = 1 - SSE / SST over all held-out predictions together,
    SST about the mean of all basins: 0 for what knows nothing (or a little below), 1 at best. The
    interval is a percentile bootstrap over basins of these predictions; it does not hold the
    chance of another draw of folds.

    Parameters
    ----------
    vectors
        One vector per basin, shape [n, d]; a basin with a NaN is left out.
    attribute
        Its value for each basin, shape [n]; NaN = missing, left out. R2 follows the few largest
        values of a skewed attribute: take its logarithm before.
    n_folds
        Number of folds.
    seed
        Of the folds and of the bootstrap.
    groups
        A label per basin, shape [n]: whole groups are held out, and resampled. None = basins.
    n_resamples, level
        Of the bootstrap.

    Returns
    -------
    dict
        n (basins used), r2, low, high. NaN for a constant attribute, for fewer than four basins a
        fold, or for fewer groups than folds.
    """
    x, y = np.asarray(vectors, dtype=np.float64), np.asarray(attribute, dtype=np.float64)
    known = ~np.isnan(y) & ~np.isnan(x).any(axis=1)
    x, y = x[known], y[known]
    held = np.arange(len(y)) if groups is None else pd.factorize(np.asarray(groups)[known])[0]
    nothing = {"n": len(y), "r2": np.nan, "low": np.nan, "high": np.nan}
    n_groups = len(np.unique(held))
    if len(y) < 4 * n_folds or n_groups < n_folds or np.ptp(y) == 0:
        return nothing
    y = (y - y.mean()) / y.std()  # R2 is the same, and the sums below keep their digits
    predicted = np.empty_like(y)
    for train, test in _folds(held, n_folds, seed):
        predicted[test] = _ridge(x[train], y[train], x[test])
    # R2 needs three sums only, and those of a resample are sums over the groups drawn.
    parts = np.column_stack([(y - predicted) ** 2, y, y**2, np.ones_like(y)])
    sums = np.stack([np.bincount(held, column) for column in parts.T], axis=1)
    draws = np.random.default_rng(seed).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples
    )
    resampled = _r2(draws @ sums)
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    r2 = _r2(sums.sum(axis=0, keepdims=True))[0]
    return {"n": len(y), "r2": float(r2), "low": float(low), "high": float(high)}


def ridge_skills(
    vectors: ArrayLike,
    attributes: pd.DataFrame,
    n_folds: int = 5,
    seed: int = 0,
    *,
    groups: ArrayLike | None = None,
) -> pd.DataFrame:
    """`ridge_skill` of each attribute.

    Parameters
    ----------
    vectors
        One vector per basin, shape [n, d].
    attributes
        One numeric column an attribute, rows in the order of the vectors.
    n_folds, seed, groups
        As in `ridge_skill`.

    Returns
    -------
    DataFrame
        attribute, n, r2, low, high (95 % interval); the best first, undefined last.
    """
    rows = [
        {"attribute": str(name)}
        | ridge_skill(vectors, attributes[name].to_numpy(), n_folds, seed, groups=groups)
        for name in attributes.columns
    ]
    table = pd.DataFrame(rows, columns=["attribute", "n", "r2", "low", "high"])
    return table.sort_values(["r2", "attribute"], ascending=[False, True], ignore_index=True)


def spearman_table(vectors: ArrayLike | pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of every band with every attribute.

    p is the two-sided one of Student's t with n - 2 degrees of freedom, and q is p after Benjamini
    and Hochberg over all pairs of the table. Both take basins as independent; neighbours are not,
    so both come out too small, and the size of rho tells more than q does.

    Parameters
    ----------
    vectors
        Shape [n, d]. Bands are named by the columns of a frame, A00..A63 if there are 64 columns
        without names, else by their number.
    attributes
        One numeric column an attribute, rows in the order of the vectors. NaN is left out pair by
        pair.

    Returns
    -------
    DataFrame
        band, attribute, n, rho, p, q, significant (q below 0.05); the strongest first. Constant
        columns and fewer than four basins have NaN.
    """
    from scipy.stats import rankdata
    from scipy.stats import t as student

    values, bands = _named(vectors)
    parts = []
    for name in attributes.columns:
        y = attributes[name].to_numpy(dtype=np.float64)
        known = ~np.isnan(y) & ~np.isnan(values).any(axis=1)
        n = int(known.sum())
        rho = np.full(len(bands), np.nan)
        if n >= 4:
            ranks = rankdata(values[known], axis=0) - (n + 1) / 2
            target = rankdata(y[known]) - (n + 1) / 2
            size = np.sqrt((ranks**2).sum(axis=0) * (target**2).sum())
            np.divide(target @ ranks, size, out=rho, where=size > 0)
            np.clip(rho, -1, 1, out=rho)
        with np.errstate(divide="ignore"):  # rho of 1 is an infinite t, and p is 0
            t = np.abs(rho) * np.sqrt((n - 2) / (1 - rho**2))
        parts.append(
            pd.DataFrame(
                {"band": bands, "attribute": str(name), "n": n, "rho": rho,
                 "p": 2 * student.sf(t, max(n - 2, 1))}
            )
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table["q"] = benjamini_hochberg(table["p"])
    table["significant"] = table["q"] < LEVEL
    order = table["rho"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """P-values after Benjamini and Hochberg: the share of false finds among all up to this one.

    Parameters
    ----------
    p
        P-values, shape [n]; NaN = not tested, not counted.

    Returns
    -------
    ndarray
        q, shape [n]; NaN where p is.

    References
    ----------
    Benjamini, Hochberg (1995), Journal of the Royal Statistical Society B 57(1), 289-300.
    """
    from scipy.stats import false_discovery_control

    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    return q


def effective_dimension(vectors: ArrayLike) -> float:
    """Along how many directions basins really differ.

    The participation ratio of the covariance's eigenvalues l: (sum l)^2 / sum l^2. It is d if all
    d directions vary alike, and 1 if all basins lie on a line. A sample of n basins can show no
    more than n d / (n + d), about.

    Parameters
    ----------
    vectors
        One vector per basin, shape [n, d]; a basin with a NaN is left out.

    Returns
    -------
    float
        In [1, d]; NaN if fewer than two basins differ.

    References
    ----------
    Gao et al. (2017), A theory of multineuronal dimensionality, bioRxiv, doi:10.1101/214262.
    """
    x = np.asarray(vectors, dtype=np.float64)
    x = x[~np.isnan(x).any(axis=1)]
    if len(x) < 2:
        return np.nan
    centred = x - x.mean(axis=0)
    # sum l and sum l^2 are the trace of the covariance and its squared Frobenius norm.
    covariance = centred.T @ centred
    norm = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / norm) if norm > 0 else np.nan


def _named(vectors: ArrayLike | pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    if isinstance(vectors, pd.DataFrame):
        return vectors.to_numpy(dtype=np.float64), [str(name) for name in vectors.columns]
    values = np.asarray(vectors, dtype=np.float64)
    width = values.shape[1]
    return values, list(BANDS) if width == len(BANDS) else [str(i) for i in range(width)]


def _folds(groups: NDArray, n_folds: int, seed: int) -> Iterator[tuple[NDArray, NDArray]]:
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(n_folds, shuffle=True, random_state=seed)
    yield from folds.split(groups, groups=groups)


def _ridge(x: NDArray, y: NDArray, x_new: NDArray) -> NDArray[np.float64]:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(alphas=ALPHAS)).fit(x, y).predict(x_new)


def _r2(sums: NDArray) -> NDArray[np.float64]:
    """R2 of resamples from sums of squared error, y, y squared and one, shape [resample, 4]."""
    error, total, square, n = sums.T
    variance = square - total**2 / np.maximum(n, 1)
    return 1 - np.divide(error, variance, out=np.full_like(error, np.nan), where=variance > 1e-12)
