"""The outbox: results as files that wait for MLflow, and the ledger of what it was told.

Here: the two kinds of records (one trained basin, one experiment's results), how they are written,
read back and ticked off.
Not here: sending them (tracking.py).

<outbox>/
    <key>.json                a trained basin
    study-<key>@<ns>.json     an experiment's results; a later one replaces an earlier one
    sent/                     the ledger: a file a record, with the MLflow run it became
    refused/                  files that are no records
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aef_dagster.errors import writing
from aef_dagster.storage.mlflow_store import is_absent, masked, searchable

STUDY = "study-"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow shall know of one trained basin.

    `key` names it for good (job hash, space and k); `parent_key` the study it belongs to. Quotes
    in them become primes: MLflow's search cannot escape them.
    """

    key: str
    parent_key: str
    parent_name: str
    name: str
    started: float
    ended: float
    tags: dict[str, str] = field(default_factory=dict)
    parent_tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[str, int, float]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    def __post_init__(self):
        for name in ("key", "parent_key"):
            object.__setattr__(self, name, searchable(getattr(self, name)))

    @property
    def ledger_name(self) -> str:
        """Name of its entry in the ledger."""
        return self.key


@dataclass(frozen=True)
class StudyRecord:
    """What MLflow shall know of one experiment, on the parent run of its trainings.

    Parameters
    ----------
    key
        The experiment, as its trainings name it in `TrackedRun.parent_key`.
    name
        Name of the run.
    tags, metrics
        All of them: what an earlier record had and this one lacks is taken back.
    note
        Markdown, shown at the top of the run's page; MLflow cuts it at 8000 characters.
    files
        From the name that a file shall have below the run, with folders if wanted, to its path.
        They are read when the record is sent, which may be days later. A file that a later record
        no longer names stays.
    at
        Seconds since 1970, which date the metrics: of two values MLflow shows the later one.
    """

    key: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""
    files: dict[str, str | Path] = field(default_factory=dict)
    at: float = field(default_factory=time.time)

    def __post_init__(self):
        object.__setattr__(self, "key", searchable(self.key))
        files = {name: str(path) for name, path in self.files.items()}
        object.__setattr__(self, "files", files)

    @property
    def ledger_name(self) -> str:
        """Name of its entry in the ledger; a key may hold what a file name may not."""
        return STUDY + quote(self.key, safe="")

    @property
    def digest(self) -> str:
        """Hash of all that MLflow would show, contents of the files included."""
        described = asdict(self)
        del described["at"]
        described["files"] = {name: _sha256(Path(path)) for name, path in self.files.items()}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


Record = TrackedRun | StudyRecord

# Beside a record while it is sent: left by a death in the middle.
BEGUN = ".begun"


class Outbox:
    """The files of one home.

    Parameters
    ----------
    folder
        Made when first used.
    uri
        The store in force: what another store was told counts for nothing.
    """

    def __init__(self, folder: Path, uri: str):
        self.folder, self.uri = folder, uri

    @property
    def ledger(self) -> Path:
        """Records that MLflow has, each with its run id."""
        return self.folder / "sent"

    def put(self, record: Record) -> None:
        """Write a record, unless MLflow already has it; one of the same key is replaced."""
        entry = self.entry(record.ledger_name)
        self.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(record, TrackedRun):
            if entry is None:
                _write_json(self.folder / f"{record.key}.json", asdict(record))
            return
        # A file of its own each time: one that is being sent just now can be replaced as well.
        waiting = list(self.folder.glob(f"{record.ledger_name}@*.json"))
        # Later than those that wait, also where the clock has gone back since.
        times = [path.stem.rpartition("@")[2] for path in waiting]
        last = max((int(text) for text in times if text.isdigit()), default=0)
        path = self.folder / f"{record.ledger_name}@{max(time.time_ns(), last + 1)}.json"
        if entry is None or entry.get("digest") != record.digest:
            _write_json(path, asdict(record))
        for earlier in waiting:
            earlier.unlink(missing_ok=True)

    def waiting(self) -> list[Path]:
        """Files of the records that wait, those of one key by age."""
        return sorted(self.folder.glob("*.json"))

    def read(self, path: Path) -> Record | None:
        """A waiting record; None if it has gone, or is no record.

        One that is no record is set aside, so that it blocks no other.
        """
        kind = StudyRecord if path.name.startswith(STUDY) else TrackedRun
        try:
            return kind(**json.loads(path.read_text()))
        except FileNotFoundError:  # sent by another process, or replaced
            return None
        except (ValueError, TypeError, AttributeError) as error:
            refused = self.folder / "refused"
            refused.mkdir(exist_ok=True)
            path.replace(refused / path.name)
            logger.warning("%s is no record for MLflow (%s): set aside in %s",
                           path.name, error, refused)  # fmt: skip
            return None

    def begin(self, path: Path) -> bool:
        """Note that a record is being sent; whether somebody had begun and did not tick it off."""
        mark = path.with_suffix(BEGUN)
        begun = mark.exists()
        with writing(mark):
            mark.touch()
        return begun

    def tick_off(self, path: Path, record: Record, entry: dict[str, Any]) -> None:
        """Move a record that was sent to the ledger."""
        _write_json(self.ledger / f"{record.ledger_name}.json", entry | {"uri": masked(self.uri)})
        path.unlink(missing_ok=True)
        path.with_suffix(BEGUN).unlink(missing_ok=True)

    def entry(self, ledger_name: str) -> dict[str, Any] | None:
        """What the ledger knows of a record, None if this store was not told of it."""
        if is_absent(self.uri):
            return None
        try:
            entry = json.loads((self.ledger / f"{ledger_name}.json").read_text())
            return entry if entry["uri"] == masked(self.uri) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # MLflow itself is asked by tag before anything is sent again

    def forget(self) -> None:
        """Strike what the ledger says of a store that is gone: its place has a new, empty one.

        Where the old one comes back, MLflow itself is asked by tag before anything is sent again.
        """
        for path in self.ledger.glob("*.json"):
            if self.entry(path.stem) is not None:
                path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One sender at a time in this home, so that a parent run is created once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ledger.mkdir(exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def study_name(key: str) -> str:
    """Name of an experiment's entry in the ledger, from its key."""
    return StudyRecord(key, "").ledger_name


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"


def _write_json(path: Path, content: dict) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with writing(path):
            temporary.write_text(json.dumps(content))
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
