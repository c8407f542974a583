"""The Earth Engine route as a source of embeddings.

Here: `EarthEngineSource`: years on offer, and a year fetched batch by batch, each kept when done.
Not here: what is asked (request.py), sending (connection.py), export (export.py).
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.earth_engine import request
from aef_dagster.embeddings.earth_engine.connection import (
    WORKLOAD_TAG,
    BackOff,
    Transport,
    connected,
)
from aef_dagster.embeddings.earth_engine.outlines import (
    Outline,
    bounds,
    in_batches,
    read_outlines,
)
from aef_dagster.embeddings.yearly import EmbeddingYear, Report, yearly_frame
from aef_dagster.errors import UserError

# Seconds that an answer on the years is taken for the present state.
KNOWN_FOR_S = 300.0
COLUMNS = ("gauge_id", *BANDS, "valid_fraction", "pixel_count")


class EarthEngineSource:
    """AlphaEarth's annual collection, averaged over basins by Earth Engine.

    Parameters
    ----------
    polygons
        GeoParquet of basin outlines, with gauge_id.
    scratch
        Folder for finished batches. They may be removed; a year then costs its requests again.
    project
        Cloud project that is charged; a service account's own if not given.
    scale_m
        Side of the pixels that are averaged, metres. Above 10, Earth Engine reads its own coarser
        copy of the data. The study's is 1000; for 10 use `export_year`.
    url
        Another address than Earth Engine's own, `https` or on this machine.
    key_file
        JSON key of a service account; the credentials of this machine if not given.
    batch_vertices
        Vertices of the outlines in one request: 10,000 are about 0.5 MB of the 10 MB allowed.
    page_size
        Basins in one page of an answer.
    back_off
        How often a request is tried.

    Raises
    ------
    UserError
        From every method: not signed in, no project, quota, no permission, with the next step.
    """

    route = "earth_engine"

    def __init__(
        self,
        polygons: Path,
        scratch: Path,
        *,
        project: str | None,
        scale_m: float = 1000.0,
        url: str | None = None,
        key_file: Path | None = None,
        batch_vertices: int = 10_000,
        page_size: int = 100,
        back_off: BackOff = BackOff(),
    ):
        if scale_m < 10:
            raise UserError(
                f"AEF_EE_SCALE={scale_m:g}: AlphaEarth's pixels are 10 m; use 10 or more"
            )
        self.polygons, self.scratch, self.scale_m = Path(polygons), Path(scratch), float(scale_m)
        self.batch_vertices, self.page_size = batch_vertices, page_size
        self._account = (project, key_file, url, back_off)
        self._known: tuple[float, dict[int, dict[str, Any]]] = (0.0, {})

    def connected(self) -> AbstractContextManager[Transport]:
        """The client library, signed in as this source is."""
        return connected(*self._account)

    def outlines(self, gauge_ids: Sequence[str]) -> list[Outline]:
        """Outlines of basins as they are sent, without those that the file lacks."""
        return read_outlines(self.polygons, gauge_ids, self.scale_m)

    def years(self) -> tuple[int, ...]:
        """Years with images where the basins are, ascending."""
        return tuple(sorted(self._editions()))

    def version(self, year: int) -> str:
        """Edition of a year: AlphaEarth's version, and a hash of all that is known of its images.

        Raises
        ------
        UserError
            The year has no images here.
        """
        images = self._editions().get(year)
        if images is None:
            raise _no_images(year)
        told = json.dumps([images, self.scale_m, request.CRS], sort_keys=True)
        return f"{dataset_version(images)} {hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def fetch(
        self,
        year: int,
        gauge_ids: Sequence[str],
        report: Report = lambda done, total, bytes_read: None,
    ) -> EmbeddingYear:
        """As `EmbeddingSource.fetch`, with a report after each batch.

        Raises
        ------
        UserError
            The year has no images here, or the data changed while they were read.
        """
        started = time.monotonic()
        outlines = self.outlines(gauge_ids)
        batches = in_batches(outlines, self.batch_vertices)
        box = bounds(outlines)
        parts: list[pd.DataFrame] = []
        reused = 0
        with self.connected() as transport:
            images = self.described(year, box)
            for batch in batches:
                piece = self._piece(year, batch, images)
                part = _kept(piece, batch)
                if part is None:
                    part = self._asked(year, batch, transport)
                    _keep(part, piece)
                else:
                    reused += 1
                parts.append(part)
                report(sum(map(len, parts)), len(outlines), transport.bytes_read)
            if self.described(year, box) != images:
                raise UserError(
                    f"Earth Engine's images of {year} changed while they were read; run again for "
                    "a year that is all of one making"
                )
            bytes_read = transport.bytes_read
        frame = pd.concat(parts, ignore_index=True)
        empty = frame[list(BANDS)].isna().all(axis=1)
        there = frame[~empty]
        absent = set(gauge_ids) - set(there["gauge_id"])
        provenance: dict[str, object] = {
            "route": self.route,
            "collection": request.COLLECTION,
            "scale_m": self.scale_m,
            "crs": request.CRS,
            **images,
            "workload_tag": WORKLOAD_TAG,
            "batches": len(batches),
            "batches_reused": reused,
            "largest_area_error": max(outline.area_error for outline in outlines),
            "bytes_read": bytes_read,
            "seconds": round(time.monotonic() - started, 1),
        }
        rows = yearly_frame(
            there["gauge_id"].tolist(),
            year,
            there[list(BANDS)].to_numpy(),
            route=self.route,
            dataset_version=dataset_version(images),
            reducer="mean",
            resolution_m=self.scale_m,
            valid_fraction=there["valid_fraction"],
            pixel_count=there["pixel_count"],
            bytes_read=there["bytes_read"],
            source_file=request.COLLECTION,
        )
        missing = tuple(gauge_id for gauge_id in gauge_ids if gauge_id in absent)
        return EmbeddingYear(rows, provenance, missing)

    def fetch_mean(self, gauge_ids: Sequence[str]) -> EmbeddingYear:
        """Not of this route: it has years.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError("Earth Engine has embeddings by year, no finished mean: fetch years")

    def described(self, year: int, box: tuple[float, float, float, float]) -> dict[str, Any]:
        """Of the images of a year within a box: number and versions, within `connected`.

        Raises
        ------
        UserError
            There are none.
        """
        told = _computed(request.described([year], box))[str(year)]
        if not told["images"]:
            raise _no_images(year)
        return told

    def _editions(self) -> dict[int, dict[str, Any]]:
        """What `described` tells of each year on offer.

        Kept for some minutes: signing in takes seconds, and a schedule asks for every year.
        """
        import geopandas as gpd

        asked_at, editions = self._known
        if editions and time.monotonic() - asked_at < KNOWN_FOR_S:
            return editions
        with self.connected():
            if not self.polygons.is_file():
                raise UserError(
                    f"{self.polygons} does not exist: `aef prepare`, or the asset `basins`, writes "
                    "the outlines that Earth Engine is asked about"
                )
            west, south, east, north = gpd.read_parquet(self.polygons).total_bounds.tolist()
            box = (west, south, east, north)
            starts = _computed(request.offered(box))
            years = sorted({datetime.fromtimestamp(ms / 1000, UTC).year for ms in starts})
            told = _computed(request.described(years, box)) if years else {}
        editions = {int(year): images for year, images in told.items()}
        self._known = (time.monotonic(), editions)
        return editions

    def _asked(self, year: int, batch: Sequence[Outline], transport: Transport) -> pd.DataFrame:
        import ee

        before = transport.bytes_read
        answer = ee.data.computeFeatures(
            {
                "expression": request.basin_means(year, batch, self.scale_m),
                "pageSize": self.page_size,
                "fileFormat": "PANDAS_DATAFRAME",  # asks for page after page
            }
        )
        table = answer.reindex(columns=list(COLUMNS))
        sent = [outline.gauge_id for outline in batch]
        if sorted(table["gauge_id"].astype(str)) != sorted(sent):
            raise UserError(
                f"Earth Engine answered {len(table)} basins of {len(sent)}, or others than asked; "
                "run again, finished batches are kept"
            )
        numbers = [name for name in COLUMNS if name != "gauge_id"]
        table[numbers] = table[numbers].astype(np.float64)
        filled = {"valid_fraction": 0.0, "pixel_count": 0.0}
        # The answer's bytes are the batch's: shared out evenly.
        return table.fillna(filled).assign(bytes_read=(transport.bytes_read - before) // len(batch))

    def _piece(self, year: int, batch: Sequence[Outline], images: dict[str, Any]) -> Path:
        """File of a batch, named by all that decides its numbers."""
        told = {
            "year": year,
            "scale_m": self.scale_m,
            "crs": request.CRS,
            "collection": request.COLLECTION,
            "images": images,
            "basins": [(outline.gauge_id, outline.geometry.wkb_hex) for outline in batch],
        }
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]
        return self.scratch / f"{year}" / f"{name}.parquet"


