"""What is told of one trained basin: to the Dagster page, and to MLflow.

Here: from a checkpoint to metadata and to a tracked run. Not here: training, scoring, drawing.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd

from aef_dagster.errors import writing
from aef_dagster.evaluation.figures import hydrograph_svg, water_years_svg
from aef_dagster.evaluation.metrics import METRIC_TEXT, METRICS
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.config import TrainingChoice
from aef_dagster.pipeline.scores import result_key
from aef_dagster.storage.tracking import TrackedRun

DONORS_SHOWN = 20


@dataclass(frozen=True)
class BasinResult:
    """One finished target: its checkpoint (of one model or of the ensemble), and its members.

    `seconds` and `basin_days` are of this run's training: 0 where everything was reused.
    `Checkpoint.run` tells what it once cost.
    """

    gauge_id: str
    checkpoint: Checkpoint
    members: Sequence[TrainingJob]
    donors: Sequence[str]
    seconds: float
    basin_days: float
    reused: bool

    @property
    def seed(self) -> int | None:
        """Seed of the one model; None for an ensemble."""
        return self.members[0].seed if len(self.members) == 1 else None

    # Read once, for the page and for MLflow.
    @cached_property
    def simulation(self) -> pd.DataFrame:
        """Test period of the target, as `Checkpoint.simulation` gives it."""
        return self.checkpoint.simulation()

    @cached_property
    def scores(self) -> dict:
        """Scores of the target, NaN where a metric is undefined."""
        return next(row for row in self.checkpoint.scores() if row["gauge_id"] == self.gauge_id)

    def members_curve(self) -> list[dict]:
        """Learning curve of the one model; an ensemble's members have theirs in their folders."""
        return self.checkpoint.curve() if len(self.members) == 1 else []

    def key(self, choice: TrainingChoice) -> str:
        """Name of this result in MLflow."""
        return result_key(self.checkpoint.hash, choice.space, choice.k)


def basin_metadata(
    result: BasinResult, choice: TrainingChoice, mlflow_url: str | None
) -> dict[str, dg.MetadataValue | float | int | str | bool]:
    """Metadata of one basin's materialization: plots, hydrograph, score table, links."""
    scores, job = result.scores, result.members[0]
    report: dict = {
        "hydrograph": metadata.picture(_svg(result, scores)),
        "scores": dg.MetadataValue.md(score_table(scores)),
        **metadata.numbers({name: scores.get(name) for name in METRICS}),
        "n_days": scores["n_days"],
        "n_donors": len(result.donors),
        "donors": ", ".join(result.donors[:DONORS_SHOWN])
        + (" ..." if len(result.donors) > DONORS_SHOWN else ""),
        "choice": choice.title,
        "test_period": f"{job.periods.test_start}..{job.periods.test_end}",
        "sample": job.sample,
        "surrogate": job.surrogate,
        "reused": result.reused,
        "checkpoint": dg.MetadataValue.path(str(result.checkpoint.folder)),
    }
    if not result.reused:
        report["train_seconds"] = round(result.seconds, 2)
        report["basin_days_per_s"] = round(result.basin_days / max(result.seconds, 1e-9))
    report["mlflow_run"] = (
        dg.MetadataValue.url(mlflow_url) if mlflow_url else "waits in the outbox; `aef sync`"
    )
    return report


