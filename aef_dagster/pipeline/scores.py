"""From checkpoints to the table of scores.

Here: reading what training left, one row per result and choice of donors, and summaries of it.
`basin_models` itself never opens the warehouse: its runs would queue for the lock.
Not here: metrics (evaluation/), the asset.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from aef_dagster.errors import DataFileError
from aef_dagster.evaluation.metrics import METRICS
from aef_dagster.evaluation.statistics import bootstrap_median, summarise
from aef_dagster.models.checkpoints import Checkpoint

CHOICE = ["space", "k", "representation", "recipe", "budget", "n_members"]
COLUMNS = [
    "job_hash", "asset", "dataset", "gauge_id", "role", *CHOICE, "seed", "period_start",
    "period_end", "n_days", *METRICS, "surrogate", "sample", "mlflow_run_id", "dagster_run_id",
]  # fmt: skip


def result_key(job_hash: str, space: str, k: int) -> str:
    """Name of a result in MLflow: equal donors asked for in two spaces are two results."""
    return f"{job_hash}-{space}-k{k}"


def all_checkpoints(root: Path) -> Iterator[Checkpoint]:
    """Every checkpoint that somebody asked for, in a fixed order."""
    for folder in sorted(root.glob("*/requests")):
        yield Checkpoint.open(root, folder.parent.name)


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
        The columns of the table `scores`; missing scores are NaN.
    """
    rows = []
    for checkpoint in all_checkpoints(checkpoints):
        try:
            rows += list(_rows(checkpoint, asset, mlflow_run_of))
        except DataFileError:
            # A damaged checkpoint is set aside and trained again when next asked for.
            if checkpoint.exists:
                raise
    table = pd.DataFrame(rows, columns=COLUMNS)
    types = {"seed": "Int32", "k": "Int32", **{name: "float64" for name in METRICS}}
    return table.astype(types)


def medians(scores: pd.DataFrame) -> pd.DataFrame:
    """Per choice: number of basins, median NSE with its interval, and the other summaries."""
    rows = []
    for choice, group in scores.groupby(CHOICE, dropna=False):
        nse = group["nse"].to_numpy()
        found = summarise(nse)
        _median, low, high = bootstrap_median(nse)
        rows.append(
            {
                **dict(zip(CHOICE, choice, strict=True)),
                "basins": found["n"],
                "unscored": found["n_missing"],
                "median NSE": found["median"],
                "95 % from": low,
                "to": high,
                "mean NSE": found["mean"],
                "share below 0": found["share_below_0"],
                "median KGE": group["kge"].median(),
            }
        )
    return pd.DataFrame(rows)


def compare_published(scores: pd.DataFrame, reference_dir: str | None) -> pd.DataFrame | None:
    """Median NSE beside published ones, on the same basins; None where none are at hand.

    Parameters
    ----------
    reference_dir
        Folder with `published_nse_531.csv`: gauge_id and one column a published model.
    """
    path = Path(reference_dir) / "published_nse_531.csv" if reference_dir else None
    if path is None or not path.exists():
        return None
    published = pd.read_csv(path, dtype={"gauge_id": str}).set_index("gauge_id")
    rows = []
    for choice, group in scores.groupby(CHOICE, dropna=False):
        ours = group.groupby("gauge_id")["nse"].median()
        shared = published.loc[published.index.intersection(ours.index)]
        if len(shared):
            rows.append(
                {
                    **dict(zip(CHOICE, choice, strict=True)),
                    "basins": len(shared),
                    "here": ours[shared.index].median(),
                    **{str(name): value for name, value in shared.median().items()},
                }
            )
    return pd.DataFrame(rows) if rows else None


def _rows(checkpoint: Checkpoint, asset: str, mlflow_run_of) -> Iterator[dict]:
    job, members = checkpoint.job(), checkpoint.members()
    asked = [request for request in checkpoint.requests() if request["asset"] == asset]
    for request in sorted(asked, key=lambda request: (request["space"], request["k"])):
        space, k = request["space"], request["k"]
        for scored in checkpoint.scores():
            yield {
                **scored,
                "job_hash": checkpoint.hash,
                "asset": asset,
                "dataset": job.dataset,
                "space": space,
                "k": k,
                "representation": job.representation,
                "recipe": job.recipe.name,
                "budget": job.budget.name,
                "n_members": len(members),
                "seed": job.seed if len(members) == 1 else None,
                "surrogate": request["surrogate"],
                "sample": request["sample"],
                "mlflow_run_id": mlflow_run_of(result_key(checkpoint.hash, space, k)),
                "dagster_run_id": request["run_id"],
            }
