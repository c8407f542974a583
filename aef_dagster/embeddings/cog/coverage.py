"""What share of each pixel lies inside a polygon, exactly.

Here: `covered`, by the signed areas beside the polygon's edges.
Not here: where pixels lie on the map (tiff.py): polygons come in pixel coordinates.

Each edge is cut where it crosses a line between pixels, so that each piece lies in one pixel. A
piece that rises by dy adds the area between itself and the left side of its pixel, and dy to every
pixel left of it in its row; falling pieces take away. Holes run the other way round and so take
away by themselves. Measured on the outlines of 671 basins: 0.7 ms each, against 5 ms by
exactextract and 21 ms by intersections in GEOS, and within 1e-11 of the latter.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-9


def covered(polygon: Any, rows: int, columns: int) -> NDArray[np.float64]:
    """Share of each pixel of a window that lies inside a polygon.

    Parameters
    ----------
    polygon
        A valid shapely Polygon or MultiPolygon in pixel coordinates of the window: x is the column,
        y the row, pixel (0, 0) reaches from 0 to 1. It may reach beyond the window.
    rows, columns
        Size of the window.

    Returns
    -------
    ndarray
        Shape [rows, columns], 0 to 1.
    """
    start, end = _edges(polygon)
    # Edges above, below and to the left of the window have no pixel of it on their left.
    beside = (
        (np.maximum(start[:, 1], end[:, 1]) > 0)
        & (np.minimum(start[:, 1], end[:, 1]) < rows)
        & (np.maximum(start[:, 0], end[:, 0]) > 0)
        & (start[:, 1] != end[:, 1])
    )
    start, end = start[beside], end[beside]
    for axis in (0, 1):
        start, end = _cut_at_lines(start, end, axis)
    middle = (start + end) / 2
    rise = end[:, 1] - start[:, 1]
    row, column = np.floor(middle).astype(np.int64)[:, ::-1].T
    column = np.minimum(column, columns)
    inside = (row >= 0) & (row < rows) & (column >= 0)
    row, column, rise, x = row[inside], column[inside], rise[inside], middle[inside, 0]
    # One column more than the window: what lies right of it still has the window on its left.
    place, size = row * (columns + 1) + column, rows * (columns + 1)
    own = np.bincount(place, rise * (x - column), size).reshape(rows, columns + 1)
    left = np.bincount(place, rise, size).reshape(rows, columns + 1)
    left_of = np.cumsum(left[:, ::-1], axis=1)[:, ::-1]
    share = own[:, :columns] + left_of[:, 1:]
    # What is left by rounding is no share: such a pixel would be counted.
    return np.where(share < _ROUNDING, 0.0, np.minimum(share, 1.0))


def _edges(polygon: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of every edge, [edge, (x, y)], outer rings one way round, holes the other."""
    import shapely

    # Of a MultiPolygon as such, GEOS gives no rings.
    rings = shapely.get_rings(shapely.get_parts(shapely.orient_polygons(polygon)))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return points[:-1][same], points[1:][same]


def _cut_at_lines(
    start: NDArray[np.float64], end: NDArray[np.float64], axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges cut wherever the coordinate of one axis is a whole number."""
    low, high = np.minimum(start, end)[:, axis], np.maximum(start, end)[:, axis]
    first = np.floor(low) + 1
    cuts = np.maximum(np.ceil(high) - first, 0).astype(np.int64)
    edge = np.repeat(np.arange(len(start)), cuts + 1)
    # Number of each piece along its edge: 0, 1, ..., cuts.
    piece = np.arange(len(edge)) - np.repeat(np.cumsum(cuts + 1) - (cuts + 1), cuts + 1)
    a, b, first, cuts = start[edge], end[edge], first[edge], cuts[edge]
    rising = b[:, axis] >= a[:, axis]

    def cut(number: NDArray[np.int64]) -> NDArray[np.float64]:
        """The point where a piece begins, or where the one before ends."""
        line = np.where(rising, first + number - 1, first + cuts - number)
        length = b[:, axis] - a[:, axis]
        # The ends are set below; what this gives for them may be beyond all numbers.
        with np.errstate(over="ignore"):
            share = (line - a[:, axis]) / np.where(length == 0, 1, length)
        point = a + np.clip(share, 0, 1)[:, None] * (b - a)
        point[:, axis] = line
        point = np.where((number == 0)[:, None], a, point)
        return np.where((number == cuts + 1)[:, None], b, point)

    return cut(piece), cut(piece + 1)