def tracked_run(
    result: BasinResult,
    choice: TrainingChoice,
    study: tuple[str, str],
    dagster_run_id: str,
    dagster_url: str,
) -> TrackedRun:
    """The record of one basin for MLflow.

    Parameters
    ----------
    study
        Key and name of the parent run.
    """
    job, scores = result.members[0], result.scores
    cost = result.checkpoint.run()  # of the training, also where this run only reused it
    picture = _hydrograph_file(result, choice, job)
    tags = {
        "gauge_id": result.gauge_id,
        "dataset": job.dataset,
        "space": choice.space,
        "k": str(choice.k),
        "representation": choice.representation,
        "recipe": choice.recipe,
        "budget": choice.budget,
        "precision": job.precision,
        "seed": "ensemble" if result.seed is None else str(result.seed),
        "job_hash": result.checkpoint.hash,
        "dagster_run_id": dagster_run_id,
        "dagster_run": f"{dagster_url.rstrip('/')}/runs/{dagster_run_id}",
        "sample": str(job.sample).lower(),
        "surrogate": str(job.surrogate).lower(),
        "mlflow.note.content": f"Trained by Dagster run [{dagster_run_id[:8]}]"
        f"({dagster_url.rstrip('/')}/runs/{dagster_run_id}), basin "
        f"[{result.gauge_id}]({dagster_url.rstrip('/')}/assets/basin_models"
        f"?partition={result.gauge_id}).",
    }
    now = time.time()
    curve = [
        (name, int(point["update"]), float(point[name]))
        for point in result.members_curve()
        for name in point
        if name != "update" and point[name] is not None and np.isfinite(point[name])
    ]
    return TrackedRun(
        key=result.key(choice),
        parent_key=study[0],
        parent_name=study[1],
        name=f"{result.gauge_id} {choice.space}",
        started=now - cost["seconds"],
        ended=now,
        tags=tags,
        parent_tags={
            name: tags[name]
            for name in ("dataset", "space", "k", "representation", "recipe", "budget", "sample",
                         "surrogate")
        },
        params={
            "n_donors": str(len(result.donors)),
            "n_members": str(len(result.members)),
            "hidden": str(job.budget.hidden),
            "updates": str(job.budget.updates),
            "networks": str(job.budget.networks),
            "batch": str(job.budget.batch),
            "window": str(job.budget.window),
            "learned_from": f"{job.periods.train_start}..{job.learned_until}",
            "validated_on": f"{job.periods.valid_start}..{job.periods.valid_end}",
            "test": f"{job.periods.test_start}..{job.periods.test_end}",
        },
        metrics={
            # MLflow keeps every digit; a score that is missing is no metric there.
            **{name: value for name in METRICS if np.isfinite(value := scores.get(name, np.nan))},
            "train_seconds": cost["seconds"],
            "peak_mb": cost["peak_mb"],
        },
        curve=curve,
        artifacts=[str(picture), str(result.checkpoint.folder / "job.json")],
    )  # fmt: skip


def score_table(scores: dict) -> str:
    """All metrics of one basin with their meaning, as Markdown."""
    rows = [(name, scores.get(name, float("nan")), METRIC_TEXT[name]) for name in METRICS]
    return metadata.markdown_table(pd.DataFrame(rows, columns=["metric", "value", "meaning"]))


def _hydrograph_file(result: BasinResult, choice: TrainingChoice, job: TrainingJob) -> Path:
    """The picture for MLflow, one a choice of donors: its title names them."""
    path = result.checkpoint.folder / "figures" / f"{choice.space}-k{choice.k}" / "hydrograph.svg"
    if not path.exists():
        title = f"{_marked(job)}{result.gauge_id}: {choice.title}"
        flow = (result.simulation[name].to_numpy() for name in ("date", "obs", "sim"))
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(water_years_svg(*flow, title=title), encoding="utf-8")
            unfinished.replace(path)
    return path


def _svg(result: BasinResult, scores: dict) -> str:
    job, simulation = result.members[0], result.simulation
    nse = scores.get("nse")
    told = f"NSE {nse:.2f}" if nse is not None and np.isfinite(nse) else "no flow to score"
    spread = simulation["sim_std"].to_numpy()
    return hydrograph_svg(
        simulation["date"].to_numpy(),
        simulation["obs"].to_numpy(),
        simulation["sim"].to_numpy(),
        title=f"{_marked(job)}{result.gauge_id}: {told}",
        note="last observed year; NSE of the whole test period",
        sim_std=spread if np.isfinite(spread).any() else None,
    )


def _marked(job: TrainingJob) -> str:
    return metadata.marked({"sample": job.sample, "surrogate": job.surrogate})
