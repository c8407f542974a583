"""What a tile's header says, and how its blocks are unpacked.

Here: `read_header`, which knows as much of TIFF and GeoTIFF as Cloud-Optimised files of signed
bytes need, and `Level`, one resolution of a tile: where its pixels lie, which bytes hold a block,
what is in them.
Not here: requests (remote.py), numbers from stored bytes (../quantisation.py).

Why not GDAL or async-tiff: on loopback and one core, 64 bands of a window at 640 m took 31 ms a
tile through rasterio, 152 ms through async-tiff and 8 ms so; at 160 m 77, 140 and 38 ms. GDAL asks
for each band by itself, async-tiff unpacks whole blocks of 64 MB, of which an overview fills a
corner. Besides, neither lets us see the ETag of each answer.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.quantisation import NO_DATA

# Enough for the headers of all levels of a published tile: 4096 blocks with their lengths at full
# resolution alone are 64 kB.
FIRST_BYTES = 128 * 1024
MORE_BYTES = 64 * 1024

# Ranges closer than this are one request, and none is longer than that: a cut answer costs its own
# bytes again.
GAP_BYTES = 16 * 1024
LONGEST_BYTES = 8 * 1024 * 1024

ReadRange = Callable[[int, int], bytes]
Ranges = list[tuple[int, int]]

_SUBFILE, _COLUMNS, _ROWS, _BITS, _COMPRESSION, _SAMPLES, _PLANAR, _PREDICTOR = (
    254, 256, 257, 258, 259, 277, 284, 317,
)  # fmt: skip
_BLOCK_COLUMNS, _BLOCK_ROWS, _OFFSETS, _COUNTS, _FORMAT = 322, 323, 324, 325, 339
_SCALE, _TIEPOINT, _TRANSFORM, _GEO_KEYS, _METADATA = 33550, 33922, 34264, 34735, 42112
_NONE, _DEFLATE, _OLD_DEFLATE, _ZSTD = 1, 8, 32946, 50000
_KINDS = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
_PROJECTED_CRS = 3072
_READ = {
    _SUBFILE, _COLUMNS, _ROWS, _BITS, _COMPRESSION, _SAMPLES, _PLANAR, _PREDICTOR, _BLOCK_COLUMNS,
    _BLOCK_ROWS, _OFFSETS, _COUNTS, _FORMAT, _SCALE, _TIEPOINT, _TRANSFORM, _GEO_KEYS, _METADATA,
}  # fmt: skip


class NotATileError(Exception):
    """The bytes are not those of an AlphaEarth tile: the cause."""


@dataclass(frozen=True)
class Level:
    """One resolution of a tile.

    `x0, dx, y0, dy`: the corner of pixel (0, 0) and the step to the next, metres in the tile's CRS;
    dy is positive where rows run from south to north. `offsets`, `counts`: first byte and length
    of each block, [band or 1, row of blocks, column of blocks]; length 0 is a block without data.
    """

    rows: int
    columns: int
    block_rows: int
    block_columns: int
    x0: float
    dx: float
    y0: float
    dy: float
    compression: int
    predictor: int
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]

    def to_pixels(self, shape: Any) -> Any:
        """A shapely geometry of the tile's CRS in pixel coordinates (column, row)."""
        import shapely

        return shapely.transform(shape, lambda xy: (xy - (self.x0, self.y0)) / (self.dx, self.dy))

    def block_ranges(self, row: int, column: int) -> Ranges:
        """Bytes of one block: one range a band, or one for all bands; empty ones have no data."""
        starts, counts = self.offsets[:, row, column], self.counts[:, row, column]
        return [(int(s), int(s + n)) for s, n in zip(starts, counts, strict=True)]

    def unpack(self, packed: memoryview) -> NDArray[np.int8]:
        """One packed block.

        Parameters
        ----------
        packed
            What one of `block_ranges` holds.

        Returns
        -------
        ndarray
            Stored numbers [band, row, column]: one band, or all where bands are not apart.

        Raises
        ------
        NotATileError
            The bytes cannot be unpacked, or are too few.
        """
        bands = len(BANDS) // len(self.offsets)
        shape = (self.block_rows, self.block_columns, bands)
        if not packed:
            return np.full((bands, *shape[:2]), NO_DATA, dtype=np.int8)
        pixels = np.frombuffer(_unpack(packed, self.compression, math.prod(shape)), dtype=np.int8)
        if pixels.size != math.prod(shape):
            raise NotATileError(f"a block unpacks to {pixels.size} bytes, not {math.prod(shape)}")
        pixels = pixels.reshape(shape)
        if self.predictor == 2:
            pixels = np.cumsum(pixels, axis=1, dtype=np.int8)
        return pixels.transpose(2, 0, 1)


