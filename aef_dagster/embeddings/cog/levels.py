"""Which overview of a tile a basin is averaged from.

Here: the choice by the size of the basin.
Not here: whether a tile has that overview (tiff.py).
"""

import math

# Side of a pixel at full resolution, metres, and of the coarsest overview used: 10 * 2**6 = 640 m,
# still finer than the 1000 m of the study's Earth Engine export.
PIXEL_M = 10.0
COARSEST = 6

MIN_PIXELS = 300
"""Pixels that a basin gets at least, where its tiles have so many."""

# The smallest basins are where single fields and roofs count: 160 m or finer.
SMALL_KM2, SMALL_LEVEL = 50.0, 4


def overview_level(area_km2: float, min_pixels: int = MIN_PIXELS) -> int:
    """The coarsest overview that has `min_pixels` pixels in the basin.

    With 300: 80 m below 7.7 km2, 160 m below 50, 320 m below 122.9, 640 m from there on. For
    the 671 basins of CAMELS-US that is 2.1 GB of pixels a year before packing; 500 pixels would be
    3.2 GB, 320 m at the coarsest 3.6 GB, full resolution 340 GB.

    Parameters
    ----------
    area_km2
        Area of the basin, km2.
    min_pixels
        Pixels that the basin should get at least.

    Returns
    -------
    int
        0 is full resolution (10 m), each level doubles the side of the pixels; at most `COARSEST`,
        and at most `SMALL_LEVEL` below `SMALL_KM2`. A basin too small for `min_pixels` even at
        10 m gets full resolution.
    """
    full = area_km2 * 1e6 / PIXEL_M**2
    if full < min_pixels:
        return 0
    # A level has a quarter of the pixels of the one before.
    level = math.floor(math.log(full / min_pixels, 4))
    return min(level, SMALL_LEVEL if area_km2 < SMALL_KM2 else COARSEST)


def resolution_m(level: int) -> float:
    """Side of the pixels of a level, metres."""
    return PIXEL_M * 2**level
