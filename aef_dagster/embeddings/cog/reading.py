"""One tile read for all the basins that lie in it.

Here: `read_tile`: its header, then each block once, whatever the number of basins that touch it,
and the sums that each basin gets of it.
Not here: which basins those are (source.py), requests (remote.py), the format (tiff.py).
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.cog.coverage import covered
from aef_dagster.embeddings.cog.levels import resolution_m
from aef_dagster.embeddings.cog.means import OddPixelsError, Sum, weighted_sum
from aef_dagster.embeddings.cog.remote import ChangedError, DamagedError, NotThereError, Remote
from aef_dagster.embeddings.cog.tiff import (
    Header,
    Level,
    NotATileError,
    Ranges,
    joined,
    read_header,
)
from aef_dagster.errors import UserError

# Unpacking by more threads than there are cores only empties their caches: 16 on one core took a
# third longer.
_CORES = threading.BoundedSemaphore(
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
)

# Times that a tile is begun: a replaced or a damaged one may be whole the next time.
BEGINNINGS = 3


@dataclass(frozen=True)
class Order:
    """What a basin wants of a tile: the mean of the pixels in `shape` (in its CRS) at a level."""

    gauge_id: str
    shape: Any
    level: int


@dataclass(frozen=True)
class TileSums:
    """What a basin got of a tile.

    `sums`: one a block. `bytes_read`: its share of what was read, where others needed the same.
    `identity`: which state of the file. `dataset_version`: as the file tells it, or "".
    """

    sums: tuple[Sum, ...]
    bytes_read: int
    identity: str
    dataset_version: str


@dataclass(frozen=True)
class _Cut:
    """What one basin needs of one block: a window of it and the share of each pixel in there."""

    gauge_id: str
    first_row: int
    first_column: int
    share: Any


def read_tile(remote: Remote, url: str, orders: Sequence[Order]) -> dict[str, TileSums]:
    """Read what basins need of a tile.

    Parameters
    ----------
    remote
        Asks.
    url
        The tile.
    orders
        What is needed: at most one order a basin.

    Returns
    -------
    dict
        By gauge_id.

    Raises
    ------
    UserError
        The tile is missing, damaged, or replaced again and again; the message names it and the
        basins.
    """
    names = ", ".join(order.gauge_id for order in orders[:3])
    basins = f"basin {names}" if len(orders) <= 3 else f"basin {names} and {len(orders) - 3} more"
    for beginning in range(1, BEGINNINGS + 1):
        try:
            return _read(remote, url, orders)
        except (ChangedError, DamagedError, NotATileError, OddPixelsError) as error:
            # From the header on, and nothing kept: never a mixture of two states of a file.
            if beginning < BEGINNINGS:
                continue
            if isinstance(error, ChangedError):
                raise UserError(f"{basins}: {error}, {BEGINNINGS} times; run again later") from None
            said = str(error) if isinstance(error, DamagedError) else f"{url} is damaged: {error}"
            raise UserError(
                f"{basins}: {said}; it was read {BEGINNINGS} times, try another address in "
                "AEF_COG_ADDRESSES"
            ) from None
        except NotThereError as error:
            raise UserError(
                f"{basins}: {error}, though the index names it; try another address in "
                "AEF_COG_ADDRESSES"
            ) from None
        except UserError as error:
            raise type(error)(f"{basins}: {error}") from None
    raise AssertionError("every beginning ends")


def _read(remote: Remote, url: str, orders: Sequence[Order]) -> dict[str, TileSums]:
    identity, header_bytes = None, 0

    def part(start: int, stop: int) -> bytes:
        nonlocal identity, header_bytes
        answer = remote.get(url, (start, stop), identity=identity)
        identity = answer.identity
        header_bytes += len(answer.data)
        return answer.data

    header = read_header(part)
    assert identity is not None
    sums: dict[str, list[Sum]] = {order.gauge_id: [] for order in orders}
    cost = dict.fromkeys(sums, header_bytes / len(sums))
    for number in sorted({order.level for order in orders}):
        level = _level(header, number)
        some = [order for order in orders if order.level == number]
        for (row, column), cuts in sorted(_blocks(level, some).items()):
            ranges = level.block_ranges(row, column)
            size = sum(stop - start for start, stop in joined(ranges))
            with remote.room(size):
                block = _Block(remote, url, identity, level, ranges)
                with _CORES:
                    got = block.sums(cuts)
            for cut, one in zip(cuts, got, strict=True):
                sums[cut.gauge_id].append(one)
                cost[cut.gauge_id] += size / len(cuts)
    version = header.metadata.get("DATASET_VERSION", "")
    return {
        order.gauge_id: TileSums(
            tuple(sums[order.gauge_id]), round(cost[order.gauge_id]), identity, version
        )
        for order in orders
    }


def _level(header: Header, number: int) -> Level:
    level = header.level(resolution_m(number))
    if level is None:
        have = ", ".join(f"{one.dx:g}" for one in header.levels)
        raise NotATileError(f"it has no pixels of {resolution_m(number):g} m, but of {have} m")
    return level


def _blocks(level: Level, orders: Sequence[Order]) -> dict[tuple[int, int], list[_Cut]]:
    """Blocks of a level by row and column, with what each basin needs of them."""
    blocks: dict[tuple[int, int], list[_Cut]] = {}
    for order in orders:
        shape = level.to_pixels(order.shape)
        west, top, east, bottom = shape.bounds
        rows = _span(top, bottom, level.rows)
        columns = _span(west, east, level.columns)
        for row in range(rows[0] // level.block_rows, -(-rows[1] // level.block_rows)):
            r0 = max(rows[0], row * level.block_rows)
            r1 = min(rows[1], (row + 1) * level.block_rows)
            for column in range(
                columns[0] // level.block_columns, -(-columns[1] // level.block_columns)
            ):
                c0 = max(columns[0], column * level.block_columns)
                c1 = min(columns[1], (column + 1) * level.block_columns)
                share = covered(_moved(shape, c0, r0), r1 - r0, c1 - c0)
                if share.any():
                    at = (r0 - row * level.block_rows, c0 - column * level.block_columns)
                    blocks.setdefault((row, column), []).append(_Cut(order.gauge_id, *at, share))
    return blocks


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """First pixel and the one after the last that an interval touches, within the tile."""
    first, last = max(0, int(np.floor(low))), min(size, int(np.ceil(high)))
    return first, max(first, last)


def _moved(shape: Any, columns: int, rows: int) -> Any:
    import shapely

    return shapely.transform(shape, lambda xy: xy - (columns, rows))


class _Block:
    """One block of a tile: fetched, unpacked band by band, cut for each basin."""

    def __init__(self, remote: Remote, url: str, identity: str, level: Level, ranges: Ranges):
        self._level, self._ranges = level, ranges
        self._spans = joined(ranges)
        answers = remote.ranges(url, self._spans, identity)
        self._data = [memoryview(answer.data) for answer in answers]

    def sums(self, cuts: Sequence[_Cut]) -> list[Sum]:
        """What each basin gets of the block."""
        windows = [np.empty((len(BANDS), *cut.share.shape), dtype=np.int8) for cut in cuts]
        band = 0
        for span in self._ranges:
            pixels = self._level.unpack(self._packed(span))
            for cut, window in zip(cuts, windows, strict=True):
                height, width = cut.share.shape
                rows = slice(cut.first_row, cut.first_row + height)
                columns = slice(cut.first_column, cut.first_column + width)
                window[band : band + len(pixels)] = pixels[:, rows, columns]
            band += len(pixels)
        area = abs(self._level.dx * self._level.dy)
        return [
            weighted_sum(window, cut.share, area) for cut, window in zip(cuts, windows, strict=True)
        ]

    def _packed(self, span: tuple[int, int]) -> memoryview:
        start, stop = span
        for (first, last), data in zip(self._spans, self._data, strict=True):
            if first <= start and stop <= last and stop > start:
                return data[start - first : stop - first]
        return memoryview(b"")
