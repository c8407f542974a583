"""Which ground of a basin is read from which tile.

Here: `split`, which cuts a basin's outline at the meridians of the UTM zones and hands each part,
in the CRS of its zone, to the tiles that hold it, no ground to two of them.
Not here: pixels (coverage.py, means.py), the list of tiles (index.py).

Tiles reach beyond their zone's meridians, and so do those of the neighbour: the same ground lies
in both. It is taken from the zone it belongs to, and from the neighbour where the zone has no tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aef_dagster.errors import DataFileError, UserError

# A cut along a meridian is bent in the CRS of the zone: points on it every 0.02 degrees (2 km) keep
# it within centimetres.
_STEP_DEGREES = 0.02
# Shares of a basin below this are slivers left by rounding.
_SLIVER = 1e-9


@dataclass(frozen=True)
class Part:
    """What of a basin is read from one tile: a shapely polygon in the tile's CRS."""

    tile: str
    shape: Any


@dataclass(frozen=True)
class Split:
    """A basin cut up: `area_m2` is that of all of it, also of what no tile holds."""

    parts: tuple[Part, ...]
    area_m2: float


@dataclass(frozen=True)
class Zone:
    """The tiles of one UTM zone: its strip in longitude and latitude, names and boxes in metres."""

    epsg: int
    names: list[str]
    boxes: Any

    @property
    def west(self) -> float:
        """Its western meridian, degrees."""
        return 6.0 * (self.epsg % 100) - 186

    @property
    def east(self) -> float:
        """Its eastern meridian, degrees."""
        return self.west + 6

    @property
    def strip(self) -> Any:
        """The ground that is its own, a shapely box in degrees."""
        import shapely

        south, north = (0, 90) if self.epsg < 32700 else (-90, 0)
        return shapely.box(self.west, south, self.east, north)


def read_outlines(file: Path, gauge_ids: Sequence[str]) -> dict[str, Any]:
    """Outlines of basins, longitude and latitude, by gauge_id.

    Parameters
    ----------
    file
        GeoParquet with gauge_id and geometry, as the asset `basins` writes it.
    gauge_ids
        Basins wanted.

    Raises
    ------
    UserError
        There is no such file, it cannot be read, or a basin is not in it.
    """
    import geopandas as gpd
    import shapely

    if not file.exists():
        raise UserError(
            f"{file} does not exist: materialize `basins` first, it writes the outlines"
        )
    try:
        frame = gpd.read_parquet(file, columns=["gauge_id", "geometry"]).to_crs(4326)
    except (ValueError, OSError) as error:
        raise DataFileError(file, f"the outlines cannot be read: {error}") from None
    frame = frame.set_index("gauge_id")
    known = [gauge_id for gauge_id in gauge_ids if gauge_id in frame.index]
    if gauge_ids and not known:
        raise DataFileError(file, f"has no outline of any of the {len(gauge_ids)} basins")
    shapes = _polygons(shapely.make_valid(frame.loc[known, "geometry"].to_numpy()))
    return dict(zip(known, shapes, strict=True))


