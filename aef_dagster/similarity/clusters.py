"""Groups of basins that are alike, and how well two groupings agree.

Here: k-means on vectors with the number of clusters chosen by silhouette; adjusted Rand index and
normalised mutual information of two labellings.
Not here: training across clusters (experiments/), how well a given grouping separates basins
(evaluation/coherence.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.errors import UserError


@dataclass(frozen=True)
class Clusters:
    """A grouping of basins.

    Parameters
    ----------
    labels
        Cluster of each basin, shape [n], 0..k-1; 0 is the largest cluster.
    k
        Number of clusters.
    silhouettes
        Mean silhouette in [-1, 1] of every number of clusters that was tried.
    """

    labels: NDArray[np.int64]
    k: int
    silhouettes: dict[int, float]


def choose_clusters(vectors: ArrayLike, k_range: Iterable[int], seed: int = 42) -> Clusters:
    """K-means with the number of clusters that has the largest mean silhouette.

    Vectors are taken as they come: scale or centre them before, if columns have units of their
    own. Of numbers with equal silhouettes the smallest is chosen. Clusters are numbered by size,
    the largest first, and equal ones by their first basin, so that the same grouping always has
    the same labels.

    Parameters
    ----------
    vectors
        One vector per basin, shape [n, d], without missing values.
    k_range
        Numbers of clusters to try. Those below 2, or not below the number of different vectors,
        cannot be judged and are passed over.
    seed
        Of the starts of k-means; ten are tried for each number.

    Returns
    -------
    Clusters
        Labels in the order of the vectors.

    Raises
    ------
    UserError
        No number of the range can be judged with so few basins.

    References
    ----------
    Rousseeuw (1987), Journal of Computational and Applied Mathematics 20, 53-65 (silhouette).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    vectors = np.asarray(vectors, dtype=np.float64)
    n_different = len(np.unique(vectors, axis=0))
    tried = sorted(set(k_range))
    labels: dict[int, NDArray] = {}
    silhouettes: dict[int, float] = {}
    for k in tried:
        if not 2 <= k < n_different:
            continue
        labels[k] = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(vectors)
        silhouettes[k] = float(silhouette_score(vectors, labels[k]))
    if not silhouettes:
        raise UserError(
            f"{n_different} different basins cannot be put into {tried} clusters; choose numbers "
            f"from 2 to {n_different - 1}, or take more basins"
        )
    k = max(silhouettes, key=lambda number: (silhouettes[number], -number))
    return Clusters(_by_size(labels[k]), k, silhouettes)


def agreement(labels_a: ArrayLike, labels_b: ArrayLike) -> dict[str, float]:
    """How far two groupings of the same basins say the same.

    Parameters
    ----------
    labels_a, labels_b
        Labels of each basin, numbers or text, shape [n]. A basin where either is missing is left
        out.

    Returns
    -------
    dict
        ari (adjusted Rand index: 1 = the same grouping, 0 = as expected by chance), nmi (normalised
        mutual information in [0, 1], arithmetic mean; it is not adjusted for chance and grows with
        the number of clusters). NaN where no basin has both labels.

    References
    ----------
    Hubert, Arabie (1985), Journal of Classification 2, 193-218.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    a, b = pd.Series(labels_a, dtype=object), pd.Series(labels_b, dtype=object)
    if len(a) != len(b):
        raise ValueError(f"labels of different basins: {len(a)} and {len(b)}")
    both = a.notna().to_numpy() & b.notna().to_numpy()
    if not both.any():
        return {"ari": np.nan, "nmi": np.nan}
    # Numbers for names: what sklearn makes of mixed labels is no matter of ours.
    code_a, code_b = (pd.factorize(labels.to_numpy()[both])[0] for labels in (a, b))
    return {
        "ari": float(adjusted_rand_score(code_a, code_b)),
        "nmi": float(normalized_mutual_info_score(code_a, code_b)),
    }


def _by_size(labels: NDArray) -> NDArray[np.int64]:
    """Labels renumbered: the largest cluster is 0, equal ones stand by their first member."""
    _, first, member_of, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    place = np.empty(len(sizes), dtype=np.int64)
    place[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return place[member_of]
