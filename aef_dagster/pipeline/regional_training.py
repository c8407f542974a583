"""The run of `regional_models` between its plan and its report.

Here: jobs into the engine, finished partitions out (a partition is finished when all its models
are), progress, what MLflow is told of a model. Not here: the engine (models/), Dagster events (the
asset).
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aef_dagster.evaluation.statistics import summarise
from aef_dagster.experiments.asks import RegionalAsk
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.training import Progress, train
from aef_dagster.pipeline.scores import regional_key
from aef_dagster.pipeline.study_inputs import RegionalPlan
from aef_dagster.progress import bar
from aef_dagster.storage.tracking import TrackedRun

logger = logging.getLogger("aef_dagster")


@dataclass(frozen=True)
class Member:
    """One finished regional model.

    The job is the one asked for: that of the checkpoint may have been asked for by a design with
    other marks, which are no part of its name.
    """

    ask: RegionalAsk
    job: TrainingJob
    checkpoint: Checkpoint
    reused: bool
    seconds: float

    @property
    def scores(self) -> pd.DataFrame:
        """A row per target."""
        return pd.DataFrame(self.checkpoint.scores())


def train_regional(
    plan: RegionalPlan,
    checkpoints: Path,
    *,
    workers: int | None,
    device: str,
    gpus: int | None,
    run_id: str,
    failures: dict[str, str],
) -> Iterator[tuple[str, list[Member]]]:
    """Train what is not done yet; partitions as they finish, each with its models.

    Parameters
    ----------
    gpus
        Most GPUs to take; None = all that are free.
    failures
        Filled with partition -> reason for each that a failed model left unfinished.
    """
    asks_of: dict[str, list[tuple[RegionalAsk, TrainingJob]]] = defaultdict(list)
    waiting: dict[str, int] = defaultdict(int)
    jobs: dict[str, TrainingJob] = {}
    for ask, job in plan.jobs:
        asks_of[job.hash].append((ask, job))
        waiting[ask.partition] += 1
        jobs[job.hash] = job
    done: dict[str, list[Member]] = defaultdict(list)
    fresh = [h for h in jobs if not Checkpoint.open(checkpoints, h).exists]
    if len(fresh) < len(jobs):
        logger.info("%d of %d models reused", len(jobs) - len(fresh), len(jobs))
    days = {h: jobs[h].budget.basin_days for h in fresh}
    made: dict[str, float] = {}
    with bar("training", sum(days.values()), "basin-days") as progress:

        def tell(event: Progress) -> None:
            made[event.job_hash] = event.basin_days
            progress.at(sum(made.values()))

        runs = train(
            list(jobs.values()), plan.data, checkpoints, workers=workers, device=device, gpus=gpus,
            on_progress=tell,
        )  # fmt: skip
        for outcome in runs:
            job_hash = outcome.job.hash
            made[job_hash] = days.get(job_hash, 0)
            progress.at(sum(made.values()))
            for ask, job in asks_of[job_hash]:
                if outcome.error:
                    failures[ask.partition] = outcome.error
                    continue
                checkpoint = Checkpoint.open(checkpoints, job_hash)
                _label(checkpoint, ask, job, run_id)
                done[ask.partition].append(
                    Member(ask, job, checkpoint, outcome.reused, outcome.seconds)
                )
                if len(done[ask.partition]) == waiting[ask.partition]:
                    yield ask.partition, done.pop(ask.partition)


def tracked_model(
    member: Member, size: str, experiments: list[str], dagster_run_id: str, dagster_url: str
) -> TrackedRun:
    """The record of one regional model for MLflow.

    Parameters
    ----------
    experiments
        All that read it; the first one is its parent.
    """
    ask, checkpoint = member.ask, member.checkpoint
    job, cost, scores = member.job, checkpoint.run(), member.scores
    split, told = ask.split, summarise(scores["nse"])
    page = f"{dagster_url.rstrip('/')}/runs/{dagster_run_id}"
    tags = {
        "dataset": job.dataset, "design": split.design, "fold": str(split.fold),
        "learned_from": split.learned_from or "all others", "representation": ask.representation,
        "recipe": ask.recipe, "budget": job.budget.name, "precision": job.precision,
        "seed": str(ask.seed), "size": size, "experiments": ", ".join(experiments),
        "job_hash": checkpoint.hash, "dagster_run_id": dagster_run_id, "dagster_run": page,
        "sample": str(job.sample).lower(), "surrogate": str(job.surrogate).lower(),
    }  # fmt: skip
    now = time.time()
    metrics = {f"{name}_nse": told[name] for name in ("median", "mean", "q25", "q75")}
    metrics |= {"share_nse_below_0": told["share_below_0"], "median_kge": scores["kge"].median()}
    metrics |= {"basins": told["n"], "train_seconds": cost["seconds"], "peak_mb": cost["peak_mb"]}
    return TrackedRun(
        key=regional_key(checkpoint.hash, split.design),
        parent_key=study_key(size, experiments[0]),
        parent_name=f"{experiments[0]} · {size}",
        name=f"{ask.partition} {split.learned_from or f'fold {split.fold}'}"
        + (f" {ask.recipe}" if ask.recipe != "strong" else ""),
        started=now - cost["seconds"],
        ended=now,
        tags=tags,
        parent_tags={"size": size, "experiment": experiments[0],
                     **{name: tags[name] for name in ("dataset", "budget", "sample")}},
        params={
            "n_donors": str(len(job.donors)), "n_targets": str(len(job.targets)),
            "hidden": str(job.budget.hidden), "updates": str(job.budget.updates),
            "learned_from_years": f"{job.periods.train_start}..{job.learned_until}",
            "test": f"{job.periods.test_start}..{job.periods.test_end}",
        },
        metrics={name: float(value) for name, value in metrics.items() if value == value},
        artifacts=[str(checkpoint.folder / "job.json"), str(checkpoint.folder / "scores.json")],
    )  # fmt: skip


def study_key(size: str, experiment: str) -> str:
    """Key of an experiment's MLflow run, parent of its trainings."""
    return f"study:{size}:{experiment}"


def _label(checkpoint: Checkpoint, ask: RegionalAsk, job: TrainingJob, run_id: str) -> None:
    """Note who asked, once per design: the run that made it stays on record."""
    label = {
        "asset": "regional_models",
        "design": ask.split.design,
        "fold": ask.split.fold,
        "learned_from": ask.split.learned_from,
        "run_id": run_id,
        "sample": job.sample,
        "surrogate": job.surrogate,
    }
    for request in checkpoint.requests():
        same = ("asset", "design", "fold", "learned_from", "sample", "surrogate")
        if all(request.get(name) == label[name] for name in same):
            request.pop("asked_at")
            label = request
    checkpoint.add_request(label)