def split(outline: Any, zones: dict[int, Zone]) -> Split:
    """Cut a basin up among tiles.

    Parameters
    ----------
    outline
        Valid shapely polygon, longitude and latitude.
    zones
        The tiles of a year, by EPSG code, as `zones_of` gives them.
    """
    import shapely

    left, right = outline.bounds[0::2]
    near = [
        zone for zone in zones.values()
        if zone.west - 6 <= right and left <= zone.east + 6
    ]  # fmt: skip
    area, parts, homeless = 0.0, [], []
    within = [zone for zone in near if shapely.box(*outline.bounds).within(zone.strip)]
    if within:
        mine, rest = [(within[0], outline)], shapely.Polygon()
    else:
        mine = [(zone, shapely.intersection(outline, zone.strip)) for zone in near]
        rest = shapely.difference(outline, shapely.union_all([zone.strip for zone in near]))
    for zone, piece in [*mine, (None, rest)]:
        piece = _polygons([piece])[0]
        if piece.is_empty:
            continue
        if zone is None:  # its own zone has no tiles at all in this year
            area += _geodesic_area(piece)
            homeless.append((4326, piece))
            continue
        shape = _projected(shapely.segmentize(piece, _STEP_DEGREES), zone.epsg)
        area += shape.area
        held, beyond = _among(shape, zone)
        parts += held
        if beyond.area > _SLIVER * shape.area:
            homeless.append((zone.epsg, beyond))
    for home, shape in homeless:
        parts += _neighbours(shape, home, near)
    # Two parts for one tile: its own ground and what a neighbour did not hold.
    by_tile: dict[str, list[Any]] = {}
    for part in parts:
        by_tile.setdefault(part.tile, []).append(part.shape)
    merged = (
        Part(tile, shapes[0] if len(shapes) == 1 else _polygons([shapely.union_all(shapes)])[0])
        for tile, shapes in sorted(by_tile.items())
    )
    return Split(tuple(merged), area)


def zones_of(tiles: pd.DataFrame) -> dict[int, Zone]:
    """Tiles of a year (as `TileIndex.tiles` gives them) by EPSG code of their zone."""
    import shapely

    zones = {}
    for epsg in tiles["epsg"].unique():
        some = tiles[tiles["epsg"] == epsg]
        boxes = shapely.box(some["west"], some["south"], some["east"], some["north"])
        zones[int(epsg)] = Zone(int(epsg), some["name"].tolist(), np.asarray(boxes))
    return zones


def _among(shape: Any, zone: Zone) -> tuple[list[Part], Any]:
    """Parts for the tiles of a zone, and what none of them holds."""
    import shapely

    parts: list[Part] = []
    for i in np.flatnonzero(shapely.intersects(zone.boxes, shape)):
        if not parts and shapely.contains(zone.boxes[i], shape):
            return [Part(zone.names[i], shape)], shapely.Polygon()
        inside = shapely.intersection(shape, zone.boxes[i])
        if inside.area <= _SLIVER * shape.area:
            continue
        parts.append(Part(zone.names[i], _polygons([inside])[0]))
        # What one tile has, the next one that overlaps it does not get again.
        shape = _polygons([shapely.difference(shape, zone.boxes[i])])[0]
        if shape.is_empty:
            break
    return parts, shape


def _neighbours(shape: Any, home: int, near: list[Zone]) -> list[Part]:
    """Parts for tiles of other zones, of ground whose own zone has no tile for it."""
    import shapely

    own = home
    parts: list[Part] = []
    for zone in near:
        if zone.epsg == own or shape.is_empty:
            continue
        shape, home = _projected(shape, zone.epsg, home), zone.epsg
        held, shape = _among(_polygons([shapely.make_valid(shape)])[0], zone)
        parts += held
    return parts


def _geodesic_area(piece: Any) -> float:
    """Area of a polygon in longitude and latitude, m2."""
    import pyproj

    return abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(piece)[0])


@lru_cache(maxsize=64)
def _transformer(source: int, target: int):
    import pyproj

    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def _projected(shape: Any, target: int, source: int = 4326) -> Any:
    import shapely

    change = _transformer(source, target).transform
    return shapely.transform(shape, lambda xy: np.column_stack(change(xy[:, 0], xy[:, 1])))


def _polygons(shapes: Any) -> list[Any]:
    """The areas of each geometry; lines and points, which cuts leave behind, have none."""
    import shapely

    out = []
    for shape in shapes:
        if shape.geom_type in ("Polygon", "MultiPolygon"):
            out.append(shape)
            continue
        areas = [
            part for some in shapely.get_parts(shape) for part in shapely.get_parts(some)
            if part.geom_type == "Polygon"
        ]  # fmt: skip
        out.append(shapely.MultiPolygon(areas))
    return out
