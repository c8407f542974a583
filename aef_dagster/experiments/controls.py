"""What skill is not due to knowing the basin: networks told nothing, noise, or another basin.

Here: the plan and the reading of the controls. Not here: the comparison of real descriptors
(in_vs_out_of_sample.py), whose trainings this one shares.
"""

import pandas as pd

from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import DIFFERENCES_NOTE, Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Check, Picture, Reading, Table
from aef_dagster.experiments.sizes import Size
from aef_dagster.models.statics import CONTROLS

NAME = "controls"
TITLE = "Controls"
QUESTION = (
    "How much of the skill needs to know the basin at all? Networks told nothing, 64 random "
    "numbers, or the embedding of another basin set the floor."
)
STUDY, BASELINE = "aef", "attributes17"
# In gauged basins only one control matters: numbers that name the basin and tell nothing of it.
TOLD = {"gauged": (STUDY, BASELINE, "random"), "folds": (STUDY, BASELINE, *CONTROLS)}


def plan(basins: StudyBasins, size: Size) -> Plan:
    """The controls, and what they are held against, gauged and ungauged."""
    folds = designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds))
    gauged = designs.gauged(basins.gauge_ids)
    return Plan(
        regional=regional(NAME, folds, TOLD["folds"], size.seeds)
        + regional(NAME, gauged, TOLD["gauged"], size.other_seeds)
    )


def read(evidence: Evidence) -> Reading:
    """Each descriptor against each control, basin by basin."""
    from aef_dagster.evaluation.study_figures import cdf_panels_png, interval_plot_png

    found, rows, differences = Estimates(evidence.regions), [], {}
    scores = {
        place: {name: evidence.nse(place, name) for name in told} for place, told in TOLD.items()
    }
    for place in TOLD:
        for name, values in scores[place].items():
            row = found.median(values, name, place)
            rows.append({"design": place, "told": name, "basins": row["n_basins"],
                         "median NSE": row["value"], "from": row["low"],
                         "to": row["high"]})  # fmt: skip
        for name in (STUDY, BASELINE):
            for control in TOLD[place][2:]:
                differences[place, name, control] = found.difference(
                    scores[place][name], scores[place][control], name, control, place
                )
    none, shuffled = (differences["folds", STUDY, control] for control in ("none", "shuffled"))
    random_gauged = differences["gauged", STUDY, "random"]
    findings = (
        f"In unseen basins `{STUDY}` against the embedding of another basin: "
        f"{interval(shuffled, signed=True)}, {verdict(shuffled)}; against being told nothing: "
        f"{interval(none, signed=True)}, {verdict(none)}.",
        f"The study's 17 attributes against being told nothing, in unseen basins: "
        f"{interval(differences['folds', BASELINE, 'none'], signed=True)}, "
        f"{verdict(differences['folds', BASELINE, 'none'])}.",
        f"In gauged basins `{STUDY}` against random numbers: "
        f"{interval(random_gauged, signed=True)}, {verdict(random_gauged)}: random numbers name "
        "a basin as well as a descriptor does, so only unseen basins tell descriptors apart.",
    )
    shown = pd.DataFrame(differences.values())
    shown["label"] = shown["of"] + " - " + shown["against"]
    shown["group"] = shown["design"]
    table = shown[["design", "of", "against", "value", "low", "high", "p", "n_basins"]]
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=findings,
        numbers={"aef_minus_none": none["value"], "aef_minus_shuffled": shuffled["value"]},
        estimates=found.frame(),
        tables=(
            Table("Scores", pd.DataFrame(rows), "Median NSE over basins, and its bootstrap "
                  "interval; `none`, `random` and `shuffled` are the controls."),
            Table("Paired differences", table, DIFFERENCES_NOTE),
        ),
        pictures=(
            Picture(
                "NSE with and without knowing the basin",
                cdf_panels_png(scores, title=f"{evidence.prefix}NSE of all basins"),
                "The distance between a descriptor's line and the controls' is what knowing the "
                "basin is worth.",
            ),
            Picture("Against the controls", interval_plot_png(
                shown, title=f"{evidence.prefix}paired difference of NSE",
                xlabel="median over basins, 95 % bootstrap interval"),
                "Right of the line: knowing the basin serves better than the control."),
        ),
        checks=(
            Check(
                "worth_knowing", bool(shuffled["low"] > 0),
                "In unseen basins the basin's own embedding serves better than another basin's: "
                f"{interval(shuffled, signed=True)}.",
            ),
        ),
    )  # fmt: skip
