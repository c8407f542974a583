"""Outlines of basins as they are sent: simplified, and cut into batches by vertices.

Here: reading the GeoParquet of outlines, simplifying each within a known error, batches.
Not here: what is asked of Earth Engine with them (request.py).

Earth Engine refuses requests above 10 MB, and 671 detailed outlines in one would be more. A vertex
takes about 50 bytes of a request. Vertices that a pixel cannot see are dropped: the tolerance
begins at a quarter of the pixel and is halved until the area that changes hands (the symmetric
difference) is at most 1 % of the basin's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aef_dagster.errors import DataFileError, UserError

MAX_AREA_ERROR = 0.01
# 1e-6 degrees are 0.1 m: finer than any pixel, and a third of the digits of a float.
DECIMALS = 6
METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class Outline:
    """One basin as it is sent.

    Parameters
    ----------
    gauge_id
        The basin.
    geometry
        shapely Polygon or MultiPolygon in EPSG:4326, simplified.
    vertices
        Their number.
    area_error
        Area of the symmetric difference with the outline as read, as a share of the basin's.
    """

    gauge_id: str
    geometry: Any
    vertices: int
    area_error: float


def read_outlines(path: Path, gauge_ids: Sequence[str], scale_m: float) -> list[Outline]:
    """Outlines of some basins, in the order asked; basins without one are left out.

    Parameters
    ----------
    path
        GeoParquet with gauge_id and geometry.
    gauge_ids
        Basins wanted, padded to 8 digits.
    scale_m
        Side of the pixels that will be averaged, metres.

    Raises
    ------
    UserError
        There is no such file, or none of the basins is in it.
    DataFileError
        It is no GeoParquet with gauge_id, or holds a basin twice.
    """
    import geopandas as gpd

    if not path.is_file():
        raise UserError(f"{path} does not exist: materialize `basins` first, which writes outlines")
    try:
        shapes = gpd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise DataFileError(path, f"cannot be read as GeoParquet: {error}") from None
    if "gauge_id" not in shapes:
        raise DataFileError(path, "has no column gauge_id; materialize `basins` anew")
    twice = shapes.loc[shapes["gauge_id"].duplicated(), "gauge_id"]
    if len(twice):
        raise DataFileError(path, "the basin occurs twice", gauge_id=twice.iloc[0])
    shapes = shapes.set_crs(4326) if shapes.crs is None else shapes.to_crs(4326)
    by_id = dict(zip(shapes["gauge_id"], shapes.geometry, strict=True))
    found = [gauge_id for gauge_id in gauge_ids if gauge_id in by_id]
    if not found:
        raise UserError(f"none of the {len(gauge_ids)} basins asked for has an outline in {path}")
    return [simplified(gauge_id, by_id[gauge_id], scale_m) for gauge_id in found]


def simplified(gauge_id: str, geometry: Any, scale_m: float) -> Outline:
    """An outline without the vertices that pixels of `scale_m` cannot see.

    Parameters
    ----------
    gauge_id
        The basin.
    geometry
        shapely geometry in EPSG:4326.
    scale_m
        Side of the pixels, metres.

    Returns
    -------
    Outline
        Its `area_error` is at most `MAX_AREA_ERROR`.

    Raises
    ------
    UserError
        The outline encloses no area.
    """
    import shapely

    whole = _polygons_of(shapely.make_valid(geometry))
    if whole.is_empty:
        raise UserError(f"basin {gauge_id}: its outline encloses no area; mend the polygon file")
    # Degrees stretched to metres around the basin's own latitude: a tolerance is a length.
    middle = whole.centroid.y
    stretch = np.array([METRES_PER_DEGREE * np.cos(np.radians(middle)), METRES_PER_DEGREE])
    metric = shapely.transform(whole, lambda xy: xy * stretch)
    tolerance, coarse, error = scale_m / 4, metric, 0.0
    while tolerance > scale_m / 1000:
        trial = metric.simplify(tolerance, preserve_topology=True)
        changed = shapely.make_valid(trial).symmetric_difference(metric).area / metric.area
        if changed <= MAX_AREA_ERROR:
            coarse, error = trial, changed
            break
        tolerance /= 2
    sent = shapely.transform(coarse, lambda xy: np.round(xy / stretch, DECIMALS))
    return Outline(gauge_id, sent, int(shapely.get_num_coordinates(sent)), float(error))


def in_batches(outlines: Sequence[Outline], vertices: int) -> list[list[Outline]]:
    """Runs of outlines with at most `vertices` in all; one that has more goes alone."""
    batches: list[list[Outline]] = []
    room = 0
    for outline in outlines:
        if not batches or outline.vertices > room:
            batches.append([])
            room = vertices
        batches[-1].append(outline)
        room -= outline.vertices
    return batches


def bounds(outlines: Sequence[Outline]) -> tuple[float, float, float, float]:
    """West, south, east, north of all outlines, degrees."""
    boxes = pd.DataFrame([outline.geometry.bounds for outline in outlines])
    west, south, east, north = (*boxes.min()[:2], *boxes.max()[2:])
    return float(west), float(south), float(east), float(north)


def _polygons_of(geometry: Any) -> Any:
    """The areas of a geometry; mending a self-crossing outline may leave lines beside them."""
    import shapely

    parts = shapely.get_parts(geometry)
    if (shapely.get_dimensions(parts) < 2).any():
        parts = parts[shapely.get_dimensions(parts) == 2]
        return shapely.union_all(parts)
    return geometry
