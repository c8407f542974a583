"""Groups of models trained at once on a GPU, beside one cuDNN model at a time.

Needs a GPU, numpy and torch, and nothing else: the engine room is measured alone, on synthetic
weather and flow, with recipe `strong` at budget `full`. An update is whole: windows gathered,
noise and dropout drawn, loss, gradient, clipping, Adam. `G = 1` is the engine's single model, on
cuDNN in float32; `speedup` is the best group's rate of models over its rate, same run, and
`speedup_fp32` that of the best group in float32. `speedup_bare_bf16` is the best group's rate over
that of a bare `nn.LSTM` of cuDNN in bfloat16, forward and backward and nothing around it: less than
any engine could do with one model at a time.
`models_per_hour` counts 2500 updates a model and leaves validation and start-up out. FLOP per
basin-day = 3 x 2 x (H x dynamic inputs + 4H(H + H) + H); the peak is the best of five bfloat16
products of 8192^3. A group that the memory does not hold is told and left out.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError
from aef_dagster.models.data import StaticTable, TrainingData
from aef_dagster.models.engine.gpu import usable_device
from aef_dagster.models.engine.grouped_batches import Alike, DeviceData, Widths
from aef_dagster.models.engine.groups import Group
from aef_dagster.models.engine.members import Member
from aef_dagster.models.inputs import JobInputs, prepare
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, RECIPES, Budget

GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FORCINGS = ("prcp", "dayl", "srad", "tmax", "tmin", "vp", "pet")
BASINS, STATICS = 101, 27
PERIODS = Periods(
    "1980-10-01", "1995-09-30", "1995-10-01", "1999-09-30", "1999-10-01", "2000-09-30"
)
PEAK_SIZE, PEAK_TRIES = 8192, 5
# An update is timed this often, or for this long, whatever ends first.
UPDATES, SECONDS = 50, 5.0


@dataclass(frozen=True)
class Rate:
    """Seconds that one update of a group takes."""

    group: int
    precision: str
    seconds: float


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    device, budget = usable_device("cuda"), BUDGETS["full"]
    peak, bare = bf16_peak(device), bare_lstm_seconds(device, budget)
    rates = measure(device, budget, GROUPS)
    return table(torch.cuda.get_device_name(device), rates, budget, peak, bare)


def measure(device: torch.device, budget: Budget, groups: Sequence[int]) -> list[Rate]:
    """Time updates of groups of each size, in both precisions; only float32 of a single model."""
    inputs = synthetic_inputs(budget, max(groups))
    resident = DeviceData(inputs, device)
    rates = []
    for precision in ("fp32", "bf16"):
        for group in groups:
            if group == 1 and precision == "bf16":
                continue
            try:
                seconds = seconds_per_update(resident, inputs[:group], precision)
            except torch.OutOfMemoryError:
                print(f"{group} models in {precision}: out of memory", file=sys.stderr)
                break
            rates.append(Rate(group, precision, seconds))
    return rates


def seconds_per_update(resident: DeviceData, inputs: Sequence[JobInputs], precision: str) -> float:
    """Mean over some updates, the first ones left out: they compile and record."""
    group = Group(resident, Alike.of(inputs[0]), Widths.of(inputs), len(inputs), precision)
    members = {place: Member(place, each) for place, each in enumerate(inputs)}
    for place, member in members.items():
        group.load(place, member)
    group.step(members)
    group.step(members)
    synchronise(resident.device)
    return mean_seconds(lambda: group.step(members), resident.device)


def bare_lstm_seconds(device: torch.device, budget: Budget) -> float:
    """Forward and backward pass of one model's LSTM in bfloat16 on numbers that lie ready."""
    lstm = torch.nn.LSTM(budget.hidden, budget.hidden).to(device, torch.bfloat16)
    shape = (budget.window, budget.batch, budget.hidden)
    inputs, gradient = (torch.randn(shape, device=device).bfloat16() for _ in range(2))
    inputs.requires_grad_()

    def both_ways() -> None:
        lstm(inputs)[0].backward(gradient)

    both_ways()
    synchronise(device)
    return mean_seconds(both_ways, device)


def mean_seconds(call: Callable[[], None], device: torch.device) -> float:
    """Mean over some calls, each waited for."""
    made, started = 0, time.perf_counter()
    while made < UPDATES and time.perf_counter() - started < SECONDS:
        call()
        synchronise(device)
        made += 1
    return (time.perf_counter() - started) / made


