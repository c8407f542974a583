"""A process that trains one job after another, for `training.train`.

Here: `python -m aef_dagster.models.worker DATA CHECKPOINTS PARTIAL`, which takes jobs as lines of
JSON on its standard input and tells of them as lines of JSON on its standard output.
Not here: who starts it and who gets which job (training.py), the training (engine_cpu.py).

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
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob

SECONDS_BETWEEN_REPORTS = 0.3


def main() -> None:
    """Serve jobs until the standard input ends."""
    # Ctrl-C reaches every process of a terminal; the caller alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data, checkpoints, partial = (Path(argument) for argument in sys.argv[1:4])
    # A library that prints must not break the protocol: only `channel` reaches the caller.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Nobody reads any more: the caller is gone.
    with suppress(BrokenPipeError):
        serve(sys.stdin, channel, data, checkpoints, partial)


def serve(
    lines: Iterable[str], channel: TextIO, data_folder: Path, checkpoints: Path, partial: Path
) -> None:
    """Train a job per line, and tell how each went.

    Parameters
    ----------
    lines
        Jobs as JSON.
    channel
        Takes messages: `progress` with phase and update, then `done`, or `failed` with error and
        traceback ("" where the error is one the user can mend).
    data_folder
        What `TrainingData.save` wrote.
    checkpoints, partial
        Folders of finished and of unfinished checkpoints.
    """
    data = TrainingData.open(data_folder)
    for line in lines:
        job = TrainingJob.from_json(json.loads(line))
        try:
            _train(job, data, checkpoints, partial, _reporter(channel))
            _tell(channel, event="done")
        except BrokenPipeError:
            raise
        except UserError as error:
            _tell(channel, event="failed", error=str(error), traceback="")
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            _tell(channel, event="failed", error=cause, traceback=traceback.format_exc())


def _train(
    job: TrainingJob,
    data: TrainingData,
    checkpoints: Path,
    partial: Path,
    report: Callable[[str, int], None],
) -> None:
    """Train one job and leave its checkpoint."""
    started = time.monotonic()
    report("prepare", 0)
    from aef_dagster.models import engine_cpu
    from aef_dagster.models.checkpoints import write_checkpoint
    from aef_dagster.models.inputs import prepare
    from aef_dagster.models.scoring import score_rows, simulation_table

    inputs = prepare(job, data)
    trained = engine_cpu.train(inputs, report)
    dates = data.dates[inputs.test]
    observed = data.streamflow[inputs.target_rows, inputs.test]
    scores = score_rows(job, dates, observed, trained.simulation)
    report("save", job.budget.updates)
    write_checkpoint(
        checkpoints,
        job.hash,
        partial=partial,
        job=job,
        simulation=simulation_table(job.targets, dates, observed, trained.simulation),
        scores=scores,
        run={
            "seconds": round(time.monotonic() - started, 2),
            "basin_days": job.budget.basin_days,
            "peak_mb": round(peak_mb(), 1),
            "best_update": trained.best_update,
            "donors_left_out": trained.donors_left_out,
            "engine": "cpu",
        }
        | _versions(),
        weights=trained.weights,
        scaler=inputs.scaler,
        curve=trained.curve,
    )


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


def _reporter(channel: TextIO) -> Callable[[str, int], None]:
    """A report function that lets through a few reports a second, and each phase's first."""
    told, last = 0.0, ""

    def report(phase: str, update: int) -> None:
        nonlocal told, last
        now = time.monotonic()
        once = phase != last and phase in ("prepare", "simulate", "save")
        if once or now - told >= SECONDS_BETWEEN_REPORTS:
            told, last = now, phase
            _tell(channel, event="progress", phase=phase, update=update)

    return report


def _tell(channel: TextIO, **message: Any) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


if __name__ == "__main__":
    main()
