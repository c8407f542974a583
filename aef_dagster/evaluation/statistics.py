"""Statistics over basins: summaries, intervals, paired comparisons.

Here: what turns one score per basin into a statement. Basins are the sample; medians, because a
few basins with an NSE of -30 would rule any mean. What is missing is left out and counted.
Not here: the scores themselves (metrics.py).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def summarise(values: ArrayLike) -> dict[str, float]:
    """One row of a score table.

    Parameters
    ----------
    values
        A score per basin, shape [n]; NaN = missing.

    Returns
    -------
    dict
        n (basins with a score), n_missing, median, mean, q25, q75, share_below_0; NaN where there
        is no score at all.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    summary = {"n": int(known.size), "n_missing": int(values.size - known.size)}
    if known.size == 0:
        names = ("median", "mean", "q25", "q75", "share_below_0")
        return summary | dict.fromkeys(names, np.nan)
    q25, median, q75 = np.quantile(known, [0.25, 0.5, 0.75])
    return summary | {
        "median": float(median),
        "mean": float(known.mean()),
        "q25": float(q25),
        "q75": float(q75),
        "share_below_0": float(np.mean(known < 0)),
    }


def bootstrap_median(
    values: ArrayLike, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Median with a percentile bootstrap interval over basins.

    Parameters
    ----------
    values
        A score per basin, shape [basin]; NaN = missing, left out.
    n
        Number of resamples.
    seed
        Seed of the resampling.
    level
        Coverage of the interval.

    Returns
    -------
    tuple of float
        median, low, high; all NaN where there is no score.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    if known.size == 0:
        return np.nan, np.nan, np.nan
    medians = _resampled_medians(known, n, seed)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(known)), float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, n: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, float]:
    """Whether a scores higher than b on the same basins.

    Parameters
    ----------
    a, b
        Scores of two models, basin by basin in one order, shape [basin]; a basin where either is
        NaN is left out.
    n, seed, level
        Of the bootstrap, as in `bootstrap_median`.

    Returns
    -------
    dict
        n, n_missing, median_difference (median of a - b), low, high (bootstrap interval of it),
        share_a_higher, wilcoxon_p (two-sided signed-rank test; 1 where all pairs are equal).
    """
    from scipy.stats import wilcoxon

    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"scores of different basins: shapes {a.shape} and {b.shape}")
    difference = (a - b)[~np.isnan(a - b)]
    median, low, high = bootstrap_median(difference, n=n, seed=seed, level=level)
    p = np.nan
    if difference.size:
        p = wilcoxon(difference).pvalue if np.any(difference != 0) else 1.0
    return {
        "n": int(difference.size),
        "n_missing": int(a.size - difference.size),
        "median_difference": median,
        "low": low,
        "high": high,
        "share_a_higher": float(np.mean(difference > 0)) if difference.size else np.nan,
        "wilcoxon_p": float(p),
    }


def _resampled_medians(values: NDArray, n: int, seed: int) -> NDArray[np.float64]:
    picks = np.random.default_rng(seed).integers(values.size, size=(n, values.size))
    return np.median(values[picks], axis=1)
