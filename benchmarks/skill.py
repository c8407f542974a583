"""How good `strong` is at `full`: basins gauged and ungauged, beside published figures.

Trained on 1980-10..1995-09, validated on 1995-10..1999-09 (`strong` says what for), scored on
1999-10..2008-09 with Maurer forcing.

- The 531 standard basins, 27 attributes, published folds 0, 3 and 5 held out in turn, one seed
  each, and four seeds on fold 0. `ungauged`: median NSE of the basins held out, all three folds
  together; `gauged`: of the basins learnt from, the mean of the three medians. `ungauged_diff`:
  median over the 159 basins of the paired difference from the published LSTM (Kratzert et al. 2019,
  doi:10.1029/2019WR026065: ten seeds, NLDAS forcing), and its interval.
- All 671 basins, a random fifth held out, one seed: 17 attributes (`ungauged_671`), and embeddings
  alone (`ungauged_671_aef`), which are a surrogate here and say nothing about AlphaEarth.

FAST=1 = fold 0, one seed. Finished models are kept in BENCH_HOME, where another run finds them;
else in a folder that is gone afterwards.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.basins.periods import Periods
from aef_dagster.evaluation.metrics import score
from aef_dagster.evaluation.splits import spatial_folds
from aef_dagster.evaluation.statistics import bootstrap_median, paired_difference
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import TrainingData
from aef_dagster.models.ensembles import ensemble
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, RECIPES
from aef_dagster.models.simulate import predict
from benchmarks.measuring import print_table, real_settings
from benchmarks.real_basins import basins_531, folds_531, load_basins, published_nse, version_of
from benchmarks.runs import bench_home, train_all

PERIODS = Periods(
    "1980-10-01", "1995-09-30", "1995-10-01", "1999-09-30", "1999-10-01", "2008-09-30"
)
FOLDS = (0, 3, 5)
SEEDS = (0, 1, 2, 3)
# Of the random fifth: which draw, and which of its folds.
DRAW, FIFTH = 0, 0
DRAWN_AT_ONCE = 64


@dataclass(frozen=True)
class Row:
    """One model, or ensemble, and its scores: NSE by basin, ungauged and gauged."""

    title: str
    ungauged: pd.Series
    gauged: pd.Series


def run() -> dict[str, object]:
    """Train, print, and return the RESULT."""
    fast = os.environ.get("FAST") == "1"
    representations = ["attributes27"] if fast else ["attributes27", "attributes17", "aef"]
    data = load_basins(representations, PERIODS)
    version = version_of(data)
    by_fold = {fold: _fold_job(version, fold, 0) for fold in (FOLDS[:1] if fast else FOLDS)}
    members = [by_fold[0]] if fast else [_fold_job(version, 0, seed) for seed in SEEDS]
    fifths = [] if fast else [_fifth_job(version, data, name) for name in ("attributes17", "aef")]
    jobs = [*by_fold.values(), *members, *fifths]
    with bench_home() as home:
        checkpoints = train_all(jobs, data, home, "skill")
        rows = [
            _scored(f"fold {fold}", checkpoints[job.hash], data) for fold, job in by_fold.items()
        ]
        together = rows[0]
        if len(members) > 1:
            made = ensemble(home / "checkpoints", members)
            together = _scored(f"fold 0, {len(members)} seeds", made, data)
        others = [
            _scored(f"671, a fifth, {job.representation}", checkpoints[job.hash], data)
            for job in fifths
        ]
        minutes = sum(checkpoint.run()["seconds"] for checkpoint in checkpoints.values()) / 60
    _print([*rows, *([together] if len(members) > 1 else []), *others])
    ungauged = pd.concat([row.ungauged for row in rows])
    published = published_nse()["lstm_ungauged_nldas"]
    difference = paired_difference(ungauged, published[ungauged.index])
    difference_4 = paired_difference(together.ungauged, published[together.ungauged.index])
    print(
        f"{len(checkpoints)} models, {minutes:.0f} minutes of one core each in all. Paired "
        f"difference from the published ungauged LSTM: {_interval(difference)} over "
        f"{difference['n']} basins; {together.title}: {_interval(difference_4)}"
    )
    result: dict[str, object] = {
        "gauged": f"{np.mean([row.gauged.median() for row in rows]):.3f}",
        "ungauged": f"{ungauged.median():.3f}",
        "ungauged_diff": f"{difference['median_difference']:.3f}",
        "ungauged_diff_low": f"{difference['low']:.3f}",
        "ungauged_diff_high": f"{difference['high']:.3f}",
    }
    if not fast:
        result |= {
            "ungauged_671": f"{others[0].ungauged.median():.3f}",
            "ungauged_671_aef": f"{others[1].ungauged.median():.3f}",
            "ensemble_gauged": f"{together.gauged.median():.3f}",
            "ensemble_ungauged": f"{together.ungauged.median():.3f}",
        }
    return result | {
        "precision": jobs[0].precision,
        "seeds": len(members),
        "basin_days": f"{jobs[0].budget.basin_days:.2e}".replace("+0", ""),
        "core_minutes": f"{minutes:.0f}",
    }


def _fold_job(version: str, fold: int, seed: int) -> TrainingJob:
    folds = folds_531()
    held_out = [gauge_id for gauge_id, number in folds.items() if number == fold]
    return _job(version, basins_531(), held_out, "attributes27", seed)


def _fifth_job(version: str, data: TrainingData, representation: str) -> TrainingJob:
    folds = spatial_folds(data.gauge_ids, 5, DRAW)
    return _job(version, data.gauge_ids, list(folds.index[folds == FIFTH]), representation, 0)


def _job(
    version: str, basins: Sequence[str], held_out: list[str], representation: str, seed: int
) -> TrainingJob:
    settings = real_settings()
    return TrainingJob(
        dataset="camels_us", forcing=settings.forcing, data_version=version,
        targets=tuple(held_out),
        donors=tuple(set(basins) - set(held_out)), role="ungauged", periods=PERIODS,
        representation=representation, recipe=RECIPES["strong"], budget=BUDGETS["full"],
        seed=seed, precision=settings.precision, surrogate=representation == "aef",
    )  # fmt: skip


def _scored(title: str, checkpoint: Checkpoint, data: TrainingData) -> Row:
    """Scores of a model's targets as it left them, and of its donors, simulated now."""
    ungauged = {row["gauge_id"]: row["nse"] for row in checkpoint.scores()}
    donors = checkpoint.job().donors
    parts = []
    for first in range(0, len(donors), DRAWN_AT_ONCE):
        some = donors[first : first + DRAWN_AT_ONCE]
        table = predict(checkpoint, data, some, PERIODS.test_start, PERIODS.test_end)
        parts.append(_nse(table, len(some)))
    gauged = pd.Series(np.concatenate(parts), index=donors)
    return Row(title, pd.Series(ungauged), gauged)


def _nse(table: pd.DataFrame, basins: int) -> NDArray[np.float64]:
    shape = (basins, len(table) // basins)
    dates = table["date"].to_numpy()[: shape[1]].astype("datetime64[D]")
    observed, simulated = (table[name].to_numpy().reshape(shape) for name in ("obs", "sim"))
    return score(observed, simulated, dates)["nse"]


def _print(rows: list[Row]) -> None:
    cells = []
    for row in rows:
        told = []
        for scores in (row.ungauged, row.gauged):
            median, low, high = bootstrap_median(scores)
            told += [f"{median:.3f}", f"{low:.3f}..{high:.3f}", f"{np.mean(scores < 0):.1%}"]
        cells.append((row.title, len(row.ungauged), *told))
    heads = ("held out", "basins", "ungauged", "95 %", "below 0", "gauged", "95 %", "below 0")
    print_table("NSE of strong at full, medians over basins, test 1999-10..2008-09", heads, cells)


def _interval(told: dict[str, float]) -> str:
    return (
        f"{told['median_difference']:+.3f} ({told['low']:+.3f}..{told['high']:+.3f}, Wilcoxon "
        f"p {told['wilcoxon_p']:.2g})"
    )
