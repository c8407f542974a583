"""What each choice of the recipe `strong` is worth: one change at a time, seeds paired.

Basins and days that nothing else is judged by: of the 531 standard basins those outside the
published folds 0, 3 and 5; folds 1 and 6 held out (106 basins), the other 266 learnt from, in the
years 1980-10..1995-09 (the last four for validation, where a recipe wants that); scored on
1995-10..1999-09. So what is chosen here has seen neither those folds nor the test years of `skill`.

A row is one change. `nse` is the median over the basins held out, its mean over seeds. `difference`
is the median over basins of the paired difference, mean NSE over seeds, from the row `as it is` of
the same representation; with the 95 % interval of a bootstrap over basins. `clipped` is the mean
over basins of the difference, an NSE below -1 taken for -1: a mean sees what a median overlooks.

BUDGET=tiny (default), donor or full. ROWS="a;b" picks rows. FAST=1 = one seed. Finished models are
kept in BENCH_HOME, where another run finds them; else in a folder that is gone afterwards.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError
from aef_dagster.evaluation.statistics import paired_difference
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, PAPER, RECIPES, Budget, Recipe
from benchmarks.measuring import print_table, real_settings
from benchmarks.real_basins import folds_531, load_basins, version_of
from benchmarks.runs import bench_home, train_all

PERIODS = Periods(
    "1980-10-01", "1991-09-30", "1991-10-01", "1995-09-30", "1995-10-01", "1999-09-30"
)
HELD_OUT, UNSEEN = (1, 6), (0, 3, 5)
SEEDS = (0, 1, 2)
AS_IT_IS = "as it is"
REPRESENTATIONS = ("attributes27", "attributes17", "aef", "aef+climate", "none")

Row = tuple[str, Recipe, Budget, str]


def rows_of(budget: Budget) -> list[Row]:
    """Name, recipe, budget and representation of each row."""
    strong = RECIPES["strong"]
    as_it_is = [(AS_IT_IS, strong, budget, name) for name in REPRESENTATIONS]
    recipes = [
        # The 27 attributes have no classes, the 17 have.
        (name, recipe, budget, "attributes17" if "classes" in name else "attributes27")
        for name, recipe in _recipes(strong).items()
    ]
    budgets = [(name, strong, other, "attributes27") for name, other in _budgets(budget).items()]
    noises = [
        (f"aef, static_noise {noise}", replace(strong, static_noise=noise), budget, "aef")
        for noise in (0.0, 0.1, 0.3, 0.5)
        if noise != strong.static_noise
    ]
    return [*as_it_is, *recipes, *budgets, *noises, ("recipe paper", PAPER, budget, "attributes27")]


def _recipes(strong: Recipe) -> dict[str, Recipe]:
    """The recipe with one choice changed, by what is changed."""
    scaling = strong.scaling
    recipes: dict[str, Recipe] = {
        "flow not divided by precipitation": replace(
            strong, scaling=replace(scaling, flow_by_prcp=False)
        ),
        "rain, PET, flow in log-sqrt": replace(strong, scaling=replace(scaling, log_sqrt=True)),
        "classes as numbers": replace(strong, scaling=replace(scaling, one_hot=False)),
        "statics through a layer of 16": replace(strong, static_layers=(16,)),
        "statics through layers of 64, 16": replace(strong, static_layers=(64, 16)),
        "softplus": replace(strong, softplus=not strong.softplus),
        "RMSE of scaled flow": replace(strong, loss="rmse"),
    }
    for name, values in {
        "static_noise": (0.0, 0.1, 0.2, 0.3, 0.5),
        "dropout": (0.0, 0.2, 0.4),
        "forget_bias": (None, 1.0, 3.0, 5.0),
        "warmup_share": (0.0, 0.1, 0.25, 0.5),
        "learning_rate": (1e-3, 2e-3, 3e-3, 5e-3, 8e-3),
        "rise_share": (0.05, 0.1, 0.3),
        "nse_epsilon": (0.01, 0.1, 0.5),
        "clip_norm": (0.3, 1.0, None),
        "averaging": (0.0, 0.05, 0.1),
        "learn_validation_years": (False, True),
    }.items():
        for value in values:
            if value != getattr(strong, name):
                recipes[f"{name} {value}"] = replace(strong, **{name: value})
    return recipes


def _budgets(budget: Budget) -> dict[str, Budget]:
    """As many basin-days in other shapes, by their shape."""
    shapes = [
        (budget.networks, batch, window)
        for batch, window in (
            (8, 365), (16, 365), (32, 365), (64, 365), (16, 180), (16, 270), (16, 730)
        )
    ]  # fmt: skip
    shapes += [(networks, budget.batch, budget.window) for networks in (1, 2, 4, 8)]
    budgets = {}
    for networks, batch, window in shapes:
        if (networks, batch, window) != (budget.networks, budget.batch, budget.window):
            updates = round(budget.basin_days / (networks * batch * window))
            title = f"{networks} networks x " if networks > 1 else ""
            budgets[f"{title}{updates} updates x {batch} windows x {window} days"] = replace(
                budget, networks=networks, updates=updates, batch=batch, window=window
            )
    return budgets


def run() -> dict[str, object]:
    """Train, print, and return the RESULT."""
    name = os.environ.get("BUDGET", "tiny")
    if name not in ("tiny", "donor", "full"):
        raise UserError(f"BUDGET={name}: choose tiny, donor or full")
    seeds = SEEDS[:1] if os.environ.get("FAST") == "1" else SEEDS
    rows = rows_of(BUDGETS[name])
    wanted = [part.strip() for part in os.environ.get("ROWS", "").split(";") if part.strip()]
    unknown = [part for part in wanted if part not in {row[0] for row in rows}]
    if unknown:
        raise UserError(f"ROWS: there is no row {unknown[0]!r}: {'; '.join(r[0] for r in rows)}")
    if wanted:
        chosen = [row for row in rows if row[0] in wanted]
        needed = {row[3] for row in chosen}  # each row is held against its own representation
        bases = [row for row in rows if row[0] == AS_IT_IS and row[3] in needed]
        rows = bases + [row for row in chosen if row not in bases]
    data = load_basins(sorted({row[3] for row in rows}), PERIODS)
    version = version_of(data)
    jobs = {row[0] + row[3]: [_job(version, *row[1:], seed) for seed in seeds] for row in rows}
    with bench_home() as home:
        flat = [job for members in jobs.values() for job in members]
        checkpoints = train_all(flat, data, home, f"ablation, {name}")
        scores = {
            key: np.array([_nse(checkpoints[job.hash].scores()) for job in members])
            for key, members in jobs.items()
        }
    first = scores[AS_IT_IS + rows[0][3]]
    cells = []
    for title, _, _, representation in rows:
        nse = scores[title + representation]
        base = scores[AS_IT_IS + representation]
        cells.append((title, representation, *_compared(nse, base, title == AS_IT_IS)))
    print_table(
        f"strong at {name}, {len(seeds)} seeds, {first.shape[1]} basins held out",
        ("change", "representation", "nse", "difference", "95 %", "clipped"),
        cells,
    )
    return {
        "budget": name,
        "rows": len(rows),
        "seeds": len(seeds),
        "nse": f"{np.nanmedian(first, axis=1).mean():.3f}",
    }


def _job(
    version: str, recipe: Recipe, budget: Budget, representation: str, seed: int
) -> TrainingJob:
    settings = real_settings()
    folds = folds_531()
    held_out = [gauge_id for gauge_id, fold in folds.items() if fold in HELD_OUT]
    donors = [g for g, fold in folds.items() if fold not in HELD_OUT + UNSEEN]
    return TrainingJob(
        dataset="camels_us", forcing=settings.forcing, data_version=version,
        targets=tuple(held_out),
        donors=tuple(donors), role="ungauged", periods=PERIODS, representation=representation,
        recipe=recipe, budget=budget, seed=seed, precision=settings.precision,
        surrogate="aef" in representation,
    )  # fmt: skip


def _nse(scores: list[dict]) -> NDArray[np.float64]:
    return np.array([row["nse"] for row in scores])


def _compared(nse: NDArray[np.float64], base: NDArray[np.float64], is_base: bool) -> Sequence[str]:
    """Cells of a row from scores [seed, basin]."""
    median = f"{np.nanmedian(nse, axis=1).mean():.3f}"
    if is_base:
        return median, "", "", ""
    told = paired_difference(nse.mean(axis=0), base.mean(axis=0))
    clipped = np.nanmean(np.maximum(nse, -1.0) - np.maximum(base, -1.0))
    interval = f"{told['low']:+.3f}..{told['high']:+.3f}"
    return median, f"{told['median_difference']:+.3f}", interval, f"{clipped:+.3f}"
