"""How many donors, and how picked: the study's scaling experiment with its noise shown.

Here: the plan and the reading. Not here: how donors are ranked (similarity/), one target's models
(donor_models.py).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import DonorAsk, Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import FEWEST_BASINS, Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.published import STUDY_BEST_K
from aef_dagster.experiments.reading import Check, Picture, Reading, Table
from aef_dagster.experiments.sizes import Size

NAME = "donor_scaling"
TITLE = "How many donors, and which"
QUESTION = (
    "Trained on the k basins most like a target, does a model simulate it better than one trained "
    "on all, and does it matter in which space they are alike?"
)
# All donor models are told the same, so that spaces differ by their donors alone.
TOLD = "aef+climate"
# What the network that gives the space `fusion` is told.
FUSED = "attributes+aef"
SOFT = "soft_aef"
TARGET_SEED = 0
# Counts of fewer targets say nothing of a law.
FEWEST_FOR_A_LAW = 20


def plan(basins: StudyBasins, size: Size) -> Plan:
    """Each target in each space with each k, softly, and on all; and the networks of `fusion`."""
    chosen = targets(basins, size)
    everyone = len(basins.gauge_ids) - 1
    ks = [k for k in size.ks if k < everyone]
    asks = [
        DonorAsk(NAME, space, k, TOLD, chosen, size.other_seeds)
        for space in size.spaces
        for k in ks
    ]
    asks.append(DonorAsk(NAME, "aef", everyone, TOLD, chosen, size.other_seeds))
    asks += [
        DonorAsk(NAME, SOFT, k, TOLD, chosen, size.other_seeds) for k in size.soft if k < everyone
    ]
    splits = designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds))
    return Plan(regional=regional(NAME, splits, (FUSED,), 1), donors=tuple(asks))


def require_donors(basins: StudyBasins, size: Size) -> None:
    """Refuse a size that has no number of donors below all.

    Raises
    ------
    UserError
        There are too few basins for the size.
    """
    everyone = len(basins.gauge_ids) - 1
    if min(size.ks) >= everyone:
        raise UserError(
            f"{NAME} at size {size.name} takes {min(size.ks)} donors of each target or more, and "
            f"all there are is {everyone}: choose the size sample, or other experiments"
        )


def targets(basins: StudyBasins, size: Size) -> tuple[str, ...]:
    """The study's published targets, or a sample of all basins over its clusters.

    A sample takes basins of each cluster in turn, so that a few targets still span the regimes.
    """
    if size.published_targets and basins.published_targets:
        return basins.published_targets
    clusters = basins.labels("aef", size.most_clusters)
    shuffled = np.random.default_rng(TARGET_SEED).permutation(basins.gauge_ids).tolist()
    queues: dict[int, list[str]] = {}
    for gauge_id in shuffled:
        queues.setdefault(clusters[gauge_id], []).append(gauge_id)
    picked: list[str] = []
    while len(picked) < min(size.targets, len(shuffled)):
        for cluster in sorted(queues):
            if queues[cluster] and len(picked) < size.targets:
                picked.append(queues[cluster].pop(0))
    return tuple(sorted(picked))


def read(evidence: Evidence) -> Reading:
    """Curves, best k against chance, spaces against each other."""
    from aef_dagster.evaluation.scaling import best_k_counts, chi_square_uniform, collapse
    from aef_dagster.evaluation.study_figures import scaling_curves_png

    size, found = evidence.size, Estimates(evidence.regions)
    require_donors(evidence.basins, size)
    nse = _scores(evidence)
    everyone = len(evidence.basins.gauge_ids) - 1
    ks = sorted(k for k in size.ks if k < everyone)
    curves, bests, checks, falls = [], [], [], {}
    spaces = [space for space in size.spaces if space in nse]
    for space in spaces:
        for k in (*ks, everyone):
            row = found.median(nse[space][k], space, "donors", k=k)
            curves.append({"space": space, "k": k, **{n: row[n] for n in ("value", "low", "high")}})
        long = nse[space].reset_index().melt("gauge_id", var_name="k", value_name="nse")
        long = long.dropna(subset="nse")
        counts = best_k_counts(long)
        test = chi_square_uniform(counts)
        found.add("chi-square of best k against a uniform law", space, test["statistic"],
                  design="donors", n_basins=int(counts.sum()), p=test["p"])  # fmt: skip
        bests.append({"space": space,
                      **{f"k = {k}": int(counts.get(k, 0)) for k in (*ks, everyone)},
                      "chi-square": test["statistic"], "p": test["p"]})  # fmt: skip
        falls[space] = collapse(long, groups=found.groups(nse[space].index))
    for name in [name for name in nse if name not in spaces]:
        for soft_k in map(int, nse[name].columns):
            row = found.median(nse[name][soft_k], name, "donors", k=soft_k)
            curves.append({"space": name, "k": soft_k,
                           **{n: row[n] for n in ("value", "low", "high")}})  # fmt: skip
    middle = ks[len(ks) // 2]
    rows = _comparisons(nse, spaces, middle, everyone, found)
    against_random = next(row for row in rows if row["of"] == "aef" and row["against"] == "random")
    against_all = next(row for row in rows if row["against"] == f"all {everyone}")
    fall = _as_row(falls["aef"])
    if np.isfinite(fall["low"]):  # too few targets are not judged
        checks.append(Check(
            "no_heterogeneity_collapse", not falls["aef"]["falls"],
            "From the best number of donors, chosen by other targets, to all, NSE in the space "
            f"aef falls by {interval(fall, signed=True)}.",
        ))  # fmt: skip
    targets_told = int(nse["aef"].notna().any(axis=1).sum())
    findings = [
        f"With k = {middle}, donors picked by AlphaEarth against donors picked at random: "
        f"{interval(against_random, signed=True)} NSE over {against_random['n_basins']} targets, "
        f"{verdict(against_random)}.",
        f"The {middle} best donors by AlphaEarth against all {everyone} basins: "
        f"{interval(against_all, signed=True)}, {verdict(against_all)}.",
    ]
    if targets_told >= FEWEST_FOR_A_LAW:
        findings.append(
            "Whether one k is best more often than others (chi-square against a uniform law, which "
            "rejects too often, since larger sets of donors hold the smaller ones): "
            + ", ".join(f"{row['space']} p = {row['p']:.2g}" for row in bests)
            + "."
        )
    soft = [row for row in rows if row["of"] == SOFT]
    findings += [
        "All basins, weighted by similarity so that as many count as the best "
        f"{row['k']}, against these: {interval(row, signed=True)}, {verdict(row)}."
        for row in soft
    ]
    noise = nse["random"].std(axis=1).median() if "random" in nse else np.nan
    found.add("spread of NSE over k, random donors", "random", noise, design="donors")
    findings.append(
        f"Between numbers of random donors a target's NSE varies by {noise:.3f} (median standard "
        "deviation): what is smaller is noise."
    )
    published = pd.DataFrame(
        [{"space": name, **dict(zip(map(str, (100, 200, 300, 400, 500, 600, 670)), counts,
                                    strict=True))} for name, counts in STUDY_BEST_K.items()]
    )  # fmt: skip
    shown = pd.DataFrame(rows)[["of", "against", "k", "value", "low", "high", "p", "n_basins"]]
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=tuple(findings),
        numbers={"aef_minus_random": against_random["value"], "noise_floor": float(noise)},
        estimates=found.frame(),
        tables=(
            Table("Spaces against each other", shown, "Paired by target, models told the same."),
            Table("How often each k was a target's best", pd.DataFrame(bests)),
            Table("The same, published for 147 targets", published, "arXiv:2601.01558, its public "
                  "plotting code; fusion = learned from attributes."),
            Table("NSE of every target",
                  nse["aef"].rename(columns="k = {}".format).reset_index(), "In the space aef."),
        ),
        pictures=(Picture("NSE and the number of donors", scaling_curves_png(
            pd.DataFrame(curves), title=f"{evidence.prefix}median NSE of {targets_told} targets"),
            "With all basins as donors every space is the same model."),),
        checks=tuple(checks),
    )  # fmt: skip


def _scores(evidence: Evidence) -> dict[str, pd.DataFrame]:
    """Space -> NSE of each target (rows) with each k (columns); k = all is every space's.

    Raises
    ------
    UserError
        A choice of the plan has no scores.
    """
    size, rows = evidence.size, evidence.donor_rows()
    chosen = targets(evidence.basins, size)
    everyone = len(evidence.basins.gauge_ids) - 1
    # Users may have trained the same targets with recipes, donors and seeds of their own.
    rows = rows[
        rows["gauge_id"].isin(chosen)
        & (rows["representation"] == TOLD)
        & (rows["recipe"] == "strong")
        & (rows["seed"] < size.other_seeds)
    ]
    ks = [k for k in size.ks if k < everyone]
    wanted = {space: list(ks) for space in size.spaces}
    wanted["aef"] = [*ks, everyone]
    if soft := [k for k in size.soft if k < everyone]:
        wanted[SOFT] = soft
    tables = {}
    for space, columns in wanted.items():
        part = rows[rows["space"] == space]
        lacking = sorted(set(columns) - set(part["k"]))
        if lacking:
            raise UserError(
                f"no scores of donor models in the space {space} with k = "
                f"{', '.join(map(str, lacking))}, told {TOLD}, yet: materialize `basin_models` "
                f"with these, then `basin_scores` (or run `aef study --size {size.name}`)"
            )
        table = part.pivot_table(index="gauge_id", columns="k", values="nse", aggfunc="median")
        tables[space] = table.reindex(index=list(chosen), columns=columns).rename_axis("gauge_id")
    for space in size.spaces:
        tables[space][everyone] = tables["aef"][everyone]
    return tables


def _comparisons(
    nse: dict[str, pd.DataFrame],
    spaces: Sequence[str],
    k: int,
    everyone: int,
    found: Estimates,
) -> list[dict]:
    """Every space against random donors at one k, AlphaEarth against attributes and all."""
    rows = [
        found.difference(nse[space][k], nse["random"][k], space, "random", "donors", k=k)
        for space in spaces
        if space != "random" and "random" in nse
    ]
    if "attributes" in nse:
        rows.append(found.difference(
            nse["aef"][k], nse["attributes"][k], "aef", "attributes", "donors", k=k
        ))  # fmt: skip
    rows.append(found.difference(
        nse["aef"][k], nse["aef"][everyone], "aef", f"all {everyone}", "donors", k=k
    ))  # fmt: skip
    for soft_k in nse.get(SOFT, pd.DataFrame()).columns:
        if soft_k in nse["aef"]:
            rows.append(found.difference(
                nse[SOFT][soft_k], nse["aef"][soft_k], SOFT, "aef", "donors", k=int(soft_k)
            ))  # fmt: skip
    return rows


def _as_row(fall: dict) -> dict:
    enough = fall["n"] >= FEWEST_BASINS
    low, high = (fall["low"], fall["high"]) if enough else (np.nan, np.nan)
    return {"value": fall["loss"], "low": low, "high": high}
