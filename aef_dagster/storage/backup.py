"""A home copied while it is in use, and put back, where it was or elsewhere.

Here: `back_up` and `restore`, and the order of copying that makes them safe: first what waits for
MLflow, then the databases, then the models that they name, so that nothing is missing that a
database knows of. Not here: an MLflow server, PostgreSQL and object stores of your own, which are
backed up by their own means; what is rebuilt after a restore (`aef prepare`).
"""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aef_dagster.errors import UserError, writing
from aef_dagster.storage.home import Home
from aef_dagster.storage.warehouse import Warehouse

# Written last: a folder without it is not whole.
RECORD = "backup.json"
FORMAT = 1
UNFINISHED = ".restoring"
# Of no use later, or in the middle of being written.
LEFT_OUT = ("scratch", "checkpoints/.partial", "checkpoints/.corrupt", "warehouse.duckdb.tmp")
# What SQLite keeps beside a database while it is open. Beside the copy of another moment it would
# be replayed, and ruin it.
COMPANIONS = (".db-wal", ".db-shm", ".db-journal")
# What `aef prepare` makes again from the basins' files.
REMADE = ("lake", "sample")
# Where MLflow's database remembers places of files.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Copied:
    """What was copied: files, and their bytes."""

    files: int
    n_bytes: int


def back_up(home: Home, folder: Path, *, without_data: bool = False, tell: Told) -> Copied:
    """Copy a home, which may be in use, into a folder.

    SQLite files are copied by SQLite itself, the DuckDB file while it is held open for reading, so
    that nobody writes. Times of files are kept: of two models of a basin, the one asked for last is
    in force.

    Parameters
    ----------
    home
        The home.
    folder
        Absent or empty, outside the home; best on another disk.
    without_data
        Leave out what `aef prepare` makes again (Parquet of the basins, the sample).
    tell
        Called with bytes copied so far and in all.

    Raises
    ------
    UserError
        The folder holds something, lies in the home, or has too little room.
    """
    folder = Path(folder).absolute()
    if folder.resolve().is_relative_to(home.root.resolve()):
        raise UserError(f"{folder} lies in the home itself; choose a folder outside {home.root}")
    _require_empty(folder, "a backup", "choose another, or remove what a stopped backup left")
    left_out = {home.root / name for name in (*LEFT_OUT, *(REMADE if without_data else ()))}
    total = sum(_size(path) for path in _files(home.root, left_out))
    _require_room(folder, total)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    copy = _Copy(home.root, folder, total, tell)
    for path in [home.root / "world.json", *_files(home.outbox, set())]:
        copy.file(path)
    databases = [home.mlflow_db, *sorted(home.dagster.rglob("*.db"))]
    for path in databases:
        copy.database(path)
    copy.warehouse(home.warehouse)
    done = {home.outbox, home.root / "world.json", *_parts(home.warehouse), *databases}
    for path in _files(home.root, left_out | done):
        if path.name.endswith(COMPANIONS):
            continue
        if path.suffix == ".db" and path.is_relative_to(home.dagster):
            copy.database(path)  # of a run that began meanwhile
        else:
            copy.file(path)
    record = {
        "format": FORMAT,
        "home": str(home.root),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "left_out": list(REMADE) if without_data else [],
    }
    with writing(folder / RECORD):
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return Copied(copy.files, copy.n_bytes)


