"""The warehouse: one DuckDB file of small shared tables, opened for milliseconds.

DuckDB lets one process write, and none read meanwhile. So: open late, one transaction, close in
`finally`, and wait out another holder with jitter before naming it. No caller may train, fetch or
draw while it holds a connection.

Here: opening, schema, slices in and frames out. Not here: what the tables mean (storage/schema.py).
"""

import logging
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aef_dagster.errors import UserError
from aef_dagster.storage.schema import TABLES, VIEWS

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
_LOCK_MESSAGE = re.compile(r"[Cc]onflicting lock is held in (.*?\(PID \d+\))")
# One process may not mix read-only and read-write connections to a file: take turns.
_one_at_a_time = threading.RLock()


class Warehouse:
    """Tables of one home.

    Parameters
    ----------
    path
        The DuckDB file; made, with all tables, at the first write.
    patience_s
        How long to wait for another process to let go of the file.
    """

    def __init__(self, path: Path, patience_s: float = PATIENCE_S):
        self.path, self.patience_s = Path(path), patience_s

    @contextmanager
    def write(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        import duckdb

        with _one_at_a_time:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._open(read_only=False)
            try:
                connection.execute("BEGIN")
                self._ensure_schema(connection)
                yield connection
                connection.execute("COMMIT")
            except (duckdb.IOException, duckdb.FatalException) as error:
                raise self._damaged(error) from error
            except BaseException:
                with suppress(duckdb.Error):  # the first error is the one to see
                    connection.execute("ROLLBACK")
                raise
            finally:
                connection.close()

    @contextmanager
    def read(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """A read-only connection.

        Raises
        ------
        UserError
            There is no warehouse yet, or another process holds it longer than `patience_s`.
        """
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist yet; run `aef prepare` first")
        import duckdb

        with _one_at_a_time:
            connection = self._open(read_only=True)
            try:
                yield connection
            except (duckdb.IOException, duckdb.FatalException) as error:
                raise self._damaged(error) from error
            finally:
                connection.close()

    def frame(self, query: str, parameters: list | dict | None = None) -> "pd.DataFrame":
        """Answer of a query as a frame; the connection is closed before it returns."""
        with self.read() as connection:
            return connection.execute(query, parameters).df()

    def count(self, table: str) -> int:
        """Rows of a table; 0 where it, or the whole warehouse, does not exist yet.

        Reading makes no table: a home of an earlier version gains new ones at its next write.
        """
        if not self.path.exists():
            return 0
        import duckdb

        try:
            return int(self.frame(f"SELECT count(*) AS n FROM {_known(table)}")["n"][0])
        except duckdb.CatalogException:
            return 0

    def replace(self, table: str, frame: "pd.DataFrame", **slice_values) -> None:
        """Replace one slice of a table by the rows of a frame, in one transaction.

        Parameters
        ----------
        table
            A table of the schema.
        frame
            New rows, matched by column name; columns left out become NULL.
        **slice_values
            Columns and values that pick the rows to replace; none replaces the whole table.
        """
        with self.write() as connection:
            replace_slice(connection, table, frame, **slice_values)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path} cannot be read as a DuckDB file: {error}. Move it away and run "
            "`aef prepare`, then materialize basin_scores: all its tables can be rebuilt"
        )

    def _open(self, *, read_only: bool) -> "duckdb.DuckDBPyConnection":
        import duckdb

        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    raise self._damaged(error) from None
                if time.monotonic() > deadline:
                    holder = _LOCK_MESSAGE.search(str(error))
                    raise UserError(
                        f"{self.path} is held by {holder[1] if holder else 'another program'} for "
                        f"more than {self.patience_s:.0f} s; close it there and run this again"
                    ) from None
            # Jitter keeps two waiting processes from colliding again and again.
            time.sleep(random.uniform(0.02, 0.2))

    def _ensure_schema(self, connection: "duckdb.DuckDBPyConnection") -> None:
        import duckdb

        for table, columns in TABLES.items():
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            # A home of an earlier version gains the columns that were added since.
            answer = connection.execute(f"SELECT * FROM {table} LIMIT 0").description or []
            there = {column[0] for column in answer}
            for column in columns.split("PRIMARY KEY (")[0].split(","):
                definition = column.replace("PRIMARY KEY", "").strip()
                if definition and definition.split()[0] not in there:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {definition}")
        # Views hold absolute paths, so a home that was moved heals at the next write.
        home = self.path.parent
        for view, (files, columns) in VIEWS.items():
            if any(home.glob(files)):
                pattern = str(home / files).replace("'", "''")
                filename = ", filename=true" if "filename" in columns else ""
                try:
                    connection.execute(
                        f"CREATE OR REPLACE VIEW {view} AS "
                        f"SELECT {columns} FROM read_parquet('{pattern}'{filename})"
                    )
                except duckdb.Error as error:  # a view must never cost a write
                    logger.warning("the view %s was not made: %s", view, error)


def replace_slice(
    connection: "duckdb.DuckDBPyConnection", table: str, frame: "pd.DataFrame", **slice_values
) -> None:
    """`Warehouse.replace` inside a transaction that the caller holds."""
    where = " AND ".join(f'"{column}" = ?' for column in slice_values) or "true"
    connection.execute(f"DELETE FROM {_known(table)} WHERE {where}", list(slice_values.values()))
    if len(frame):
        connection.register("_new_rows", frame)
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM _new_rows")
        connection.unregister("_new_rows")


def _known(table: str) -> str:
    if table not in TABLES and table not in VIEWS:
        raise ValueError(f"no such table: {table}")
    return table
