"""The run of `basin_models` between its plan and its report.

Here: jobs into the engine, finished targets out (a target is finished when all its seeds are),
progress, and the figures over a whole study. Not here: the engine (models/), Dagster events (the
asset).
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from aef_dagster.evaluation.figures import skill_cdf_png
from aef_dagster.evaluation.statistics import summarise
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.training import Outcome, Progress, train
from aef_dagster.pipeline.config import TrainingChoice
from aef_dagster.pipeline.inputs import BasinPlan
from aef_dagster.pipeline.reports import BasinResult
from aef_dagster.progress import bar
from aef_dagster.storage.tracking import Tracking

logger = logging.getLogger("aef_dagster")


def train_basins(
    plan: BasinPlan,
    checkpoints: Path,
    choice: TrainingChoice,
    device: str,
    gpus: int | None,
    run_id: str,
    failures: dict[str, str],
) -> Iterator[BasinResult]:
    """Train what is not done yet; targets as they finish.

    Parameters
    ----------
    gpus
        Most GPUs to take; None = all that are free.
    failures
        Filled with target -> reason for each that could not be trained.
    """
    target_of = {job.hash: target for target, jobs in plan.jobs.items() for job in jobs}
    all_jobs = [job for jobs in plan.jobs.values() for job in jobs]
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    budget = all_jobs[0].budget
    done_days: dict[str, float] = {}
    label = {
        "asset": "basin_models",
        "space": choice.space,
        "k": choice.k,
        "run_id": run_id,
        # Of this request: the same job may be reached by donors of a space that is no stand-in.
        "sample": all_jobs[0].sample,
        "surrogate": all_jobs[0].surrogate,
    }

    fresh = [job for job in all_jobs if not Checkpoint.open(checkpoints, job.hash).exists]
    if len(fresh) < len(all_jobs):
        logger.info("%d models reused", len(all_jobs) - len(fresh))
    with bar("training", len(fresh) * budget.basin_days, "basin-days") as progress:

        def tell(event: Progress) -> None:
            done_days[event.job_hash] = event.basin_days
            progress.at(sum(done_days.values()))

        runs = train(
            all_jobs, plan.data, checkpoints, workers=choice.workers, device=device, gpus=gpus,
            on_progress=tell,
        )  # fmt: skip
        for outcome in runs:
            target = target_of[outcome.job.hash]
            done_days[outcome.job.hash] = 0 if outcome.reused else budget.basin_days
            progress.at(sum(done_days.values()))
            if outcome.error:
                failures[target] = outcome.error
                continue
            outcomes[target].append(outcome)
            if len(outcomes[target]) == choice.seeds:
                yield _result(plan, checkpoints, target, outcomes.pop(target), label)


def finish_study(tracking: Tracking, study: str, title: str) -> None:
    """Put the figures over all basins of a study on its MLflow parent run."""

    def figures(rows: list[dict[str, float]]) -> dict[str, bytes]:
        nse = [row["nse"] for row in rows if "nse" in row]
        return {"nse_cdf.png": skill_cdf_png({title: nse}, metric="nse")} if nse else {}

    def summary(rows: list[dict[str, float]]) -> dict[str, float]:
        found = summarise([row.get("nse", float("nan")) for row in rows])
        told = {"basins": len(rows), "basins_without_score": found["n_missing"]}
        if found["n"]:
            told |= {f"{name}_nse": found[name] for name in ("median", "mean", "q25", "q75")}
            told["share_nse_below_0"] = found["share_below_0"]
        return {name: float(value) for name, value in told.items()}

    tracking.summarise_parent(study, summary, figures)


def describe_failures(failures: dict[str, str], n_targets: int, of: str = "basins") -> str:
    """One paragraph: how many failed, and each reason once."""
    reasons = defaultdict(list)
    for gauge_id, reason in failures.items():
        reasons[reason].append(gauge_id)
    told = "; ".join(f"{', '.join(ids[:10])}: {reason}" for reason, ids in reasons.items())
    return f"{len(failures)} of {n_targets} {of} failed, the others are kept. {told}"


def _result(
    plan: BasinPlan, checkpoints: Path, target: str, outcomes: list[Outcome], label: dict
) -> BasinResult:
    members = sorted((outcome.job for outcome in outcomes), key=lambda job: job.seed)
    if len(members) == 1:
        checkpoint = Checkpoint.open(checkpoints, members[0].hash)
    else:
        from aef_dagster.models.ensembles import ensemble

        checkpoint = ensemble(checkpoints, members)
    for job_hash in {checkpoint.hash, *(job.hash for job in members)}:
        _label(Checkpoint.open(checkpoints, job_hash), label)
    return BasinResult(
        gauge_id=target,
        checkpoint=checkpoint,
        members=members,
        donors=plan.donors[target],
        seconds=sum(outcome.seconds for outcome in outcomes if not outcome.reused),
        basin_days=sum(outcome.basin_days for outcome in outcomes if not outcome.reused),
        reused=all(outcome.reused for outcome in outcomes),
    )


def _label(checkpoint: Checkpoint, label: dict) -> None:
    """Note who asked, once per choice of donors: the run that made it stays on record."""
    for request in checkpoint.requests():
        if all(request[name] == label[name] for name in ("asset", "space", "k")):
            del request["asked_at"]
            label = request
    checkpoint.add_request(label)
