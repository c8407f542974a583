"""What training reads, put together from warehouse and lake.

Here: the donors, arrays and versions behind a list of targets. No Dagster object is needed.
Not here: the planning of jobs (experiments/) and the training (models/).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.basins.periods import default_periods
from aef_dagster.errors import UserError
from aef_dagster.experiments.donor_models import donors_of, plan
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.statics import static_table
from aef_dagster.pipeline.config import TrainingChoice
from aef_dagster.storage.home import Home
from aef_dagster.storage.tables import attribute_frame, donor_frame, embedding_frame
from aef_dagster.storage.warehouse import Warehouse


@dataclass(frozen=True)
class BasinPlan:
    """What is to be trained for a list of targets.

    Parameters
    ----------
    jobs
        Per target one job a seed.
    donors
        Per target its donors, the most similar first.
    data
        All that the jobs read.
    refused
        Targets that cannot be trained, each with the reason.
    """

    jobs: dict[str, list[TrainingJob]]
    donors: dict[str, tuple[str, ...]]
    data: TrainingData
    refused: dict[str, str]


def plan_basins(
    home: Home,
    store: Warehouse,
    choice: TrainingChoice,
    targets: Sequence[str],
    dataset: str,
    forcing: str,
) -> BasinPlan:
    """Donors, arrays and jobs of some targets.

    Raises
    ------
    UserError
        An upstream table is empty, or no target can be trained at all.
    """
    ranked = donor_frame(store, choice.space)
    statics = _static_frames(store)
    with_weather = {path.stem for path in home.forcings.glob("*.parquet")}
    with_flow = {path.stem for path in home.streamflow.glob("*.parquet")}
    described = set(statics["attributes"].index) & set(statics["embedding"].index)
    usable = with_weather & with_flow & described
    donors, refused = {}, {}
    for target in targets:
        try:
            _require_usable(store, target, usable)
            donors[target] = donors_of(ranked, target, choice.k, usable)
        except UserError as error:
            refused[target] = str(error)
    if not donors:
        raise UserError("; ".join(dict.fromkeys(refused.values())))

    needed = sorted(set(donors).union(*donors.values()))
    data = _training_data(home, needed, choice.representation, statics)
    versions = _versions(data, choice.representation)
    flags = store.frame("SELECT bool_or(sample) AS sample FROM basins").iloc[0]
    told = "aef" in choice.representation or choice.representation == "shuffled"
    surrogate = bool(statics["surrogate"]) and (told or choice.space == "aef")
    jobs = {
        target: plan(
            target,
            chosen,
            seeds=choice.seeds,
            dataset=dataset,
            forcing=forcing,
            periods=default_periods(dataset),
            representation=choice.representation,
            recipe=choice.recipe,
            budget=choice.budget,
            version_of=lambda basins, _representation: _combine(versions, basins),
            sample=bool(flags["sample"]),
            surrogate=surrogate,
        )
        for target, chosen in donors.items()
    }
    return BasinPlan(jobs, donors, data, refused)


def _static_frames(store: Warehouse) -> dict:
    embedding = embedding_frame(store)
    surrogate = store.frame("SELECT bool_or(surrogate) AS surrogate FROM basin_embedding")
    return {
        "attributes": attribute_frame(store, "published"),
        "climate": attribute_frame(store, "training_period"),
        "embedding": embedding,
        "surrogate": surrogate["surrogate"][0],
    }


def _training_data(
    home: Home, gauge_ids: list[str], representation: str, statics: dict
) -> TrainingData:
    cube = load_cube(home.forcings, home.streamflow, gauge_ids)
    forcing = np.stack([cube[name].values for name in FORCINGS], axis=-1)
    table = static_table(
        representation,
        gauge_ids,
        attributes=statics["attributes"],
        climate=statics["climate"],
        embedding=statics["embedding"],
    )
    return TrainingData(
        gauge_ids=tuple(gauge_ids),
        dates=cube["date"].values.astype("datetime64[D]"),
        forcing_names=FORCINGS,
        forcing=forcing,
        streamflow=cube["streamflow"].values,
        statics={representation: table},
    )


def _versions(data: TrainingData, representation: str) -> dict[str, bytes]:
    """Hash per basin of all that a model could see of it, whatever basins lie beside it."""
    table = data.statics[representation]
    columns = f"{table.numeric_names}{table.category_names}"
    versions = {}
    for row, gauge_id in enumerate(data.gauge_ids):
        # The calendar is that of all basins; a basin's own days are those with any weather.
        own = np.flatnonzero(np.isfinite(data.forcing[row]).any(axis=1))
        days = slice(own[0], own[-1] + 1)
        digest = hashlib.blake2b(f"{data.dates[days.start]}{columns}".encode(), digest_size=16)
        digest.update(data.forcing[row, days].tobytes())
        digest.update(data.streamflow[row, days].tobytes())
        digest.update(table.numeric[row].tobytes())
        digest.update("\x1f".join(table.categories[row]).encode())
        versions[gauge_id] = digest.digest()
    return versions


def _combine(versions: dict[str, bytes], basins: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(versions[basin] for basin in sorted(basins))).hexdigest()[:16]


def _require_usable(store: Warehouse, target: str, usable: set[str]) -> None:
    if target in usable:
        return
    reasons = store.frame("SELECT asset, reason FROM exclusions WHERE gauge_id = ?", [target])
    if len(reasons):
        row = reasons.iloc[0]
        raise UserError(f"basin {target} was excluded from {row['asset']}: {row['reason']}")
    known: pd.Series = store.frame("SELECT gauge_id FROM basins")["gauge_id"]
    if target in set(known):
        raise UserError(
            f"basin {target} lacks forcings, flow, attributes or an embedding; materialize them "
            "(`aef prepare`) and see the coverage check of aef_embeddings"
        )
    raise UserError(f"basin {target} is unknown; `aef doctor` says which dataset is in force")
