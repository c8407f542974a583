"""The real basins as the benchmarks of training read them: arrays, lists of basins, periods.

Here: what `aef prepare` would leave, made in memory without a home; the standard lists and folds
that lie beside the shared data. Not here: what is trained on them (each benchmark).
"""

import csv
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.basins.climate import climate_from_cube
from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import FORCINGS, open_dataset
from aef_dagster.basins.ingest import ingest_forcings, ingest_streamflow
from aef_dagster.basins.periods import Periods
from aef_dagster.embeddings.pooling import pool_years
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.statics import COLUMNS, static_table
from benchmarks.measuring import SHARED, real_settings


def load_basins(
    representations: Sequence[str], periods: Periods, gauge_ids: Sequence[str] | None = None
) -> TrainingData:
    """Weather, flow and static inputs of the real basins.

    Parameters
    ----------
    representations
        Names of `statics.REPRESENTATIONS`.
    periods
        Climate indices are those of its training period.
    gauge_ids
        Only these basins; all by default.
    """
    settings = real_settings()
    dataset = open_dataset("camels_us", data_dir=settings.data_dir, forcing=settings.forcing)
    gauge_ids = list(gauge_ids or dataset.gauge_ids())
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        weather, flow = Path(folder) / "forcings", Path(folder) / "streamflow"
        ingest_forcings(dataset, weather, gauge_ids)
        ingest_streamflow(dataset, flow, dataset.catalog(), gauge_ids)
        cube = load_cube(weather, flow, gauge_ids)
    read = {table for name in representations for table in COLUMNS.get(name, {})}
    climate, embedding = pd.DataFrame(), pd.DataFrame()
    if "climate" in read:
        climate = climate_from_cube(cube, periods.train_start, periods.train_end)
    if "embedding" in read:
        embedding = _embedding(gauge_ids)
    return TrainingData(
        gauge_ids=tuple(gauge_ids),
        dates=cube["date"].values.astype("datetime64[D]"),
        forcing_names=FORCINGS,
        forcing=np.stack([cube[name].values for name in FORCINGS], axis=-1),
        streamflow=cube["streamflow"].values,
        statics={
            name: static_table(
                name,
                gauge_ids,
                attributes=dataset.attributes(),
                climate=climate,
                embedding=embedding,
            )
            for name in representations
        },
    )


def version_of(data: TrainingData) -> str:
    """A hash of all that jobs on the data could see."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (data.forcing, data.streamflow):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(data.statics):
        digest.update(data.statics[name].numeric.tobytes())
    return digest.hexdigest()


def basins_531() -> list[str]:
    """The standard subset of 531 basins."""
    return (_reference() / "basins_531.txt").read_text().split()


def folds_531() -> dict[str, int]:
    """Fold of each of the 531 basins in the published tenfold split (Kratzert et al. 2019)."""
    with (_reference() / "pub_10_folds_531.csv").open() as file:
        return {row["gauge_id"]: int(row["fold"]) for row in csv.DictReader(file)}


def published_nse() -> pd.DataFrame:
    """Published NSE, a row per basin of the 531, a column per model."""
    path = _reference() / "published_nse_531.csv"
    return pd.read_csv(path, dtype={"gauge_id": str}).set_index("gauge_id")


def _reference() -> Path:
    folder = SHARED / "reference"
    if not folder.is_dir():
        raise UserError(f"{folder} is not here: this benchmark needs the standard lists of basins")
    return folder


def _embedding(gauge_ids: Sequence[str]) -> pd.DataFrame:
    folder = SHARED / "aef_surrogate"
    if not folder.is_dir():
        raise UserError(f"{folder} is not here: leave the embeddings' representations out")
    source = TableSource(folder)
    return pool_years(pd.concat([source.fetch(year, gauge_ids).frame for year in source.years()]))
