"""A whole update of one model on one thread, beside the fastest this machine multiplies.

An update is `cpu.Training.step` of the recipe `strong` at the batch and window of budget
`full`, on real basins mapped from a file, in the environment of a worker process: windows, scaling,
noise, dropout, network, loss, gradient, clipping, optimiser. The size of the state varies.

`share_h*` = floating-point operations a second of the update over those of the machine. An update
does 3 x 2 x (H x forcings + 4H(H + H) + H) of them a basin-day, warm-up days included, static
inputs not counted: 2 for a product and its sum, 3 for a forward pass and the two products of its
gradient. The machine's are those of the best of five products of 2048 x 2048 in float32, on the
same thread, taken in turn with the updates in the same process. The update is the median one.
Seconds are CPU seconds. `bare` is a forward and a backward pass of nothing but an `nn.LSTM` of that
size on numbers that lie ready. The second table says where the time of an update goes at H 128; its
updates carry the clocks and are others than those of the first.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from aef_dagster.basins.periods import default_periods
from aef_dagster.models.data import TrainingData
from aef_dagster.models.engine import batches
from aef_dagster.models.engine.cpu import Training
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.inputs import prepare
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, RECIPES, Budget
from aef_dagster.models.scalers import Scaler
from aef_dagster.models.workers import KEEP_MEMORY
from benchmarks.measuring import in_fresh_process, print_table, real_settings
from benchmarks.real_basins import load_basins

HIDDEN = (64, 128, 256)
TAKEN_APART = 128
DONORS = 100
REPRESENTATION = "attributes17"
ROUNDS = 5
UPDATES_PER_ROUND = 4
# The first updates fault memory in and let torch choose its kernels.
WARM_UP = 3
MATRIX = 2048


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    here = "benchmarks.update_rate"
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        _save_basins(Path(folder))
        told = {
            hidden: in_fresh_process(
                here, "rate", environment=KEEP_MEMORY, folder=folder, hidden=hidden
            ).answer
            for hidden in HIDDEN
        }
        pieces = in_fresh_process(here, "taken_apart", environment=KEEP_MEMORY, folder=folder)
    budget = BUDGETS["full"]
    rows, shares = [], {}
    for hidden, one in told.items():
        share = one["flop"] / one["update_s"] / one["machine_flop_s"]
        shares[f"share_h{hidden}"] = f"{share:.3f}"
        rows.append(
            (
                hidden,
                f"{1000 * one['update_s']:.1f}",
                f"{budget.batch * budget.window / one['update_s']:,.0f}",
                f"{one['flop'] / one['update_s'] / 1e9:.0f}",
                f"{one['machine_flop_s'] / 1e9:.0f}",
                f"{share:.3f}",
                f"{1000 * one['bare_s']:.1f}",
                f"{one['bare_s'] / one['update_s']:.3f}",
            )
        )
    print_table(
        f"update, {budget.batch} windows of {budget.window} days, {DONORS} donors, one thread",
        ("H", "CPU ms", "basin-days/s", "GFLOP/s", "machine's", "share", "bare ms", "bare/update"),
        rows,
    )  # fmt: skip
    whole = sum(pieces.answer.values())
    print_table(
        f"where the time of an update goes, H {TAKEN_APART}",
        ("", "CPU ms", "share"),
        [(name, f"{1000 * s:.2f}", f"{s / whole:.1%}") for name, s in pieces.answer.items()],
    )
    return shares


def flop_per_basin_day(forcings: int, hidden: int) -> int:
    """Floating-point operations of training on one basin-day, static inputs not counted."""
    gates = 4 * hidden
    return 3 * 2 * (hidden * forcings + gates * (hidden + hidden) + hidden)


def rate(folder: str, hidden: int) -> dict[str, float]:
    """Seconds of an update and of the bare LSTM, FLOP of an update, FLOP/s of the machine."""
    training, budget, forcings = _training(Path(folder), hidden)
    bare = _BareLSTM(budget)
    left, right = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    timed: dict[str, list[float]] = {"product": [], "update": [], "bare": []}
    for _ in range(WARM_UP):
        training.step()
        bare.step()
        left @ right
    for _ in range(ROUNDS):
        timed["product"].append(_cpu_seconds(lambda: left @ right))
        for _ in range(UPDATES_PER_ROUND):
            timed["update"].append(_cpu_seconds(training.step))
        timed["bare"].append(_cpu_seconds(bare.step))
    return {
        "update_s": median(timed["update"]),
        "bare_s": median(timed["bare"]),
        "flop": float(flop_per_basin_day(forcings, hidden) * budget.batch * budget.window),
        "machine_flop_s": 2 * MATRIX**3 / min(timed["product"]),
    }


def taken_apart(folder: str) -> dict[str, float]:
    """CPU seconds of each piece of an update, mean over some updates, in the order of the update.

    Clocks are put around the functions themselves, for the rest of this process. What a piece calls
    that has a clock of its own is not counted twice.
    """
    training, _, _ = _training(Path(folder), TAKEN_APART)
    for _ in range(WARM_UP):
        training.step()
    clocks = _Clocks()
    network, sampler = training.network, training._batches._sampler
    clocks.put(training, "step", "everything else")
    clocks.put(training._batches, "loss", "loss")
    clocks.put(sampler, "draw", "choice of windows")
    clocks.put(batches, "gather", "gather of windows")
    clocks.put(Scaler, "scale_forcing", "scaling")
    clocks.put(Draws, "normal", "noise on statics")
    clocks.put(training._batches, "_dropout_mask", "dropout mask")
    clocks.put(network, "forward", "forward, without LSTM")
    clocks.put_around_lstm(network.lstm)
    clocks.put(torch.Tensor, "backward", "backward, without LSTM")
    clocks.put(torch.nn.utils, "clip_grad_norm_", "clipping")
    clocks.put(training._optimiser, "step", "optimiser")
    clocks.put(training._average, "add", "average of weights")
    updates = ROUNDS * UPDATES_PER_ROUND
    for _ in range(updates):
        training.step()
    order = (
        "choice of windows", "gather of windows", "noise on statics", "scaling", "dropout mask",
        "forward, without LSTM", "forward, LSTM", "loss", "backward, LSTM",
        "backward, without LSTM", "clipping", "optimiser", "average of weights", "everything else",
    )  # fmt: skip
    return {name: clocks.seconds[name] / updates for name in order}


class _Clocks:
    """CPU seconds by piece, those of pieces within it left out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = []
        self._lstm_backward_began = 0.0

    def put(self, owner: Any, name: str, piece: str) -> None:
        """Measure each call of a function, a method of one object or of a class."""
        call = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._within.append(0.0)
            started = time.process_time()
            answer = call(*arguments, **named)
            self._count(piece, time.process_time() - started, self._within.pop())
            return answer

        setattr(owner, name, timed)

    def put_around_lstm(self, lstm: torch.nn.LSTM) -> None:
        """Measure its forward pass, and its backward pass between the gradients of its two ends."""
        self.put(lstm, "forward", "forward, LSTM")
        forward = lstm.forward

        def hooked(inputs: torch.Tensor) -> Any:
            answer = forward(inputs)
            answer[0].register_hook(self._begin_lstm_backward)
            inputs.register_hook(self._end_lstm_backward)
            return answer

        lstm.forward = hooked  # type: ignore[method-assign]

    def _begin_lstm_backward(self, _gradient: torch.Tensor) -> None:
        self._lstm_backward_began = time.process_time()

    def _end_lstm_backward(self, _gradient: torch.Tensor) -> None:
        self._count("backward, LSTM", time.process_time() - self._lstm_backward_began, 0.0)

    def _count(self, piece: str, seconds: float, within: float) -> None:
        self.seconds[piece] += seconds - within
        if self._within:
            self._within[-1] += seconds


