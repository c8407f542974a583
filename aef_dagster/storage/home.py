"""One home, one world: the layout of `AEF_HOME` and the record of whose data it holds.

Here: every path below the home, and `world.json`, which refuses a second dataset.
Not here: what is written into those places.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from aef_dagster.errors import DISK_FULL, UserError, is_disk_full

_REFUSED = '%*?[]{}#:\n"'


@dataclass(frozen=True)
class Home:
    """Paths below one `AEF_HOME`."""

    root: Path

    @property
    def warehouse(self) -> Path:
        """The DuckDB file of small shared tables."""
        return self.root / "warehouse.duckdb"

    @property
    def lake(self) -> Path:
        """Parquet: bulk and per-basin data."""
        return self.root / "lake"

    @property
    def forcings(self) -> Path:
        """One Parquet a basin: date and seven forcings."""
        return self.lake / "forcings"

    @property
    def streamflow(self) -> Path:
        """One Parquet a basin: date and flow in mm/day."""
        return self.lake / "streamflow"

    @property
    def polygons(self) -> Path:
        """GeoParquet of basin outlines."""
        return self.lake / "polygons.parquet"

    @property
    def scratch(self) -> Path:
        """What fetching left half done; may be deleted while nothing is fetched."""
        return self.root / "scratch"

    @property
    def sample(self) -> Path:
        """The generated sample dataset, in the published file formats."""
        return self.root / "sample"

    @property
    def checkpoints(self) -> Path:
        """One folder a trained job, named by its hash."""
        return self.root / "checkpoints"

    @property
    def study(self) -> Path:
        """What experiments found, a folder a size: pictures, tables, and the report."""
        return self.root / "study"

    def report(self, size: str) -> Path:
        """The study's page of one size."""
        return self.study / size / "index.html"

    @property
    def outbox(self) -> Path:
        """Results that MLflow has not been told yet, and the ledger of what it has."""
        return self.root / "outbox"

    @property
    def mlflow_db(self) -> Path:
        """The default tracking store."""
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Files attached to MLflow runs."""
        return self.root / "mlflow-artifacts"

    @property
    def dagster(self) -> Path:
        """`DAGSTER_HOME` of this world."""
        return self.root / "dagster"

    def claim(self, world: dict[str, str]) -> None:
        """Make the home, or check that it holds the same world.

        Parameters
        ----------
        world
            What everything below depends on: dataset, sample world, forcing product.

        Raises
        ------
        UserError
            The home holds another dataset, or cannot be written.
        """
        record = self.root / "world.json"
        strange = sorted(set(str(self.root)) & set(_REFUSED))
        if strange:
            raise UserError(
                f"the path of the home {self.root} holds {' '.join(strange)}, which DuckDB, SQLite "
                "or YAML would read as something else; choose another AEF_HOME"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError(13, "Permission denied")
            if not record.exists():
                temporary = record.with_suffix(f".{os.getpid()}.tmp")
                try:
                    temporary.write_text(json.dumps(world, indent=2) + "\n")
                    temporary.rename(record)
                finally:
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            if is_disk_full(error):
                raise UserError(f"{record} could not be written: {DISK_FULL}") from None
            raise UserError(
                f"cannot write to the home {self.root}: {error.strerror}; choose another AEF_HOME"
            ) from None
        try:
            found = json.loads(record.read_text())
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{record} is not JSON; it should hold {json.dumps(world)}. Mend or delete it"
            ) from None
        if found != world:
            raise UserError(
                f"{self.root} holds {_name(found)}, but the settings ask for {_name(world)}. "
                "One home is one world: set AEF_HOME to another folder, or change the settings back"
            )


def _name(world: dict[str, str]) -> str:
    return " / ".join(str(value) for value in world.values())
