"""The first k donors of very many basins, without the matrix of all pairs.

Here: the ranking that `similarity_aef` and `rank_donors` give, cut at rank k, made from blocks of
rows. The whole matrix of 100,000 basins would be 75 GiB.
Used by benchmarks/donors_100k.py, which shows how many basins can be ranked on one machine, and not
by the assets: they keep all pairs as tables and rank every basin, since a donor that cannot be used
is replaced by the next one and `soft_aef` weighs them all, and that is 4 MB for 671 basins.
Not here: spaces whose similarities are no cosines of one table of vectors (`fusion`), and the rule
for ties (donors.py).
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.errors import UserError
from aef_dagster.similarity.donors import TIE_DECIMALS

# A floor for the k-th place is read from every eighth basin: selecting from all of them took 1.4
# times as long with vector instructions for it, and takes several times as long without.
SAMPLED = 8
ROUNDING = 2.0**-24  # unit roundoff of float32


def nearest_donors(
    vectors: ArrayLike,
    gauge_ids: Sequence[str],
    k: int,
    *,
    centre: bool = True,
    block: int = 512,
    memory_mb: float = 256.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """The k most similar other basins of each basin, by the cosine between their vectors.

    Products of all pairs are float32. Whatever they put near the k-th place or before it is
    computed again in float64, where "near" is wider than float32 can err (Higham 2002, "Accuracy
    and Stability of Numerical Algorithms", section 3.1), so that the ranking is that of float64.

    Parameters
    ----------
    vectors
        One vector per basin, shape [n, d], any unit. A basin whose vector is zero is unlike (0) all
        others.
    gauge_ids
        The n basins, in the order of the vectors.
    k
        Donors per basin, 1 to n - 1.
    centre
        Subtract the mean vector first, as `similarity_aef` does; False is its `raw`.
    block
        Basins whose similarities are computed at once, at most.
    memory_mb
        Bound of these similarities, MiB, unless one row is more. On top come the vectors (some
        20 n d bytes) and the answer (some 55 n k bytes while it is put together): 100,000 basins
        of 64 numbers with k = 200 take 1.2 GB in all.
    on_progress
        Called after each block with the basins done and all basins.

    Returns
    -------
    DataFrame
        gauge_id, rank (1..k), donor_id, cosine; sorted by gauge_id and rank. The target is never
        among its donors; ties are broken by donor_id.

    Raises
    ------
    UserError
        k is below 1, or there are fewer than k other basins.
    """
    ids = np.array(list(gauge_ids), dtype=object)
    if len(set(ids)) != len(ids):
        raise ValueError("a basin occurs twice among the gauge ids")
    n = len(ids)
    if not 1 <= k < n:
        raise UserError(
            f"k = {k} donors asked, but the set has {n} basins: choose k from 1 to {n - 1}"
        )
    if block < 1:
        raise ValueError(f"blocks of {block} basins")
    by_id = np.argsort(ids)
    ids = ids[by_id]
    unit = _unit_rows(vectors, n, centre)[by_id]
    single = unit.astype(np.float32)
    margin = _margin(unit.shape[1])

    # Four bytes a similarity.
    size = max(1, min(block, n, int(memory_mb * 2**20 / (4 * n))))
    similarity = np.empty((size, n), dtype=np.float32)
    donors = np.empty((n, k), dtype=np.int32)
    cosine = np.empty((n, k))
    for first in range(0, n, size):
        last = min(first + size, n)
        rows = np.matmul(single[first:last], single.T, out=similarity[: last - first])
        for target, row in enumerate(rows, start=first):
            row[target] = -np.inf  # never its own donor
            near = _candidates(row, k, margin)
            donors[target], cosine[target] = _ranked(unit[target], unit, near, k)
        if on_progress is not None:
            on_progress(last, n)
    # Not needed while the answer is put together, which is where memory peaks.
    del unit, single, similarity, rows, row
    return _long(ids, donors, cosine)


def _unit_rows(vectors: ArrayLike, n: int, centre: bool) -> NDArray[np.float64]:
    """Vectors of length 1; a row of zeros stays one."""
    unit = np.array(vectors, dtype=np.float64)
    if unit.ndim != 2 or len(unit) != n:
        raise ValueError(f"vectors have shape {unit.shape} for {n} basins")
    if not np.isfinite(unit).all():
        rows = np.flatnonzero(~np.isfinite(unit).all(axis=1))
        raise ValueError(f"rows {rows[:5].tolist()} of the vectors hold NaN or infinity")
    if centre:
        unit -= unit.mean(axis=0)
    norm = np.linalg.norm(unit, axis=1, keepdims=True)
    return np.divide(unit, norm, out=unit, where=norm > 0)


def _margin(dimensions: int) -> np.float32:
    """How far below the k-th float32 cosine a true member of the first k can lie.

    A product of d terms errs by (d + 2) roundoffs at most, two of them from the unit vectors
    themselves, in whatever order the terms are added. The k-th and the member may both err. One
    percent is for the products of roundoffs, and 1e-6 for the rounding of the margin's own
    subtraction and for ties.
    """
    return np.float32(2 * 1.01 * (dimensions + 2) * ROUNDING + 1e-6)


def _candidates(row: NDArray[np.float32], k: int, margin: np.float32) -> NDArray[np.intp]:
    """All basins that may be among the first k, and few others; ascending."""
    # The k-th of some basins is never above the k-th of all.
    some = row[:: max(1, min(SAMPLED, row.size // (2 * k)))]
    floor = np.partition(some, -k)[-k]
    near = np.flatnonzero(row >= floor - margin)
    close = row[near]
    return near[close >= np.partition(close, -k)[-k] - margin]


def _ranked(
    target: NDArray[np.float64], unit: NDArray[np.float64], near: NDArray[np.intp], k: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The first k candidates and their cosines; candidates come in the order of their ids."""
    # Row by row, not as a matrix product: two basins with one vector get the same bits.
    cosine = np.clip(np.vecdot(unit[near], target), -1.0, 1.0)
    first = np.argsort(-np.round(cosine, TIE_DECIMALS), kind="stable")[:k]
    return near[first], cosine[first]


def _long(ids: NDArray, donors: NDArray[np.int32], cosine: NDArray[np.float64]) -> pd.DataFrame:
    """The long table, without a Python object for each of its rows."""
    n, k = donors.shape
    names = pd.Series(ids).array
    return pd.DataFrame(
        {
            "gauge_id": names.take(np.repeat(np.arange(n, dtype=np.int32), k)),
            "rank": np.tile(np.arange(1, k + 1), n),
            "donor_id": names.take(donors.ravel()),
            "cosine": cosine.ravel(),
        },
        copy=False,
    )
