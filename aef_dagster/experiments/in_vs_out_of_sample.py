"""Does AlphaEarth describe a basin better than attributes: gauged, ungauged, and far away?

Here: the plan and the reading of the study's first comparison. Not here: representations that know
nothing (controls.py), whole climates or landscapes left out (cross_regime.py).
"""

import numpy as np
import pandas as pd

from aef_dagster.basins.subsets import camels_531
from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import DIFFERENCES_NOTE, Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.published import KRATZERT_MEDIANS, STUDY_MEDIANS
from aef_dagster.experiments.reading import Picture, Reading, Table
from aef_dagster.experiments.sizes import Size

NAME = "in_vs_out_of_sample"
TITLE = "In sample and out of sample"
QUESTION = (
    "Told AlphaEarth embeddings instead of attributes, does one model of many basins simulate "
    "better: in later years of the same basins, in basins it has never seen, in regions it has "
    "never seen?"
)
PLACES = ("gauged", "folds", "regions")
SHORT = {"gauged": "gauged basins", "folds": "ungauged basins", "regions": "ungauged regions"}
STUDY, BASELINE = "aef", "attributes17"
# Edges of the distance classes, km.
DISTANCES = (0, 25, 50, 100, 200, np.inf)


def plan(basins: StudyBasins, size: Size) -> Plan:
    """Every representation in every place; most seeds where basins are unseen."""
    folds = designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds))
    others = [
        *designs.gauged(basins.gauge_ids),
        *designs.held_out("regions", designs.regions(basins.frame["huc_02"], size.regions)),
    ]
    return Plan(
        regional=regional(NAME, folds, size.representations, size.seeds)
        + regional(NAME, others, size.representations, size.other_seeds)
    )


def read(evidence: Evidence) -> Reading:
    """Medians, paired differences, curves and maps."""
    from aef_dagster.evaluation.study_figures import cdf_panels_png, interval_plot_png

    known = evidence.size.representations
    found = Estimates(evidence.regions)
    scores = {
        place: {name: evidence.nse(place, name) for name in known} for place in PLACES
    }  # fmt: skip
    rows = []
    for place in PLACES:
        for name in known:
            summary = found.summary(scores[place][name], name, place)
            kge = evidence.nse(place, name, metric="kge").median()
            rows.append({"design": SHORT[place], "told": name, **_told(summary), "median KGE": kge})
    differences = []
    for place in PLACES:
        for name in known:
            if name != BASELINE:
                row = found.difference(
                    scores[place][name], scores[place][BASELINE], name, BASELINE, place
                )
                differences.append(row)
        if "attributes27" in known:
            differences.append(found.difference(
                scores[place][STUDY], scores[place]["attributes27"], STUDY, "attributes27", place
            ))  # fmt: skip
    subset = _subset_531(scores, found)
    distance = _by_distance(evidence, scores["folds"], found)
    headline = {(row["design"], row["against"]): row for row in differences if row["of"] == STUDY}
    medians = {name: scores["folds"][name].median() for name in known}
    findings = [
        f"In basins it has never seen, a model told `{STUDY}` reaches a median NSE of "
        f"{medians[STUDY]:.3f}, one told the study's 17 attributes {medians[BASELINE]:.3f}: paired "
        f"difference {interval(headline['folds', BASELINE], signed=True)}, "
        f"{verdict(headline['folds', BASELINE])}.",
        *(
            f"{SHORT[place].capitalize()}: `{STUDY}` against `{BASELINE}` "
            f"{interval(headline[place, BASELINE], signed=True)}, "
            f"{verdict(headline[place, BASELINE])}."
            for place in PLACES
            if place != "folds"
        ),
    ]
    if ("folds", "attributes27") in headline:
        row = headline["folds", "attributes27"]
        findings.append(
            "Against attributes that include climate (`attributes27`), which the study left out, "
            f"`{STUDY}` in unseen basins: {interval(row, signed=True)}, {verdict(row)}."
        )
    losses = [
        found.difference(evidence.nse("folds", name, seeds=evidence.size.other_seeds),
                         scores["gauged"][name], name, name, "folds against gauged")
        for name in known
    ]  # fmt: skip
    findings.append(
        "What losing its gauge changes in a basin's NSE: "
        + ", ".join(f"`{row['of']}` {interval(row, signed=True)}" for row in losses)
        + "."
    )
    shown = pd.DataFrame(differences)
    shown["label"] = shown["of"] + " - " + shown["against"]
    shown["group"] = shown["design"].map(SHORT)
    pictures = [
        Picture(
            "NSE of all basins",
            cdf_panels_png(
                {SHORT[place]: scores[place] for place in PLACES},
                reference={
                    label: value for label, value in STUDY_MEDIANS["folds"].items()
                } if not evidence.marks["sample"] else {},
                title=f"{evidence.prefix}NSE of all basins",
            ),
            "Share of basins below each NSE. Further to the right is better."
            + ("" if evidence.marks["sample"] else " Upright lines: the study's published medians "
               "for unseen basins (671 basins, other years and weather)."),
        ),
        Picture(
            "Differences, basin by basin",
            interval_plot_png(
                shown, title=f"{evidence.prefix}paired difference of NSE",
                xlabel="median over basins, 95 % bootstrap interval",
            ),
            "Right of the line: the first representation simulates better.",
        ),
        *_maps(evidence, scores["folds"]),
    ]  # fmt: skip
    tables = [
        Table("Scores", pd.DataFrame(rows), "NSE over the test period; of several seeds a basin "
              "counts with its median."),
        Table("Paired differences", _difference_table(differences), DIFFERENCES_NOTE),
        Table("By distance to the nearest basin learned from", distance),
    ]  # fmt: skip
    if len(subset):
        tables.append(Table("The usual 531 basins", subset, "Published: " + "; ".join(
            f"{place} {label} {value}" for place, both in KRATZERT_MEDIANS.items()
            for label, value in both.items())))  # fmt: skip
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=tuple(findings),
        numbers={
            f"median_nse_{place}_{name}": float(scores[place][name].median())
            for place in PLACES for name in (STUDY, BASELINE)
        } | {"aef_minus_attributes_ungauged": headline["folds", BASELINE]["value"]},
        estimates=found.frame(), tables=tuple(tables), pictures=tuple(pictures),
    )  # fmt: skip


