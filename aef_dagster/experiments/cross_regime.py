"""Across regimes: what is lost where no basin like the target was learned from.

Here: the plan and the reading. Not here: a network made for many regimes (regime_model.py).
"""

import numpy as np
import pandas as pd

from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Picture, Reading, Table
from aef_dagster.experiments.sizes import Size

NAME = "cross_regime"
TITLE = "Across regimes"
QUESTION = (
    "The study found that across regimes AlphaEarth does worse than attributes. How much skill is "
    "lost when a whole cluster of basins was never seen, for which descriptor, and does it need "
    "more basins, or what lies under the ground?"
)
STUDY, BASELINE = "aef", "attributes17"
# Both sides of the study's claim; other representations are compared in leave-one-cluster-out.
PAIR = (BASELINE, STUDY)
# The number of basins that open question 2 asks about: a global collection.
GLOBAL_BASINS = 6000


def plan(basins: StudyBasins, size: Size) -> Plan:
    """Clusters and climates out, each cluster alone, and fewer basins to learn from."""
    clusters = basins.labels("aef", size.most_clusters)
    climates = basins.labels("climate", size.climates)
    fold_of = designs.folds(basins.gauge_ids, size.folds)
    folds = designs.held_out("folds", fold_of)
    out = designs.held_out("clusters", clusters)
    seeds = size.other_seeds
    asks = regional(NAME, folds, size.regimes, seeds) + regional(NAME, out, size.regimes, seeds)
    asks += regional(NAME, designs.held_out("climates", climates), PAIR, seeds)
    asks += regional(NAME, designs.each_cluster(clusters, fold_of), PAIR, seeds)
    for count in size.counts:
        fewer = [*designs.fewer(folds, count), *designs.fewer(out, count)]
        asks += regional(NAME, fewer, PAIR, seeds)
    return Plan(regional=asks)


def read(evidence: Evidence) -> Reading:
    """The gap of each representation, the matrix of regimes, and what more basins would do."""
    from aef_dagster.evaluation.statistics import difference_of_differences
    from aef_dagster.evaluation.study_figures import interval_plot_png

    found, size = Estimates(evidence.regions), evidence.size
    seeds = size.other_seeds
    near = {name: evidence.nse("folds", name, seeds=seeds) for name in size.regimes}
    far = {name: evidence.nse("clusters", name, seeds=seeds) for name in size.regimes}
    gaps = {
        name: found.difference(far[name], near[name], name, name, "clusters against folds",
                               measure="gap of NSE")
        for name in size.regimes
    }  # fmt: skip
    across = {
        name: found.difference(far[name], far[BASELINE], name, BASELINE, "clusters")
        for name in size.regimes
        if name != BASELINE
    }
    both = difference_of_differences(
        far[STUDY], near[STUDY], far[BASELINE], near[BASELINE],
        groups=found.groups(far[STUDY].index),
    )  # fmt: skip
    double = found.add("difference of gaps", STUDY, both["median_difference"], against=BASELINE,
                       design="clusters against folds", n_basins=both["n"], low=both["low"],
                       high=both["high"])  # fmt: skip
    climate = {
        name: found.difference(evidence.nse("climates", name, seeds=seeds), near[name], name, name,
                               "climates against folds", measure="gap of NSE")
        for name in PAIR
    }  # fmt: skip
    regions = {
        name: found.difference(evidence.nse("regions", name, seeds=seeds), near[name], name, name,
                               "regions against folds", measure="gap of NSE")
        for name in size.regimes if _trained(evidence, "regions", name)
    }  # fmt: skip
    agreement = _agreement(evidence, found)
    matrices, alone = _each_cluster(evidence, near, found)
    growth, growth_told, growth_picture = _growth(evidence, found)
    findings = [
        f"In basins of a cluster that no model has seen, `{STUDY}` against `{BASELINE}`: "
        f"{interval(across[STUDY], signed=True)}, {verdict(across[STUDY])}.",
        "An unseen cluster, against unseen basins of seen clusters, changes NSE by: "
        + ", ".join(f"`{name}` {interval(row, signed=True)}" for name, row in gaps.items())
        + f". Basin by basin, the change of `{STUDY}` less that of `{BASELINE}` has the median "
        f"{interval(double, signed=True)}.",
    ]
    if "aef+subsurface" in across:
        row = found.difference(far["aef+subsurface"], far[STUDY], "aef+subsurface", STUDY,
                               "clusters")  # fmt: skip
        findings.append(
            "Does what lies under the ground help, which no satellite sees? With soil and geology "
            "beside the embedding, in unseen clusters: "
            f"{interval(row, signed=True)} against the embedding alone, {verdict(row)}."
        )
    findings += [
        "One model of all basins against models of the target's own cluster: "
        + ", ".join(f"`{name}` {interval(row, signed=True)}, {verdict(row)}"
                    for name, row in alone.items())
        + ".",
        growth_told,
        f"Clusters by AlphaEarth agree with HUC-2 by ARI {agreement['huc']['ari']:.2f}, with "
        f"clusters of climate by {agreement['climate']['ari']:.2f} (1 = the same, 0 = chance).",
    ]  # fmt: skip
    rows = [
        {"told": name, "unseen basins": near[name].median(), "unseen cluster": far[name].median(),
         "gap": gaps[name]["value"], "from": gaps[name]["low"], "to": gaps[name]["high"],
         "basins": gaps[name]["n_basins"],
         **({f"in the unseen cluster, less {BASELINE}": across[name]["value"],
             "p": across[name]["p"]} if name in across else {})}
        for name in size.regimes
    ]  # fmt: skip
    others = pd.DataFrame(
        [{"left out": left, "told": name, "gap": row["value"], "from": row["low"],
          "to": row["high"], "basins": row["n_basins"]}
         for left, group in (("climate cluster", climate), ("HUC-2 region", regions))
         for name, row in group.items()]
    )  # fmt: skip
    shown = pd.DataFrame([*gaps.values(), *climate.values(), *regions.values()])
    shown["label"], shown["group"] = shown["of"], shown["design"].str.removesuffix(" against folds")
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=tuple(findings),
        numbers={"gap_aef": gaps[STUDY]["value"], "gap_attributes17": gaps[BASELINE]["value"],
                 "difference_of_gaps": double["value"]},
        estimates=found.frame(),
        tables=(
            Table("Leaving a cluster of AlphaEarth out", pd.DataFrame(rows),
                  "Gap: median over basins of NSE in the unseen cluster less NSE of the same basin "
                  "in a random fold."),
            Table("Leaving a climate or a region out", others),
            Table("Fewer basins to learn from", growth),
            Table("Agreement of clusters", pd.DataFrame(
                [{"AlphaEarth clusters and": name, **row} for name, row in agreement.items()])),
        ),
        pictures=(
            Picture("The gap", interval_plot_png(
                shown, title=f"{evidence.prefix}NSE in the unseen group less NSE in a random fold",
                xlabel="median over basins, 95 % bootstrap interval")),
            *matrices, growth_picture, *_cluster_maps(evidence),
        ),
    )  # fmt: skip