@dataclass(frozen=True)
class Header:
    """All of a tile but its pixels: levels from fine to coarse, EPSG code, GDAL's metadata."""

    levels: tuple[Level, ...]
    epsg: int
    metadata: dict[str, str]

    def level(self, pixel_m: float) -> Level | None:
        """The level whose pixels have this side, metres."""
        return next((level for level in self.levels if abs(level.dx - pixel_m) < 1e-3), None)


def read_header(read: ReadRange) -> Header:
    """Read a tile's header.

    Parameters
    ----------
    read
        Gives bytes from start to stop, fewer at the end of the file.

    Raises
    ------
    NotATileError
        This is no Cloud-Optimised GeoTIFF of 64 bands of signed bytes.
    """
    try:
        return _header(_Window(read))
    except (KeyError, ValueError, IndexError, ZeroDivisionError, OverflowError, struct.error) as e:
        raise NotATileError(f"its header makes no sense ({type(e).__name__}: {e})") from None


def _header(file: "_Window") -> Header:
    order = {b"II": "<", b"MM": ">"}.get(file.bytes(0, 2))
    if order is None:
        raise NotATileError("it does not begin as a TIFF file does")
    (version,) = file.numbers(order + "H", 2)
    if version not in (42, 43):
        raise NotATileError("it does not begin as a TIFF file does")
    big = version == 43
    (place,) = file.numbers(order + ("Q" if big else "I"), 8 if big else 4)
    directories, passed = [], 0
    while place:
        tags, place = _directory(file, order, place, big)
        passed += 1
        if tags.get(_SUBFILE, (0,))[0] in (0, 1):  # others are masks
            directories.append(tags)
        if passed > 64:
            raise NotATileError("its headers go round in a circle")
    if not directories:
        raise NotATileError("it has no image")
    first = directories[0]
    x0, dx, y0, dy = _grid(first)
    levels = []
    for tags in directories:
        rows, columns = tags[_ROWS][0], tags[_COLUMNS][0]
        across, down = first[_COLUMNS][0] / columns, first[_ROWS][0] / rows
        levels.append(_level(tags, (x0, dx * across, y0, dy * down)))
    levels.sort(key=lambda level: level.dx)
    return Header(tuple(levels), _epsg(first), _metadata(first))


def joined(ranges: Ranges) -> Ranges:
    """Ranges that hold all of some others: neighbours become one, up to `LONGEST_BYTES`."""
    whole: Ranges = []
    for start, stop in sorted(r for r in ranges if r[1] > r[0]):
        if whole and start - whole[-1][1] <= GAP_BYTES and stop - whole[-1][0] <= LONGEST_BYTES:
            whole[-1] = (whole[-1][0], max(stop, whole[-1][1]))
        else:
            whole.append((start, stop))
    return whole


class _Window:
    """The beginning of a file, read on as far as needed."""

    def __init__(self, read: ReadRange):
        self._read = read
        self._data = read(0, FIRST_BYTES)
        self._beyond: dict[int, bytes] = {}

    def bytes(self, start: int, length: int) -> bytes:
        if start + length <= len(self._data):
            return self._data[start : start + length]
        if start not in self._beyond or len(self._beyond[start]) < length:
            self._beyond[start] = self._read(start, start + max(length, MORE_BYTES))
        found = self._beyond[start][:length]
        if len(found) < length:
            raise NotATileError("it ends in the middle of its header")
        return found

    def numbers(self, layout: str, start: int) -> tuple:
        return struct.unpack(layout, self.bytes(start, struct.calcsize(layout)))


