"""A small world of AlphaEarth tiles: real GeoTIFFs cut from `field`, and their index.

Here: the writer of one file in the published form, and `write_world`, which lays out files of two
UTM zones with `aef_index.parquet` and `.csv` beside them.
Not here: who serves them (cog/loopback.py), the truth itself (field.py).

The published form: BigTIFF, 64 bands of signed bytes apart from each other, square blocks packed
with zstandard, rows from south to north, -128 where there are no data, an overview for every
halving down to one pixel, each overview pixel the mean of the full-resolution pixels beneath made
unit length; all headers before all blocks, coarse blocks before fine ones.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow
from numpy.typing import NDArray

from aef_dagster.embeddings.quantisation import NO_DATA, dequantise, quantise
from aef_dagster_tests.embeddings.field import field

BUCKET = "gs://alphaearth_foundations/satellite_embedding/v1/annual"
PIXEL_M = 10.0
Vectors = Callable[[NDArray, NDArray, int], NDArray]
Mask = Callable[[NDArray, NDArray], NDArray]


@dataclass(frozen=True)
class WorldTile:
    """One file of the world and what is in it.

    `pixels` are the stored numbers at full resolution, int8 [band, row from the south, column].
    """

    name: str
    epsg: int
    west: float
    south: float
    pixels: NDArray[np.int8]

    @property
    def east(self) -> float:
        return self.west + PIXEL_M * self.pixels.shape[2]

    @property
    def north(self) -> float:
        return self.south + PIXEL_M * self.pixels.shape[1]

    @property
    def zone(self) -> int:
        return self.epsg % 100


@dataclass(frozen=True)
class TileWorld:
    """What `write_world` wrote: `folder` is what a base address serves."""

    folder: Path
    tiles: dict[int, list[WorldTile]]

    def tile(self, year: int, zone: int, name: str) -> WorldTile:
        """The tile of one zone whose name ends so."""
        return next(t for t in self.tiles[year] if t.zone == zone and t.name.endswith(name))


# Both zones' tiles reach over the meridian of 96 W that parts zone 14 from zone 15.
ORIGINS = {32614: (753_280.0, 4_430_080.0), 32615: (241_920.0, 4_430_080.0)}


def write_world(
    folder: Path,
    years: Sequence[int] = (2020,),
    *,
    size: int = 256,
    block: int = 64,
    grid: tuple[int, int] = (2, 2),
    vectors: Vectors = field,
    no_data: Mask | None = None,
    layout: Literal["band", "tile"] = "band",
) -> TileWorld:
    """Write tiles of zones 14N and 15N around 96 W, 40 N, and their index.

    Parameters
    ----------
    folder
        Gets `aef_index.parquet`, `aef_index.csv` and `<year>/<zone>/<name>.tiff`.
    years
        Years to write.
    size, block
        Side of a tile and of its blocks, pixels of 10 m: powers of two, block <= size.
    grid
        Tiles of each zone, columns and rows.
    vectors
        Unit vectors [*place, 64] at lon, lat, year.
    no_data
        True at the lon, lat that have none.
    layout
        Order of the blocks in a file: all of a band together, or all of a place.
    """
    tiles: dict[int, list[WorldTile]] = {}
    for year in years:
        tiles[year] = []
        for epsg, (west, south) in ORIGINS.items():
            for row in range(grid[1]):
                for column in range(grid[0]):
                    corner = (west + column * size * PIXEL_M, south + row * size * PIXEL_M)
                    lon, lat = pixel_centres(epsg, *corner, size, PIXEL_M)
                    pixels = quantise(vectors(lon, lat, year)).transpose(2, 0, 1)
                    if no_data is not None:
                        pixels = np.where(no_data(lon, lat), np.int8(NO_DATA), pixels)
                    pixels = np.ascontiguousarray(pixels)
                    name = (
                        f"{year}/{epsg % 100}N/xworld{epsg}-{row * size:010d}-{column * size:010d}"
                    )
                    tile = WorldTile(f"{name}.tiff", epsg, *corner, pixels)
                    tiles[year].append(tile)
                    write_tile(
                        folder / tile.name, [pixels, *overviews(pixels)], epsg=epsg,
                        west=corner[0], south=corner[1], block=block, layout=layout,
                    )  # fmt: skip
    rows = [index_row(i, t) for i, t in enumerate(t for year in tiles.values() for t in year)]
    write_index(folder, rows)
    return TileWorld(folder, tiles)


def pixel_centres(
    epsg: int, west: float, south: float, size: int, pixel_m: float
) -> tuple[NDArray, NDArray]:
    """Longitude and latitude of each pixel, [row from the south, column]."""
    import pyproj

    steps = (np.arange(size) + 0.5) * pixel_m
    x, y = np.meshgrid(west + steps, south + steps)
    return pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)


def overviews(pixels: NDArray[np.int8]) -> list[NDArray[np.int8]]:
    """Every halving down to one pixel, from full-resolution stored numbers [band, row, column]."""
    values = dequantise(pixels)
    valid = ~np.isnan(values[0])
    total, levels = np.where(valid, values, 0).astype(np.float32), []
    while total.shape[1] > 1:
        bands, rows, columns = total.shape
        total = total.reshape(bands, rows // 2, 2, columns // 2, 2).sum(axis=(2, 4))
        valid = valid.reshape(rows // 2, 2, columns // 2, 2).any(axis=(1, 3))
        length = np.linalg.norm(total, axis=0)
        levels.append(quantise(np.where(valid, total / np.where(valid, length, 1), np.nan)))
    return levels


def write_tile(
    path: Path,
    levels: Sequence[NDArray[np.int8] | None],
    *,
    epsg: int,
    west: float,
    south: float,
    size: int | None = None,
    pixel_m: float = PIXEL_M,
    block: int = 64,
    layout: Literal["band", "tile"] = "band",
    metadata: dict[str, str] | None = None,
) -> None:
    """Write one tile.

    Parameters
    ----------
    path
        The file; its folder is made.
    levels
        Full resolution and its overviews, [64, row from the south, column] each. None is a level
        whose blocks are left out of the file, as sparse GeoTIFFs have it.
    epsg, west, south, pixel_m
        The grid: its CRS, south-western corner and pixel side, metres.
    size
        Side of the full resolution, where `levels[0]` is None.
    block
        Side of a block, pixels.
    layout
        Order of the blocks: "band" has all of a band together, "tile" all of a place.
    metadata
        Items for GDAL's metadata tag.
    """
    size = size if levels[0] is None else levels[0].shape[1]
    packed = [
        {} if level is None else dict(_blocks(level, block)) for level in levels
    ]  # by band, row of blocks, column of blocks
    geo = _geo_tags(epsg, west, south, pixel_m, metadata or {})
    # Twice: the offsets of the blocks depend on how long the headers are.
    header = _headers(size, block, packed, [{} for _ in levels], geo)
    places, end = [{} for _ in levels], len(header)
    for level in reversed(range(len(levels))):
        bands_last = sorted(packed[level], key=lambda k: (k[1], k[2], k[0]))
        for key in bands_last if layout == "tile" else sorted(packed[level]):
            end += 4  # the size of the block stands ahead of it
            places[level][key] = end
            end += len(packed[level][key]) + 4  # and its last bytes once more after it
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(_headers(size, block, packed, places, geo))
        for level in reversed(range(len(levels))):
            for key in sorted(places[level], key=places[level].__getitem__):
                data = packed[level][key]
                file.write(struct.pack("<I", len(data)) + data + data[-4:])


def index_row(fid: int, tile: WorldTile) -> dict[str, object]:
    """One row of the published index; the outline is cut at the zone's meridians."""
    return outline_row(fid, tile.name, tile.epsg, (tile.west, tile.south, tile.east, tile.north))


