"""Donor drift: how the donors of each target changed between two rankings.

Here: the k best donors before and after, compared target by target, and the targets whose donors
moved. Ranked donors come in (donors.py), a small frame goes out.
Not here: why embeddings changed (embeddings/stability.py, trend.py), what is trained anew.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.errors import UserError

# Donors named in the report of a target.
NAMED = 3


def donor_drift(before: pd.DataFrame, after: pd.DataFrame, k: int) -> pd.DataFrame:
    """How the k best donors of each target changed.

    `jaccard` = donors in both top-k / donors in either. A model sees its donors as a set, so this
    is what decides whether it would be another model: with k = 10, one donor exchanged gives 9/11
    = 0.82, half of them 5/15 = 0.33.

    Two correlations tell how the order of these donors (the union of both top-k) changed. They use
    the true ranks of both rankings, also beyond k, so a donor that fell from place 10 to 11 counts
    for less than one that fell to 500; a donor that one ranking does not have at all stands behind
    its last. `spearman` is Spearman's rho: all places alike. `weighted_tau` is the additive
    hyperbolic tau of Vigna (2015): an exchange at places r and s within the union weighs
    1/r + 1/s, so the first donors count most. Kendall's plain tau is left out: it says what
    Spearman's rho says. Donors of one top-k only have poor ranks in the other, so that both
    numbers turn negative where few are shared.

    Parameters
    ----------
    before, after
        Ranked donors of one space: gauge_id, rank (from 1), donor_id, cosine. Rankings of all
        candidates give the correlations described; of lists cut off at k, donors that entered or
        left are all placed at k + 1.
    k
        Donors a target.

    Returns
    -------
    DataFrame
        One row a target of either ranking, sorted by gauge_id: gauge_id, present ("both",
        "before" or "after"), n_shared, n_entered, n_left, jaccard in [0, 1], spearman and
        weighted_tau in [-1, 1] (NaN with fewer than two donors in the union), entered (the first
        three by their new rank, "id, id, id"), left (the first three by their old rank). A target
        of one ranking only has no numbers.

    Raises
    ------
    UserError
        k is below 1, or above what a target has in either ranking.

    References
    ----------
    Vigna (2015), A weighted correlation index for rankings with ties, Proc. 24th International
    Conference on World Wide Web, 1166-1176. Fagin, Kumar, Sivakumar (2003), Comparing top k lists,
    SIAM Journal on Discrete Mathematics 17(1), 134-160, on places of what a list does not have.
    """
    targets = np.union1d(_names(before["gauge_id"]), _names(after["gauge_id"]))
    donors = np.union1d(_names(before["donor_id"]), _names(after["donor_id"]))
    old, new = (_ranks(frame, targets, donors, k) for frame in (before, after))
    rows = [
        {"gauge_id": target} | _compare(old_ranks, new_ranks, donors, k)
        for target, old_ranks, new_ranks in zip(targets, old, new, strict=True)
    ]
    counts = ("n_shared", "n_entered", "n_left")
    return pd.DataFrame(rows, columns=["gauge_id", *_COLUMNS]).astype(
        dict.fromkeys(counts, "Int64")
    )


def moved(drift: pd.DataFrame, threshold: float) -> tuple[str, ...]:
    """Targets whose donors changed too much.

    Parameters
    ----------
    drift
        What `donor_drift` gave.
    threshold
        Targets with a Jaccard index below this have moved: 1 takes every change, 0 none.

    Returns
    -------
    tuple of str
        gauge_ids, sorted. Targets of one ranking only are not among them: `present` tells them.
    """
    return tuple(sorted(drift.loc[drift["jaccard"] < threshold, "gauge_id"]))


_COLUMNS = ("present", "n_shared", "n_entered", "n_left", "jaccard", "spearman", "weighted_tau",
            "entered", "left")  # fmt: skip


def _names(column: pd.Series) -> NDArray:
    return column.unique().astype(object)


def _ranks(frame: pd.DataFrame, targets: NDArray, donors: NDArray, k: int) -> NDArray[np.float64]:
    """Rank of each donor for each target, shape [target, donor]; NaN where it is not ranked."""
    ranks = np.full((len(targets), len(donors)), np.nan)
    row = pd.Index(targets).get_indexer(frame["gauge_id"])
    ranks[row, pd.Index(donors).get_indexer(frame["donor_id"])] = frame["rank"]
    n_donors = (~np.isnan(ranks)).sum(axis=1)
    fewest = int(n_donors[n_donors > 0].min(initial=len(donors)))
    if not 1 <= k <= fewest:
        raise UserError(
            f"k = {k} donors are to be compared, but the targets have {fewest} ranked donors at "
            f"least: choose k from 1 to {fewest}"
        )
    return ranks


def _compare(old: NDArray, new: NDArray, donors: NDArray, k: int) -> dict[str, object]:
    """One target: ranks of all donors in, the row of the report without its name out."""
    if np.isnan(old).all() or np.isnan(new).all():
        present = "after" if np.isnan(old).all() else "before"
        return {"present": present, "entered": "", "left": ""}
    in_old, in_new = old <= k, new <= k
    either = in_old | in_new
    entered, left = np.flatnonzero(in_new & ~in_old), np.flatnonzero(in_old & ~in_new)
    n_shared = int((in_old & in_new).sum())
    spearman, weighted_tau = _correlations(_placed(old)[either], _placed(new)[either])
    return {
        "present": "both",
        "n_shared": n_shared,
        "n_entered": len(entered),
        "n_left": len(left),
        "jaccard": n_shared / int(either.sum()),
        "spearman": spearman,
        "weighted_tau": weighted_tau,
        "entered": ", ".join(donors[entered[np.argsort(new[entered])]][:NAMED]),
        "left": ", ".join(donors[left[np.argsort(old[left])]][:NAMED]),
    }


def _placed(ranks: NDArray) -> NDArray[np.float64]:
    """Ranks with what is not ranked behind the last."""
    return np.where(np.isnan(ranks), np.nanmax(ranks) + 1, ranks)


def _correlations(old: NDArray, new: NDArray) -> tuple[float, float]:
    """Spearman's rho and Vigna's weighted tau of two series of ranks."""
    from scipy.stats import rankdata, weightedtau

    if len(old) < 2:
        return np.nan, np.nan
    # Only donors that are not ranked tie, and a top-k has ranked ones: no series is constant.
    rho = np.corrcoef(rankdata(old), rankdata(new))[0, 1]
    # A large value is a good one to weightedtau, a small rank to us.
    return float(rho), float(weightedtau(-old, -new).statistic)