def restore(folder: Path, root: Path, *, tell: Told) -> Copied:
    """Put a backup back, whole; what was stopped is no home and leaves the backup as it is.

    Parameters
    ----------
    folder
        What `back_up` made.
    root
        The home to be: absent or empty. Where it is not where the home was, MLflow's database and
        the outbox are told of the new place.
    tell
        Called with bytes copied so far and in all.

    Raises
    ------
    UserError
        The folder is no whole backup, or the home holds something.
    """
    folder, root = Path(folder).absolute(), Path(root).absolute()
    record = _record(folder)
    # In a folder that is there, which may be a link or a mounted disk, else beside the home to be.
    inside = root.is_dir()
    unfinished = root / UNFINISHED if inside else root.with_name(f"{root.name}{UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    _require_empty(root, "a home", "move it away, or set AEF_HOME to another folder")
    paths = [path for path in _files(folder, set()) if path != folder / RECORD]
    total = sum(_size(path) for path in paths)
    _require_room(unfinished, total)
    copy = _Copy(folder, unfinished, total, tell)
    try:
        with writing(unfinished):
            unfinished.mkdir(parents=True)
        for path in paths:
            copy.file(path)
        if (old := Path(record["home"])) != root:
            with writing(unfinished):
                _tell_mlflow(unfinished / "mlflow.db", old, root)
                _tell_outbox(unfinished / "outbox", old, root)
        if inside:
            # What makes it a home comes last: killed in between, it is none.
            parts = sorted(unfinished.iterdir(), key=lambda path: path.name == "world.json")
            for part in parts:
                part.replace(root / part.name)
        else:
            unfinished.replace(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Copied(copy.files, copy.n_bytes)


class _Copy:
    """Copying from one tree into another, and telling how far it is."""

    def __init__(self, source: Path, target: Path, total: int, tell: Told):
        self.files = self.n_bytes = 0
        self._source, self._target, self._total, self._tell = source, target, total, tell

    def file(self, path: Path) -> None:
        """Copy a file or a link with its times; one that has just gone is none."""
        target = self._place(path)
        try:
            with writing(target):
                shutil.copy2(path, target, follow_symlinks=False)
        except FileNotFoundError:
            if path.exists():
                raise
            return
        self._count(path)

    def database(self, path: Path) -> None:
        """Copy an SQLite file that others may be writing."""
        if not path.exists():
            return
        target = self._place(path)
        try:
            with (
                writing(target),
                closing(sqlite3.connect(path)) as source,
                closing(sqlite3.connect(target)) as copy,
            ):
                source.backup(copy)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} cannot be copied: {error}; run `aef doctor`") from None
        self._count(path)

    def warehouse(self, path: Path) -> None:
        """Copy the DuckDB file while nobody writes; waits for whoever does."""
        if not path.exists():
            return
        with Warehouse(path).read():
            for part in _parts(path):
                if not part.exists():
                    continue
                # Not by Python: a process that closes the file gives up its lock on it.
                command = ["cp", "-p", "--", str(part), str(self._place(part))]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    with writing(self._place(part)):
                        raise UserError(f"{part} cannot be copied: {done.stderr.strip()}")
                self._count(part)

    def _place(self, path: Path) -> Path:
        target = self._target / path.relative_to(self._source)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _count(self, path: Path) -> None:
        self.files += 1
        self.n_bytes += _size(path)
        self._tell(self.n_bytes, max(self._total, self.n_bytes))


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {record['format']}, this version reads {FORMAT}: restore it "
                "with the version that made it, then upgrade"
            )
        Path(record["home"])
        return record
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no whole backup: it has no {RECORD}, which is written last. Name the "
            "folder that was given to `aef backup`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; take another backup") from None


def _files(root: Path, without: set[Path]) -> Iterator[Path]:
    """All files and links below a folder, in order; folders that vanish meanwhile are none."""
    for parent, folders, names in os.walk(root):
        here = Path(parent)
        kept = [name for name in sorted(folders) if here / name not in without]
        links = [name for name in kept if (here / name).is_symlink()]
        folders[:] = [
            name for name in kept if name not in links and not name.startswith(".pruned-")
        ]
        yield from (here / name for name in sorted([*names, *links]) if here / name not in without)


def _parts(warehouse: Path) -> list[Path]:
    """The DuckDB file and its log."""
    return [warehouse, warehouse.with_name(f"{warehouse.name}.wal")]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _require_empty(folder: Path, what: str, mending: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something already, no place for {what}: {mending}")


def _require_room(folder: Path, n_bytes: int) -> None:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if n_bytes > free:
        raise UserError(
            f"{folder} needs {n_bytes / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there; "
            "free some space or choose another disk"
        )


def _tell_mlflow(database: Path, old: Path, new: Path) -> None:
    """Replace the old place by the new one wherever MLflow's database names it."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as store, store:
        for table, column in PLACES:
            # Names of this module's own table above; places are bound.
            store.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (old.as_uri() + "/", new.as_uri() + "/"),
            )


def _tell_outbox(outbox: Path, old: Path, new: Path) -> None:
    for path in sorted(outbox.rglob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # no record: who sends the outbox sets it aside, and says so
        times = path.stat()
        path.write_text(json.dumps(_moved(record, f"{old}/", f"{new}/")), encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _moved(value: Any, old: str, new: str) -> Any:
    """A JSON value with the beginning of paths and of their addresses replaced in its texts."""
    if isinstance(value, str):
        for scheme in ("", "sqlite:///", "file://"):
            if value.startswith(scheme + old):
                return scheme + new + value.removeprefix(scheme + old)
        return value
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    return value
