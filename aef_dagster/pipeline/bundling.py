"""The bundle of a study: which models it holds, and whether it simulates as they did.

Here: the choice of the models, a basin's table of weather and descriptors, the comparison. Not
here: MLflow (storage/bundle.py, storage/registry.py), the asset (assets/report.py).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.statics import CONTROLS, FIRST_YEAR
from aef_dagster.pipeline.inputs import described, static_frames
from aef_dagster.storage.home import Home
from aef_dagster.storage.warehouse import Warehouse

# Controls are no description of a basin, and one year alone is a part of one.
NOT_BUNDLED = (*CONTROLS, FIRST_YEAR)
# After so many days a network no longer knows when its memory began.
MEMORY_DAYS = 365


@dataclass(frozen=True)
class Chosen:
    """The models of a bundle: those told the representation that served unseen basins best."""

    representation: str
    median_nse: float
    basins: int
    checkpoints: list[Path]


def choose_models(home: Home, store: Warehouse, budget: str, precision: str) -> Chosen:
    """Models of all folds, told the representation with the best median NSE of unseen basins.

    Raises
    ------
    UserError
        No folds were trained.
    """
    scores = store.frame(
        "SELECT representation, gauge_id, job_hash, nse FROM scores WHERE current AND "
        "asset = 'regional_models' AND design = 'folds' AND recipe = 'strong' AND budget = ? "
        f"AND precision = ? AND representation NOT IN ({', '.join('?' * len(NOT_BUNDLED))})",
        [budget, precision, *NOT_BUNDLED],
    )
    if scores.empty:
        raise UserError(
            "nothing to bundle: no fold was trained; materialize the partitions folds/... of "
            "`regional_models`, then `regional_scores` (or run `aef study`)"
        )
    basins = scores.groupby(["representation", "gauge_id"])["nse"].median()
    best = str(basins.groupby("representation").median().idxmax())
    hashes = sorted(scores.loc[scores["representation"] == best, "job_hash"].unique())
    return Chosen(
        best,
        float(basins[best].median()),
        len(basins[best]),
        [home.checkpoints / job_hash for job_hash in hashes],
    )


def static_names(store: Warehouse, chosen: Chosen) -> list[str]:
    """Columns that describe a basin in the bundle's table."""
    # Any basin that was simulated is described; one that only has weather may not be.
    basin = _first_job(chosen).targets[0]
    table = described(chosen.representation, [basin], static_frames(store, [chosen.representation]))
    return [*table.numeric_names, *table.category_names]


def may_replace(
    champion: dict[str, str] | None, dataset: str, median_nse: float, surrogate: bool
) -> bool:
    """Whether a bundle may take the alias from the one that has it.

    Parameters
    ----------
    champion
        Tags of the bundle in use; None without one.
    dataset, median_nse, surrogate
        Of the new bundle. What stand-in embeddings reach never holds off real ones, nor replaces
        them.
    """
    if champion is None or champion.get("dataset") != dataset:
        return True
    stand_in = champion.get("surrogate") == "true"
    if stand_in != surrogate:
        return stand_in
    return median_nse >= float(champion.get("median_nse", "-inf"))


def largest_difference(home: Home, store: Warehouse, bundle, chosen: Chosen) -> float:
    """Largest difference, mm/day, of a loaded bundle from what its models simulated themselves.

    A basin of each fold goes through the table that users give, with all its days. The models
    began with an empty memory a year before the test period, the bundle begins years earlier: so
    the first year of the test period, in which memories still differ, is left out.
    """
    jobs = {folder: Checkpoint.open(folder.parent, folder.name) for folder in chosen.checkpoints}
    compared = {checkpoint.job().targets[0] for checkpoint in jobs.values()}
    apart = []
    for gauge_id in sorted(compared):
        table = _table(home, store, chosen.representation, gauge_id)
        simulated = bundle.predict(table).set_index("date")["sim"]
        stored = []
        for checkpoint in jobs.values():
            if gauge_id in checkpoint.job().targets:
                rows = checkpoint.simulation()
                stored.append(rows[rows["gauge_id"] == gauge_id].set_index("date")["sim"])
        kept = pd.concat(stored, axis=1).mean(axis=1).iloc[MEMORY_DAYS:]
        kept.index = pd.to_datetime(kept.index)
        simulated.index = pd.to_datetime(simulated.index)
        apart.append(np.abs(simulated.reindex(kept.index) - kept).max())
    return float(np.max(apart))


def _first_job(chosen: Chosen) -> TrainingJob:
    folder = chosen.checkpoints[0]
    return Checkpoint.open(folder.parent, folder.name).job()


def _table(home: Home, store: Warehouse, representation: str, gauge_id: str) -> pd.DataFrame:
    """Daily rows of one basin as the bundle takes them."""
    cube = load_cube(home.forcings, None, [gauge_id])
    weather = {name: cube[name].values[0].astype(np.float64) for name in FORCINGS}
    statics = described(representation, [gauge_id], static_frames(store, [representation]))
    values: dict[str, object] = dict(
        zip(statics.numeric_names, statics.numeric[0].astype(np.float64), strict=True)
    )
    values |= dict(zip(statics.category_names, statics.categories[0], strict=True))
    table = pd.DataFrame({"gauge_id": gauge_id, "date": cube["date"].values, **weather})
    columns = pd.DataFrame(values, index=table.index)
    return pd.concat([table, columns], axis=1).dropna(subset=list(FORCINGS))