def outline_row(
    fid: int, name: str, epsg: int, bounds: tuple[float, float, float, float]
) -> dict[str, object]:
    """One row of the published index, of a tile with these bounds in its UTM zone, metres."""
    import pyproj
    import shapely

    to_lonlat = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform
    outline = shapely.segmentize(shapely.box(*bounds), (bounds[2] - bounds[0]) / 16)
    outline = shapely.transform(outline, lambda xy: np.column_stack(to_lonlat(*xy.T)))
    zone = epsg % 100
    meridian = 6.0 * zone - 180
    outline = outline & shapely.box(meridian - 6, -90, meridian, 90)
    wgs84 = shapely.bounds(outline)
    sides = ("west", "south", "east", "north")
    return {
        "fid": fid,
        "geometry": outline,
        "crs": f"EPSG:{epsg}",
        "year": int(name.split("/")[0]),
        "utm_zone": f"{zone}{'N' if epsg < 32700 else 'S'}",
        **{f"utm_{side}": float(value) for side, value in zip(sides, bounds, strict=True)},
        **{f"wgs84_{side}": float(value) for side, value in zip(sides, wgs84, strict=True)},
        "path": f"{BUCKET}/{name}",
    }


def write_index(folder: Path, rows: Iterable[dict[str, object]]) -> None:
    """`aef_index.parquet` (outlines as WKB) and `aef_index.csv` (as WKT)."""
    import geopandas as gpd
    import pandas as pd

    frame = gpd.GeoDataFrame(pd.DataFrame(list(rows)), geometry="geometry", crs=4326)
    frame.to_parquet(folder / "aef_index.parquet")
    frame.assign(WKT=frame.geometry.to_wkt()).drop(columns="geometry").to_csv(
        folder / "aef_index.csv", index=False
    )


