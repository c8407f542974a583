"""Does the year of the embedding matter: trained with one year, tested with another?

Here: the plan and the reading. Not here: how embeddings change by themselves
(embeddings/stability.py).
"""

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.experiments import designs
from aef_dagster.experiments.asks import Plan, StudyBasins, regional
from aef_dagster.experiments.estimates import Estimates, interval, verdict
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Picture, Reading, Table
from aef_dagster.experiments.sizes import Size
from aef_dagster.models.statics import FIRST_YEAR

NAME = "temporal_stability"
TITLE = "The year of the embedding"
QUESTION = (
    "Flow records end before the satellites' years begin. If a network learns with the embedding "
    "of one year and is told that of another, does it simulate worse, and do basins whose land "
    "has changed gain less from embeddings?"
)


def plan(basins: StudyBasins, size: Size) -> Plan:
    """Networks told the first year, tested on unseen basins; the other years are told later."""
    splits = designs.held_out("folds", designs.folds(basins.gauge_ids, size.folds))
    return Plan(
        regional=regional(NAME, splits, (FIRST_YEAR,), size.other_seeds)
        + regional(NAME, splits, ("aef", "attributes17"), size.seeds)
    )


def read(evidence: Evidence) -> Reading:
    """NSE with each later year against the year learned with, and gain against drift."""
    from scipy.stats import spearmanr

    from aef_dagster.evaluation.study_figures import interval_plot_png, scatter_png

    found, rows, differences = Estimates(evidence.regions), [], []
    yearly = evidence.yearly_scores()
    nse = yearly.pivot_table(index="gauge_id", columns="year", values="nse", aggfunc="median")
    first, *later = sorted(int(year) for year in nse.columns)
    change = _change(evidence.yearly, first)
    for year in later:
        row = found.difference(nse[year], nse[first], str(year), str(first), "folds",
                               measure="NSE told another year")  # fmt: skip
        differences.append(row)
        moved = change[year].reindex(nse.index)
        rows.append({"told": year, "learned with": first, "basins": row["n_basins"],
                     "difference of NSE": row["value"], "from": row["low"], "to": row["high"],
                     "Wilcoxon p": row["p"],
                     "median change of the embedding (1 - cosine)": moved.median()})  # fmt: skip
    last = later[-1]
    absolute = (nse[last] - nse[first]).abs()
    moved = change[last].reindex(nse.index)
    both = absolute.notna() & moved.notna()
    rho, p = spearmanr(moved[both], absolute[both])
    found.add("Spearman of |NSE change| and embedding change", str(last), rho, against=str(first),
              design="folds", n_basins=int(both.sum()), p=float(p))  # fmt: skip
    row = differences[-1]
    findings = [
        f"Told the embedding of {last} instead of {first}, with which it learned, a network "
        f"changes its NSE in unseen basins by {interval(row, 4, signed=True)}, {verdict(row)}.",
        "How much a basin's embedding changed goes with how much its NSE changed by Spearman "
        f"{rho:+.2f} (p {p:.2g}).",
    ]
    pictures = [
        Picture("Each later year", interval_plot_png(
            pd.DataFrame(differences).assign(label=[str(year) for year in later]),
            title=f"{evidence.prefix}NSE told another year, less that told {first}",
            xlabel="median over basins, 95 % bootstrap interval")),
        Picture("NSE change and embedding change", scatter_png(
            moved[both], absolute[both], xlabel=f"1 - cosine of {first} and {last}",
            ylabel="absolute change of NSE",
            title=f"{evidence.prefix}{first} and {last}", line=False)),
    ]  # fmt: skip
    pictures.append(_years(evidence))
    if len(evidence.stability):
        gain = evidence.nse("folds", "aef") - evidence.nse("folds", "attributes17")
        drift = evidence.stability["drift"].reindex(gain.index)
        known = gain.notna() & drift.notna()
        rho, p = spearmanr(drift[known], gain[known])
        found.add("Spearman of AEF's gain and drift", "aef", rho, against="attributes17",
                  design="folds", n_basins=int(known.sum()), p=float(p))  # fmt: skip
        findings.append(
            "AlphaEarth's gain over attributes and a basin's drift since the first year: Spearman "
            f"{rho:+.2f} (p {p:.2g}, {int(known.sum())} basins)."
        )
        pictures.append(Picture("Gain and drift", scatter_png(
            drift[known], gain[known], xlabel="drift of the embedding",
            ylabel="NSE told aef less attributes17",
            title=f"{evidence.prefix}does change of the land cost the gain?")))  # fmt: skip
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=tuple(findings),
        numbers={"nse_change_last_year": row["value"]}, estimates=found.frame(),
        tables=(Table("Told another year", pd.DataFrame(rows), "The same weights, only the "
                      "embedding is another: the cost of the year alone."),),
        pictures=tuple(pictures),
    )  # fmt: skip


def _years(evidence: Evidence) -> Picture:
    from aef_dagster.embeddings.stability import median_cosines
    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.heatmaps import year_heatmap

    cosines = median_cosines(evidence.yearly)
    figure = year_heatmap(
        cosines.to_numpy(),
        [int(year) for year in cosines.index],
        title=f"{evidence.prefix}median cosine of two years",
    )
    return Picture(
        "How alike years are", png_of(figure), "Over all basins, embeddings of two years."
    )


def _change(yearly: pd.DataFrame, first: int) -> dict[int, pd.Series]:
    """1 - cosine of each year's embedding with the first year's, per basin."""
    vectors = {
        int(rows["year"].iloc[0]): rows.set_index("gauge_id")[list(BANDS)]
        for _year, rows in yearly.groupby("year")
    }
    start = vectors[first]
    change = {}
    for year, table in vectors.items():
        shared = start.index.intersection(table.index)
        a, b = start.loc[shared].to_numpy(), table.loc[shared].to_numpy()
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        change[year] = pd.Series(1 - cosine, index=shared)
    return change
