"""Held-out simulations by choice of training, and what is known of each basin beforehand.

Here: from scores and checkpoints to calibrations. Not here: calibrating (experiments/trust.py), the
asset.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from aef_dagster.evaluation.trust_features import trust_features
from aef_dagster.experiments.trust import NOT_YET, Calibration, calibrate
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.statics import CONTROLS, FIRST_YEAR
from aef_dagster.similarity.spaces import great_circle_km
from aef_dagster.storage.home import Home
from aef_dagster.storage.tables import attribute_frame, similarity_matrix
from aef_dagster.storage.warehouse import Warehouse

# Regional models that stand for basins without a gauge.
DESIGN = "folds"


@dataclass(frozen=True)
class Held:
    """Results of one choice: a row a basin and model."""

    asset: str
    choice: str
    rows: pd.DataFrame


def choice_in_words(row) -> str:
    """Name of a choice, the same for every basin trained with it."""
    if row.asset == "regional_models":
        trained = _trained(row.recipe, row.budget, row.precision)
        return f"regional, told {row.representation}, {trained}"
    return donor_choice(
        row.space, row.k, row.representation, row.recipe, row.budget, row.precision, row.n_members
    )


def donor_choice(
    space: str, k: int, representation: str, recipe: str, budget: str, precision: str, members: int
) -> str:
    """Name of a choice of `basin_models`."""
    seeds = f", {members} seeds" if members > 1 else ""
    trained = _trained(recipe, budget, precision)
    return f"donors {space} k={k}, told {representation}, {trained}{seeds}"


def _trained(recipe: str, budget: str, precision: str) -> str:
    return f"{recipe} {budget}" + ("" if precision == "fp32" else f" {precision}")


def expectation(store: Warehouse, gauge_id: str, choice: str) -> str:
    """What NSE to expect of a basin's simulation, in a sentence."""
    if not store.count("trust"):
        return f"expected NSE: {NOT_YET}"
    found = store.frame(
        "SELECT expected_nse, low, high, level, count(*) FILTER (held_out) OVER () AS n FROM trust "
        "WHERE choice = ? QUALIFY gauge_id = ?", [choice, gauge_id],
    )  # fmt: skip
    if found.empty:
        return (
            f"expected NSE: {NOT_YET} for {choice} (run `aef train` for 20 basins or more with "
            "this choice, then `aef study`)"
        )
    row = found.iloc[0]
    return (
        f"expected NSE as if ungauged: {row['expected_nse']:.2f} ({row['level']:.0%} interval "
        f"{row['low']:.2f} to {row['high']:.2f}, learned from other basins of {int(row['n'])})"
    )


def with_expectation(store: Warehouse, scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with a column `expected NSE`: `0.61 (0.42 to 0.73)`, or that it is not calibrated."""
    known = store.frame("SELECT gauge_id, choice, expected_nse, low, high FROM trust")
    told = {
        (row.gauge_id, row.choice): f"{row.expected_nse:.2f} ({row.low:.2f} to {row.high:.2f})"
        for row in known.itertuples()
    }
    choices = [choice_in_words(row) for row in scores.itertuples()]
    return scores.assign(
        **{"expected NSE": [told.get(key, NOT_YET)
                            for key in zip(scores["gauge_id"], choices, strict=True)]}
    )  # fmt: skip


def held_out(store: Warehouse) -> Iterator[Held]:
    """All results of basins as if ungauged, by choice: what is in force and people would use.

    Controls, and the study's variants of the recipe, are left out.
    """
    scores = store.frame(
        "SELECT * FROM scores WHERE current AND role = 'ungauged' AND (asset = 'basin_models' OR "
        "(design = ? AND recipe NOT LIKE '%+%' AND representation <> ?))",
        [DESIGN, FIRST_YEAR],
    )
    scores = scores[~scores["representation"].isin(CONTROLS)].copy()
    scores["choice"] = [choice_in_words(row) for row in scores.itertuples()]
    for (asset, choice), rows in scores.groupby(["asset", "choice"]):
        yield Held(str(asset), str(choice), rows)


def calibrations(home: Home, store: Warehouse) -> tuple[list[Calibration], list[str]]:
    """A calibration for each choice with enough basins; the choices without."""
    features_of = known_beforehand(home, store)
    made, untold = [], []
    for held in held_out(store):
        nse = held.rows.groupby("gauge_id")["nse"].median()
        found = None
        if nse.notna().sum() >= 2:
            found = calibrate(held.asset, held.choice, features_of(held), nse)
        if found is None:
            untold.append(held.choice)
        else:
            made.append(found)
    return made, untold


def known_beforehand(home: Home, store: Warehouse) -> Callable[[Held], pd.DataFrame]:
    """From results to the features of their basins: descriptors and simulations, never flow."""
    matrix, ids = similarity_matrix(store, "aef")
    similarity = pd.DataFrame(matrix, index=ids, columns=ids)
    climate = attribute_frame(store, "training_period")
    described = set(ids) & set(climate.index)
    places = store.frame("SELECT gauge_id, lat, lon FROM basins").set_index("gauge_id")
    kilometres = pd.DataFrame(
        great_circle_km(places["lat"], places["lon"]), index=places.index, columns=places.index
    )

    def features_of(held: Held) -> pd.DataFrame:
        # Basins may have lost their embedding or their climate since they were simulated.
        donors = {
            target: tuple(donor for donor in learned if donor in described)
            for target, learned in _donors(home, held).items()
            if target in described
        }
        return trust_features(
            {target: learned for target, learned in donors.items() if learned},
            similarity=similarity,
            climate=climate,
            kilometres=kilometres,
            spread=_spread(home, held),
        )

    return features_of


def _donors(home: Home, held: Held) -> dict[str, tuple[str, ...]]:
    donors = {}
    for job_hash, rows in held.rows.groupby("job_hash"):
        learned = Checkpoint.open(home.checkpoints, str(job_hash)).job().donors
        donors.update(dict.fromkeys(rows["gauge_id"], learned))
    return donors


def _spread(home: Home, held: Held) -> pd.Series | None:
    """Standard deviation over members relative to mean flow; None where there is one member."""
    parts = []
    if held.asset == "basin_models":
        if int(held.rows["n_members"].iloc[0]) < 2:
            return None
        for job_hash in held.rows["job_hash"].unique():
            table = Checkpoint.open(home.checkpoints, job_hash).simulation()
            parts.append(table.groupby("gauge_id").agg(sd=("sim_std", "mean"), sim=("sim", "mean")))
    else:
        if held.rows["seed"].nunique() < 2:
            return None
        for _fold, rows in held.rows.groupby("fold"):
            members = [
                _simulated(home, str(job_hash), set(part["gauge_id"]))
                for job_hash, part in rows.groupby("job_hash")
            ]
            # Day by day: networks of one fold may have been tested on different basins, where the
            # folds have changed since one of them was trained.
            together = pd.concat(members, axis=1)
            told = pd.DataFrame({"sd": together.std(axis=1, ddof=0), "sim": together.mean(axis=1)})
            parts.append(told.groupby(level="gauge_id").mean())
    both = pd.concat(parts).groupby(level="gauge_id").mean()
    return both["sd"] / both["sim"].clip(lower=1e-3)


def _simulated(home: Home, job_hash: str, basins: set[str]) -> pd.Series:
    """Flow that a network simulated of some basins, indexed by gauge_id and date."""
    table = Checkpoint.open(home.checkpoints, job_hash).simulation()
    return table[table["gauge_id"].isin(basins)].set_index(["gauge_id", "date"])["sim"]