def _told(summary: dict[str, float]) -> dict[str, float]:
    return {
        "basins": summary["n"], "without a score": summary["n_missing"],
        "median NSE": summary["median"], "mean NSE": summary["mean"], "25 %": summary["q25"],
        "75 %": summary["q75"], "share below 0": summary["share_below_0"],
    }  # fmt: skip


def _difference_table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "design": SHORT.get(row["design"], row["design"]), "told": row["of"],
                "against": row["against"], "difference": row["value"], "from": row["low"],
                "to": row["high"], "Wilcoxon p": row["p"], "basins": row["n_basins"],
                "so": verdict(row),
            }
            for row in rows
        ]
    )  # fmt: skip


def _subset_531(scores: dict, found: Estimates) -> pd.DataFrame:
    usual = set(camels_531())
    rows = []
    for place, by_name in scores.items():
        for name, values in by_name.items():
            inside = values[values.index.isin(usual)]
            if len(inside):
                row = found.median(inside, name, f"{place}, 531")
                rows.append({"design": SHORT[place], "told": name, "basins": row["n_basins"],
                             "median NSE": row["value"], "from": row["low"],
                             "to": row["high"]})  # fmt: skip
    return pd.DataFrame(rows)


def _by_distance(evidence: Evidence, scores: dict, found: Estimates) -> pd.DataFrame:
    """NSE of unseen basins by kilometres to the nearest basin that the model learned from."""
    from aef_dagster.similarity.spaces import great_circle_km

    frame = evidence.basins.frame
    km = great_circle_km(frame["lat"], frame["lon"])
    fold_of = designs.folds(evidence.basins.gauge_ids, evidence.size.folds)
    fold = np.array([fold_of[gauge_id] for gauge_id in frame.index])
    km[fold[:, None] == fold[None, :]] = np.inf
    nearest = pd.Series(km.min(axis=1), index=frame.index)
    rows = []
    for low, high in zip(DISTANCES[:-1], DISTANCES[1:], strict=True):
        inside = nearest.index[(nearest >= low) & (nearest < high)]
        if len(inside) == 0:
            continue
        label = f"{low:.0f} to {high:.0f} km" if np.isfinite(high) else f"over {low:.0f} km"
        row: dict = {"nearest": label, "basins": len(inside)}
        for name, values in scores.items():
            row[name] = found.median(values[inside], name, f"folds, {label}")["value"]
        rows.append(row)
    return pd.DataFrame(rows)


def _maps(evidence: Evidence, scores: dict) -> list[Picture]:
    import geopandas

    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.maps import polygon_map

    outlines = geopandas.read_parquet(evidence.outlines).set_index("gauge_id")
    gain = scores[STUDY] - scores[BASELINE]
    return [
        Picture(
            "Where it works",
            png_of(polygon_map(outlines, scores[STUDY].clip(lower=-0.5),
                               title=f"{evidence.prefix}NSE of unseen basins, told {STUDY}",
                               label="NSE (cut at -0.5)")),
            "Each basin simulated by a model that never saw it.",
        ),
        Picture(
            "Where AlphaEarth helps",
            png_of(polygon_map(outlines, gain.clip(-0.5, 0.5),
                               title=f"{evidence.prefix}NSE told {STUDY} less {BASELINE}",
                               label="difference of NSE (cut at 0.5)", diverging=True)),
            "Above 0: the embedding helped this basin.",
        ),
    ]  # fmt: skip
