"""Whether basins that are near in a space have like rivers, and whether two spaces agree.

Here: how far a target's donors are from it in flow signatures, quality of a grouping, effective
number of neighbours, Mantel and partial Mantel tests between square matrices.
Not here: the matrices (similarity/spaces.py), what single attributes a vector knows (knowledge.py).

Signatures are computed from flow, so what is said here judges a space; it never picks donors.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def neighbour_spread(similarity: ArrayLike, signatures: pd.DataFrame, k: int) -> pd.DataFrame:
    """How far each target's donors are from it in flow signatures.

    With z the signatures scaled to mean 0 and variance 1 over all basins, and D the target's k
    most similar others:

    - spread = mean over signatures of abs(z_target - mean of z over D): how far off the donors'
      mean is. It falls with k in any space, as means do;
    - distance = mean over signatures and over D of abs(z_target - z_donor);
    - random = the same over all others: what k donors drawn at random have in expectation, exactly
      and for each k;
    - purity = 1 - distance / random: 1 = donors with the target's very signatures, 0 = no better
      than chance, negative = worse. Its mean over donors drawn at random is 0.

    Parameters
    ----------
    similarity
        Shape [n, n]; the diagonal is not looked at, NaN is never near.
    signatures
        One numeric column a signature, rows in the order of the matrix; NaN = missing, left out
        pair by pair.
    k
        Number of donors, 1 to n - 1.

    Returns
    -------
    DataFrame
        spread, distance, random, purity; index as the signatures. NaN for a basin without
        signatures, or whose donors have none.
    """
    near = _without_diagonal(similarity)
    n = len(near)
    if not 1 <= k < n:
        raise ValueError(f"{k} donors of {n - 1} others")
    if len(signatures) != n:
        raise ValueError(f"{n} basins in the matrix, {len(signatures)} with signatures")
    values = signatures.to_numpy(dtype=np.float64)
    values = values[:, (~np.isnan(values)).any(axis=0)]
    z = values - np.nanmean(values, axis=0)
    size = np.sqrt(np.nanmean(z**2, axis=0))
    z = z[:, size > 0] / size[size > 0]
    # Ties keep the order of the rows, as ranked donors do.
    donors = np.argsort(-np.nan_to_num(near, nan=-np.inf), axis=1, kind="stable")[:, :k]
    chosen = np.zeros((n, n), dtype=bool)
    np.put_along_axis(chosen, donors, True, axis=1)
    chosen &= ~np.isnan(near)  # where similarities are missing the sort ends in those
    others = ~np.eye(n, dtype=bool)
    sums = {name: np.zeros(n) for name in ("spread", "distance", "random")}
    counts = {name: np.zeros(n) for name in sums}
    for column in z.T:
        apart = np.abs(column[:, None] - column[None, :])
        known = ~np.isnan(apart)
        apart[~known] = 0
        for name, mask in (("distance", chosen & known), ("random", others & known)):
            sums[name] += (apart * mask).sum(axis=1)
            counts[name] += mask.sum(axis=1)
        with_value = chosen & ~np.isnan(column)
        of_donors = _divide(with_value @ np.nan_to_num(column), with_value.sum(axis=1))
        off = np.abs(column - of_donors)
        sums["spread"] += np.nan_to_num(off)
        counts["spread"] += ~np.isnan(off)
    table = pd.DataFrame(
        {name: _divide(sums[name], counts[name]) for name in sums}, index=signatures.index
    )
    table["purity"] = 1 - _divide(table["distance"].to_numpy(), table["random"].to_numpy())
    return table


def cluster_quality(
    values: ArrayLike, labels: ArrayLike, *, precomputed: bool = False
) -> dict[str, float]:
    """How well a grouping separates basins.

    Parameters
    ----------
    values
        One vector per basin, shape [n, d]; or distances, shape [n, n], with `precomputed`.
    labels
        Group of each basin, shape [n]; a basin without one is left out.
    precomputed
        The values are distances, not vectors.

    Returns
    -------
    dict
        silhouette (-1 to 1, more is better), davies_bouldin (0 or more, less is better; NaN for
        distances, for it needs the groups' means). NaN with fewer than two groups, or as many as
        basins.

    References
    ----------
    Rousseeuw (1987), Journal of Computational and Applied Mathematics 20, 53-65.
    Davies, Bouldin (1979), IEEE Transactions on Pattern Analysis 1(2), 224-227.
    """
    from sklearn.metrics import davies_bouldin_score, silhouette_score

    values = np.asarray(values, dtype=np.float64)
    given = pd.Series(labels, dtype=object).notna().to_numpy()
    groups = pd.factorize(pd.Series(labels, dtype=object).to_numpy()[given])[0]
    values = values[np.ix_(given, given)] if precomputed else values[given]
    quality = {"silhouette": np.nan, "davies_bouldin": np.nan}
    if not 2 <= len(np.unique(groups)) < len(groups):
        return quality
    if precomputed:
        values = values.copy()
        np.fill_diagonal(values, 0)  # 1 - cosine leaves rounding there, which sklearn refuses
        quality["silhouette"] = float(silhouette_score(values, groups, metric="precomputed"))
    else:
        quality["silhouette"] = float(silhouette_score(values, groups))
        quality["davies_bouldin"] = float(davies_bouldin_score(values, groups))
    return quality


def effective_neighbours(similarity: ArrayLike, temperature: float = 0.1) -> NDArray[np.float64]:
    """Among how many others a basin's similarity is really shared out.

    With w = softmax(similarity / temperature) over the other basins, 1 / sum w^2: 1 if one other
    is far more alike than all the rest, n - 1 if all are alike. With a temperature of 0.1 a cosine
    lower by 0.1 weighs e times less.

    Parameters
    ----------
    similarity
        Cosines, shape [n, n], n of 2 or more; the diagonal is not looked at, NaN weighs nothing.
    temperature
        Above 0; the smaller, the fewer count.

    Returns
    -------
    ndarray
        Shape [n], 1 to n - 1; NaN where all others are missing.
    """
    near = np.nan_to_num(_without_diagonal(similarity), nan=-np.inf)
    top = near.max(axis=1, keepdims=True)
    weights = np.exp((near - np.where(np.isfinite(top), top, 0)) / temperature)
    return _divide(weights.sum(axis=1) ** 2, (weights**2).sum(axis=1))


def mantel(
    a: ArrayLike, b: ArrayLike, n_permutations: int = 999, seed: int = 0, *, rank: bool = False
) -> dict[str, float]:
    """Whether pairs of basins that are near in one matrix are near in another.

    r is the correlation of the upper triangles. p is one-sided, for r above 0: the share of
    renumberings of the basins of `a` whose r is as large, (1 + those) / (1 + all). Give two
    similarities or two distances, not one of each.

    Parameters
    ----------
    a, b
        Symmetric, shape [n, n], of the same basins in one order; the diagonals are not looked at.
        No missing pairs.
    n_permutations
        Renumberings drawn; the smallest p is 1 / (n + 1).
    seed
        Of the draw.
    rank
        Spearman's correlation instead of Pearson's.

    Returns
    -------
    dict
        n (basins), r, p; NaN if a matrix is constant or n is below 4.

    References
    ----------
    Mantel (1967), Cancer Research 27(2), 209-220.
    """
    return partial_mantel(a, b, (), n_permutations, seed, rank=rank)


def partial_mantel(
    a: ArrayLike,
    b: ArrayLike,
    given: ArrayLike | Sequence[ArrayLike],
    n_permutations: int = 999,
    seed: int = 0,
    *,
    rank: bool = False,
) -> dict[str, float]:
    """`mantel` of what is left of both matrices once others are taken out of them.

    r is the correlation of the residuals of a and b after linear regression on the given matrices.
    The residuals of a are renumbered, and what they then share with the given ones is taken out
    anew (method 2 of Legendre 2000). Where both matrices vary smoothly over the map for reasons of
    their own, p is too small (Guillot and Rousset 2013): r says more than p, and a small p is no
    proof.

    Parameters
    ----------
    a, b
        As in `mantel`.
    given
        A matrix [n, n] to hold constant, or several.
    n_permutations, seed, rank
        As in `mantel`; ranks are taken of the given matrices as well.

    Returns
    -------
    dict
        n (basins), r, p; NaN if nothing is left of a matrix, or n is below 4.

    References
    ----------
    Smouse, Long, Sokal (1986), Systematic Zoology 35(4), 627-632.
    Legendre (2000), Journal of Statistical Computation and Simulation 67(1), 37-73.
    Guillot, Rousset (2013), Methods in Ecology and Evolution 4(4), 336-344.
    """
    # One matrix, or a stack of several: an empty one has no shape to speak of.
    stack = np.asarray(given, dtype=np.float64)
    held = [stack] if stack.ndim == 2 else list(stack)
    shape = np.shape(a)
    if any(np.shape(matrix) != shape for matrix in (b, *held)) or shape != shape[:1] * 2:
        raise ValueError("square matrices of the same basins are needed")
    n = shape[0]
    nothing = {"n": n, "r": np.nan, "p": np.nan}
    if n < 4:
        return nothing
    left, right, *others = (_triangle(matrix, rank) for matrix in (a, b, *held))
    basis = np.linalg.qr(np.column_stack([np.ones_like(left), *others]))[0]
    sizes = [np.linalg.norm(side) for side in (left, right)]
    left, right = (side - basis @ (basis.T @ side) for side in (left, right))
    lengths = [np.linalg.norm(side) for side in (left, right)]
    if any(length <= 1e-9 * size for length, size in zip(lengths, sizes, strict=True)):
        return nothing
    left, right = left / lengths[0], right / lengths[1]
    r = float(left @ right)
    # A renumbered matrix keeps its mean and length; only what it shares with the others changes.
    matrix, target = _square(left, n), _square(right, n).ravel()
    planes = [_square(column, n).ravel() for column in basis.T[1:]]
    rng = np.random.default_rng(seed)
    as_large = 0
    for _ in range(n_permutations):
        order = rng.permutation(n)
        shuffled = matrix[order][:, order].ravel()
        # Each pair stands twice in the square.
        shared = sum((float(shuffled @ plane) / 2) ** 2 for plane in planes)
        here = float(shuffled @ target) / 2 / np.sqrt(max(1 - shared, 1e-12))
        as_large += bool(here >= r - 1e-6)  # float32 holds no more
    return {"n": n, "r": r, "p": (1 + as_large) / (1 + n_permutations)}


def _triangle(matrix: ArrayLike, rank: bool) -> NDArray[np.float64]:
    """The pairs of a symmetric matrix, shape [n (n - 1) / 2], or their ranks."""
    from scipy.stats import rankdata

    square = np.asarray(matrix, dtype=np.float64)
    pairs = square[np.triu_indices(len(square), 1)]
    if not np.isfinite(pairs).all():
        raise ValueError("a matrix has missing pairs; leave those basins out first")
    return rankdata(pairs) if rank else pairs


def _square(pairs: NDArray, n: int) -> NDArray[np.float32]:
    """A symmetric matrix with zeros on its diagonal."""
    square = np.zeros((n, n), dtype=np.float32)
    square[np.triu_indices(n, 1)] = pairs
    return square + square.T


def _without_diagonal(similarity: ArrayLike) -> NDArray[np.float64]:
    square = np.array(similarity, dtype=np.float64)
    np.fill_diagonal(square, np.nan)
    return square


def _divide(sums: NDArray, counts: NDArray) -> NDArray[np.float64]:
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
