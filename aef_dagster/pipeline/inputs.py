"""What training reads, put together from warehouse and lake.

Here: the donors, arrays and versions behind a list of targets. No Dagster object is needed.
Not here: the planning of jobs (experiments/) and the training (models/).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.basins.periods import Periods, default_periods
from aef_dagster.errors import UserError
from aef_dagster.experiments.donor_models import (
    SPACE_OF_SOFT,
    donors_of,
    plan,
    soft_donors_of,
)
from aef_dagster.models.data import StaticTable, TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.statics import COLUMNS, static_table
from aef_dagster.pipeline.config import TrainingChoice
from aef_dagster.storage.home import Home
from aef_dagster.storage.tables import (
    attribute_frame,
    donor_frame,
    embedding_frame,
    embedding_years,
    marks,
    year_frame,
)
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

    def title(self, choice: TrainingChoice) -> str:
        """The choice in one line, with what its results are made of."""
        job = next(iter(self.jobs.values()))[0]
        made_of = [mark for mark in ("sample", "surrogate") if getattr(job, mark)]
        return choice.title + (f" [{', '.join(made_of)}]" if made_of else "")


def plan_basins(
    home: Home,
    store: Warehouse,
    choice: TrainingChoice,
    targets: Sequence[str],
    dataset: str,
    forcing: str,
    precision: str,
) -> BasinPlan:
    """Donors, arrays and jobs of some targets.

    Raises
    ------
    UserError
        An upstream table is empty, or no target can be trained at all.
    """
    periods = default_periods(dataset)
    statics = static_frames(store, [choice.representation])
    targets_of, donors_of_run = usable(home, store, statics, periods)
    ranked = donor_frame(store, SPACE_OF_SOFT.get(choice.space, choice.space))
    ranked = ranked[ranked["donor_id"].isin(donors_of_run)]
    by_target = {str(target): rows for target, rows in ranked.groupby("gauge_id")}
    donors, weights, refused = {}, {}, {}
    for target in targets:
        try:
            _require_usable(store, target, targets_of)
            if choice.space in SPACE_OF_SOFT:
                donors[target], weights[target] = soft_donors_of(by_target, target, choice.k)
            else:
                donors[target] = donors_of(by_target, target, choice.k)
        except UserError as error:
            refused[target] = str(error)
    if not donors:
        raise UserError("; ".join(dict.fromkeys(refused.values())))

    needed = sorted(set(donors).union(*donors.values()))
    data = training_data(home, needed, [choice.representation], statics)
    versions = versions_of(data, choice.representation)
    made_of = marks(store, choice.space, told_embedding=tells_embedding(choice.representation))
    jobs = {
        target: plan(
            target,
            chosen,
            weights=weights.get(target, ()),
            seeds=choice.seeds,
            dataset=dataset,
            forcing=forcing,
            periods=periods,
            representation=choice.representation,
            recipe=choice.recipe,
            budget=choice.budget,
            data_version=combined(versions, (target, *chosen)),
            precision=precision,
            **made_of,
        )
        for target, chosen in donors.items()
    }
    return BasinPlan(jobs, donors, data, refused)


def tells_embedding(representation: str) -> bool:
    """Whether a network is told anything of AlphaEarth."""
    return bool({"embedding", "first_year"} & set(COLUMNS.get(representation, {})))


def static_frames(store: Warehouse, representations: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The tables that representations read; the others stay empty."""
    readers: dict[str, Callable[[], pd.DataFrame]] = {
        "attributes": lambda: attribute_frame(store, "published"),
        "climate": lambda: attribute_frame(store, "training_period"),
        "embedding": lambda: embedding_frame(store),
        "first_year": lambda: year_frame(store, min(embedding_years(store))),
    }
    read = {kind for name in representations for kind in COLUMNS.get(name, {})}
    return {name: reader() if name in read else pd.DataFrame() for name, reader in readers.items()}


def described(
    representation: str, gauge_ids: Sequence[str], frames: dict[str, pd.DataFrame]
) -> StaticTable:
    """What a network is told of some basins, from the tables of `static_frames`."""
    return static_table(
        representation,
        gauge_ids,
        attributes=frames.get("attributes"),
        climate=frames.get("climate"),
        embedding=frames.get("embedding"),
        first_year=frames.get("first_year"),
    )


def usable(
    home: Home, store: Warehouse, statics: dict[str, pd.DataFrame], periods: Periods
) -> tuple[set[str], set[str]]:
    """Basins that can be targets (weather, static inputs), and of these, those that can be donors.

    A donor needs observed flow in the training period; a target needs none, for it is simulated as
    if it had no gauge. But a target whose flow file is damaged stays excluded until it is mended.
    """
    if not any(home.streamflow.glob("*.parquet")):
        raise UserError("no streamflow yet: materialize `streamflow` first (or run `aef prepare`)")
    described = {path.stem for path in home.forcings.glob("*.parquet")}
    for frame in statics.values():
        described &= set(frame.index) if len(frame) else described
    with_flow = store.frame(
        "SELECT gauge_id FROM streamflow WHERE date BETWEEN ? AND ? AND streamflow IS NOT NULL "
        "GROUP BY gauge_id",
        [periods.train_start, periods.train_end],
    )
    damaged = store.frame("SELECT gauge_id FROM exclusions")["gauge_id"]
    targets = described - set(damaged)
    return targets, targets & set(with_flow["gauge_id"])


def training_data(
    home: Home,
    gauge_ids: list[str],
    representations: Sequence[str],
    statics: dict[str, pd.DataFrame],
) -> TrainingData:
    """Series and static inputs of some basins, a table for each representation."""
    cube = load_cube(home.forcings, home.streamflow, gauge_ids)
    forcing = np.stack([cube[name].values for name in FORCINGS], axis=-1)
    return TrainingData(
        gauge_ids=tuple(gauge_ids),
        dates=cube["date"].values.astype("datetime64[D]"),
        forcing_names=FORCINGS,
        forcing=forcing,
        streamflow=cube["streamflow"].values,
        statics={name: described(name, gauge_ids, statics) for name in representations},
    )


def versions_of(data: TrainingData, representation: str) -> dict[str, bytes]:
    """Hash per basin of all that a model could see of it, whatever basins lie beside it."""
    table = data.statics[representation]
    columns = f"{table.numeric_names}{table.category_names}"
    versions = {}
    for row, gauge_id in enumerate(data.gauge_ids):
        # The calendar is that of all basins; a basin's own days are those with any weather.
        own = np.flatnonzero(np.isfinite(data.forcing[row]).any(axis=1))
        days = slice(own[0], own[-1] + 1) if own.size else slice(0, 1)
        digest = hashlib.blake2b(f"{data.dates[days.start]}{columns}".encode(), digest_size=16)
        digest.update(data.forcing[row, days].tobytes())
        digest.update(data.streamflow[row, days].tobytes())
        digest.update(table.numeric[row].tobytes())
        digest.update("\x1f".join(table.categories[row]).encode())
        versions[gauge_id] = digest.digest()
    return versions


def combined(versions: dict[str, bytes], basins: Sequence[str]) -> str:
    """One hash of the data of some basins."""
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
            f"basin {target} lacks forcings, attributes or an embedding; materialize them "
            "(`aef prepare`) and see the coverage check of aef_embeddings"
        )
    raise UserError(f"basin {target} is unknown; `aef doctor` says which dataset is in force")
