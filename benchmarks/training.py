"""Training one model on one core, beside nothing but its LSTM forward and backward.

The engine trains a model of budget `donor` (fewer updates) on real basins: gather, scaling, input
layer, dropout, loss, gradient, clipping, optimiser. Beside it, after every fourth update and in
the same process, a bare `nn.LSTM` of that size on random tensors that lie ready: the part which
own code cannot make faster. Both are medians of the CPU seconds of one update, one thread, so
`share_of_bare_lstm` is the share of a training update that is not overhead. `peak_mb` is that of
the whole process, the reading of the basins included.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch

from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import FORCINGS, open_dataset
from aef_dagster.basins.ingest import ingest_forcings, ingest_streamflow
from aef_dagster.basins.periods import default_periods
from aef_dagster.models import engine_cpu
from aef_dagster.models.data import TrainingData
from aef_dagster.models.inputs import prepare
from aef_dagster.models.jobs import BUDGETS, RECIPES, Budget, TrainingJob
from aef_dagster.models.statics import static_table
from aef_dagster.models.worker import peak_mb
from aef_dagster.models.workers import KEEP_MEMORY
from benchmarks.measuring import in_fresh_process, print_table, real_settings

DONORS = 40
UPDATES = 160
UPDATES_PER_BARE = 4
REPRESENTATION = "attributes17"


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    settings = real_settings()
    # The environment of a worker process, which is where models are trained.
    told = in_fresh_process(
        "benchmarks.training", "train_one", environment=KEEP_MEMORY,
        data_dir=str(settings.data_dir), forcing=settings.forcing,
    ).answer  # fmt: skip
    days = told["basin_days_per_update"]
    rows = [
        (name, f"{seconds * 1000:.1f}", f"{days / seconds:,.0f}")
        for name, seconds in (
            ("whole update", told["update_s"]),
            ("bare nn.LSTM", told["bare_s"]),
            ("update, with validation", told["job_s"] / UPDATES),
        )
    ]
    print_table(
        f"training, budget donor, {UPDATES} updates, {DONORS} donors, one thread",
        ("", "CPU ms", "basin-days/s"), rows,
    )  # fmt: skip
    return {
        "basin_days_per_s": f"{days / told['update_s']:.0f}",
        "share_of_bare_lstm": f"{told['bare_s'] / told['update_s']:.3f}",
        "peak_mb": f"{told['peak_mb']:.0f}",
    }


def train_one(data_dir: str, forcing: str) -> dict[str, float]:
    """Train, and time each update as well as the bare LSTM in between."""
    budget = replace(BUDGETS["donor"], updates=UPDATES)
    data = _data(Path(data_dir), forcing)
    target, *donors = data.gauge_ids
    job = TrainingJob(
        dataset="camels_us", forcing=forcing, data_version="benchmark", targets=(target,),
        donors=tuple(donors), role="ungauged", periods=default_periods("camels_us"),
        representation=REPRESENTATION, recipe=RECIPES["strong"], budget=budget, seed=0,
    )  # fmt: skip
    bare = _BareLSTM(budget)
    update_s: list[float] = []
    bare_s: list[float] = []
    since = time.process_time()
    phase_before = "train"

    def report(phase: str, update: int) -> None:
        nonlocal since, phase_before
        if phase == "train":
            # The first update after a validation has the validation in its time.
            if phase_before == "train":
                update_s.append(time.process_time() - since)
            if update % UPDATES_PER_BARE == 0:
                bare_s.append(bare.seconds())
        phase_before = phase
        since = time.process_time()

    inputs = prepare(job, data)
    started = time.process_time()
    engine_cpu.train(inputs, report)
    job_s = time.process_time() - started - sum(bare_s)
    return {
        "update_s": median(update_s[1:]),  # the first one also warms up
        "bare_s": median(bare_s[1:]),
        "job_s": job_s,
        "peak_mb": peak_mb(),
        "basin_days_per_update": budget.batch * budget.window,
    }


class _BareLSTM:
    """One forward and backward pass of the engine's LSTM and nothing else."""

    def __init__(self, budget: Budget):
        self._lstm = torch.nn.LSTM(budget.hidden, budget.hidden)
        shape = (budget.window, budget.batch, budget.hidden)
        # In the network, too, the gradient goes on to the layer before.
        self._inputs = torch.randn(shape, requires_grad=True)
        # On every day: with the warm-up left out, as in training, the gradient of an untrained LSTM
        # fades through 182 days into denormal numbers: 300 ms instead of 47 (measured), and 46 with
        # denormals flushed. The engine's forget bias of 3 keeps the gradient from fading so far.
        self._gradient = torch.randn(shape)

    def seconds(self) -> float:
        """CPU seconds of one pass."""
        self._inputs.grad = None
        self._lstm.zero_grad()
        started = time.process_time()
        states, _ = self._lstm(self._inputs)
        states.backward(self._gradient)
        return time.process_time() - started


def _data(data_dir: Path, forcing: str) -> TrainingData:
    """The first basins of the dataset, read as the platform reads them."""
    dataset = open_dataset("camels_us", data_dir=data_dir, forcing=forcing)
    gauge_ids = dataset.gauge_ids()[: DONORS + 1]
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        weather, flow = Path(folder) / "forcings", Path(folder) / "streamflow"
        ingest_forcings(dataset, weather, gauge_ids)
        ingest_streamflow(dataset, flow, dataset.catalog(), gauge_ids)
        cube = load_cube(weather, flow, gauge_ids)
    unused = pd.DataFrame()
    table = static_table(
        REPRESENTATION, gauge_ids, attributes=dataset.attributes(), climate=unused,
        embedding=unused,
    )  # fmt: skip
    return TrainingData(
        gauge_ids=tuple(gauge_ids),
        dates=cube["date"].values.astype("datetime64[D]"),
        forcing_names=FORCINGS,
        forcing=np.stack([cube[name].values for name in FORCINGS], axis=-1),
        streamflow=cube["streamflow"].values,
        statics={REPRESENTATION: table},
    )
