"""Where embeddings come from: one way to open a source, whatever the route.

Here: what every source offers, and the choice by the setting AEF_SOURCE.
Not here: the routes themselves (table.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from aef_dagster.embeddings.table import TableSource
from aef_dagster.embeddings.yearly import EmbeddingYear
from aef_dagster.errors import UserError

# Told while a year is fetched: basins done, basins in all, bytes read so far.
Report = Callable[[int, int, int], None]


class EmbeddingSource(Protocol):
    """A place that basin embeddings are read from."""

    route: str

    def years(self) -> tuple[int, ...]:
        """Years on offer, ascending; empty if there is a finished mean only."""

    def fetch(self, year: int, gauge_ids: Sequence[str], report: Report = ...) -> EmbeddingYear:
        """Embeddings of one year."""

    def fetch_mean(self, gauge_ids: Sequence[str]) -> EmbeddingYear:
        """Embeddings of a finished multi-year mean."""


def open_source(
    kind: Literal["table", "cog", "earth_engine"], *, path: Path | None
) -> EmbeddingSource:
    """Open the source that the settings name.

    Parameters
    ----------
    kind
        The value of AEF_SOURCE.
    path
        The value of AEF_EMBEDDINGS_DIR: a file or a folder of tables.

    Raises
    ------
    UserError
        A route that this version does not have, or no path.
    """
    if kind != "table":
        raise UserError(
            f"AEF_SOURCE={kind}: this version reads embeddings from tables only; set "
            "AEF_SOURCE=table and AEF_EMBEDDINGS_DIR to a file or folder of tables"
        )
    if path is None:
        raise UserError(
            "no embeddings: set AEF_EMBEDDINGS_DIR to a CSV or Parquet file, or a folder of them, "
            "with hru_id or gauge_id, year, A00..A63"
        )
    return TableSource(path)
