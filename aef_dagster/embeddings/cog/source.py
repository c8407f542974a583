"""The route `cog`: basin means of a year from public tiles.

Here: `CogSource`, which every other route has a like of (../sources.py): which address, which
basins are still to do, the table of the year.
Not here: how one tile is read (reading.py) and what it is made of (the other modules).
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from aef_dagster.embeddings.cog.index import TileIndex, open_index
from aef_dagster.embeddings.cog.levels import MIN_PIXELS, overview_level, resolution_m
from aef_dagster.embeddings.cog.means import add_up
from aef_dagster.embeddings.cog.outlines import Split, read_outlines, split, zones_of
from aef_dagster.embeddings.cog.pieces import Piece, Pieces, piece_key
from aef_dagster.embeddings.cog.reading import Order, TileSums, read_tile
from aef_dagster.embeddings.cog.remote import RefusedError, Remote
from aef_dagster.embeddings.yearly import EmbeddingYear, Report, yearly_frame
from aef_dagster.errors import UserError

UNKNOWN = "unknown"

# What the index says is asked again after this long.
INDEX_GOOD_FOR_S = 300.0
# Times that basins are read again because a tile was replaced since they were.
ROUNDS = 3


@dataclass(frozen=True)
class _Basin:
    """One basin to be read: its outline cut up, its overview level, the name of its piece."""

    gauge_id: str
    split: Split
    level: int
    key: str


class CogSource:
    """AlphaEarth basin means from public Cloud-Optimised GeoTIFFs.

    Parameters
    ----------
    polygons
        GeoParquet with gauge_id and geometry: the outlines of the basins.
    scratch
        Folder for the index and for what is finished of a year.
    addresses
        Base addresses, the best first: below each lie `aef_index.parquet` (or `.csv`) and
        `<year>/<zone>/<name>.tiff`. The next one is tried where one refuses, does not answer or
        lacks the year; a year comes from one address as a whole.
    connections
        Requests under way at once.
    min_pixels
        Pixels that a basin has at least at its overview level (levels.py); a number beyond any
        basin's pixels makes everything full resolution, 340 GB a year for 671 basins.
    """

    route = "cog"

    def __init__(
        self,
        polygons: Path,
        scratch: Path,
        *,
        addresses: Sequence[str],
        connections: int = 16,
        min_pixels: int = MIN_PIXELS,
    ):
        if not addresses:
            raise UserError("no address of tiles: set AEF_COG_ADDRESSES")
        self.polygons, self.scratch = Path(polygons), Path(scratch)
        self.addresses = tuple(address.rstrip("/") for address in addresses)
        self.connections, self.min_pixels = connections, min_pixels
        self._indexes: dict[str, tuple[float, TileIndex]] = {}

    def years(self) -> tuple[int, ...]:
        """Years of the first address that answers, ascending.

        Raises
        ------
        UserError
            No address answers.
        """
        return self._first(lambda index, remote: index.years(), "their years")

    def version(self, year: int) -> str:
        """Edition of a year: a hash of the tiles that the index names for it.

        Raises
        ------
        UserError
            No address answers and has this year.
        """

        def told(index: TileIndex, remote: Remote) -> str:
            _require(index, year)
            return index.version(year)

        return self._first(told, str(year))

    def fetch(
        self,
        year: int,
        gauge_ids: Sequence[str],
        report: Report = lambda done, total, bytes_read: None,
    ) -> EmbeddingYear:
        """As `EmbeddingSource.fetch`, with a report after each basin.

        Basins are kept in `scratch` as they are finished: a fetch that was killed or failed reads
        the rest only.

        Raises
        ------
        UserError
            No address gives this year, a tile is missing, damaged or was replaced again and again,
            a server does not answer; the message names address and basin.
        """
        outlines = read_outlines(self.polygons, gauge_ids)
        found: EmbeddingYear = self._first(
            lambda index, remote: self._fetch(index, remote, year, outlines, report), str(year)
        )
        without_outline = tuple(g for g in gauge_ids if g not in outlines)
        return replace(found, missing=(*found.missing, *without_outline))

    def fetch_mean(self, gauge_ids: Sequence[str]) -> EmbeddingYear:
        """Not offered: tiles are of years.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError("the route `cog` has years only, no finished mean: fetch years and pool")

    def _first(self, ask: Callable[[TileIndex, Remote], Any], what: str) -> Any:
        """What the first address says that does not refuse."""
        refusals = []
        for address in self.addresses:
            with Remote(self.connections) as remote:
                try:
                    return ask(self._index(remote, address), remote)
                except RefusedError as refusal:
                    refusals.append(str(refusal))
        raise UserError(
            f"no address gives tiles ({what}): {'; '.join(refusals)}; check the connection, and "
            "AEF_COG_ADDRESSES"
        )

    def _index(self, remote: Remote, address: str) -> TileIndex:
        """The index of an address, asked for anew after some minutes only."""
        opened, index = self._indexes.get(address, (-math.inf, None))
        if index is None or time.monotonic() - opened > INDEX_GOOD_FOR_S:
            index = open_index(remote, address, self.scratch / "index")
            self._indexes[address] = time.monotonic(), index
        return index

    def _fetch(
        self,
        index: TileIndex,
        remote: Remote,
        year: int,
        outlines: dict[str, Any],
        report: Report,
    ) -> EmbeddingYear:
        _require(index, year)
        started = time.monotonic()
        tiles, version = index.tiles(year), index.version(year)
        pieces = Pieces(self.scratch / str(year))
        zones = zones_of(tiles)
        basins = [
            self._plan(gauge_id, outline, split(outline, zones), index.address, version)
            for gauge_id, outline in outlines.items()
        ]
        versions = dict(zip(tiles["name"], tiles["dataset_version"], strict=True))
        run = _Run(index.address, remote, pieces, self.connections, report, versions, basins)
        found = run.finish()
        read = [(b, found[b.gauge_id]) for b in basins if found[b.gauge_id].area_m2 > 0]
        missing = tuple(b.gauge_id for b in basins if found[b.gauge_id].area_m2 == 0)
        frame = yearly_frame(
            [b.gauge_id for b, _ in read],
            year,
            np.array([np.array(p.vector) / p.area_m2 for _, p in read]).reshape(-1, 64),
            route=self.route,
            dataset_version=[p.dataset_version for _, p in read],
            reducer="area-weighted mean",
            resolution_m=[resolution_m(b.level) for b, _ in read],
            valid_fraction=[min(1.0, p.area_m2 / p.outline_m2) for _, p in read],
            pixel_count=[p.pixels for _, p in read],
            bytes_read=[p.bytes_read for _, p in read],
            source_file=[";".join(sorted(p.tiles)) for _, p in read],
            source_sha256=index.sha256,
        )
        provenance: dict[str, object] = {
            "route": self.route,
            "address": index.address,
            "index": index.file.name,
            "index_sha256": index.sha256,
            "edition": version,
            "tiles": len({name for p in found.values() for name in p.tiles}),
            "bytes_read": remote.bytes_read,
            "requests": remote.requests,
            "retries": remote.retries,
            "seconds": round(time.monotonic() - started, 1),
        }
        return EmbeddingYear(frame, provenance, missing)

    def _plan(self, gauge_id: str, outline: Any, cut: Split, address: str, version: str) -> _Basin:
        import shapely

        level = overview_level(cut.area_m2 / 1e6, self.min_pixels)
        key = piece_key(gauge_id, shapely.to_wkb(outline), level, address, version)
        return _Basin(gauge_id, cut, level, key)