def bf16_peak(device: torch.device) -> float:
    """FLOP/s of the best of some large products in bfloat16."""
    left, right = (
        torch.randn(PEAK_SIZE, PEAK_SIZE, device=device, dtype=torch.bfloat16) for _ in range(2)
    )
    best = 0.0
    for _ in range(PEAK_TRIES + 1):  # one more, which warms up
        synchronise(device)
        started = time.perf_counter()
        left @ right
        synchronise(device)
        best = max(best, 2.0 * PEAK_SIZE**3 / (time.perf_counter() - started))
    return best


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(
    title: str, rates: Sequence[Rate], budget: Budget, peak: float, bare: float
) -> dict[str, object]:
    """Print the rates, and return the RESULT of the best one.

    Parameters
    ----------
    title
        The device.
    rates
        What was measured, a single model among it.
    budget
        What was trained.
    peak
        FLOP/s of large products in bfloat16.
    bare
        Seconds of a bare LSTM's two passes.
    """
    per_update = budget.batch * budget.window * flop_per_basin_day(budget.hidden, len(FORCINGS))
    single = next(rate for rate in rates if rate.group == 1)
    print(f"{title}, budget {budget.name}: bfloat16 peak {peak / 1e12:.0f} TFLOP/s, bare cuDNN "
          f"LSTM in bfloat16 {bare * 1e3:.2f} ms")  # fmt: skip
    print(f"{'models':>6} {'':>4} {'ms/update':>10} {'models/h':>9} {'TFLOP/s':>8} {'peak':>6} "
          f"{'speedup':>8}")  # fmt: skip
    results: list[dict[str, object]] = []
    for rate in rates:
        flops = rate.group * per_update / rate.seconds
        per_hour = 3600.0 * rate.group / (rate.seconds * budget.updates_in_all)
        speedup = rate.group * single.seconds / rate.seconds
        print(f"{rate.group:>6} {rate.precision} {rate.seconds * 1e3:>10.2f} {per_hour:>9.0f} "
              f"{flops / 1e12:>8.2f} {flops / peak:>6.1%} {speedup:>8.2f}")  # fmt: skip
        results.append(
            {
                "models_per_hour": f"{per_hour:.0f}",
                "tflops": f"{flops / 1e12:.2f}",
                "share_of_bf16_peak": f"{flops / peak:.4f}",
                "speedup": f"{speedup:.2f}",
                "speedup_bare_bf16": f"{rate.group * bare / rate.seconds:.2f}",
                "group": rate.group,
                "precision": rate.precision,
            }
        )
    best = max(results, key=lambda result: float(str(result["speedup"])))
    in_fp32 = [float(str(r["speedup"])) for r in results if r["precision"] == "fp32"]
    return best | {"speedup_fp32": f"{max(in_fp32):.2f}"}


def flop_per_basin_day(hidden: int, forcings: int) -> int:
    """FLOP of a basin-day in training, the way back counted as twice the way there."""
    return 3 * 2 * (hidden * forcings + 4 * hidden * (hidden + hidden) + hidden)


def synthetic_inputs(budget: Budget, models: int) -> list[JobInputs]:
    """Jobs on made-up weather and flow, a seed each."""
    rng = np.random.default_rng(0)
    gauge_ids = tuple(f"{number:08d}" for number in range(BASINS))
    dates = np.arange(
        np.datetime64(PERIODS.train_start), np.datetime64(PERIODS.test_end) + 1
    )  # fmt: skip
    statics = rng.normal(size=(BASINS, STATICS)).astype(np.float32)
    nothing = np.zeros((BASINS, 0), dtype="<U1")
    names = tuple(f"static {number}" for number in range(STATICS))
    data = TrainingData(
        gauge_ids, dates, FORCINGS,
        rng.gamma(1.0, size=(BASINS, len(dates), len(FORCINGS))).astype(np.float32),
        rng.gamma(1.0, size=(BASINS, len(dates))).astype(np.float32),
        {"synthetic": StaticTable(gauge_ids, statics, names, nothing, ())},
    )  # fmt: skip
    job = TrainingJob(
        dataset="synthetic", forcing="synthetic", data_version="1", targets=gauge_ids[:1],
        donors=gauge_ids[1:], role="ungauged", periods=PERIODS, representation="synthetic",
        recipe=RECIPES["strong"], budget=budget, seed=0, sample=True,
    )  # fmt: skip
    first = prepare(job, data)
    # Another seed changes the random numbers and nothing else of what was prepared.
    return [replace(first, job=replace(job, seed=seed)) for seed in range(models)]


if __name__ == "__main__":
    try:
        print("RESULT", *(f"{key}={value}" for key, value in run().items()))
    except UserError as error:
        sys.exit(f"error: {error}")
