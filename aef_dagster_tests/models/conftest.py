"""A toy world for the models' tests: a few linear reservoirs, and jobs that train in a second."""

from dataclasses import replace

import numpy as np
import pytest

from aef_dagster.basins.periods import Periods
from aef_dagster.models.data import StaticTable, TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import Budget, Recipe

FORCINGS = ("prcp", "dayl", "srad", "tmax", "tmin", "vp", "pet")
IDS = tuple(f"0000000{i}" for i in range(1, 9))
PERIODS = Periods(
    "2000-04-01", "2002-09-30", "2002-10-01", "2003-09-30", "2003-10-01", "2004-09-30"
)


def make_data() -> TrainingData:
    """Eight linear reservoirs, q = S / residence time, fed by random rain less a seasonal PET."""
    rng = np.random.default_rng(7)
    dates = np.arange("2000-01-01", "2004-10-01", dtype="datetime64[D]")
    forcing = rng.normal(size=(len(IDS), len(dates), len(FORCINGS))).astype(np.float32)
    season = np.sin(np.arange(len(dates)) / 365.25 * 2 * np.pi)
    rain = rng.gamma(0.4, 10.0, size=(len(IDS), len(dates))) * (
        rng.random((len(IDS), len(dates))) < 0.4
    )
    pet = 1.5 + 1.2 * season
    residence = np.linspace(4.0, 12.0, len(IDS))
    flow = np.zeros((len(IDS), len(dates)), dtype=np.float32)
    storage = np.full(len(IDS), 10.0)
    for day in range(len(dates)):
        storage = np.maximum(storage + rain[:, day] - pet[day], 0.0)
        flow[:, day] = storage / residence
        storage -= flow[:, day]
    forcing[:, :, 0], forcing[:, :, 6] = rain, pet
    table = StaticTable(
        IDS,
        np.column_stack([residence, np.arange(len(IDS)) % 3]).astype(np.float32),
        ("residence", "class_number"),
        np.array([["clay"], ["sand"]] * (len(IDS) // 2)),
        ("soil",),
    )
    nothing = StaticTable(
        IDS, np.zeros((len(IDS), 0), np.float32), (), np.zeros((len(IDS), 0), "<U1"), ()
    )
    return TrainingData(
        IDS, dates, FORCINGS, forcing, flow, {"attributes17": table, "none": nothing}
    )


@pytest.fixture
def toy() -> TrainingData:
    return make_data()


@pytest.fixture
def make_job():
    """A job on the toy world that trains in about half a second, with whatever is replaced."""
    job = TrainingJob(
        dataset="toy",
        forcing="toy",
        data_version="1",
        targets=IDS[:1],
        donors=IDS[1:],
        role="ungauged",
        periods=PERIODS,
        representation="attributes17",
        recipe=Recipe(validations=2, spinup_days=60),
        budget=Budget("micro", hidden=8, updates=20, batch=8, window=60),
        seed=0,
        sample=True,
    )
    return lambda **changes: replace(job, **changes)
