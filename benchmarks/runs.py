"""Training a list of jobs for a benchmark, where finished ones are found again.

Not here: which jobs (each benchmark), the data (real_basins.py).
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.training import Progress, train
from aef_dagster.progress import bar


@contextmanager
def bench_home() -> Iterator[Path]:
    """Folder of trained models: BENCH_HOME, kept; else one that is gone afterwards."""
    kept = os.environ.get("BENCH_HOME")
    if kept:
        home = Path(kept)
        home.mkdir(parents=True, exist_ok=True)
        yield home
        return
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        yield Path(folder)


def train_all(
    jobs: Sequence[TrainingJob], data: TrainingData, home: Path, title: str
) -> dict[str, Checkpoint]:
    """Train jobs on all cores, or find them trained; a checkpoint per job hash.

    Raises
    ------
    UserError
        A job failed.
    """
    work = {job.hash: job.budget.basin_days for job in jobs}
    done = dict.fromkeys(work, 0)
    checkpoints = {}
    with bar(title, sum(work.values()), "basin-days") as progress:

        def tell(told: Progress) -> None:
            done[told.job_hash] = told.basin_days
            progress.at(sum(done.values()))

        for outcome in train(jobs, data, home / "checkpoints", on_progress=tell):
            if outcome.error is not None:
                raise UserError(outcome.error)
            done[outcome.job.hash] = work[outcome.job.hash]
            progress.at(sum(done.values()))
            checkpoints[outcome.job.hash] = Checkpoint.open(home / "checkpoints", outcome.job.hash)
    return checkpoints