def _computed(expression: Any) -> Any:
    """The value of an expression, as Earth Engine computes it now."""
    return expression.getInfo()


def _no_images(year: int) -> UserError:
    return UserError(
        f"Earth Engine has no images of {year} where the basins are: a year is published some "
        "months after its end"
    )


def dataset_version(images: dict[str, Any]) -> str:
    """AlphaEarth's dataset version of a year's images; all of them by name if they differ."""
    versions = sorted(images.get("DATASET_VERSION") or {})
    if not versions:
        return "unknown"
    return versions[0] if len(versions) == 1 else f"mixed: {', '.join(versions)}"


def _kept(piece: Path, batch: Sequence[Outline]) -> pd.DataFrame | None:
    """A batch that an earlier run finished; None where it did not, or the file is damaged."""
    try:
        table = pd.read_parquet(piece)
    except FileNotFoundError:
        return None
    except (ValueError, OSError):  # pyarrow's errors are subclasses of these
        piece.unlink()
        return None
    return table if len(table) == len(batch) else None


def _keep(table: pd.DataFrame, piece: Path) -> None:
    piece.parent.mkdir(parents=True, exist_ok=True)
    partial = piece.with_suffix(f".{os.getpid()}.tmp")
    table.to_parquet(partial, index=False)
    partial.replace(piece)
