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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aef_dagster
from aef_dagster.models.devices import VISIBLE
from aef_dagster.models.gpu_claims import Claim
from aef_dagster.models.jobs import TrainingJob

SECONDS_TO_END = 3.0

# glibc hands large blocks back to the system after each use and faults them in again for the next
# update: a third of an update at hidden 128 (measured: 194 ms -> 130 ms, torch 2.13). Kept, they
# cost some 100 MB. Other C libraries ignore these.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}

Message = dict[str, Any]


class Worker:
    """A worker process and the jobs it is at (none = idle).

    Parameters
    ----------
    arguments
        The process's command line: folders, seconds between states, device.
    environment
        Variables of its own, on top of the caller's.
    log
        File that takes what the process says on its standard error.
    inbox
        Takes (worker, message) for each message, and (worker, None) when the process has ended.
    claim
        The GPU it trains on, which stays taken until it has ended, also where its caller is killed.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        log: Path,
        inbox: queue.Queue,
        claim: Claim | None,
    ):
        self.jobs: dict[str, TrainingJob] = {}
        self.claim = claim
        self.since = time.monotonic()
        self._log, self._inbox = log, inbox
        package = str(Path(aef_dagster.__file__).resolve().parents[1])
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | KEEP_MEMORY | environment
        environment["PYTHONPATH"] = os.pathsep.join([package, known] if known else [package])
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "aef_dagster.models.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                pass_fds=(claim.file,) if claim else (),
            )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def give(self, jobs: Sequence[TrainingJob]) -> None:
        """Send jobs to the process, which trains them one after another or in groups."""
        self.jobs, self.since = {job.hash: job for job in jobs}, time.monotonic()
        line = json.dumps([job.to_json() for job in jobs])
        assert self.process.stdin is not None
        # Where it has died, its end arrives in the inbox, and is told as this job's failure.
        with suppress(OSError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

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
        if self.jobs:
            job = next(iter(self.jobs.values()))
            basins = ", ".join(job.targets[:5])
            others = f" and {len(self.jobs) - 1} other models" if len(self.jobs) > 1 else ""
            who = f"the worker process training basin {basins} (job {job.hash}){others}"
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
    """Workers, started when there are jobs and none is idle, ended with the `with` block.

    Parameters
    ----------
    data, checkpoints, partial
        Folders of the shared arrays, of finished and of unfinished checkpoints.
    device
        "cpu", or "cuda".
    claims
        The GPUs of "cuda": each worker has one of its own.
    threads
        Threads of the numerical libraries in each worker.
    keep_every_s
        How often a worker saves the state of what it trains.
    """

    def __init__(
        self,
        data: Path,
        checkpoints: Path,
        partial: Path,
        *,
        device: str,
        claims: Sequence[Claim],
        threads: int,
        keep_every_s: float,
    ):
        folders = [str(path.resolve()) for path in (data, checkpoints, partial)]
        self._arguments = [*folders, str(keep_every_s), device]
        self._logs, self._claims = partial, list(claims)
        self._environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
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
        """Number of workers at work."""
        return sum(bool(worker.jobs) for worker in self._workers)

    def start(self, jobs: Sequence[TrainingJob]) -> None:
        """Give jobs to an idle worker, or to a new one."""
        worker = next(
            (worker for worker in self._workers if not worker.jobs and worker.alive), None
        )
        if worker is None:
            log = self._logs / f"worker-{time.monotonic_ns()}.log"
            environment, claim = self._environment, self._free_claim()
            if claim:
                environment = environment | {VISIBLE: claim.gpu.visible}
            worker = Worker(self._arguments, environment, log, self._inbox, claim)
            self._workers.append(worker)
        worker.give(jobs)

    def _free_claim(self) -> Claim | None:
        """The first GPU that no worker has; None on a CPU."""
        taken = [worker.claim for worker in self._workers]
        return next((claim for claim in self._claims if claim not in taken), None)

    def next_message(self) -> tuple[Worker, Message]:
        """Wait for the next message of any worker.

        The end of a process comes as the message `ended`; the process is forgotten.
        """
        worker, message = self._inbox.get()
        if message is None:
            message = {"event": "ended", "error": worker.how_it_ended()}
            self._workers.remove(worker)
            worker.end()
        return worker, message
