"""Memory of training on all 671 basins at once, in the worker process that does it.

One model of budget `full` and recipe `strong`, all basins both donors and targets, fewer updates
and one validation, then the test period of every basin simulated, scored and written: all that a
worker does, none of it larger in a whole training. `peak_mb` is the largest resident memory of the
worker. Daily series are mapped from a file, so their pages are in it, and in that of every other
worker, but in memory once: the table says how much that is. The process that reads the files is
another one and ends before.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from aef_dagster.basins.periods import default_periods
from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, RECIPES
from aef_dagster.models.training import train
from benchmarks.measuring import in_fresh_process, print_table

UPDATES = 24
REPRESENTATION = "attributes27"


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        reading = in_fresh_process("benchmarks.memory", "save_basins", folder=folder)
        data = TrainingData.open(Path(folder))
        shared_mb = sum(array.nbytes for array in (data.forcing, data.streamflow)) / 1024**2
        (outcome,) = train([_job(data)], data, Path(folder) / "checkpoints", device="cpu")
    if outcome.error is not None:
        raise UserError(outcome.error)
    print_table(
        f"memory, {len(data.gauge_ids)} basins, budget full, {UPDATES} updates",
        ("", "peak MB"),
        [
            ("worker that trains", f"{outcome.peak_mb:.0f}"),
            ("of it series, mapped, shared by all workers", f"{shared_mb:.0f}"),
            ("process that reads the published files", f"{reading.peak_mb:.0f}"),
        ],
    )
    return {"peak_mb": f"{outcome.peak_mb:.0f}"}


def save_basins(folder: str) -> None:
    """Read all basins, and leave the arrays that a worker maps."""
    from benchmarks.real_basins import load_basins

    load_basins([REPRESENTATION], default_periods("camels_us")).save(Path(folder))


def _job(data: TrainingData) -> TrainingJob:
    return TrainingJob(
        dataset="camels_us", forcing="-", data_version="benchmark", targets=data.gauge_ids,
        donors=data.gauge_ids, role="gauged", periods=default_periods("camels_us"),
        representation=REPRESENTATION, recipe=replace(RECIPES["strong"], validations=1),
        budget=replace(BUDGETS["full"], updates=UPDATES, networks=1), seed=0,
    )  # fmt: skip
