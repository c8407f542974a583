"""Trainings half done: their state on disk, so that a kill loses seconds and not the model.

Here: a file a network, `<checkpoints>/.unfinished/<hash>-<network>.safetensors`, replaced whole or
not at all.
Not here: what the state is (course.State), finished models (checkpoints.py).
"""

import hashlib
import json
import logging
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aef_dagster.errors import writing

if TYPE_CHECKING:
    from aef_dagster.models.engine.course import State

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
STALE_AFTER_SECONDS = 30 * 24 * 3600
HALF_AFTER_SECONDS = 3600


class UnfinishedFile:
    """Where the state of one network of a job is kept while the job trains.

    Parameters
    ----------
    checkpoints
        Folder of the checkpoints.
    job_hash
        The job.
    network
        Which of its networks, counted from 0.
    """

    def __init__(self, checkpoints: Path, job_hash: str, network: int):
        self._path = Path(checkpoints) / UNFINISHED / f"{job_hash}-{network}.safetensors"

    def read(self) -> "State | None":
        """The state; None where there is none, or where it is damaged, which is told."""
        from safetensors import SafetensorError, safe_open

        from aef_dagster.models.engine.course import State

        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="np") as opened:
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                told = opened.metadata()
            state = State(arrays, json.loads(told["record"]))
            # safetensors has no checksum: a flipped bit would be trained on without a word. A state
            # of an earlier version has none, and is as good as it was then.
            if "sha256" in told and told["sha256"] != _digest(state, told["record"]):
                raise ValueError("its content is not what its checksum says")
            state.check()
            return state
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%s): trained from the beginning", self._path, error)
            return None

    def write(self, state: "State") -> None:
        """Replace the state."""
        from safetensors.numpy import save_file

        with writing(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            record = json.dumps(state.record)
            told = {"record": record, "sha256": _digest(state, record)}
            with writing(f"the state of an unfinished training, {self._path},"):
                save_file(state.arrays, partial, metadata=told)
                partial.replace(self._path)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the state: the model is finished."""
        self._path.unlink(missing_ok=True)


def _digest(state: "State", record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name, array in sorted(state.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def sweep(checkpoints: Path) -> None:
    """Remove states that nobody went on with for a month, and those half written for an hour."""
    for path in (Path(checkpoints) / UNFINISHED).glob("*"):
        limit = STALE_AFTER_SECONDS if path.suffix == ".safetensors" else HALF_AFTER_SECONDS
        with suppress(FileNotFoundError):  # another process has just finished with it
            if time.time() - path.stat().st_mtime > limit:
                path.unlink()
