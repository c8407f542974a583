"""From checkpoints to the table of scores.

Here: reading what training left, one row per result and choice of donors.
`basin_models` itself never opens the warehouse: its runs would queue for the lock.
Not here: metrics and summaries (evaluation/), the asset.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from aef_dagster.evaluation.metrics import METRICS
from aef_dagster.evaluation.summaries import CHOICE
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.jobs import CODE_VERSION

DESIGN = ["design", "learned_from"]
COLUMNS = [
    "job_hash", "asset", "dataset", *DESIGN, "fold", "n_donors", "gauge_id", "role", *CHOICE,
    "seed", "asked_at", "current",
    "period_start", "period_end", "n_days", *METRICS, "surrogate", "sample", "mlflow_run_id",
    "dagster_run_id",
]  # fmt: skip


def result_key(job_hash: str, space: str, k: int) -> str:
    """Name of a result in MLflow: equal donors asked for in two spaces are two results."""
    return f"{job_hash}-{space}-k{k}"


def regional_key(job_hash: str, design: str) -> str:
    """Name of a regional model in MLflow."""
    return f"{job_hash}-{design}"


def all_checkpoints(root: Path) -> Iterator[Checkpoint]:
    """Every checkpoint of this version of the training code that somebody asked for."""
    for folder in sorted(root.glob("*/requests")):
        checkpoint = Checkpoint.open(root, folder.parent.name)
        # One that is damaged is set aside here, and trained again when next asked for.
        if checkpoint.exists and checkpoint.record()["code_version"] == CODE_VERSION:
            yield checkpoint


def trained_hashes(root: Path) -> set[str]:
    """Hashes of all models and ensembles that are there."""
    return {path.parent.name for path in root.glob("*/job.json")}


def asked_since(root: Path, moment: float) -> set[str]:
    """Hashes of models (not ensembles) that somebody asked for after a moment, s since 1970."""
    found = {path.parents[1].name for path in root.glob("*/requests/*.json")
             if path.stat().st_mtime >= moment}  # fmt: skip
    return {name for name in found if (root / name / "weights.safetensors").exists()}


def collect_scores(
    checkpoints: Path, asset: str, mlflow_run_of: Callable[[str], str | None]
) -> pd.DataFrame:
    """One row per checkpoint, target and choice of donors.

    Parameters
    ----------
    checkpoints
        Folder of checkpoints.
    asset
        Only what this asset asked for.
    mlflow_run_of
        From the key of a result to its MLflow run, None while it waits in the outbox.

    Returns
    -------
    DataFrame
        The columns of the table `scores`; missing scores are NaN. `current` marks, of several
        results of one basin, choice and seed, the one asked for last.
    """
    rows = []
    for checkpoint in all_checkpoints(checkpoints):
        rows += list(_rows(checkpoint, asset, mlflow_run_of))
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("asked_at", ignore_index=True)
    # Data that changed gave another job: the one asked for last is the one in force. Not by fold:
    # a basin whose cluster has changed is tested in another one.
    table["current"] = ~table.duplicated(["gauge_id", *DESIGN, *CHOICE, "seed"], keep="last")
    table["asked_at"] = pd.to_datetime(table["asked_at"], unit="s")
    whole = ("seed", "k", "fold", "n_donors")
    types = {**dict.fromkeys(whole, "Int32"), **{name: "float64" for name in METRICS}}
    return table.astype(types)


def _rows(checkpoint: Checkpoint, asset: str, mlflow_run_of) -> Iterator[dict]:
    job, members = checkpoint.job(), checkpoint.members()
    asked = [request for request in checkpoint.requests() if request["asset"] == asset]
    for request in asked:
        design, space, k = request.get("design"), request.get("space"), request.get("k")
        if design:
            key = regional_key(checkpoint.hash, design)
        else:
            key = result_key(checkpoint.hash, request["space"], request["k"])
        for scored in checkpoint.scores():
            yield {
                **scored,
                "job_hash": checkpoint.hash,
                "asset": asset,
                "dataset": job.dataset,
                "design": design,
                "fold": request.get("fold"),
                "learned_from": request.get("learned_from"),
                "n_donors": len(job.donors),
                "space": space,
                "k": k,
                "representation": job.representation,
                "recipe": job.recipe.name,
                "budget": job.budget.name,
                "precision": job.precision,
                "n_members": len(members),
                "seed": job.seed if len(members) == 1 else None,
                "asked_at": request["asked_at"],
                "surrogate": request["surrogate"],
                "sample": request["sample"],
                "mlflow_run_id": mlflow_run_of(key),
                "dagster_run_id": request["run_id"],
            }
