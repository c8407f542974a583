"""Statistics over basins: summaries, intervals, paired comparisons.

Here: what turns one score per basin into a statement. Basins are the sample; medians, because a
few basins with an NSE of -30 would rule any mean. What is missing is left out and counted.
Neighbouring basins share weather and landscape, so they are fewer witnesses than they seem:
`groups` resamples whole groups, such as HUC-2 regions, instead of basins (a cluster bootstrap), and
gives the wider interval. With fewer than some 15 groups it is still somewhat too narrow.
Not here: the scores themselves (metrics.py), curves over the number of donors (scaling.py).
"""

import numpy as np
import pandas as pd
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
    values: ArrayLike,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    groups: ArrayLike | None = None,
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
    groups
        A label per basin, shape [basin]: whole groups are resampled. None = basins.

    Returns
    -------
    tuple of float
        median, low, high; all NaN where there is no score, low and high NaN where all scores are
        of one group.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    if known.size == 0:
        return np.nan, np.nan, np.nan
    if groups is None:
        medians = _resampled_medians(known, n, seed)
    else:
        labels = np.asarray(groups, dtype=object)
        if labels.shape != values.shape:
            raise ValueError(f"groups of other basins: shapes {labels.shape} and {values.shape}")
        group = pd.factorize(labels[~np.isnan(values)], use_na_sentinel=False)[0]
        if group.max() == 0:
            return float(np.median(known)), np.nan, np.nan
        medians = _medians_of_resampled_groups(known, group, n, seed)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(known)), float(low), float(high)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    groups: ArrayLike | None = None,
) -> dict[str, float]:
    """Whether a scores higher than b on the same basins.

    Parameters
    ----------
    a, b
        Scores of two models, basin by basin in one order, shape [basin]; a basin where either is
        NaN is left out.
    n, seed, level, groups
        Of the bootstrap, as in `bootstrap_median`.

    Returns
    -------
    dict
        n, n_missing, median_difference (median of a - b), low, high (bootstrap interval of it),
        share_a_higher, wilcoxon_p (two-sided signed-rank test; 1 where all pairs are equal; it
        takes basins as independent, with groups too).
    """
    from scipy.stats import wilcoxon

    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"scores of different basins: shapes {a.shape} and {b.shape}")
    median, low, high = bootstrap_median(a - b, n=n, seed=seed, level=level, groups=groups)
    difference = (a - b)[~np.isnan(a - b)]
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


def difference_of_differences(
    a1: ArrayLike,
    b1: ArrayLike,
    a2: ArrayLike,
    b2: ArrayLike,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    groups: ArrayLike | None = None,
) -> dict[str, float]:
    """Whether the gap of one representation is larger than that of another.

    For each basin (a1 - b1) - (a2 - b2): what the first loses from a to b (say, from its own
    regime to a foreign one) above what the second loses.

    Parameters
    ----------
    a1, b1
        Scores of the first representation in two designs, basin by basin, shape [basin].
    a2, b2
        Those of the second, same basins and order; a basin where any of the four is NaN is left
        out.
    n, seed, level, groups
        Of the bootstrap, as in `bootstrap_median`.

    Returns
    -------
    dict
        n, n_missing, gap_1 and gap_2 (medians of a - b over the same basins), median_difference
        (median over basins of the difference of gaps, which is not the difference of their
        medians), low, high (bootstrap interval of it), share_higher (of basins whose first gap is
        the larger), wilcoxon_p (as in `paired_difference`).
    """
    scores = [np.asarray(side, dtype=np.float64) for side in (a1, b1, a2, b2)]
    if len({side.shape for side in scores}) > 1:
        raise ValueError(f"scores of different basins: shapes {[s.shape for s in scores]}")
    gap_1, gap_2 = scores[0] - scores[1], scores[2] - scores[3]
    told = paired_difference(gap_1, gap_2, n=n, seed=seed, level=level, groups=groups)
    both = ~np.isnan(gap_1 - gap_2)
    return {
        "n": told["n"],
        "n_missing": told["n_missing"],
        "gap_1": float(np.median(gap_1[both])) if both.any() else np.nan,
        "gap_2": float(np.median(gap_2[both])) if both.any() else np.nan,
        "median_difference": told["median_difference"],
        "low": told["low"],
        "high": told["high"],
        "share_higher": told["share_a_higher"],
        "wilcoxon_p": told["wilcoxon_p"],
    }


def _resampled_medians(values: NDArray, n: int, seed: int) -> NDArray[np.float64]:
    picks = np.random.default_rng(seed).integers(values.size, size=(n, values.size))
    return np.median(values[picks], axis=1)


def _medians_of_resampled_groups(
    values: NDArray, group: NDArray, n: int, seed: int
) -> NDArray[np.float64]:
    """Medians of n draws of as many groups as there are, with all their members."""
    n_groups = int(group.max()) + 1
    times = np.random.default_rng(seed).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), size=n
    )
    order = np.argsort(values, kind="stable")
    # Value i, in order of size, stands at the places below reach[i] of the resampled row.
    reach = np.cumsum(times[:, group[order]], axis=1)
    size = reach[:, -1:]
    lower = (reach > (size - 1) // 2).argmax(axis=1)
    upper = (reach > size // 2).argmax(axis=1)
    return (values[order[lower]] + values[order[upper]]) / 2