class _Run:
    """One fetch: reads tiles until each basin has its piece."""

    def __init__(
        self,
        address: str,
        remote: Remote,
        pieces: Pieces,
        connections: int,
        report: Report,
        versions: dict[str, str],
        basins: list[_Basin],
    ):
        self._address, self._remote, self._pieces = address, remote, pieces
        self._connections, self._report, self._versions = connections, report, versions
        self._basins = {basin.gauge_id: basin for basin in basins}
        self._lock = Lock()
        self._done: dict[str, Piece] = {}
        self._read: dict[str, dict[str, TileSums]] = {}

    def finish(self) -> dict[str, Piece]:
        """The pieces of all basins, those of earlier runs among them."""
        for basin in self._basins.values():
            piece = self._pieces.load(basin.key)
            if piece is not None:
                self._done[basin.gauge_id] = piece
        if self._done:
            self._tell()
        for _ in range(ROUNDS):
            todo = [b for b in self._basins.values() if b.gauge_id not in self._done]
            self._read_all(todo)
            stale = self._stale(todo)
            if not stale:
                return self._done
            # Read before a tile was replaced that others were read from after: all from the new.
            for gauge_id in stale:
                self._pieces.drop(self._basins[gauge_id].key)
                del self._done[gauge_id]
        raise UserError(
            f"{self._address}: tiles are being replaced while they are read ({', '.join(stale)}); "
            "run again when that is over"
        )

    def _stale(self, fresh: list[_Basin]) -> list[str]:
        """Basins whose piece saw another state of a tile than those just read."""
        now = {
            tile: identity
            for basin in fresh
            for tile, identity in self._done[basin.gauge_id].tiles.items()
        }
        return [
            gauge_id
            for gauge_id, piece in self._done.items()
            if any(now.get(tile, identity) != identity for tile, identity in piece.tiles.items())
        ]

    def _read_all(self, todo: list[_Basin]) -> None:
        orders: dict[str, list[Order]] = {}
        self._read = {}
        for basin in todo:
            self._read[basin.gauge_id] = {}
            if not basin.split.parts:
                self._settle(basin)
            for part in basin.split.parts:
                order = Order(basin.gauge_id, part.shape, basin.level)
                orders.setdefault(part.tile, []).append(order)
        with ThreadPoolExecutor(self._connections, thread_name_prefix="tiles") as threads:
            # Tiles by name, which is by zone and image: neighbours are finished together.
            waiting = [
                threads.submit(self._read_one, tile, orders[tile]) for tile in sorted(orders)
            ]
            try:
                ended, _ = wait(waiting, return_when=FIRST_EXCEPTION)
                failed = [one.exception() for one in ended if one.exception() is not None]
            finally:
                for one in waiting:
                    one.cancel()
                if any(not one.done() for one in waiting):
                    self._remote.stop()
        if failed:
            raise failed[0]  # type: ignore[misc]

    def _read_one(self, tile: str, orders: list[Order]) -> None:
        sums = read_tile(self._remote, f"{self._address}/{tile}", orders)
        for order in orders:
            with self._lock:
                read = self._read[order.gauge_id]
                read[tile] = sums[order.gauge_id]
                basin = self._basins[order.gauge_id]
                whole = len(read) == len(basin.split.parts)
            if whole:
                self._settle(basin)

    def _settle(self, basin: _Basin) -> None:
        """All tiles of a basin are read: keep it, tell it."""
        read = self._read[basin.gauge_id]
        total = add_up(one for tile in sorted(read) for one in read[tile].sums)
        told = {self._versions[tile] or read[tile].dataset_version or UNKNOWN for tile in read}
        piece = Piece(
            basin.gauge_id,
            total.vector.tolist(),
            total.area_m2,
            basin.split.area_m2,
            total.pixels,
            sum(one.bytes_read for one in read.values()),
            {tile: one.identity for tile, one in read.items()},
            ",".join(sorted(told)) or UNKNOWN,
        )
        self._pieces.save(basin.key, piece)
        with self._lock:
            self._done[basin.gauge_id] = piece
            self._tell()

    def _tell(self) -> None:
        self._report(len(self._done), len(self._basins), self._remote.bytes_read)


def _require(index: TileIndex, year: int) -> None:
    years = index.years()
    if year not in years:
        have = ", ".join(map(str, years)) or "no years"
        raise RefusedError(f"{index.address} has no tiles of {year}; it has {have}")