def _trained(evidence: Evidence, design: str, representation: str) -> bool:
    scores = evidence.scores
    return bool(((scores["design"] == design)
                 & (scores["representation"] == representation)).any())  # fmt: skip


def _agreement(evidence: Evidence, found: Estimates) -> dict[str, dict[str, float]]:
    from aef_dagster.similarity.clusters import agreement

    basins, size = evidence.basins, evidence.size
    aef = basins.labels("aef", size.most_clusters)
    ours = [aef[gauge_id] for gauge_id in basins.gauge_ids]
    climates = basins.labels("climate", size.climates)
    others = {
        "huc": basins.frame["huc_02"].tolist(),
        "climate": [climates[gauge_id] for gauge_id in basins.gauge_ids],
    }
    rows = {name: agreement(ours, labels) for name, labels in others.items()}
    for name, row in rows.items():
        found.add("adjusted Rand index", "clusters by AlphaEarth", row["ari"], against=name)
        found.add("normalised mutual information", "clusters by AlphaEarth", row["nmi"],
                  against=name)  # fmt: skip
    return rows


def _each_cluster(
    evidence: Evidence, near: dict[str, pd.Series], found: Estimates
) -> tuple[list[Picture], dict[str, dict]]:
    """Learned from each cluster, tested in each; and all basins against the own cluster."""
    from aef_dagster.evaluation.heatmaps import matrix_png

    clusters = pd.Series(evidence.basins.labels("aef", evidence.size.most_clusters))
    names = [f"cluster {c}" for c in sorted(clusters.unique())]
    pictures, alone = [], {}
    for name in PAIR:
        rows = evidence.rows("each_cluster", name, learned_from=None)
        rows = rows.assign(cluster=rows["gauge_id"].map(clusters).map("cluster {}".format))
        basins = rows.groupby(["learned_from", "cluster", "gauge_id"])["nse"].median()
        matrix = basins.groupby(["learned_from", "cluster"]).median().unstack()
        matrix = matrix.reindex(index=names, columns=names)
        for learned in names:
            for tested in names:
                found.add("median NSE, learned from one cluster", name,
                          float(matrix.to_numpy()[names.index(learned), names.index(tested)]),
                          against=f"{learned} to {tested}",
                          design="each_cluster")  # fmt: skip
        flat = basins.reset_index()
        own = flat[flat["learned_from"] == flat["cluster"]].set_index("gauge_id")["nse"]
        alone[name] = found.difference(
            near[name],
            own.reindex(near[name].index),
            f"all basins, {name}",
            f"own cluster, {name}",
            "folds",
        )
        pictures.append(Picture(
            f"Learned from one cluster, tested in each, told {name}",
            matrix_png(matrix.to_numpy(), names, names, title=f"{evidence.prefix}told {name}",
                       label="median NSE"),
            "Rows: learned from. Columns: tested in. Targets are never learned from, on the "
            "diagonal neither.",
        ))  # fmt: skip
    return pictures, alone