class _BareLSTM:
    """One forward and backward pass of the engine's LSTM and nothing else."""

    def __init__(self, budget: Budget):
        hidden = budget.hidden
        self._lstm = torch.nn.LSTM(hidden, hidden)
        with torch.no_grad():
            # As a new network of the recipe: else the gradient fades into denormal numbers, 300 ms
            # instead of 47 at H 64 (measured; 46 with denormals flushed).
            self._lstm.bias_hh_l0[hidden : 2 * hidden] = RECIPES["strong"].forget_bias
        shape = (budget.window, budget.batch, hidden)
        # In the network, too, the gradient goes on to the layer before.
        self._inputs = torch.randn(shape, requires_grad=True)
        self._gradient = torch.randn(shape)

    def step(self) -> None:
        """One pass."""
        self._inputs.grad = None
        self._lstm.zero_grad()
        states, _ = self._lstm(self._inputs)
        states.backward(self._gradient)


def _training(folder: Path, hidden: int) -> tuple[Training, Budget, int]:
    """A training on the saved basins, its budget, and the number of forcings."""
    data = TrainingData.open(folder)
    budget = replace(BUDGETS["full"], hidden=hidden)
    target, *donors = data.gauge_ids
    job = TrainingJob(
        dataset="camels_us", forcing="-", data_version="benchmark", targets=(target,),
        donors=tuple(donors), role="ungauged", periods=default_periods("camels_us"),
        representation=REPRESENTATION, recipe=RECIPES["strong"], budget=budget, seed=0,
    )  # fmt: skip
    return Training(prepare(job, data)), budget, len(data.forcing_names)


def _save_basins(folder: Path) -> None:
    """The first basins of the dataset, in the files that workers map into memory."""
    from aef_dagster.basins.dataset import open_dataset

    settings = real_settings()
    dataset = open_dataset("camels_us", data_dir=settings.data_dir, forcing=settings.forcing)
    gauge_ids = dataset.gauge_ids()[: DONORS + 1]
    load_basins([REPRESENTATION], default_periods("camels_us"), gauge_ids).save(folder)


def _cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started
