"""Donors: the gauged basins most like a target, in order.

Here: from a matrix of similarities to ranked donors, the first k of them or a weight for each,
and the long table.
Not here: how similarity is measured (spaces.py), and who is allowed to be a donor (the caller
hands in candidates only).
"""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.errors import UserError

# Similarities this close are a tie, broken by gauge_id: the last bits of a matrix product change
# with the order of the basins, a ranking must not.
TIE_DECIMALS = 12


def rank_donors(similarity: ArrayLike, gauge_ids: Sequence[str]) -> pd.DataFrame:
    """All other basins as donors of each basin, the most similar first.

    Parameters
    ----------
    similarity
        Shape [n, n]; row = target, column = donor. Need not be symmetric.
    gauge_ids
        The n basins, in the order of the matrix.

    Returns
    -------
    DataFrame
        gauge_id, rank (1..n-1), donor_id, cosine; sorted by gauge_id and rank. The target is
        never among its donors; ties are broken by donor_id.
    """
    similarity, ids = _checked(similarity, gauge_ids)
    by_id = np.argsort(ids)
    ids, similarity = ids[by_id], similarity[np.ix_(by_id, by_id)]
    n = len(ids)
    sort_key = -np.round(similarity, TIE_DECIMALS)
    np.fill_diagonal(sort_key, -np.inf)  # the target comes first in its row, and is cut off
    donors = np.argsort(sort_key, axis=1, kind="stable")[:, 1:]
    return pd.DataFrame(
        {
            "gauge_id": np.repeat(ids, n - 1),
            "rank": np.tile(np.arange(1, n), n),
            "donor_id": ids[donors.ravel()],
            "cosine": np.take_along_axis(similarity, donors, axis=1).ravel(),
        }
    )


def top_k(ranked: pd.DataFrame, gauge_id: str, k: int) -> tuple[str, ...]:
    """The k best donors of one basin.

    Parameters
    ----------
    ranked
        Donors as `rank_donors` gives them, of one space.
    gauge_id
        The target.
    k
        How many donors.

    Returns
    -------
    tuple of str
        Donor ids, the most similar first.

    Raises
    ------
    UserError
        The basin is not in the set, or the set has fewer than k other basins.
    """
    rows = ranked[ranked["gauge_id"] == gauge_id]
    if rows.empty:
        raise unknown_basin(gauge_id, ranked["gauge_id"].unique().tolist())
    if not 1 <= k <= len(rows):
        raise UserError(
            f"k = {k} donors asked for basin {gauge_id}, but the set has {len(rows) + 1} basins: "
            f"choose k from 1 to {len(rows)}"
        )
    return tuple(rows.sort_values("rank")["donor_id"].head(k))


def soft_weights(cosine: ArrayLike, effective: float) -> NDArray[np.float64]:
    """A weight for every donor, the larger the more similar it is, instead of the first k.

    w is proportional to exp(beta * cosine), with the beta, 0 or more, at which the effective number
    of donors 1 / sum(w^2) (Kish 1965, "Survey Sampling", with weights that sum to 1) is what is
    wanted.

    Parameters
    ----------
    cosine
        Similarity of each donor to one target, shape [donor].
    effective
        The effective number of donors wanted, from 1 up. From the number of donors on, all weights
        are equal. Donors that tie for the first place share it, however few are wanted.

    Returns
    -------
    ndarray
        float64, shape [donor], in the order of `cosine`; the sum is 1.

    Raises
    ------
    UserError
        The effective number is below 1.
    """
    cosine = np.asarray(cosine, dtype=np.float64)
    if cosine.ndim != 1 or cosine.size == 0 or not np.isfinite(cosine).all():
        raise ValueError("similarities of donors must be a list of numbers, none missing")
    if not effective >= 1:
        raise UserError(f"an effective number of {effective} donors: choose one from 1 up")
    behind = np.round(cosine, TIE_DECIMALS)
    behind -= behind.max()
    others = behind[behind < 0]
    if effective >= cosine.size or others.size == 0:
        return np.full(cosine.size, 1.0 / cosine.size)
    # With the upper beta the second best is gone: exp(-800) is 0 in float64.
    low, high = 0.0, -800.0 / others.max()
    while low < (beta := 0.5 * (low + high)) < high:
        if 1.0 / np.sum(_softmax(beta * behind) ** 2) > effective:
            low = beta
        else:
            high = beta
    return _softmax(high * behind)


def _softmax(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares proportional to exp; the largest exponent is 0."""
    weights = np.exp(exponents)
    return weights / weights.sum()


def unknown_basin(gauge_id: str, known: Sequence[str]) -> UserError:
    """The error for a basin that the set does not have, with the closest ids it has."""
    close = get_close_matches(str(gauge_id), known, n=3, cutoff=0.8)
    hint = f"did you mean {' or '.join(close)}?" if close else "check the id (8 digits)"
    return UserError(f"basin {gauge_id} is not among the {len(known)} basins; {hint}")


def similarity_long(similarity: ArrayLike, gauge_ids: Sequence[str]) -> pd.DataFrame:
    """The matrix as a table of all n * n pairs, each basin with itself included.

    Parameters
    ----------
    similarity
        Shape [n, n].
    gauge_ids
        The n basins, in the order of the matrix.

    Returns
    -------
    DataFrame
        gauge_id, other_id, cosine.
    """
    similarity, ids = _checked(similarity, gauge_ids)
    return pd.DataFrame(
        {
            "gauge_id": np.repeat(ids, len(ids)),
            "other_id": np.tile(ids, len(ids)),
            "cosine": similarity.ravel(),
        }
    )


def _checked(similarity: ArrayLike, gauge_ids: Sequence[str]) -> tuple[NDArray, NDArray]:
    similarity = np.asarray(similarity, dtype=np.float64)
    ids = np.array(list(gauge_ids), dtype=object)
    if similarity.shape != (len(ids), len(ids)):
        raise ValueError(f"similarity has shape {similarity.shape} for {len(ids)} basins")
    if len(set(ids)) != len(ids):
        raise ValueError("a basin occurs twice among the gauge ids")
    if not np.isfinite(similarity).all():
        raise ValueError("similarity holds NaN or infinity")
    return similarity, ids
