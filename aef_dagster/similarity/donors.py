"""Donors: the gauged basins most like a target, in order.

Here: from a matrix of similarities to ranked donors, the first k of them, and the long table.
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
