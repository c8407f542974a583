"""Worker processes: starting them, giving them jobs, hearing from them, ending them.

Here: the caller's side of the protocol of worker.py. Not here: what becomes of a result
(training.py), what a worker does with a job (worker.py).
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aef_dagster
from aef_dagster.models.jobs import TrainingJob

SECONDS_TO_END = 3.0

# glibc hands large blocks back to the system after each use and faults them in again for the next
# update: a third of an update at hidden 128 (measured: 194 ms -> 130 ms, torch 2.13). Kept, they
# cost some 100 MB. Other C libraries ignore these.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}

Message = dict[str, Any]


class Worker:
    """A worker process and the job it is at (None = idle).

    Parameters
    ----------
    arguments
        Folders of data, checkpoints and partial checkpoints.
    threads
        Threads of the numerical libraries.
    log
        File that takes what the process says on its standard error.
    inbox
        Takes (worker, message) for each message, and (worker, None) when the process has ended.
    """

    def __init__(self, arguments: list[str], threads: int, log: Path, inbox: queue.Queue):
        self.job: TrainingJob | None = None
        self.since = time.monotonic()
        self._log, self._inbox = log, inbox
        package = str(Path(aef_dagster.__file__).resolve().parents[1])
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | KEEP_MEMORY
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
        environment["PYTHONPATH"] = os.pathsep.join([package, known] if known else [package])
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "aef_dagster.models.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def give(self, job: TrainingJob) -> None:
        """Send a job to the process."""
        self.job, self.since = job, time.monotonic()
        assert self.process.stdin is not None
        # Where it has died, its end arrives in the inbox, and is told as this job's failure.
        with suppress(OSError):
            self.process.stdin.write(json.dumps(job.to_json()).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """End the process, kindly first, and let go of all that belongs to it."""
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # a job not yet sent, to a process that is gone
                pipe.close()

    def how_it_ended(self) -> str:
        """One sentence on a process that ended by itself."""
        code = self.process.wait()
        who = "an idle worker process"
        if self.job is not None:
            basins = ", ".join(self.job.targets[:5])
            who = f"the worker process training basin {basins} (job {self.job.hash})"
        if code < 0:
            return (
                f"{who} was ended by {signal.Signals(-code).name}; where nobody did that, the "
                "machine ran out of memory: train fewer models at once"
            )
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{who} ended with code {code}: {said[-1] if said else 'it gave no reason'}"

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # half a line: it died while writing
                self._inbox.put((self, json.loads(line)))
        self._inbox.put((self, None))


class WorkerPool:
    """Workers, started when there is a job and none is idle, ended with the `with` block.

    Parameters
    ----------
    data, checkpoints, partial
        Folders of the shared arrays, of finished and of unfinished checkpoints.
    threads
        Threads of the numerical libraries in each worker.
    """

    def __init__(self, data: Path, checkpoints: Path, partial: Path, threads: int):
        self._arguments = [str(path.resolve()) for path in (data, checkpoints, partial)]
        self._logs, self._threads = partial, threads
        self._workers: list[Worker] = []
        self._inbox: queue.Queue[tuple[Worker, Message | None]] = queue.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.terminate()  # all at once, before waiting for each
        for worker in self._workers:
            worker.end()

    @property
    def busy(self) -> int:
        """Number of workers at a job."""
        return sum(worker.job is not None for worker in self._workers)

    def start(self, job: TrainingJob) -> None:
        """Give a job to an idle worker, or to a new one."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            log = self._logs / f"worker-{time.monotonic_ns()}.log"
            worker = Worker(self._arguments, self._threads, log, self._inbox)
            self._workers.append(worker)
        worker.give(job)

    def next_message(self) -> tuple[Worker, Message]:
        """Wait for the next message of any worker.

        The end of a process comes as the message that its job failed; the process is forgotten.
        """
        worker, message = self._inbox.get()
        if message is None:
            message = {"event": "failed", "error": worker.how_it_ended(), "traceback": ""}
            self._workers.remove(worker)
            worker.end()
        return worker, message
