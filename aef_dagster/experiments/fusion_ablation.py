"""How weather and basin should be joined: five ways and none.

Here: the plan and the reading. Not here: the networks (models/engine/variants.py).
"""

import pandas as pd

from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Picture, Reading, Table
from aef_dagster.experiments.sizes import Size

NAME = "fusion_ablation"
TITLE = "Ways to join weather and basin"
QUESTION = (
    "The study joins the embedding with the weather in one layer before the LSTM. Does it matter "
    "how they are joined?"
)
TOLD = {
    "strong": "one layer (the study's)",
    "strong+concatenation": "concatenation, straight into the LSTM",
    "strong+mlp16": "MLP of 16 first",
    "strong+mlp64-32": "MLP of 64 and 32 first",
    "strong+ea_lstm": "statics gate the cell (EA-LSTM)",
}


def plan(basins: StudyBasins, size: Size) -> Plan:
    """One representation, unseen basins, every way; and being told nothing."""
    splits = designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds))
    asks = regional(NAME, splits, (size.variants_of, "none"), size.other_seeds)
    for variant in size.variants:
        asks += regional(
            NAME, splits, (size.variants_of,), size.other_seeds, recipe=f"strong+{variant}"
        )
    return Plan(regional=asks)


def read(evidence: Evidence) -> Reading:
    """Each way against the study's one layer, with its number of parameters."""
    from aef_dagster.basins.dataset import FORCINGS
    from aef_dagster.evaluation.study_figures import interval_plot_png
    from aef_dagster.models.recipes import BUDGETS, recipe_named
    from aef_dagster.models.simulate import parameter_count
    from aef_dagster.models.statics import COLUMNS

    size, found = evidence.size, Estimates(evidence.regions)
    told, hidden = size.variants_of, BUDGETS[size.budget].hidden
    statics = sum(len(columns) for columns in COLUMNS[told].values())
    recipes = ["strong", *(f"strong+{variant}" for variant in size.variants)]
    base = evidence.nse("folds", told, seeds=size.other_seeds)
    rows, differences = [], []
    for recipe in recipes:
        values = evidence.nse("folds", told, recipe=recipe, seeds=size.other_seeds)
        row = found.median(values, TOLD[recipe], "folds")
        parameters = parameter_count(recipe_named(recipe), len(FORCINGS), statics, hidden)
        found.add("parameters", TOLD[recipe], parameters, design="folds")
        rows.append({"joined by": TOLD[recipe], "parameters": parameters,
                     "basins": row["n_basins"], "median NSE": row["value"], "from": row["low"],
                     "to": row["high"]})  # fmt: skip
        if recipe != "strong":
            differences.append(
                found.difference(values, base, TOLD[recipe], TOLD["strong"], "folds")
            )
    none = evidence.nse("folds", "none", seeds=size.other_seeds)
    row = found.median(none, "told nothing", "folds")
    rows.append({"joined by": "told nothing", "basins": row["n_basins"],
                 "parameters": parameter_count(recipe_named("strong"), len(FORCINGS), 0, hidden),
                 "median NSE": row["value"], "from": row["low"], "to": row["high"]})  # fmt: skip
    best = max(differences, key=lambda row: row["value"])
    apart = [row for row in differences if verdict(row) in ("higher", "lower")]
    findings = [
        f"Of {len(differences)} other ways to join `{told}` with the weather, "
        f"{len(apart)} differ from the study's one layer"
        + "".join(f"; {row['of']}: {interval(row, signed=True)}" for row in apart)
        + "."
    ]
    if best not in apart:
        findings.append(
            f"The best of them is {best['of']}: {interval(best, signed=True)}, {verdict(best)}."
        )
    shown = pd.DataFrame([*differences, found.difference(none, base, "told nothing",
                                                         TOLD["strong"], "folds")])  # fmt: skip
    shown["label"] = shown["of"]
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=tuple(findings),
        numbers={"best_variant_gain": best["value"]}, estimates=found.frame(),
        tables=(Table("Ways to join", pd.DataFrame(rows), f"Told `{told}`, unseen basins."),),
        pictures=(
            Picture("Against one layer", interval_plot_png(
                shown, title=f"{evidence.prefix}NSE less that of one layer",
                xlabel="median over basins, 95 % bootstrap interval")),
        ),
    )  # fmt: skip
