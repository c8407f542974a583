"""Where embeddings come from: one way to open a source, whatever the route.

Here: what every source offers, and the choice by the setting AEF_SOURCE.
Not here: the routes themselves (table.py, cog/, earth_engine).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from aef_dagster.embeddings.table import TableSource
from aef_dagster.embeddings.yearly import EmbeddingYear, Report
from aef_dagster.errors import UserError


class EmbeddingSource(Protocol):
    """A place that basin embeddings are read from."""

    route: str

    def years(self) -> tuple[int, ...]:
        """Years on offer, ascending; empty if there is a finished mean only."""

    def version(self, year: int) -> str:
        """Edition of a year on offer: a short text that differs when the year's vectors may."""

    def fetch(self, year: int, gauge_ids: Sequence[str], report: Report = ...) -> EmbeddingYear:
        """Embeddings of one year.

        Parameters
        ----------
        year
            One of `years()`.
        gauge_ids
            Basins wanted, padded to 8 digits.
        report
            Told on the way, by routes that take long.

        Raises
        ------
        UserError
            The year is not to be had here; each route says what else can be amiss.
        """

    def fetch_mean(self, gauge_ids: Sequence[str]) -> EmbeddingYear:
        """Embeddings of a finished multi-year mean, for basins as in `fetch`.

        Raises
        ------
        UserError
            The route has embeddings by year only.
        """


@dataclass(frozen=True)
class SourceSettings:
    """What the settings say of a source.

    Parameters
    ----------
    kind
        AEF_SOURCE.
    tables
        AEF_EMBEDDINGS_DIR: a file or a folder of tables.
    polygons
        Basin outlines as GeoParquet, written by the asset `basins`.
    scratch
        Folder for what is half done.
    cog_addresses, cog_connections
        AEF_COG_ADDRESSES, AEF_COG_CONNECTIONS.
    ee_project, ee_key_file, ee_scale, ee_url
        AEF_EE_PROJECT, AEF_EE_KEY_FILE, AEF_EE_SCALE, AEF_EE_URL.
    """

    kind: Literal["table", "cog", "earth_engine"]
    tables: Path | None
    polygons: Path
    scratch: Path
    cog_addresses: tuple[str, ...]
    cog_connections: int
    ee_project: str | None
    ee_key_file: Path | None
    ee_scale: float
    ee_url: str | None


def open_source(settings: SourceSettings) -> EmbeddingSource:
    """Open the source that the settings name.

    Raises
    ------
    UserError
        No tables are named for the route `table`.
    """
    if settings.kind == "cog":
        from aef_dagster.embeddings.cog import CogSource

        return CogSource(
            settings.polygons,
            settings.scratch / "cog",
            addresses=settings.cog_addresses,
            connections=settings.cog_connections,
        )
    if settings.kind == "earth_engine":
        from aef_dagster.embeddings.earth_engine import EarthEngineSource

        return EarthEngineSource(
            settings.polygons,
            settings.scratch / "earth_engine",
            project=settings.ee_project,
            key_file=settings.ee_key_file,
            scale_m=settings.ee_scale,
            url=settings.ee_url,
        )
    if settings.tables is None:
        raise UserError(
            "no embeddings: set AEF_EMBEDDINGS_DIR to a CSV or Parquet file, or a folder of them, "
            "with hru_id or gauge_id, year, A00..A63; or AEF_SOURCE to cog or earth_engine"
        )
    return TableSource(settings.tables)