def _blocks(level: NDArray[np.int8], block: int):
    """Packed blocks by (band, row, column); those at the edge are filled up without data."""
    zstd = pyarrow.Codec("zstd", 3)
    bands, rows, columns = level.shape
    for row in range(-(-rows // block)):
        for column in range(-(-columns // block)):
            cut = level[:, row * block : (row + 1) * block, column * block : (column + 1) * block]
            whole = np.full((bands, block, block), NO_DATA, dtype=np.int8)
            whole[:, : cut.shape[1], : cut.shape[2]] = cut
            for band in range(bands):
                yield (band, row, column), zstd.compress(whole[band].tobytes(), asbytes=True)


_SHORT, _LONG, _DOUBLE, _ASCII, _LONG8 = 3, 4, 12, 2, 16
_FORMAT = {_SHORT: "H", _LONG: "I", _DOUBLE: "d", _LONG8: "Q"}


def _geo_tags(epsg: int, west: float, south: float, pixel_m: float, metadata: dict[str, str]):
    to_map = (pixel_m, 0, 0, west, 0, pixel_m, 0, south, 0, 0, 0, 0, 0, 0, 0, 1)
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    items = "".join(f'<Item name="{name}">{text}</Item>' for name, text in metadata.items())
    return [
        (34264, _DOUBLE, to_map),
        (34735, _SHORT, keys),
        (42112, _ASCII, f"<GDALMetadata>{items}</GDALMetadata>"),
    ]


def _headers(size: int, block: int, packed: list[dict], places: list[dict], geo: list) -> bytes:
    """The file up to its first block: a header for each level, one after the other."""
    out = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
    for level, (blocks, offsets) in enumerate(zip(packed, places, strict=True)):
        side = size >> level
        across = -(-side // block)
        keys = [(b, r, c) for b in range(64) for r in range(across) for c in range(across)]
        tags = [
            (254, _LONG, (1 if level else 0,)),
            (256, _LONG, (side,)),
            (257, _LONG, (side,)),
            (258, _SHORT, (8,) * 64),
            (259, _SHORT, (50000,)),
            (262, _SHORT, (1,)),
            (277, _SHORT, (64,)),
            (284, _SHORT, (2,)),
            (322, _LONG, (block,)),
            (323, _LONG, (block,)),
            (324, _LONG8, tuple(offsets.get(key, 0) for key in keys)),
            (325, _LONG8, tuple(len(blocks.get(key, b"")) for key in keys)),
            (338, _SHORT, (0,) * 63),
            (339, _SHORT, (2,) * 64),
            *(geo if level == 0 else []),
            (42113, _ASCII, str(NO_DATA)),
        ]
        out += _one_header(len(out), tags, last=level == len(packed) - 1)
    return out


def _one_header(start: int, tags: list, *, last: bool) -> bytes:
    entries, beyond = b"", b""
    beyond_at = start + 8 + 20 * len(tags) + 8
    for tag, kind, values in tags:
        if kind == _ASCII:
            data, count = values.encode() + b"\0", len(values) + 1
        else:
            data, count = struct.pack(f"<{len(values)}{_FORMAT[kind]}", *values), len(values)
        entries += struct.pack("<HHQ", tag, kind, count)
        if len(data) <= 8:
            entries += data.ljust(8, b"\0")
        else:
            entries += struct.pack("<Q", beyond_at + len(beyond))
            beyond += data + b"\0" * (-len(data) % 8)
    following = 0 if last else beyond_at + len(beyond)
    return struct.pack("<Q", len(tags)) + entries + struct.pack("<Q", following) + beyond
