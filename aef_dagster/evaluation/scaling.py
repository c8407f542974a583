"""How skill changes with the number of donors, or of basins to learn from.

Here: which number of donors is best and whether that is more than noise, what is lost from the
best number to the largest, skill as a line over the logarithm of the number of basins.
Not here: the trainings (experiments/), pictures (figures).
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.evaluation.statistics import paired_difference


def best_k_counts(scores: pd.DataFrame) -> pd.Series:
    """For how many targets each number of donors is the best.

    Parameters
    ----------
    scores
        Columns gauge_id, k, nse: one row per target and k. A target that lacks a score at any k
        is left out, for it had fewer chances.

    Returns
    -------
    Series
        Number of targets, index k, ascending, zeros included. Of equal scores the smallest k wins.
    """
    wide = _by_target(scores)
    counts = wide.idxmax(axis=1).value_counts() if len(wide) else pd.Series(dtype=np.int64)
    return counts.reindex(wide.columns, fill_value=0).astype(np.int64).rename("n_targets")


def chi_square_uniform(counts: ArrayLike) -> dict[str, float]:
    """Whether counts could be draws from a uniform law.

    A large p says that no number of donors is the best more often than chance would have it. A
    small one does not say that one is better: with donor sets that contain each other, scores at
    neighbouring k go together, and the first and last k then win more often by chance alone. Of
    flat curves over seven k with 147 targets, p is below 0.05 in 4 % if noise is independent, in
    15 % if that of neighbouring k correlates by 0.5, and in 41 % if by 0.7.

    Parameters
    ----------
    counts
        Counts of each outcome, shape [outcome]; below some 3 expected each, p is rough.

    Returns
    -------
    dict
        statistic, dof, p; NaN without counts or with one outcome.

    References
    ----------
    Pearson (1900), Philosophical Magazine 50, 157-175.
    """
    from scipy.stats import chisquare

    counts = np.asarray(counts, dtype=np.float64)
    dof = counts.size - 1
    if dof < 1 or counts.sum() == 0:
        return {"statistic": np.nan, "dof": max(dof, 0), "p": np.nan}
    told = chisquare(counts)
    return {"statistic": float(told.statistic), "dof": dof, "p": float(told.pvalue)}


def collapse(
    scores: pd.DataFrame,
    n_folds: int = 5,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    groups: pd.Series | None = None,
) -> dict[str, float]:
    """What is lost from the best number of donors to the largest.

    The best of several noisy medians looks better than it is, so a loss measured on the targets
    that chose it is above 0 on a flat curve too. Hence targets are put into folds at random: the
    others choose k by their median NSE, and each target of the fold loses NSE(k) - NSE(largest k).

    Parameters
    ----------
    scores
        Columns gauge_id, k, nse, as in `best_k_counts`.
    n_folds
        Folds of the targets, fewer if there are fewer targets.
    n, seed, level
        Of the bootstrap over targets; the seed draws the folds too.
    groups
        A label per target, index gauge_id: whole groups are resampled. None = targets.

    Returns
    -------
    dict
        n (targets with all k), best_k (by median of all targets), largest_k, median_best and
        median_largest (NSE), loss (median over targets, k chosen by the others), low, high (its
        interval), falls (low is above 0). NaN, and falls False, with fewer than two targets or
        one k.
    """
    wide = _by_target(scores)
    nothing = {"n": len(wide)} | dict.fromkeys(
        ("best_k", "largest_k", "median_best", "median_largest", "loss", "low", "high"), np.nan
    )
    if len(wide) < 2 or wide.shape[1] < 2:
        return nothing | {"falls": False}
    nse = wide.to_numpy()
    fold = np.arange(len(nse)) % min(n_folds, len(nse))
    fold = np.random.default_rng(seed).permutation(fold)
    chosen = np.empty(len(nse))
    for number in np.unique(fold):
        here = fold == number
        chosen[here] = nse[here, np.median(nse[~here], axis=0).argmax()]
    labels = None if groups is None else groups.reindex(wide.index).to_numpy()
    told = paired_difference(chosen, nse[:, -1], n=n, seed=seed, level=level, groups=labels)
    medians = np.median(nse, axis=0)
    return {
        "n": len(nse),
        "best_k": int(wide.columns[medians.argmax()]),
        "largest_k": int(wide.columns[-1]),
        "median_best": float(medians.max()),
        "median_largest": float(medians[-1]),
        "loss": told["median_difference"],
        "low": told["low"],
        "high": told["high"],
        "falls": bool(told["low"] > 0),
    }


def rise_law(
    n: ArrayLike,
    nse: ArrayLike,
    at: float,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Skill as a line over the logarithm of the number of basins: nse = a + b ln(n).

    The interval is a bootstrap of residuals, studentised, since such curves have few points: each
    resample draws residuals anew, widened for their leverage, and fits the line again. It is the
    interval of the line, if the law holds; beyond the data nothing says that it does, and NSE ends
    at 1 while the line does not.

    Parameters
    ----------
    n
        Numbers of basins learned from, shape [point], above 0.
    nse
        A skill, or a gap between skills, shape [point]; NaN is left out.
    at
        Number of basins to tell the line at.
    n_resamples, seed, level
        Of the bootstrap.

    Returns
    -------
    dict
        n_points, a, b, r2, at, predicted, low, high, b_low, b_high, extrapolated (`at` is outside
        the numbers of basins in the data). NaN with fewer than three different n or four points.

    References
    ----------
    Davison, Hinkley (1997), Bootstrap Methods and their Application, Cambridge, chapter 6.
    """
    basins, skill = np.asarray(n, dtype=np.float64), np.asarray(nse, dtype=np.float64)
    known = ~np.isnan(skill) & ~np.isnan(basins)
    basins, skill = basins[known], skill[known]
    n_points = len(basins)
    names = ("a", "b", "r2", "predicted", "low", "high", "b_low", "b_high")
    law: dict[str, float] = {"n_points": n_points, "at": float(at)} | dict.fromkeys(names, np.nan)
    law["extrapolated"] = bool(n_points == 0 or not basins.min() <= at <= basins.max())
    if n_points < 4 or len(np.unique(basins)) < 3:
        return law
    design = np.column_stack([np.ones(n_points), np.log(basins)])
    inverse = np.linalg.inv(design.T @ design)
    points = np.array([[1.0, np.log(at)], [0.0, 1.0]])  # the line there, and its slope
    spans = np.sqrt(np.einsum("pi,ij,pj->p", points, inverse, points))
    weights = inverse @ design.T
    coefficients = weights @ skill
    fitted = design @ coefficients
    residuals = skill - fitted
    total = float(((skill - skill.mean()) ** 2).sum())
    dof = n_points - 2
    scale = np.sqrt((residuals**2).sum() / dof)
    told = points @ coefficients
    law |= {
        "a": float(coefficients[0]),
        "b": float(coefficients[1]),
        "r2": float(1 - (residuals**2).sum() / total) if total > 0 else np.nan,
        "predicted": float(told[0]),
    }
    widened = residuals / np.sqrt(np.maximum(1 - np.sum(design * weights.T, axis=1), 1e-9))
    widened -= widened.mean()
    draws = np.random.default_rng(seed).integers(n_points, size=(n_resamples, n_points))
    noise = widened[draws]
    shift = noise @ weights.T
    left = noise - shift @ design.T
    scales = np.sqrt((left**2).sum(axis=1) / dof)
    low, high = _studentised(told, shift @ points.T, spans, scale, scales, level)
    law |= {"low": float(low[0]), "high": float(high[0])}
    return law | {"b_low": float(low[1]), "b_high": float(high[1])}


def _by_target(scores: pd.DataFrame) -> pd.DataFrame:
    """NSE by target (rows) and k (columns, ascending), of targets with all that anyone has."""
    wide = scores.pivot(index="gauge_id", columns="k", values="nse").sort_index(axis=1)
    return wide.dropna(axis=1, how="all").dropna()


def _studentised(
    told: NDArray, shifts: NDArray, spans: NDArray, scale: float, scales: NDArray, level: float
) -> tuple[NDArray, NDArray]:
    """Interval from shifts [resample, quantity] measured in standard errors of their own."""
    # A resample of one residual only fits its line exactly: no error of its own, no statement.
    usable = scales > 1e-9 * max(scale, 1e-300)
    if scale == 0 or not usable.any():
        return told, told
    t = shifts[usable] / (scales[usable, None] * spans)
    t_low, t_high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], axis=0)
    # A resample that came out too high says that the estimate may be too high: ends swap.
    return told - t_high * scale * spans, told - t_low * scale * spans
