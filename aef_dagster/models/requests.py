"""Requests: who asked for a checkpoint, and when, each in a small file beside it.

Equal jobs are trained once, whatever they are for, so who asked is not in the job. Of two requests
for a basin the later one is in force.

Here: writing and reading these files, and the moment that a request gets. Not here: what is in
force (pipeline/scores.py), the checkpoint itself (checkpoints.py).
"""

import fcntl
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aef_dagster.errors import writing

logger = logging.getLogger(__name__)

ASKED = ".asked"


def add_request(folder: Path, label: dict[str, Any], moment: float) -> None:
    """Note a request. Equal labels are kept once.

    Each label is a file of its own, so that two runs that ask at the same moment need no lock.

    Parameters
    ----------
    folder
        Of the checkpoint's requests; made where it is not there.
    label
        Asset, design, space, k and the like.
    moment
        Of `asking_moment`.
    """
    text = json.dumps(label, sort_keys=True)
    folder.mkdir(exist_ok=True)
    _write_dated(folder / _name(text), text, moment)


def read_requests(folder: Path) -> list[dict[str, Any]]:
    """All labels, each with `asked_at` (seconds since 1970), sorted by it.

    A file that was altered is passed over with a warning.
    """
    labels = []
    for path in folder.glob("*.json"):
        try:
            text = path.read_text(encoding="utf-8")
            if _name(text) != path.name:
                raise ValueError
            label = json.loads(text)
            labels.append(label | {"asked_at": path.stat().st_mtime})
        except (OSError, ValueError, TypeError):
            logger.warning("%s is no request, or was altered: passed over; `aef train` of its "
                           "basin notes it again", path)  # fmt: skip
    return sorted(labels, key=lambda label: label["asked_at"])


def asking_moment(root: Path) -> float:
    """A moment for what is asked for now, later than all before it; seconds since 1970.

    That is now, or just after the last one where the clock has gone back since: of two requests the
    later one is in force. The file `.asked` carries the last moment, in its date.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    mark, last = root / ASKED, 0.0
    with _one_at_a_time(root):
        # A home from before there was a mark is looked through, once.
        for path in [mark] if mark.exists() else root.glob("*/requests/*.json"):
            with suppress(FileNotFoundError):  # just removed by another process
                last = max(last, path.stat().st_mtime)
        moment = max(time.time(), last + 0.001)
        _write_dated(mark, "", moment)
    return moment


def _write_dated(path: Path, text: str, moment: float) -> None:
    """Put a new file in the place of what is there, whole or not at all.

    New even where the text is the same: only its owner may date a file, and in a home that a group
    writes to that is whoever asked first.
    """
    partial = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        with writing(path):
            partial.write_text(text, encoding="utf-8")
            os.utime(partial, (moment, moment))
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """A block that one process at a time is in; the lock is the folder's, so it needs no owner."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        # NFS locks no folders. There, only a clock that went back lets two moments be equal.
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _name(text: str) -> str:
    """A request's file is named by its content, so that an altered one shows."""
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
