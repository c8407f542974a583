"""Hydrographs for the report: the worst, the middle and the best simulated basin.

Here: which basins, and their pictures. Not here: drawing (evaluation/figures.py).
"""

from aef_dagster.evaluation.figures import hydrograph_svg
from aef_dagster.experiments.estimates import Estimates
from aef_dagster.experiments.reading import Picture, Reading, Table
from aef_dagster.experiments.sizes import Size
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.storage.home import Home
from aef_dagster.storage.warehouse import Warehouse

SHOWN = {"worst": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "best": 1.0}


def hydrograph_pictures(
    store: Warehouse, home: Home, size: Size, precision: str, prefix: str
) -> list[Reading]:
    """A section of the report; none where no basin was simulated as if ungauged."""
    scores = store.frame(
        "SELECT gauge_id, name, job_hash, nse, kge, pbias FROM scores LEFT JOIN (SELECT gauge_id, "
        "name FROM basins) USING (gauge_id) WHERE current AND asset = 'regional_models' AND "
        "design = 'folds' AND representation = 'aef' AND recipe = 'strong' AND seed = 0 AND "
        "budget = ? AND precision = ? AND nse IS NOT NULL ORDER BY nse, gauge_id",
        [size.budget, precision],
    )
    if scores.empty:
        return []
    pictures, rows = [], []
    for words, share in SHOWN.items():
        row = scores.iloc[round(share * (len(scores) - 1))]
        table = Checkpoint.open(home.checkpoints, row["job_hash"]).simulation()
        table = table[table["gauge_id"] == row["gauge_id"]]
        pictures.append(Picture(
            f"The {words}: {row['gauge_id']}",
            hydrograph_svg(
                table["date"].to_numpy(), table["obs"].to_numpy(), table["sim"].to_numpy(),
                title=f"{prefix}{row['gauge_id']}: NSE {row['nse']:.2f}",
                note="last observed year",
            ),
            str(row["name"]),
        ))  # fmt: skip
        rows.append({"of all basins the": words, "gauge_id": row["gauge_id"], "name": row["name"],
                     "NSE": row["nse"], "KGE": row["kge"], "bias %": row["pbias"]})  # fmt: skip
    import pandas as pd

    return [Reading(
        name="hydrographs", title="Hydrographs",
        question="What does it look like where it works, and where it does not?",
        findings=(f"Simulated without their gauge, told `aef`: NSE runs from "
                  f"{scores['nse'].iloc[0]:.2f} to {scores['nse'].iloc[-1]:.2f}.",),
        numbers={}, estimates=Estimates().frame(),
        tables=(Table("The basins shown", pd.DataFrame(rows)),), pictures=tuple(pictures),
    )]  # fmt: skip
