"""Many small models on all cores, beside one process that trains them one after another.

64 targets with 100 donors each, real basins, budget `tiny`, through `models.training.train` as the
platform calls it: worker processes, checkpoints, scores. The peer is one worker process with
the same engine, at the number of threads a model that serves it best: one, or all cores, tried on
few models. It trains some of the same targets, and its rate is scaled; it is taken from its first
finished model on, so that the start of its process is not held against it, while ours is counted
from the call. `speedup` = our models an hour over the peer's.

Seconds on the clock, so the cores must be idle: what others take of them is lost to `speedup`. The
table has CPU seconds a model as well, the start of the processes included: where models do not slow
each other down, those of the last two rows are alike.
"""

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from aef_dagster.basins.periods import default_periods
from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, RECIPES
from aef_dagster.models.training import train, usable_cores
from benchmarks.measuring import print_table
from benchmarks.real_basins import load_basins

TARGETS, DONORS = 64, 100
# One more than are counted.
TRIED_MODELS, PEER_MODELS = 3, 9
REPRESENTATION = "attributes17"


@dataclass(frozen=True)
class _Rate:
    """Models an hour, how they were counted, and CPU seconds a model."""

    models: int
    seconds: float
    cpu_s: float

    @property
    def per_hour(self) -> float:
        return 3600 * self.models / self.seconds


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    cores = usable_cores()
    everything = load_basins([REPRESENTATION], default_periods("camels_us"))
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        everything.save(Path(folder) / "data")
        data = TrainingData.open(Path(folder) / "data")
        del everything
        tried = {
            threads: _one_process(_jobs(data, TRIED_MODELS, threads), data, Path(folder) / "tried")
            for threads in sorted({1, cores})
        }
        threads = max(tried, key=lambda threads: tried[threads].per_hour)
        peer = _one_process(_jobs(data, PEER_MODELS, threads), data, Path(folder))
        ours = _all_cores(_jobs(data, TARGETS, 1), data, Path(folder))
    rates = [(f"one process, {count} threads, tried", rate) for count, rate in tried.items()]
    rates += [(f"one process, {threads} threads", peer), (f"all {cores} cores, 1 thread", ours)]
    print_table(
        f"budget tiny, {DONORS} donors a model",
        ("", "models", "wall s", "s a model", "CPU s a model", "models/hour"),
        [
            (name, rate.models, f"{rate.seconds:.1f}", f"{rate.seconds / rate.models:.2f}",
             f"{rate.cpu_s:.2f}", f"{rate.per_hour:.0f}")
            for name, rate in rates
        ],
    )  # fmt: skip
    return {
        "speedup": f"{ours.per_hour / peer.per_hour:.2f}",
        "models_per_hour": f"{ours.per_hour:.0f}",
    }


def _jobs(data: TrainingData, count: int, threads: int) -> list[TrainingJob]:
    """Targets spread over the list of basins, each with the donors that follow it there.

    Gauge ids run along the rivers, so these are neighbours; which they are costs nothing.
    """
    basins = data.gauge_ids
    jobs = []
    for number in range(count):
        at = number * len(basins) // TARGETS
        donors = tuple(basins[(at + step) % len(basins)] for step in range(1, DONORS + 1))
        jobs.append(
            TrainingJob(
                dataset="camels_us", forcing="-", data_version="benchmark",
                targets=(basins[at],), donors=donors, role="ungauged",
                periods=default_periods("camels_us"), representation=REPRESENTATION,
                recipe=RECIPES["strong"], budget=BUDGETS["tiny"], seed=0, threads=threads,
            )
        )  # fmt: skip
    return jobs


def _one_process(jobs: list[TrainingJob], data: TrainingData, folder: Path) -> _Rate:
    checkpoints = folder / f"one-{jobs[0].threads}"
    times, cpu_s = _finished(jobs, data, checkpoints, workers=1)
    return _Rate(len(times) - 1, times[-1] - times[0], cpu_s)


def _all_cores(jobs: list[TrainingJob], data: TrainingData, folder: Path) -> _Rate:
    started = time.monotonic()
    times, cpu_s = _finished(jobs, data, folder / "all", workers=None)
    return _Rate(len(times), times[-1] - started, cpu_s)


def _finished(
    jobs: list[TrainingJob], data: TrainingData, checkpoints: Path, workers: int | None
) -> tuple[list[float], float]:
    """When each model was finished, and CPU seconds a model; a failed one ends the benchmark."""
    times = []
    before = _cpu_seconds_of_children()
    for outcome in train(jobs, data, checkpoints, workers=workers, device="cpu"):
        if outcome.error is not None:
            raise UserError(f"basin {outcome.job.targets[0]}: {outcome.error}")
        times.append(time.monotonic())
    return times, (_cpu_seconds_of_children() - before) / len(times)


def _cpu_seconds_of_children() -> float:
    """Of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
