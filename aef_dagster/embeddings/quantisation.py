"""The eight-bit form in which AlphaEarth's files hold its vectors.

A number v in -1..1 is stored as q = sign(v) * round(127.5 * sqrt(|v|)), cut off at 127: steps are
finest near 0, where most numbers lie. -128 in all bands means no data.
Not here: files (cog/).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

NO_DATA = -128
_SCALE = 127.5


def dequantise(stored: ArrayLike) -> NDArray[np.float32]:
    """Numbers in -1..1 from stored ones.

    The form is not linear: means are taken of what this gives, never of stored numbers.

    Parameters
    ----------
    stored
        int8, any shape.

    Returns
    -------
    ndarray
        float32, the same shape; NaN where there are no data.
    """
    return _TABLE[np.asarray(stored, dtype=np.int8).view(np.uint8)]


def quantise(values: ArrayLike) -> NDArray[np.int8]:
    """Numbers in -1..1 as they are stored; NaN becomes no data."""
    values = np.asarray(values, dtype=np.float64)
    rounded = np.sign(values) * np.rint(_SCALE * np.sqrt(np.abs(values)))
    return np.where(np.isnan(values), NO_DATA, np.clip(rounded, -127, 127)).astype(np.int8)


def _table() -> NDArray[np.float32]:
    """Value of each stored number, by its bits: looked up, not computed, a million at a time."""
    stored = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64)
    values = np.sign(stored) * (stored / _SCALE) ** 2
    return np.where(stored == NO_DATA, np.nan, values).astype(np.float32)


_TABLE = _table()
