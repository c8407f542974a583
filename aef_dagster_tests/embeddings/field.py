"""A made-up world of embeddings: a unit vector at every place on Earth and in every year.

The truth that routes are held against: whoever makes tiles, answers as Earth Engine or draws a
table takes its vectors from here.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RANDOM = np.random.default_rng(20260101)
# Waves of some 100 to 600 km, a direction and a phase for each band.
_WAVES = _RANDOM.normal(scale=2.0, size=(2, 64))
_PHASE = _RANDOM.uniform(0, 2 * np.pi, size=64)
_YEARLY = _RANDOM.normal(scale=0.05, size=64)


def field(lon: ArrayLike, lat: ArrayLike, year: int = 2020) -> NDArray[np.float64]:
    """Vectors at some places.

    Parameters
    ----------
    lon, lat
        Degrees, of equal shape.
    year
        Vectors turn a little from year to year.

    Returns
    -------
    ndarray
        Shape [*place, 64], of unit length.
    """
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    angle = lon[..., None] * _WAVES[0] + lat[..., None] * _WAVES[1] + _PHASE
    values = np.sin(angle + _YEARLY * (year - 2020))
    return values / np.linalg.norm(values, axis=-1, keepdims=True)
