"""Who trains on which GPU of this machine: one process at a time, by a lock on a file.

The lock (flock) goes with the open file. The kernel lets it go when the last process that holds the
file has died, however it died: the claiming process hands the file to the worker that computes.

The files lie in the system's temporary folder, not in a home: a GPU belongs to its machine, a home
may lie on a drive of several. Containers and users with temporary folders of their own do not see
each other's claims.

Not here: which GPUs there are (devices.py).
"""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aef_dagster.models.devices import Gpu

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 1.0


@dataclass(frozen=True)
class Claim:
    """A GPU that this process has to itself, and the open file that says so."""

    gpu: Gpu
    file: int


@contextmanager
def claimed(
    gpus: Sequence[Gpu], most: int | None, folder: Path | None = None
) -> Iterator[list[Claim]]:
    """GPUs that nobody else has, for as long as the block lasts.

    Waits, and says so once, while all of them are taken.

    Parameters
    ----------
    gpus
        Those to choose from, at least one.
    most
        How many to take; None = all that are free.
    folder
        Where the lock files lie; by default the system's temporary folder.

    Yields
    ------
    list of Claim
        At least one; in the order of `gpus`.
    """
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    with ExitStack() as held:
        waiting = False
        while not (claims := _claim_free(gpus, most, folder, held)):
            if not waiting:
                logger.warning(
                    "waiting for a GPU: other trainings on this machine have all %d", len(gpus)
                )
            waiting = True
            time.sleep(SECONDS_BETWEEN_TRIES)
        if waiting:
            logger.warning("training on GPU %s", ", ".join(claim.gpu.visible for claim in claims))
        yield claims


def _claim_free(
    gpus: Sequence[Gpu], most: int | None, folder: Path, held: ExitStack
) -> list[Claim]:
    claims: list[Claim] = []
    for gpu in gpus:
        if len(claims) == most:
            break
        file = _open(folder / f"aef-gpu-{gpu.uuid}.lock")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        held.callback(os.close, file)
        claims.append(Claim(gpu, file))
    return claims


def _open(path: Path) -> int:
    """A lock file, whoever made it: locks need no right to write."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644))
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
