"""The seam: jobs go in, results come out as they finish.

Here: `train`, which skips what is done, shares the rest among worker processes, and survives the
death of any of them.
Not here: worker processes (workers.py, worker.py), how a model is trained (engine_cpu.py).
Another engine goes behind the same function. Importing this module, or reusing checkpoints,
imports no torch.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint, partial_folder
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.workers import WorkerPool

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Progress:
    """How far a job has come. Told a few times a second at most.

    `phase` is one of prepare, train, validate, simulate, save.
    """

    job_hash: str
    targets: tuple[str, ...]
    update: int
    updates: int
    basin_days: int
    phase: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Parameters
    ----------
    job, folder
        The job and its checkpoint's folder; None where it failed.
    error
        One sentence where it failed, else None.
    reused
        The checkpoint was there already.
    seconds, basin_days, peak_mb
        Spent now: 0 where reused (`Checkpoint.run` tells what it once cost). Peak memory is that
        of the worker process so far.
    scores
        Rows of `Checkpoint.scores`, one per target; none where it failed.
    """

    job: TrainingJob
    folder: Path | None
    error: str | None
    reused: bool
    seconds: float
    basin_days: int
    peak_mb: float
    scores: list[dict[str, Any]]


def train(
    jobs: Sequence[TrainingJob],
    data: TrainingData,
    checkpoints: Path,
    *,
    workers: int | None = None,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[Outcome]:
    """Train jobs, or reuse their checkpoints, and yield each result as it comes.

    Every model is trained in a worker process, even a single one: so its weights are the same
    bit for bit alone and beside others, and its memory is given back. A failed job, or a worker
    that dies, costs that job only. Closing the iterator early ends the workers at once and leaves
    whole checkpoints only.

    Parameters
    ----------
    jobs
        What to train. Equal jobs are trained, and yielded, once.
    data
        All basins of all jobs. Arrays that live in memory are saved to a temporary folder, which
        the workers share; those opened from a folder are used where they are.
    checkpoints
        Folder of the checkpoints.
    workers
        Models trained at once; by default one per core, less where models use several threads.
    device
        "cpu" or "auto"; "cuda" is refused by this version.
    on_progress
        Called in this thread.

    Returns
    -------
    iterator of Outcome
        Reused ones first, then the others as they finish.

    Raises
    ------
    UserError
        The device is unknown or has no engine, or `workers` is below 1.
    """
    if device not in DEVICES:
        raise UserError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "cuda":
        raise UserError(
            "device cuda: this version trains on the CPU only, the GPU engine comes with a later "
            "one; set AEF_DEVICE=auto or cpu"
        )
    if workers is not None and workers < 1:
        raise UserError(f"at least one worker is needed, not {workers}")
    distinct = {job.hash: job for job in jobs}
    return _train(list(distinct.values()), data, Path(checkpoints), workers, on_progress)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _train(
    jobs: list[TrainingJob],
    data: TrainingData,
    checkpoints: Path,
    workers: int | None,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[Outcome]:
    waiting: deque[TrainingJob] = deque()
    for job in jobs:
        checkpoint = Checkpoint.open(checkpoints, job.hash)
        if checkpoint.exists:
            scores = checkpoint.scores()
            yield Outcome(job, checkpoint.folder, None, True, 0.0, 0, 0.0, scores)
        else:
            waiting.append(job)
    if waiting:
        yield from _train_anew(waiting, data, checkpoints, workers, on_progress)


def _train_anew(
    waiting: deque[TrainingJob],
    data: TrainingData,
    checkpoints: Path,
    workers: int | None,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[Outcome]:
    threads = max(job.threads for job in waiting)
    count = workers or max(1, usable_cores() // threads)
    with ExitStack() as stack:
        # Left in reverse: workers end first, then what they were writing goes.
        partial = stack.enter_context(partial_folder(checkpoints))
        folder = _shared(data, waiting, partial)
        pool = stack.enter_context(WorkerPool(folder, checkpoints, partial, threads))
        for _ in range(min(count, len(waiting))):
            pool.start(waiting.popleft())
        while pool.busy:
            worker, message = pool.next_message()
            job = worker.job
            if job is None:
                continue  # An idle worker has ended, and is missed by nobody.
            if message["event"] == "progress":
                if on_progress is not None:
                    on_progress(_progress(job, message["phase"], message["update"]))
            else:
                seconds = time.monotonic() - worker.since
                worker.job = None
                if waiting:  # before the result is looked at, which may take a while
                    pool.start(waiting.popleft())
                yield _outcome(job, message, seconds, checkpoints)


def _shared(data: TrainingData, jobs: Sequence[TrainingJob], partial: Path) -> Path:
    """A folder with the jobs' basins, for all workers to map into memory.

    It lies with what is being written: gone when training ends, swept up later if it was killed.
    """
    if data.folder is not None:
        return data.folder
    wanted = {gauge_id for job in jobs for gauge_id in (*job.donors, *job.targets)}
    folder = partial / "data"
    # A basin that is not in the data is the trouble of its own job, told by its worker.
    data.save(folder, [gauge_id for gauge_id in data.gauge_ids if gauge_id in wanted])
    return folder


def _progress(job: TrainingJob, phase: str, update: int) -> Progress:
    budget = job.budget
    return Progress(
        job_hash=job.hash,
        targets=job.targets,
        update=update,
        updates=budget.updates,
        basin_days=update * budget.batch * budget.window,
        phase=phase,
    )


def _outcome(
    job: TrainingJob, message: dict[str, Any], seconds: float, checkpoints: Path
) -> Outcome:
    seconds = round(seconds, 2)
    if message["event"] == "failed":
        if message["traceback"]:
            logger.error("job %s failed:\n%s", job.hash, message["traceback"])
        return Outcome(job, None, message["error"], False, seconds, 0, 0.0, [])
    checkpoint = Checkpoint.open(checkpoints, job.hash)
    run, scores = checkpoint.run(), checkpoint.scores()
    return Outcome(
        job, checkpoint.folder, None, False, seconds, run["basin_days"], run["peak_mb"], scores
    )
