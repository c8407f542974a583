"""The warehouse: one DuckDB file of small shared tables, opened for milliseconds.

DuckDB lets one process write, and none read meanwhile. So: open late, one transaction, close in
`finally`, and wait out another holder with jitter before naming it. No caller may train, fetch or
draw while it holds a connection.

Here: opening, schema, slices in and frames out. Not here: what the tables mean (storage/schema.py).
"""

import errno
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aef_dagster.errors import DISK_FULL, DataFileError, UserError, is_disk_full
from aef_dagster.storage.schema import TABLES, VIEWS

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
_NO_FILES = re.compile(r'No files found that match the pattern "(.*?)"')
_LOCK_MESSAGE = re.compile(r"[Cc]onflicting lock is held in (.*?\(PID \d+\))")
_NOT_OPENED = re.compile(r'Cannot open (?:file|database) "[^"]*".*?: ((?:Permission|Read-only).*)')
# What disks without hard links say: exFAT, SMB, some of FUSE.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
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
            if not self.path.exists():
                self._make()
            connection = self._open(read_only=False)
            try:
                connection.execute("BEGIN")
                self._ensure_schema(connection)
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                with suppress(duckdb.Error):  # the first error is the one to see
                    connection.execute("ROLLBACK")
                if told := self._told(error):
                    raise told from None
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
            except duckdb.Error as error:
                if told := self._told(error):
                    raise told from None
                raise
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

    def _told(self, error: BaseException) -> UserError | None:
        """What a person can do about an error of DuckDB; None where it is a bug."""
        import duckdb

        if not isinstance(error, duckdb.Error):
            return None
        if is_disk_full(error):
            return UserError(f"{self.path} could not be written: {DISK_FULL}")
        if unopened := _NOT_OPENED.search(str(error)):
            return UserError(
                f"{self.path} cannot be opened: {unopened[1]}. Give this user the right to write "
                "it and its folder, and run this again"
            )
        if gone := _NO_FILES.search(str(error)):
            return UserError(
                f"{self.path} looks for {gone[1]}, where nothing is: a home that was moved or "
                "copied, or files that were deleted. Run `aef prepare`"
            )
        # A view reads Parquet files, of which one may be damaged.
        parquet = re.search(re.escape(str(self.path.parent)) + r"/[^\n'\"*]+\.parquet", str(error))
        if parquet:
            return _damaged_parquet(Path(parquet[0]), error)
        # A block whose checksum is wrong comes as the base class of all errors.
        of_file = (duckdb.IOException, duckdb.FatalException, duckdb.InternalException,
                   duckdb.SerializationException)  # fmt: skip
        if isinstance(error, of_file) or "Corrupt database file" in str(error):
            return self._damaged(error)
        return None

    def _damaged(self, error: Exception) -> UserError:
        first = str(error).partition("\n")[0].rstrip(".")
        return UserError(
            f"{self.path} cannot be read as a DuckDB file: {first}. Move it away, with its .wal, "
            "and run `aef prepare`, then materialize basin_scores: all its tables can be rebuilt"
        )

    def _make(self) -> None:
        """A new file, whole or not at all: one that a full disk cut short opens never again."""
        import duckdb

        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.unlink(missing_ok=True)
            duckdb.connect(str(unfinished)).close()
            # Not a rename: the file of another process that was faster must stay.
            try:
                os.link(unfinished, self.path)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                # The moment between the two steps is all that such a disk allows.
                if not self.path.exists():
                    unfinished.rename(self.path)
        except (duckdb.Error, OSError) as error:
            if is_disk_full(error):
                raise UserError(f"{self.path} could not be written: {DISK_FULL}") from None
            raise (self._told(error) or error) from None
        finally:
            unfinished.unlink(missing_ok=True)

    def _open(self, *, read_only: bool) -> "duckdb.DuckDBPyConnection":
        import duckdb

        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    raise (self._told(error) or self._damaged(error)) from None
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


def _damaged_parquet(path: Path, error: Exception) -> DataFileError:
    cause = f"not a readable Parquet file ({str(error).partition(chr(10))[0]}): "
    if path.name == "simulation.parquet":
        return DataFileError(
            path, cause + "`aef train` of its basin sets the checkpoint aside and trains it again"
        )
    return DataFileError(
        path, cause + "delete it and run `aef prepare`, which writes it anew", gauge_id=path.stem
    )


def _known(table: str) -> str:
    if table not in TABLES and table not in VIEWS:
        raise ValueError(f"no such table: {table}")
    return table
