"""The spaces in which basins are compared, each a square matrix of similarities.

Here: one function per space: basin descriptors in, similarities in [-1, 1] out, 1 = itself. In
every space similarity is the cosine of the angle between two vectors.
Not here: ranking and choosing donors (donors.py), the networks whose vectors are compared in the
space `fusion` (models/fusion.py).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.similarity.representations import attribute_matrix

# Measured from descriptors; made by `aef prepare`.
SPACES: tuple[str, ...] = ("attributes", "aef", "distance", "random")
# Learned by networks, which must be trained first.
LEARNED_SPACES: tuple[str, ...] = ("fusion",)

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)
RANDOM_DIMENSIONS = 64  # as many as an AlphaEarth embedding has


def similarity_attributes(attributes: pd.DataFrame) -> NDArray[np.float64]:
    """Cosine between basins described by attributes, z-scored over the candidates.

    Parameters
    ----------
    attributes
        One row per basin; the columns chosen for the comparison (`representations.py` has sets).

    Returns
    -------
    ndarray
        Shape [n, n], symmetric, unit diagonal.
    """
    matrix, _ = attribute_matrix(attributes)
    return _cosine(matrix)


def similarity_aef(embedding: ArrayLike, *, raw: bool = False) -> NDArray[np.float64]:
    """Cosine between AlphaEarth vectors of basins.

    All basins of one country share most of their vector, so raw cosines crowd near 1. By default
    the candidates' mean vector is subtracted first.

    Parameters
    ----------
    embedding
        One vector per basin, shape [n, 64].
    raw
        Leave the mean vector in.

    Returns
    -------
    ndarray
        Shape [n, n], symmetric, unit diagonal.
    """
    vectors = np.asarray(embedding, dtype=np.float64)
    return _cosine(vectors if raw else vectors - vectors.mean(axis=0))


def similarity_distance(lat: ArrayLike, lon: ArrayLike) -> NDArray[np.float64]:
    """Cosine of the angle between two gauges seen from the centre of the Earth.

    It is the cosine similarity of their positions as unit vectors, and falls steadily with the
    great-circle distance: 1 at 0 km, 0.988 at 1,000 km.

    Parameters
    ----------
    lat, lon
        Degrees, shape [n].

    Returns
    -------
    ndarray
        Shape [n, n], symmetric, unit diagonal.
    """
    return _cosine(_positions(lat, lon))


def great_circle_km(lat: ArrayLike, lon: ArrayLike) -> NDArray[np.float64]:
    """Great-circle distance between all pairs of points.

    Parameters
    ----------
    lat, lon
        Degrees, shape [n].

    Returns
    -------
    ndarray
        Kilometres, shape [n, n].
    """
    positions = _positions(lat, lon)
    # By the chord: the arc cosine would lose neighbours to rounding.
    chord = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1)
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1.0))


def similarity_random(gauge_ids: Sequence[str], seed: int) -> NDArray[np.float64]:
    """Cosine between random vectors: the control that any other space has to beat.

    Each basin's vector depends on the seed and its own id alone, so a pair keeps its similarity
    whatever other basins are among the candidates.

    Parameters
    ----------
    gauge_ids
        The n basins.
    seed
        Another seed, another set of vectors.

    Returns
    -------
    ndarray
        Shape [n, n], symmetric, unit diagonal.
    """
    vectors = np.empty((len(gauge_ids), RANDOM_DIMENSIONS))
    for row, gauge_id in enumerate(gauge_ids):
        digest = hashlib.sha256(f"{seed}:{gauge_id}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        vectors[row] = generator.standard_normal(RANDOM_DIMENSIONS)
    return _cosine(vectors)


def similarity_by_model(vectors: Sequence[ArrayLike], model_of: ArrayLike) -> NDArray[np.float64]:
    """Cosine between learned vectors, each target's row by the model that never saw it.

    Parameters
    ----------
    vectors
        One array a model: a vector per basin, shape [n, any].
    model_of
        Which model each basin's row is computed in, shape [n].

    Returns
    -------
    ndarray
        Shape [n, n], unit diagonal. Not symmetric: two basins may be seen by two models.
    """
    model_of = np.asarray(model_of)
    matrix = np.empty((model_of.size, model_of.size))
    for number, learned in enumerate(vectors):
        rows = model_of == number
        learned = np.asarray(learned, dtype=np.float64)
        matrix[rows] = _cosine(learned - learned.mean(axis=0))[rows]
    return matrix


def _positions(lat: ArrayLike, lon: ArrayLike) -> NDArray[np.float64]:
    """Unit vectors from the centre of the Earth, shape [n, 3]."""
    lat, lon = (np.radians(np.asarray(angle, dtype=np.float64)) for angle in (lat, lon))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _cosine(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine between all rows; a row of zeros is like itself and unlike (0) all others."""
    if not np.isfinite(vectors).all():
        rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise ValueError(f"rows {rows[:5].tolist()} of the descriptors hold NaN or infinity")
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 0)
    similarity = unit @ unit.T
    similarity = np.clip((similarity + similarity.T) / 2, -1.0, 1.0)
    np.fill_diagonal(similarity, 1.0)
    return similarity
