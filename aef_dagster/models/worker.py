"""A process that trains jobs, one after another or in groups, for `training.train`.

Here: `python -m aef_dagster.models.worker DATA CHECKPOINTS PARTIAL SECONDS DEVICE`, which takes
lists of jobs as lines of JSON on its standard input, and tells of them as such lines on its
standard output.
Not here: who starts it and who gets which job (training.py), the training (engine/cpu.py,
engine/gpu.py).

A process of its own, rather than one of `multiprocessing`: it never imports the caller's main
module (Dagster, a notebook), it gets memory settings that only count at a process's start, and it
ends by itself when the caller dies, because nobody reads its lines any more.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob

if TYPE_CHECKING:
    from aef_dagster.models.engine.course import State, Trained
    from aef_dagster.models.inputs import JobInputs
    from aef_dagster.models.unfinished import UnfinishedFile

SECONDS_BETWEEN_REPORTS = 0.3


def main() -> None:
    """Serve jobs until the standard input ends."""
    # Ctrl-C reaches every process of a terminal; the caller alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data, checkpoints, scratch = (Path(argument) for argument in sys.argv[1:4])
    # A library that prints must not break the protocol: only `channel` reaches the caller.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Nobody reads any more: the caller is gone.
    with suppress(BrokenPipeError):
        serve(sys.stdin, channel, data, checkpoints, scratch, float(sys.argv[4]), sys.argv[5])


def serve(
    lines: Iterable[str],
    channel: TextIO,
    data_folder: Path,
    checkpoints: Path,
    scratch: Path,
    keep_every_s: float,
    device: str,
) -> None:
    """Train the jobs of each line, and tell how each went.

    Parameters
    ----------
    lines
        Lists of jobs as JSON.
    channel
        Takes messages, each with the job's hash: `progress` with phase, update and updates in all,
        then `done`, or `failed` with error and traceback ("" where the user can mend it).
    data_folder
        What `TrainingData.save` wrote.
    checkpoints, scratch
        Folders of finished checkpoints and of those being written.
    keep_every_s
        How often the state of a training is saved.
    device
        "cpu": one job after another; "cuda": in groups, apart from jobs whose architecture the
        groups do not know, which follow one after another on the CPU.
    """
    data = TrainingData.open(data_folder)
    for line in lines:
        jobs = [TrainingJob.from_json(described) for described in json.loads(line)]
        desk = _Desk(channel, data, checkpoints, scratch, keep_every_s)
        if device == "cpu":
            _train_in_turn(jobs, desk)
        else:
            train_together(jobs, desk, device)


class _Desk:
    """What a worker has at hand: the data, where results go, who is told."""

    def __init__(
        self,
        channel: TextIO,
        data: TrainingData,
        checkpoints: Path,
        scratch: Path,
        keep_every_s: float,
    ):
        self.data, self.keep_every_s = data, keep_every_s
        self._channel, self._checkpoints, self._scratch = channel, checkpoints, scratch
        self._told: dict[str, tuple[float, str]] = {}
        # By job and network: updates made.
        self._made: dict[str, dict[int, int]] = {}
        # Jobs done or failed: of these nobody wants to hear any more.
        self._ended: set[str] = set()

    def unfinished(self, job: TrainingJob, network: int) -> "UnfinishedFile":
        """Where the state of one of the job's networks is kept."""
        from aef_dagster.models.unfinished import UnfinishedFile

        return UnfinishedFile(self._checkpoints, job.hash, network)

    def keep(self, inputs: "JobInputs", state: "State") -> None:
        """Keep a network's state, and a sign of life for whoever clears up."""
        self.unfinished(inputs.job, inputs.network).write(state)
        os.utime(self._scratch)

    def report_network(self, inputs: "JobInputs", phase: str, update: int, updates: int) -> None:
        """Tell how far a job is, from how far one of its networks is."""
        made = self._made.setdefault(inputs.job.hash, {})
        made[inputs.network] = update
        networks = inputs.job.budget.networks
        self.report(inputs.job, phase, sum(made.values()), updates * networks)

    def report(self, job: TrainingJob, phase: str, update: int, updates: int) -> None:
        """Tell how far a job is: a few times a second, and each phase's first."""
        now = time.monotonic()
        told, last = self._told.get(job.hash, (0.0, ""))
        once = phase != last and phase in ("prepare", "simulate", "save")
        if once or now - told >= SECONDS_BETWEEN_REPORTS:
            self._told[job.hash] = now, phase
            self._tell(job, "progress", phase=phase, update=update, updates=updates)

    def finish(
        self,
        inputs: "JobInputs",
        networks: "Sequence[Trained]",
        resumed: "Sequence[State]",
        engine: dict[str, Any],
    ) -> None:
        """Leave the checkpoint of a trained model, and say so.

        On a GPU the networks of a job train side by side, and each carries the group's seconds.

        Parameters
        ----------
        inputs
            Of any of its networks.
        networks
            What training each of them gave, in their order.
        resumed
            The states from which some of them went on.
        engine
            Who trained, and how.
        """
        from aef_dagster.models.checkpoints import write_checkpoint
        from aef_dagster.models.committees import united
        from aef_dagster.models.scoring import score_rows, simulation_table

        side_by_side = engine["engine"] == "gpu"
        job, trained = inputs.job, united(networks, side_by_side=side_by_side)
        spent = max if side_by_side else sum
        dates = self.data.dates[inputs.test]
        observed = self.data.streamflow[inputs.target_rows, inputs.test]
        self.report(job, "save", trained.updates, trained.updates)
        write_checkpoint(
            self._checkpoints,
            job.hash,
            partial=self._scratch,
            job=job,
            simulation=simulation_table(job.targets, dates, observed, trained.simulation),
            scores=score_rows(job, dates, observed, trained.simulation),
            run={
                "seconds": round(trained.seconds, 2),
                "basin_days": trained.updates * job.budget.batch * job.budget.window,
                "peak_mb": round(peak_mb(), 1),
                "updates": trained.updates,
                "best_update": trained.best_update,
                "resumed_at": sum(state.update for state in resumed) if resumed else None,
                "resumed_from": resumed[-1].record["engine"] if resumed else None,
                "resumed_s": round(spent([state.seconds for state in resumed] or [0.0]), 2),
                "donors_left_out": trained.donors_left_out,
            }
            | {"precision": job.precision}
            | engine
            | _versions(),
            weights=trained.weights,
            scaler=inputs.scaler,
            curve=trained.curve,
        )
        for network in range(job.budget.networks):
            self.unfinished(job, network).remove()
        self._tell(job, "done")

    def fail(self, job: TrainingJob, error: Exception) -> None:
        """Say why a job failed, with a traceback where the user cannot mend it."""
        told, trace = str(error), ""
        if not isinstance(error, UserError):
            told = f"{type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error))
        self._tell(job, "failed", error=told, traceback=trace)

    def _tell(self, job: TrainingJob, event: str, **told: Any) -> None:
        if job.hash in self._ended:
            return  # another of its networks has failed, and that was told
        if event != "progress":
            self._ended.add(job.hash)
        self._channel.write(json.dumps({"event": event, "job": job.hash} | told) + "\n")
        self._channel.flush()


