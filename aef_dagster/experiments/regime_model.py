"""One model for all regimes: does a mixture of experts adapt where the plain LSTM does not?

Here: the plan and the reading of the study's first open question. Not here: the network
(models/engine/variants.py).
"""

import pandas as pd

from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Picture, Reading, Table
from aef_dagster.experiments.sizes import Size

NAME = "regime_model"
TITLE = "One model for all regimes"
QUESTION = (
    "Four expert LSTMs, mixed for each basin by a gate that sees its descriptor alone: do they "
    "simulate unseen basins, and basins of an unseen regime, better than one LSTM trained on as "
    "many basin-days?"
)
EXPERTS = "strong+experts"
PLACES = {"folds": "unseen basins", "clusters": "basins of an unseen cluster"}


def plan(basins: StudyBasins, size: Size) -> Plan:
    """Both networks, in unseen basins and in unseen clusters."""
    clusters = basins.labels("aef", size.most_clusters)
    splits = [
        *designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds)),
        *designs.held_out("clusters", clusters),
    ]
    told = (size.variants_of,)
    return Plan(
        regional=regional(NAME, splits, told, size.other_seeds)
        + regional(NAME, splits, told, size.other_seeds, recipe=EXPERTS)
    )


def read(evidence: Evidence) -> Reading:
    """Experts against one LSTM, basin by basin."""
    from aef_dagster.basins.dataset import FORCINGS
    from aef_dagster.evaluation.study_figures import cdf_panels_png
    from aef_dagster.models.recipes import BUDGETS, recipe_named
    from aef_dagster.models.simulate import parameter_count
    from aef_dagster.models.statics import COLUMNS

    told, found = evidence.size.variants_of, Estimates(evidence.regions)
    hidden = BUDGETS[evidence.size.budget].hidden
    statics = sum(len(columns) for columns in COLUMNS[told].values())
    panels, rows, differences = {}, [], {}
    for place, words in PLACES.items():
        one, experts = (
            evidence.nse(place, told, recipe=recipe, seeds=evidence.size.other_seeds)
            for recipe in ("strong", EXPERTS)
        )
        differences[place] = found.difference(experts, one, "experts", "one LSTM", place)
        panels[words] = {"one LSTM": one, "experts": experts}
        for name, recipe, values in (("one LSTM", "strong", one), ("experts", EXPERTS, experts)):
            row = found.median(values, name, place)
            rows.append({
                "tested on": words, "network": name,
                "parameters": parameter_count(recipe_named(recipe), len(FORCINGS), statics,
                                              hidden),
                "basins": row["n_basins"], "median NSE": row["value"], "from": row["low"],
                "to": row["high"],
            })  # fmt: skip
    findings = (
        "A mixture of experts against one LSTM at equal basin-days, in basins of an unseen "
        f"cluster: {interval(differences['clusters'], signed=True)}, "
        f"{verdict(differences['clusters'])}.",
        f"In unseen basins: {interval(differences['folds'], signed=True)}, "
        f"{verdict(differences['folds'])}.",
    )
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=findings,
        numbers={f"experts_gain_{place}": row["value"] for place, row in differences.items()},
        estimates=found.frame(),
        tables=(Table("Networks", pd.DataFrame(rows), f"Told `{told}`, trained on equally many "
                      "basin-days."),),
        pictures=(Picture(
            "NSE of both networks",
            cdf_panels_png(panels, title=f"{evidence.prefix}NSE of both networks"),
        ),),
    )  # fmt: skip
