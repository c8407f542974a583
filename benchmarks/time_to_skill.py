"""Wall-clock seconds until ungauged basins are simulated with skill, beside neuralhydrology.

Both learn from 477 of the 531 standard basins (fold 0 of the published split is held out), from
1980-10 to 1999-09, with an LSTM of 128 cells on the 27 attributes of Kratzert et al. 2019. Both are
validated on the same 54 basins, which neither has seen, over 1999-10 to 2001-09, every 100 updates,
until the median NSE is 0.55. One run each, one after the other, on all cores that the process may
use (`taskset -c 0 make bench NAME=time_to_skill` gives both one core).

Ours is recipe `strong` with one network of the size and the batches of budget `full`, a cycle of
1,500 updates, in fp32: seven forcings, PET and the length of day among them, and climate indices of
its own.
The peer is neuralhydrology 1.13 with its own recommended settings (neuralhydrology/config.yml says
whose: five forcings, published climate indices), in an environment of its own, which the first run
makes. Its files are unpacked into a temporary folder, some 500 MB.

`ratio` = the peer's seconds over ours, both without validation and without the reading of data:
neuralhydrology simulates each day by a window of its own, so validation would count against it.
`ratio_all` has validation on both sides. The peer is given up after 60 minutes of training (CAP_MIN
changes that): then `capped=1`, and both ratios are lower bounds. `peer_loading` is the share of its
training in which it waits for a batch.

The peer is given the fastest of some numbers of loader processes and torch threads, tried in the
run itself (what the trials taught is taken back), and the malloc settings of our own workers, which
are not among its own: one core takes 0.65 s for an update with them and 1.02 s without (CPU time,
torch 2.13). Flushing denormal numbers changed nothing. Only a quiet machine gives a true ratio: on
two cores, two threads took 0.64 s for an update beside two busy processes and 7.3 s beside five, as
threads wait for one another (both without those malloc settings).
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aef_dagster.basins.periods import default_periods
from aef_dagster.errors import UserError
from benchmarks.measuring import in_fresh_process, print_table, real_settings
from benchmarks.neuralhydrology.environment import peer_python
from benchmarks.neuralhydrology.files import lay_out
from benchmarks.real_basins import basins_531, folds_531, load_basins

TARGET_NSE = 0.55
# Of ours: a cycle as long as the skill asked for needs, at the hidden size and batch of `full`.
UPDATES = 1500
UPDATES_PER_VALIDATION = 100
HELD_OUT_FOLD = 0
# The peer's days are in its config.yml.
VALIDATED_UNTIL = "2001-09-30"
PEER_FORCING = "maurer_extended"
PEER_SCRIPT = Path(__file__).parent / "neuralhydrology" / "train.py"


@dataclass(frozen=True)
class Validated:
    """What one validation gave; all seconds are sums since training began.

    `loading_s` is the part of `train_s` in which training waited for batches (the peer's only).
    """

    updates: int
    train_s: float
    validation_s: float
    nse: float
    basins: int
    loading_s: float = 0.0

    @property
    def all_s(self) -> float:
        """Seconds with validation."""
        return self.train_s + self.validation_s


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    cap_min = _cap_min()
    if real_settings().forcing != PEER_FORCING:
        raise UserError(
            f"neuralhydrology's settings are for {PEER_FORCING}: set AEF_FORCING={PEER_FORCING}"
        )
    cores = len(os.sched_getaffinity(0))
    donors, held_out = split()
    python = peer_python()
    ours = _ours(cores)
    peer = train_peer(python, donors, held_out, cap_min * 60)
    capped = peer[-1].nse < TARGET_NSE
    _print_curves({"ours": ours, "neuralhydrology": peer})
    last, peer_last = ours[-1], peer[-1]
    return {
        "ratio": f"{peer_last.train_s / last.train_s:.1f}",
        "capped": int(capped),
        "ratio_all": f"{peer_last.all_s / last.all_s:.1f}",
        "cap_min": f"{cap_min:g}",
        "cores": cores,
        "ours_s": f"{last.train_s:.1f}",
        "ours_updates_per_s": f"{last.updates / last.train_s:.2f}",
        "ours_nse": f"{last.nse:.3f}",
        "peer_s": f"{peer_last.train_s:.1f}",
        "peer_updates_per_s": f"{peer_last.updates / peer_last.train_s:.2f}",
        "peer_nse": f"{peer_last.nse:.3f}",
        "peer_loading": f"{peer_last.loading_s / peer_last.train_s:.3f}",
    }


def split() -> tuple[list[str], list[str]]:
    """Basins to learn from, and basins held out."""
    folds = folds_531()
    held_out = [gauge_id for gauge_id in basins_531() if folds[gauge_id] == HELD_OUT_FOLD]
    donors = [gauge_id for gauge_id in basins_531() if folds[gauge_id] != HELD_OUT_FOLD]
    return donors, held_out


def train_ours(threads: int) -> list[dict[str, float]]:
    """Train by recipe `strong` until held-out basins reach the NSE; a row per validation."""
    from aef_dagster.models.engine.cpu import Training
    from aef_dagster.models.inputs import prepare
    from aef_dagster.models.jobs import TrainingJob
    from aef_dagster.models.recipes import BUDGETS, RECIPES

    donors, held_out = split()
    periods = replace(default_periods("camels_us"), test_end=VALIDATED_UNTIL)
    data = load_basins(["attributes27"], periods, [*donors, *held_out])
    job = TrainingJob(
        dataset="camels_us", forcing=PEER_FORCING, data_version="benchmark",
        targets=tuple(held_out), donors=tuple(donors), role="ungauged", periods=periods,
        representation="attributes27", recipe=RECIPES["strong"],
        budget=replace(BUDGETS["full"], updates=UPDATES, networks=1), seed=0, threads=threads,
    )  # fmt: skip
    inputs = prepare(job, data)
    training = Training(inputs)
    curve: list[dict[str, float]] = []
    train_s = validation_s = 0.0
    while training.course.update < training.course.updates:
        started = time.perf_counter()
        training.step()
        train_s += time.perf_counter() - started
        if training.course.update % UPDATES_PER_VALIDATION == 0:
            started = time.perf_counter()
            scores = _held_out_nse(training, inputs)
            validation_s += time.perf_counter() - started
            nse = float(np.nanmedian(scores))
            curve.append(
                {
                    "updates": training.course.update, "train_s": train_s,
                    "validation_s": validation_s,
                    "nse": nse, "basins": int(np.isfinite(scores).sum()),
                }
            )  # fmt: skip
            if nse >= TARGET_NSE:
                break
    return curve


def _held_out_nse(training: Any, inputs: Any) -> np.ndarray:
    """NSE of each held-out basin, with the weights that a validation would keep now."""
    from aef_dagster.models.engine.losses import nse_by_basin
    from aef_dagster.models.engine.network import load_arrays
    from aef_dagster.models.engine.running import new_network, simulate

    state = training.state()
    network = new_network(inputs.scaler, inputs.job.recipe, inputs.job.budget.hidden)
    load_arrays(network, state.part("average") or state.part("weights"))
    simulated = simulate(
        network, inputs.scaler, inputs.forcing, inputs.target_rows, inputs.target_statics,
        inputs.target_flow_units, inputs.with_spinup(inputs.test), inputs.test,
    )  # fmt: skip
    return nse_by_basin(simulated, inputs.streamflow[inputs.target_rows, inputs.test])


def _ours(cores: int) -> list[Validated]:
    from aef_dagster.models.workers import KEEP_MEMORY

    threads = {"OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)}
    rows = in_fresh_process(
        "benchmarks.time_to_skill", "train_ours", environment=KEEP_MEMORY | threads, threads=cores
    ).answer
    curve = [Validated(**row) for row in rows]
    for validated in curve:
        _tell("ours", validated)
    if curve[-1].nse < TARGET_NSE:
        raise UserError(
            f"recipe strong ended at a median NSE of {curve[-1].nse:.3f}, below {TARGET_NSE}: "
            "there is no time to skill to compare"
        )
    return curve


def train_peer(
    python: Path, donors: list[str], held_out: list[str], cap_s: float
) -> list[Validated]:
    """Train neuralhydrology until held-out basins reach the NSE, or for `cap_s` seconds.

    Parameters
    ----------
    python
        Interpreter of its environment.
    donors, held_out
        Basins to learn from and to be validated on.
    cap_s
        Seconds of training, without validation.

    Raises
    ------
    UserError
        It failed.
    """
    settings = real_settings()
    curve: list[Validated] = []
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as name:
        folder = Path(name)
        data, runs = folder / "data", folder / "runs"
        data.mkdir()
        lay_out(settings.data_dir, settings.forcing, data)
        lists = {"train": donors, "validation": held_out, "test": held_out}
        for period, gauge_ids in lists.items():
            (folder / f"{period}.txt").write_text("\n".join(gauge_ids) + "\n")
        asked = {
            "settings": {f"{period}_basin_file": str(folder / f"{period}.txt") for period in lists}
            | {
                "data_dir": str(data),
                "run_dir": str(runs),
                "validate_n_random_basins": len(held_out),
            },
            "updates_per_validation": UPDATES_PER_VALIDATION,
            "cap_s": cap_s,
            "target_nse": TARGET_NSE,
        }
        with _peer_process(python, asked, folder / "log.txt") as events:
            for event in events:
                kind = event.pop("event")
                if kind == "validated":
                    curve.append(Validated(**event))
                    _tell("neuralhydrology", curve[-1])
                else:
                    values = " ".join(f"{key}={_short(value)}" for key, value in event.items())
                    print(f"neuralhydrology {kind} {values}".rstrip(), flush=True)
    return curve


@contextmanager
def _peer_process(python: Path, asked: dict[str, Any], log: Path) -> Iterator[Iterator[dict]]:
    """What the peer tells, line by line; it is ended with the block."""
    from aef_dagster.models.workers import KEEP_MEMORY

    with (
        log.open("w") as errors,
        subprocess.Popen(
            [str(python), "-P", str(PEER_SCRIPT), json.dumps(asked)],
            cwd=log.parent, env=os.environ | KEEP_MEMORY, stdout=subprocess.PIPE, stderr=errors,
            text=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield (json.loads(line) for line in process.stdout)
            if process.wait() != 0:
                last = " ".join(log.read_text().splitlines()[-3:])
                raise UserError(f"neuralhydrology ended with code {process.returncode}: {last}")
        finally:
            process.kill()


def _print_curves(curves: dict[str, list[Validated]]) -> None:
    rows = [
        (
            name, v.updates, f"{v.train_s:.1f}", f"{v.all_s:.1f}", f"{v.updates / v.train_s:.2f}",
            f"{v.loading_s / v.train_s:.3f}", f"{v.nse:.3f}",
        )
        for name, curve in curves.items()
        for v in curve
    ]  # fmt: skip
    print_table(
        f"time to a median NSE of {TARGET_NSE} on {curves['ours'][-1].basins} basins held out",
        ("", "updates", "s", "s, with validation", "updates/s", "loading", "NSE"), rows,
    )  # fmt: skip


def _tell(name: str, validated: Validated) -> None:
    print(
        f"{name} {validated.updates} updates, {validated.train_s:.1f} s, with validation "
        f"{validated.all_s:.1f} s: median NSE {validated.nse:.3f}",
        flush=True,
    )


def _short(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else value


def _cap_min() -> float:
    given = os.environ.get("CAP_MIN", "60")
    try:
        cap_min = float(given)
    except ValueError:
        cap_min = 0.0
    if not 0 < cap_min < float("inf"):
        raise UserError(f"CAP_MIN must be a number of minutes above 0, not {given!r}")
    return cap_min
