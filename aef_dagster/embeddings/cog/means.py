"""Sums over the pixels of a basin, and the mean they make.

Here: `Sum`, what one block adds to a basin; `add_up`, the mean of all of them.
Not here: which pixels (coverage.py, tiff.py), storing (pieces.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aef_dagster.embeddings.quantisation import NO_DATA, dequantise

# Pixels are unit vectors, overviews too, but for the rounding to eight bits (published ones are
# within 0.6 %). Bytes that are not what was written give vectors of 3.6 or so.
_LENGTH_TOLERANCE = 0.25
_ODD_SHARE = 0.05


class OddPixelsError(Exception):
    """Pixels that cannot be AlphaEarth's: the cause."""


@dataclass(frozen=True)
class Sum:
    """What some pixels add to a basin's mean.

    `vector`: the sum of area times vector, [64]; `area_m2`: the area of pixels with data; `pixels`:
    how many those are.
    """

    vector: NDArray[np.float64]
    area_m2: float
    pixels: int


def weighted_sum(stored: NDArray[np.int8], share: NDArray[np.float64], pixel_area_m2: float) -> Sum:
    """Sum over the pixels of a window.

    Parameters
    ----------
    stored
        Stored numbers, [64, row, column].
    share
        Share of each pixel that is the basin's, [row, column].
    pixel_area_m2
        Area of a whole pixel.

    Raises
    ------
    OddPixelsError
        The pixels are not unit vectors, or lack some bands only.
    """
    used = np.flatnonzero(share)
    pixels = stored.reshape(len(stored), -1).take(used, axis=1)
    weight = share.ravel()[used] * pixel_area_m2
    empty = pixels == NO_DATA
    valid = ~empty.all(axis=0)
    if not valid.all():
        pixels, weight = pixels[:, valid], weight[valid]
    if empty[:, valid].any():
        raise OddPixelsError("some pixels have no data in some bands and data in others")
    values = dequantise(pixels)
    length = np.sqrt(np.einsum("ij,ij->j", values, values))
    odd = np.abs(length - 1) > _LENGTH_TOLERANCE
    if odd.sum() > _ODD_SHARE * max(len(odd), 1):
        raise OddPixelsError(
            f"{odd.sum()} of {len(odd)} pixels are not vectors of unit length but of "
            f"{length[odd].min():.2f} to {length[odd].max():.2f}"
        )
    return Sum(values.astype(np.float64) @ weight, float(weight.sum()), int(valid.sum()))


def add_up(sums: Iterable[Sum]) -> Sum:
    """All of some sums, in the order given: another order gives other last bits."""
    vector, area, pixels = np.zeros(64), 0.0, 0
    for one in sums:
        vector += one.vector
        area += one.area_m2
        pixels += one.pixels
    return Sum(vector, area, pixels)
