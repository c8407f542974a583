"""How far to trust a simulation: an expectation of NSE for basins whose flow is unknown.

Here: calibrations by choice of training, and their reading. Not here: the regression and its
interval (evaluation/trust.py), the features (evaluation/trust_features.py).
"""

from dataclasses import dataclass

import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.evaluation.trust import MIN_BASINS, TrustModel, coverage, cross_fitted, fit_trust
from aef_dagster.experiments.estimates import Estimates
from aef_dagster.experiments.reading import Check, Picture, Reading, Table

NAME = "trust"
TITLE = "How far to trust a simulation"
QUESTION = (
    "Can the NSE of an ungauged basin be predicted, with an interval that holds, from how far its "
    "model had to borrow?"
)
LEVEL = 0.8
NOT_YET = "not calibrated yet"


@dataclass(frozen=True)
class Calibration:
    """An expectation of NSE for models of one choice.

    Parameters
    ----------
    asset, choice
        Which models: the asset that trained them, and the choice in words.
    model
        Fitted to all held-out basins: for basins without flow.
    table
        Index gauge_id: expected_nse, low, high, nse, held_out. Of basins with flow the expectation
        is by a model fitted without them.
    told
        Coverage of the intervals over these (`evaluation.trust.coverage`).
    """

    asset: str
    choice: str
    model: TrustModel
    table: pd.DataFrame
    told: dict[str, float]


def calibrate(
    asset: str, choice: str, features: pd.DataFrame, nse: pd.Series
) -> Calibration | None:
    """Learn from held-out basins what to expect; None where there are too few.

    Parameters
    ----------
    features
        Of `trust_features`, index gauge_id.
    nse
        Scores of the same basins, by models that never saw them; NaN = no flow.
    """
    nse = nse.reindex(features.index)
    try:
        model = fit_trust(features, nse, level=LEVEL)
        expected = cross_fitted(features, nse, level=LEVEL)
    except UserError:
        return None
    blind = features[~features.index.isin(expected.index)]
    parts = [expected.assign(held_out=True)]
    if len(blind):
        parts.append(model.expect(blind).assign(held_out=False))
    table = pd.concat(parts).rename(columns={"expected": "expected_nse"})
    table["nse"] = nse.reindex(table.index)
    return Calibration(asset, choice, model, table, coverage(expected, nse))


def read(calibrations: list[Calibration], untold: list[str], prefix: str) -> Reading:
    """Coverage of each calibration, and expected against observed."""
    from aef_dagster.evaluation.study_figures import scatter_png

    found, rows, pictures = Estimates(), [], []
    for made in calibrations:
        told = made.told
        found.add("share of held-out basins inside the interval", made.choice, told["share"],
                  low=told["low"], high=told["high"], n_basins=int(told["n"]))  # fmt: skip
        found.add("rank correlation of expected and reached NSE", made.choice,
                  told["rank_correlation"], n_basins=int(told["n"]))  # fmt: skip
        rows.append({
            "models": made.choice, "basins": int(told["n"]), "inside": told["share"],
            "from": told["low"], "to": told["high"], "rank correlation": told["rank_correlation"],
            "median width": told["median_width"],
        })  # fmt: skip
    if not calibrations:
        return Reading(
            NAME, TITLE, QUESTION, (f"No expectation of NSE is calibrated yet: it takes "
            f"{MIN_BASINS} basins simulated without their gauge under one choice.",),
            {}, found.frame(),
        )  # fmt: skip
    largest = max(calibrations, key=lambda made: made.told["n"])
    held = [made for made in calibrations if made.told["low"] <= LEVEL <= made.told["high"]]
    seen = largest.table[largest.table["held_out"]]
    pictures.append(Picture(
        "Expected and reached NSE",
        scatter_png(seen["expected_nse"], seen["nse"], xlabel="expected NSE",
                    ylabel="reached NSE", title=f"{prefix}{largest.choice}"),
        "Each basin's expectation comes from other basins.",
    ))  # fmt: skip
    told = largest.told
    findings = [
        f"Of {int(told['n'])} basins simulated without their gauge ({largest.choice}), "
        f"{told['share']:.0%} ({told['low']:.0%} to {told['high']:.0%}) reach an NSE inside their "
        f"{LEVEL:.0%} interval, predicted from other basins; expected and reached NSE have a rank "
        f"correlation of {told['rank_correlation']:.2f}, and the median interval is "
        f"{told['median_width']:.2f} wide.",
        f"{len(held)} of {len(calibrations)} calibrations hold their level within sampling error.",
    ]
    if untold:
        findings.append(
            f"{len(untold)} choice{'s' * (len(untold) > 1)} of training "
            f"{'have' if len(untold) > 1 else 'has'} too few scored basins (fewer than "
            f"{MIN_BASINS}): not calibrated yet."
        )
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=tuple(findings),
        numbers={"coverage": told["share"], "rank_correlation": told["rank_correlation"]},
        estimates=found.frame(),
        tables=(
            Table("Calibrations", pd.DataFrame(rows), f"Intervals of level {LEVEL:.0%}; the "
                  "expectation of a basin never sees its own score."),
            Table("What to expect of each basin",
                  largest.table.rename_axis("gauge_id").sort_values("expected_nse")),
        ),
        pictures=tuple(pictures),
        checks=(Check(
            "coverage_holds", told["high"] >= LEVEL,
            f"The {LEVEL:.0%} intervals hold {told['share']:.0%} of held-out basins "
            f"({told['low']:.0%} to {told['high']:.0%}).",
        ),),
    )  # fmt: skip