def _directory(file: _Window, order: str, place: int, big: bool) -> tuple[dict[int, Any], int]:
    """Tags of one image, and where the next one's stand (0: nowhere)."""
    count_layout, entry, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    (count,) = file.numbers(order + count_layout, place)
    if count > 1000:
        raise NotATileError(f"a header names {count} tags")
    place += struct.calcsize(count_layout)
    # Tag, kind, number of values, and the values or where they are.
    entries = struct.Struct(order + entry + f"{inline}s")
    listed = file.bytes(place, count * entries.size)
    tags: dict[int, Any] = {}
    for tag, kind, number, value in entries.iter_unpack(listed):
        if tag not in _READ or kind not in _KINDS:
            continue
        length = number * struct.calcsize(_KINDS[kind])
        data = value[:length]
        if length > inline:
            (where,) = struct.unpack(order + ("Q" if big else "I"), value)
            data = file.bytes(where, length)
        if kind == 2:
            tags[tag] = data.rstrip(b"\0").decode("utf-8", errors="replace")
        elif tag in (_OFFSETS, _COUNTS):
            tags[tag] = np.frombuffer(data, dtype=order + _KINDS[kind]).astype(np.uint64)
        else:
            tags[tag] = struct.unpack(f"{order}{number}{_KINDS[kind]}", data)
    (following,) = file.numbers(order + ("Q" if big else "I"), place + len(listed))
    return tags, following


def _level(tags: dict[int, Any], grid: tuple[float, float, float, float]) -> Level:
    bands = tags.get(_SAMPLES, (1,))[0]
    if bands != len(BANDS) or set(tags[_BITS]) != {8} or set(tags.get(_FORMAT, (1,))) != {2}:
        raise NotATileError(
            f"its pixels are not {len(BANDS)} signed bytes but {bands} x {tags[_BITS]}"
        )
    if _OFFSETS not in tags:
        raise NotATileError("its pixels are not in blocks: it is no Cloud-Optimised GeoTIFF")
    compression, predictor = tags.get(_COMPRESSION, (1,))[0], tags.get(_PREDICTOR, (1,))[0]
    if compression not in (_NONE, _DEFLATE, _OLD_DEFLATE, _ZSTD) or predictor not in (1, 2):
        raise NotATileError(f"it is packed in a way not known here: {compression}, {predictor}")
    rows, columns = tags[_ROWS][0], tags[_COLUMNS][0]
    block_rows, block_columns = tags[_BLOCK_ROWS][0], tags[_BLOCK_COLUMNS][0]
    apart = tags.get(_PLANAR, (1,))[0] == 2
    shape = (bands if apart else 1, -(-rows // block_rows), -(-columns // block_columns))
    if tags[_OFFSETS].size != np.prod(shape) or tags[_COUNTS].size != np.prod(shape):
        raise NotATileError("its header does not name all blocks")
    return Level(
        rows, columns, block_rows, block_columns, *grid, compression, predictor,
        tags[_OFFSETS].reshape(shape), tags[_COUNTS].reshape(shape),
    )  # fmt: skip


def _grid(tags: dict[int, Any]) -> tuple[float, float, float, float]:
    """x0, dx, y0, dy of the full resolution. GDAL writes a matrix where rows run northwards."""
    if _TRANSFORM in tags:
        m = tags[_TRANSFORM]
        if m[1] or m[4]:
            raise NotATileError("it is rotated")
        return m[3], m[0], m[7], m[5]
    if _SCALE in tags and _TIEPOINT in tags:
        column, row, _, x, y, *_ = tags[_TIEPOINT]
        dx, dy = tags[_SCALE][:2]
        return x - column * dx, dx, y + row * dy, -dy
    raise NotATileError("it does not say where it lies")


def _epsg(tags: dict[int, Any]) -> int:
    keys = tags.get(_GEO_KEYS, ())
    for key, where, _, value in zip(*(keys[i::4] for i in range(4)), strict=True):
        if key == _PROJECTED_CRS and where == 0:
            return int(value)
    raise NotATileError("it does not name its CRS")


def _metadata(tags: dict[int, Any]) -> dict[str, str]:
    items = re.findall(r'<Item name="([^"]+)"[^>]*>([^<]*)</Item>', tags.get(_METADATA, ""))
    return dict(items)


def _unpack(packed: memoryview, compression: int, size: int) -> Any:
    try:
        if compression == _ZSTD:
            import pyarrow

            return pyarrow.Codec("zstd").decompress(packed, decompressed_size=size)
        return packed if compression == _NONE else zlib.decompress(packed)
    except (OSError, zlib.error) as error:
        raise NotATileError(f"a block cannot be unpacked: {error}") from None