def _growth(evidence: Evidence, found: Estimates) -> tuple[pd.DataFrame, str, Picture]:
    """The gap with more basins to learn from, and a labelled look beyond them."""
    from aef_dagster.evaluation.scaling import rise_law
    from aef_dagster.evaluation.study_figures import scaling_curves_png

    rows, curves = [], []
    counts = _counts(evidence)
    for name in PAIR:
        for count in (*counts, None):
            label = f"{count} basins" if count else ""
            near, far = (
                evidence.nse(
                    f"fewer_{design}" if count else design,
                    name,
                    learned_from=label,
                    seeds=evidence.size.other_seeds,
                )
                for design in ("folds", "clusters")
            )
            models = evidence.rows("clusters", name).drop_duplicates("job_hash")
            n = count or int(models["n_donors"].median())
            gap = found.difference(far, near, name, name, "clusters against folds",
                                   measure=f"gap of NSE, {n} basins learned from", k=n)  # fmt: skip
            rows.append({"told": name, "basins learned from": n, "unseen basins": near.median(),
                         "unseen cluster": far.median(), "gap": gap["value"], "from": gap["low"],
                         "to": gap["high"]})  # fmt: skip
            curves.append({"space": f"{name}: gap", "k": n,
                           **{c: gap[c] for c in ("value", "low", "high")}})  # fmt: skip
    table = pd.DataFrame(rows)
    told = []
    for name in PAIR:
        part = table[table["told"] == name]
        law = rise_law(part["basins learned from"], part["gap"], at=GLOBAL_BASINS)
        row = found.add(f"gap of NSE, {GLOBAL_BASINS} basins, EXTRAPOLATED", name,
                        law["predicted"], low=law["low"], high=law["high"],
                        design="clusters against folds")  # fmt: skip
        if np.isfinite(row["value"]):
            told.append(f"`{name}` {interval(row, signed=True)}")
    sentence = "Too few numbers of basins to draw a line to a global collection."
    if told:
        sentence = (
            f"Would a global collection close the gap? A line through "
            f"{len(counts) + 1} numbers of basins, EXTRAPOLATED to {GLOBAL_BASINS}: "
            + ", ".join(told)
            + ". A guess, not a measurement."
        )
    picture = Picture(
        "The gap and the number of basins",
        scaling_curves_png(
            pd.DataFrame(curves),
            title=f"{evidence.prefix}gap of NSE",
            xlabel="basins learned from",
            ylabel="median gap of NSE",
        ),
        "Below 0: an unseen cluster is simulated worse than unseen basins of seen clusters.",
    )
    return table, sentence, picture


def _counts(evidence: Evidence) -> list[int]:
    """Numbers of basins to learn from that every fold and every cluster leaves over.

    Else the basins of a large cluster would be missing at the large numbers, and the gaps along the
    curve would be of different basins.
    """
    basins, size = evidence.basins, evidence.size
    folds = designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds))
    out = designs.held_out("clusters", basins.labels("aef", size.most_clusters))
    fewest = min(len(split.donors) for split in (*folds, *out))
    return [count for count in size.counts if count < fewest]


def _cluster_maps(evidence: Evidence) -> list[Picture]:
    import geopandas

    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.maps import polygon_map

    outlines = geopandas.read_parquet(evidence.outlines).set_index("gauge_id")
    size = evidence.size
    return [
        Picture(title, png_of(polygon_map(
            outlines, pd.Series(evidence.basins.labels(scheme, most)).map("cluster {}".format),
            title=f"{evidence.prefix}{title}", label="", categorical=True)))
        for title, scheme, most in (
            ("Clusters by AlphaEarth", "aef", size.most_clusters),
            ("Clusters by climate", "climate", size.climates),
        )
    ]  # fmt: skip
