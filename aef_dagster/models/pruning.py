"""What lies among the checkpoints and is no longer of use, and its removal.

Here: what is on the disk, how old and how large it is, and removing it so that a kill leaves no
half checkpoint. Not here: which checkpoints are in force (pipeline/pruning.py), the files
themselves (checkpoints.py, unfinished.py).

<root>/.pruned-<pid>/   folders being removed; whatever lies there is gone for everybody else
"""

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.models.checkpoints import CORRUPT, PARTIAL, STALE_AFTER_SECONDS, Checkpoint
from aef_dagster.models.jobs import CODE_VERSION
from aef_dagster.models.unfinished import HALF_AFTER_SECONDS, UNFINISHED

SUPERSEDED = "checkpoints superseded by later ones"
OLDER = "checkpoints of another version of the training code"
UNASKED = "checkpoints that nobody asked for"
STATES = "states of trainings that nobody went on with"
DAMAGED = "damaged checkpoints, set aside"
HALF_WRITTEN = "what killed trainings were writing"
HALF_REMOVED = "what an earlier clean-up left"
KINDS = (SUPERSEDED, OLDER, UNASKED, STATES, DAMAGED, HALF_WRITTEN, HALF_REMOVED)

# A training may have reused one of these, or be about to use it in an ensemble.
_WANTED_BY_TRAINING = (SUPERSEDED, OLDER, UNASKED, STATES)
DAY_S = 24 * 3600
# A training gives a sign of life every 20 s, but for preparing, validating and simulating.
SIGN_OF_LIFE_S = 3600
_HASH = re.compile("[0-9a-f]{16}")
_PRUNED = ".pruned-"


@dataclass(frozen=True)
class Leftover:
    """A file or folder of no further use: its kind is one of `KINDS`."""

    path: Path
    kind: str
    n_bytes: int


@dataclass(frozen=True)
class Sorted:
    """The checkpoints of a home: those to keep, with their size, and those of no further use."""

    kept: frozenset[str]
    kept_bytes: int
    leftovers: list[Leftover]


def at_work(root: Path) -> bool:
    """Whether a training is at work here, or was until an hour ago.

    Asked of the disk: in containers and on clusters its process cannot be seen.
    """
    return any(_age(folder) < SIGN_OF_LIFE_S for folder in (root / PARTIAL).glob("*"))


def left_behind(root: Path, older_than_days: float) -> list[Leftover]:
    """What lies beside the checkpoints: states, what is damaged, what is half written or removed.

    Parameters
    ----------
    root
        Folder of checkpoints.
    older_than_days
        Age of the states, days since the youngest of a job's networks was kept: networks of one
        job may train one after another.

    Returns
    -------
    list of Leftover
        While a training is at work, no states.
    """
    found = [] if at_work(root) else list(_old_states(root, older_than_days * DAY_S))
    found += [_leftover(path, DAMAGED) for path in (root / CORRUPT).glob("*")]
    found += [
        _leftover(path, HALF_WRITTEN)
        for path in (root / PARTIAL).glob("*")
        if _age(path) > STALE_AFTER_SECONDS
    ]
    return found + [_leftover(path, HALF_REMOVED) for path in root.glob(f"{_PRUNED}*")]


def sort_checkpoints(root: Path, in_force: Collection[str]) -> Sorted:
    """Which checkpoints to keep: those in force, those of the last day, and their members.

    Parameters
    ----------
    root
        Folder of checkpoints.
    in_force
        Hashes of models and ensembles.

    Returns
    -------
    Sorted
        While a training is at work, all are kept.
    """
    found = {path.name: path for path in sorted(root.glob("*")) if _HASH.fullmatch(path.name)}
    kept = {name for name, path in found.items() if name in in_force or _young(path)}
    if at_work(root):
        kept = set(found)
    for name in tuple(kept):
        with suppress(DataFileError):  # damaged: nobody can ask it for its members
            kept.update(Checkpoint.open(root, name).members())
    kept &= set(found)
    return Sorted(
        frozenset(kept),
        sum(_size(found[name]) for name in kept),
        [_leftover(path, _why(root, path)) for name, path in found.items() if name not in kept],
    )


def remove(root: Path, leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Remove what was found, each at one stroke: renamed first, deleted second.

    What a training has asked for since it was found stays.

    Parameters
    ----------
    root
        Folder of checkpoints.
    leftovers
        Of `left_behind` and `sort_checkpoints`.

    Returns
    -------
    list of Leftover
        What was removed.

    Raises
    ------
    UserError
        Something cannot be removed; what comes after it stays.
    """
    removed: list[Leftover] = []
    aside = root / f"{_PRUNED}{os.getpid()}"
    # Earlier remains first: a process of the same number may have left names in the way.
    for item in sorted(leftovers, key=lambda item: item.kind != HALF_REMOVED):
        if item.kind in _WANTED_BY_TRAINING and (at_work(root) or _young(item.path)):
            continue
        try:
            if item.kind == HALF_REMOVED:
                _delete(item.path)
            else:
                aside.mkdir(exist_ok=True)
                target = aside / f"{len(removed)}-{item.path.name}"
                item.path.rename(target)
                _delete(target)
        except FileNotFoundError:
            continue  # another process has just removed it
        except OSError as error:
            raise UserError(
                f"{item.path} cannot be removed: {error.strerror}; remove it by hand, or as the "
                "user who trained it, and run `aef prune --yes` again"
            ) from None
        removed.append(item)
    with suppress(OSError):  # never made, or another clean-up has just removed it
        aside.rmdir()
    return removed


def _old_states(root: Path, limit_s: float) -> Iterator[Leftover]:
    paths = list((root / UNFINISHED).glob("*"))
    youngest: dict[str, float] = {}
    for path in paths:
        if path.suffix == ".safetensors":
            job_hash = path.name.partition("-")[0]
            youngest[job_hash] = min(_age(path), youngest.get(job_hash, float("inf")))
    for path in paths:
        if path.suffix == ".safetensors":
            if youngest[path.name.partition("-")[0]] > limit_s:
                yield _leftover(path, STATES)
        elif _age(path) > HALF_AFTER_SECONDS:
            yield _leftover(path, HALF_WRITTEN)


def _why(root: Path, folder: Path) -> str:
    """Why a checkpoint is of no further use."""
    checkpoint = Checkpoint.open(root, folder.name)
    try:
        version = checkpoint.record()["code_version"]
    except (DataFileError, KeyError, TypeError):
        return DAMAGED
    if version != CODE_VERSION:
        return OLDER
    return SUPERSEDED if checkpoint.requests() else UNASKED


def _young(path: Path) -> bool:
    """Whether it was made, or asked for, in the last day."""
    return min((_age(each) for each in (path, *path.glob("requests/*"))), default=0.0) < DAY_S


def _leftover(path: Path, kind: str) -> Leftover:
    return Leftover(path, kind, _size(path))


def _age(path: Path) -> float:
    """Seconds since it was written; of what has just gone, 0."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    total = 0
    for each in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # another process has just finished with it
            total += each.stat().st_size if each.is_file() else 0
    return total


def _delete(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    else:
        path.unlink()
