"""The seam: jobs go in, results come out as they finish.

Here: `train`, which skips what is done, shares the rest among worker processes, and survives the
death of any of them.
Not here: what a worker does (worker.py), how a model is trained (engine_cpu.py). Another engine
goes behind the same function. Importing this module, or reusing checkpoints, imports no torch.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aef_dagster
from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint, partial_folder
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
SECONDS_TO_END = 3.0

# glibc hands large blocks back to the system after each use and faults them in again for the next
# update: a third of an update at hidden 128 (measured: 194 ms -> 130 ms, torch 2.13). Kept, they
# cost some 100 MB. Other C libraries ignore these.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


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
        folder = _shared(data, waiting, stack)
        pool = stack.enter_context(_Pool(folder, checkpoints, partial, threads))
        while waiting or pool.busy:
            while waiting and len(pool.busy) < count:
                pool.start(waiting.popleft())
            worker, message = pool.next_message()
            if message is not None and message["event"] == "progress":
                if on_progress is not None:
                    on_progress(_progress(worker.job, message["phase"], message["update"]))
                continue
            if message is None:
                message = {"event": "failed", "error": pool.bury(worker), "traceback": ""}
            job, worker.job = worker.job, None
            if job is not None:
                yield _outcome(job, message, time.monotonic() - worker.since, checkpoints)


def _shared(data: TrainingData, jobs: Sequence[TrainingJob], stack: ExitStack) -> Path:
    """A folder with the jobs' basins, for all workers to map into memory."""
    if data.folder is not None:
        return data.folder
    wanted = {gauge_id for job in jobs for gauge_id in (*job.donors, *job.targets)}
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aef-training-")))
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


@dataclass(eq=False)
class _Worker:
    """A worker process and the job it is at; no job = idle."""

    process: subprocess.Popen
    log: Path
    job: TrainingJob | None = None
    since: float = 0.0
    reader: threading.Thread | None = field(default=None, repr=False)


class _Pool:
    """Worker processes, started when there is a job and none is idle, ended with the block."""

    def __init__(self, data: Path, checkpoints: Path, partial: Path, threads: int):
        self._arguments = [str(path.resolve()) for path in (data, checkpoints, partial)]
        self._partial, self._threads = partial, threads
        self._workers: list[_Worker] = []
        self._messages: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            self._close(worker)

    @property
    def busy(self) -> list[_Worker]:
        """Workers at a job."""
        return [worker for worker in self._workers if worker.job is not None]

    def start(self, job: TrainingJob) -> None:
        """Give a job to an idle worker, or to a new one."""
        idle = [worker for worker in self._workers if worker.job is None]
        worker = idle[0] if idle else self._new_worker()
        worker.job, worker.since = job, time.monotonic()
        # Where it has died, its reader tells so, and that is told as this job's failure.
        with suppress(OSError):
            worker.process.stdin.write(json.dumps(job.to_json()) + "\n")
            worker.process.stdin.flush()

    def next_message(self) -> tuple[_Worker, dict[str, Any] | None]:
        """The next message of any worker; None = it has ended."""
        return self._messages.get()

    def bury(self, worker: _Worker) -> str:
        """Forget a worker that has ended, and say in one sentence how it ended."""
        code = worker.process.wait()
        self._workers.remove(worker)
        self._close(worker)
        sentence = "an idle worker process "
        if worker.job is not None:
            basins = ", ".join(worker.job.targets[:5])
            sentence = f"the worker process training basin {basins} (job {worker.job.hash}) "
        if code < 0:
            name = signal.Signals(-code).name
            return sentence + (
                f"was ended by {name}; where nobody did that, the machine ran out of memory: "
                "train fewer models at once"
            )
        lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return sentence + f"ended with code {code}: {lines[-1] if lines else 'it said nothing'}"

    def _new_worker(self) -> _Worker:
        threads = str(self._threads)
        package = str(Path(aef_dagster.__file__).resolve().parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = (
            os.environ
            | KEEP_MEMORY
            | {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            | {"PYTHONPATH": os.pathsep.join(paths)}
        )
        self._partial.mkdir(parents=True, exist_ok=True)
        log = self._partial / f"worker-{time.monotonic_ns()}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "aef_dagster.models.worker", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        worker = _Worker(process, log)
        worker.reader = threading.Thread(target=self._read, args=(worker,), daemon=True)
        worker.reader.start()
        self._workers.append(worker)
        return worker

    def _read(self, worker: _Worker) -> None:
        for line in worker.process.stdout:
            try:
                self._messages.put((worker, json.loads(line)))
            except ValueError:
                break  # Half a line: it died while writing.
        self._messages.put((worker, None))

    def _close(self, worker: _Worker) -> None:
        worker.reader.join()
        worker.process.stdout.close()
        with suppress(OSError):  # a job not yet sent, to a process that is gone
            worker.process.stdin.close()