def _train_in_turn(jobs: list[TrainingJob], desk: _Desk) -> None:
    """Train jobs one after another on the CPU."""
    for job in jobs:
        try:
            desk.report(job, "prepare", 0, job.budget.updates_in_all)
            from aef_dagster.models.engine import cpu
            from aef_dagster.models.inputs import prepare

            inputs = prepare(job, desk.data)
            trained, resumed = [], []
            for network in inputs.of_networks():
                state = desk.unfinished(job, network.network).read()
                resumed += [state] if state else []
                report, keep = partial(desk.report_network, network), partial(desk.keep, network)
                trained.append(cpu.train(network, report, state, keep, desk.keep_every_s))
            desk.finish(inputs, trained, resumed, {"engine": "cpu"})
        except BrokenPipeError:
            raise
        except Exception as error:
            desk.fail(job, error)


def train_together(jobs: list[TrainingJob], desk: _Desk, device: str) -> None:
    """Train jobs in groups on a GPU; those that groups cannot train, on the CPU after them."""
    from aef_dagster.models.inputs import prepare

    ready: dict[str, list[JobInputs]] = {}
    in_groups = [job for job in jobs if job.recipe.architecture == "one_layer"]
    for job in in_groups:
        desk.report(job, "prepare", 0, job.budget.updates_in_all)
        try:
            ready.setdefault(job.precision, []).extend(prepare(job, desk.data).of_networks())
        except Exception as error:
            desk.fail(job, error)
    for precision, networks in ready.items():
        left = {network.job.hash: network.job for network in networks}
        try:
            _train_alike(networks, left, device, precision, desk)
        except BrokenPipeError:
            raise
        except Exception as error:
            for job in left.values():
                desk.fail(job, error)
    _train_in_turn([job for job in jobs if job.recipe.architecture != "one_layer"], desk)


def _train_alike(
    networks: "list[JobInputs]",
    left: dict[str, TrainingJob],
    device: str,
    precision: str,
    desk: _Desk,
) -> None:
    """Train networks of one precision in groups; takes the jobs that are done out of `left`."""
    from aef_dagster.models.engine import gpu

    states: dict[int, State] = {}
    for index, network in enumerate(networks):
        state = desk.unfinished(network.job, network.network).read()
        if state is not None:
            states[index] = state
    results = gpu.train_jobs(
        networks,
        device,
        lambda index, *told: desk.report_network(networks[index], *told),
        precision=precision,
        unfinished=states,
        keep=lambda index, state: desk.keep(networks[index], state),
        keep_every_s=desk.keep_every_s,
    )
    trained: dict[str, dict[int, gpu.GroupTrained]] = {}
    for index, result in results:
        network, job = networks[index], networks[index].job
        if job.hash not in left:
            continue  # another of its networks has failed, and that was told
        try:
            if isinstance(result, UserError):
                raise result
            done = trained.setdefault(job.hash, {})
            done[network.network] = result
            if len(done) == job.budget.networks:
                of_job = [i for i, each in enumerate(networks) if each.job is job]
                resumed = [states[i] for i in of_job if i in states]
                in_order = [done[number] for number in range(job.budget.networks)]
                del left[job.hash], trained[job.hash]
                desk.finish(network, in_order, resumed, result.run)
        except BrokenPipeError:
            raise
        except Exception as error:
            left.pop(job.hash, None)
            desk.fail(job, error)


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MiB, shared pages included."""
    try:
        # Not ru_maxrss where it can be helped: it starts from the size of the parent process.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _versions() -> dict[str, str]:
    import platform

    import numpy as np
    import torch

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    main()
