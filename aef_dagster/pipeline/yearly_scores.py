"""Networks that learned with one year's embedding, told another year's.

Here: the simulations of `temporal_stability`, which needs no further training. Not here: what is
made of them (experiments/temporal_stability.py).
"""

from dataclasses import replace

import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.statics import FIRST_YEAR, static_table
from aef_dagster.pipeline.inputs import training_data
from aef_dagster.progress import bar
from aef_dagster.storage.home import Home
from aef_dagster.storage.tables import embedding_years, year_frame
from aef_dagster.storage.warehouse import Warehouse


def score_years(home: Home, store: Warehouse, scores: pd.DataFrame) -> pd.DataFrame:
    """NSE of unseen basins with each year's embedding.

    Parameters
    ----------
    scores
        Rows of the table `scores`; those of folds told `aef_first_year` are looked at.

    Returns
    -------
    DataFrame
        gauge_id, year, seed, nse.

    Raises
    ------
    UserError
        No such network was trained, or there is one year only.
    """
    from aef_dagster.evaluation.metrics import score
    from aef_dagster.models.simulate import predict

    rows = scores[(scores["design"] == "folds") & (scores["representation"] == FIRST_YEAR)]
    years = embedding_years(store)
    if rows.empty or len(years) < 2:
        raise UserError(
            f"no network that learned with the first year's embedding yet, or one year only: "
            f"materialize the partition folds/{FIRST_YEAR} of `regional_models`"
        )
    frames = {year: year_frame(store, year) for year in years}
    found = []
    data = training_data(
        home, sorted(rows["gauge_id"].unique()), [FIRST_YEAR], {"first_year": frames[years[0]]}
    )  # fmt: skip
    in_force = {str(name): sorted(part["gauge_id"]) for name, part in rows.groupby("job_hash")}
    hashes = sorted(in_force)
    with bar("simulating with other years", len(hashes) * len(years), "models") as progress:
        for job_hash in hashes:
            checkpoint = Checkpoint.open(home.checkpoints, job_hash)
            job = checkpoint.job()
            for year in years:
                # Not all targets of the job: those whose fold has changed since are another's.
                there = [g for g in in_force[job_hash] if g in frames[year].index]
                # Rows of basins that this year lacks are filled, and not simulated.
                vectors = frames[year].reindex(data.gauge_ids).fillna(frames[years[0]])
                table = static_table(FIRST_YEAR, data.gauge_ids, first_year=vectors)
                told = replace(data, statics={FIRST_YEAR: table})
                simulated = predict(
                    checkpoint, told, there, job.periods.test_start, job.periods.test_end
                )
                flows = simulated.pivot(index="gauge_id", columns="date", values=["obs", "sim"])
                dates = flows["obs"].columns.to_numpy().astype("datetime64[D]")
                nse = score(flows["obs"].to_numpy(), flows["sim"].to_numpy(), dates)["nse"]
                found.append(pd.DataFrame(
                    {"gauge_id": flows.index, "year": year, "seed": job.seed, "nse": nse}
                ))  # fmt: skip
                progress.advance()
    return pd.concat(found, ignore_index=True)
