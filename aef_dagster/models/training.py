"""The seam: jobs go in, results come out as they finish.

Here: `train`, which skips what is done, shares the rest among worker processes, and survives the
death of any of them.
Not here: worker processes (workers.py, worker.py), which device there is (devices.py), how models
are trained (engine/cpu.py, engine/gpu.py). Importing this module, or reusing checkpoints,
imports no torch.
"""

import atexit
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
from aef_dagster.models.devices import Device, choose_device
from aef_dagster.models.gpu_claims import claimed
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.unfinished import sweep
from aef_dagster.models.workers import WorkerPool

logger = logging.getLogger(__name__)


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
    gpus: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    keep_every_s: float = 20.0,
) -> Iterator[Outcome]:
    """Train jobs, or reuse their checkpoints, and yield each result as it comes.

    Every model is trained in a worker process, even a single one: so its weights are the same
    bit for bit alone and beside others, and its memory is given back. A failed job, or a worker
    that dies, costs that job only. Closing the iterator early ends the workers at once and leaves
    whole checkpoints, and the states of what was at work, from which the same job goes on.

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
        Models trained at once on a CPU; by default one per core, less where models use several
        threads. On a GPU its memory decides.
    device
        "cpu", "cuda" (several models at once on each GPU), or "auto": a GPU where there is one.
    gpus
        Most GPUs to take of those that no other training on this machine has; None = all of them.
        Where all are taken, it waits.
    on_progress
        Called in this thread.
    keep_every_s
        Seconds between the states that are kept of each training: what a kill costs at most.

    Returns
    -------
    iterator of Outcome
        Reused ones first, then the others as they finish.

    Raises
    ------
    UserError
        The device is unknown or not there, or `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise UserError(f"at least one worker is needed, not {workers}")
    distinct = {job.hash: job for job in jobs}
    return _train(
        list(distinct.values()), data, Path(checkpoints), workers, choose_device(device), gpus,
        on_progress, keep_every_s,
    )  # fmt: skip


def usable_cores() -> int:
    """Cores that this process may run on, or was told to count on.

    `PYTHON_CPU_COUNT`, which Python itself obeys from 3.13 on, is how a cluster's step is told its
    share of a node.
    """
    told = os.environ.get("PYTHON_CPU_COUNT", "")
    if told.isdigit() and int(told):
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _train(
    jobs: list[TrainingJob],
    data: TrainingData,
    checkpoints: Path,
    workers: int | None,
    device: Device,
    gpus: int | None,
    on_progress: Callable[[Progress], None] | None,
    keep_every_s: float,
) -> Iterator[Outcome]:
    waiting: list[TrainingJob] = []
    for job in jobs:
        checkpoint = Checkpoint.open(checkpoints, job.hash)
        if checkpoint.exists:
            scores = checkpoint.scores()
            yield Outcome(job, checkpoint.folder, None, True, 0.0, 0, 0.0, scores)
        else:
            waiting.append(job)
    if not waiting:
        return
    sweep(checkpoints)
    threads = max(job.threads for job in waiting)
    with ExitStack() as stack:
        # A caller may leave this generator suspended (Dagster does, with an asset that it stops).
        # Closed while Python takes itself apart, it would wait for locks of threads gone by then.
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        # Left in reverse: workers end first, then what they were writing goes, then the GPUs.
        claims = stack.enter_context(claimed(device.gpus, gpus)) if device.gpus else []
        partial = stack.enter_context(partial_folder(checkpoints))
        folder = _shared(data, waiting, partial)
        pool = WorkerPool(
            folder, checkpoints, partial,
            device=device.name, claims=claims, threads=threads, keep_every_s=keep_every_s,
        )  # fmt: skip
        shares = _shares(waiting, len(claims))
        count = len(claims) or workers or max(1, usable_cores() // threads)
        yield from _work_off(stack.enter_context(pool), shares, count, checkpoints, on_progress)


def _shares(jobs: list[TrainingJob], gpus: int) -> deque[list[TrainingJob]]:
    """What a worker gets at once: a job on a CPU, everything that is its GPU's on a GPU."""
    if not gpus:
        return deque([job] for job in jobs)
    return deque(share for gpu in range(gpus) if (share := jobs[gpu::gpus]))


def _work_off(
    pool: WorkerPool,
    shares: deque[list[TrainingJob]],
    count: int,
    checkpoints: Path,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[Outcome]:
    """Keep so many workers busy until nothing is left, and yield what they tell."""
    for _ in range(min(count, len(shares))):
        pool.start(shares.popleft())
    while pool.busy:
        worker, message = pool.next_message()
        if message["event"] == "ended":
            left, worker.jobs = list(worker.jobs.values()), {}
            messages = [(job, message | {"event": "failed", "traceback": ""}) for job in left]
        elif message["event"] == "progress":
            job = worker.jobs.get(message["job"])
            if on_progress is not None and job is not None:
                on_progress(_progress(job, message))
            continue
        else:
            messages = [(worker.jobs.pop(message["job"]), message)]
        seconds = time.monotonic() - worker.since
        if not worker.jobs and shares and messages:
            pool.start(shares.popleft())  # before the results are looked at, which takes a while
        for job, told in messages:
            yield _outcome(job, told, seconds, checkpoints)


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


def _progress(job: TrainingJob, message: dict[str, Any]) -> Progress:
    update, budget = message["update"], job.budget
    return Progress(
        job_hash=job.hash,
        targets=job.targets,
        update=update,
        updates=message["updates"],
        basin_days=update * budget.batch * budget.window,
        phase=message["phase"],
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
    seconds = round(run["seconds"] - run["resumed_s"], 2)
    return Outcome(
        job, checkpoint.folder, None, False, seconds, run["basin_days"], run["peak_mb"], scores
    )
