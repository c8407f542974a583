"""What all benchmarks share: a process of its own for each measurement, the real data, tables.

`python -m benchmarks.measuring MODULE FUNCTION ARGUMENTS` is the other end of `in_fresh_process`.
Not here: what is measured.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aef_dagster.errors import UserError
from aef_dagster.models.worker import peak_mb
from aef_dagster.settings import Settings, load_settings

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared" / "data"
# The forcings that the shared copy of CAMELS-US has.
SHARED_FORCING = "maurer_extended"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Cost:
    """What a function took, imports of its module left out.

    `peak_mb` is the largest resident memory of its process, `answer` what it returned.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    answer: Any


def in_fresh_process(
    module: str, function: str, environment: dict[str, str] | None = None, **arguments: Any
) -> Cost:
    """Call a function where nothing else was imported or allocated, and with one thread.

    Parameters
    ----------
    module, function
        What to call, `benchmarks.ingest` and a name in it.
    environment
        Variables for the process, on top of this one's.
    **arguments
        Plain values, as they travel as JSON; so does the answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measuring", module, function, json.dumps(arguments)],
        cwd=CHECKOUT, env=os.environ | ONE_THREAD | (environment or {}), stdout=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError(f"{module}.{function} ended with code {done.returncode}, see above")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def real_settings() -> Settings:
    """Settings for the real basins: from `AEF_DATA_DIR` and `AEF_FORCING`, or the shared copy.

    Raises
    ------
    UserError
        There is no real data here.
    """
    if os.environ.get("AEF_DATA_DIR"):
        settings = load_settings(dataset="camels_us")
    else:
        settings = load_settings(
            dataset="camels_us", data_dir=SHARED / "camels_us", forcing=SHARED_FORCING
        )
    if settings.data_dir is None or not settings.data_dir.is_dir():
        raise UserError(
            f"this benchmark needs the CAMELS-US files, and {settings.data_dir} is not a folder: "
            "set AEF_DATA_DIR (and AEF_FORCING) as for `aef prepare`"
        )
    return settings


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under heads, the first column to the left, numbers to the right."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    print(title)
    for row in cells:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def _main() -> None:
    module, function, arguments = sys.argv[1:]
    call = getattr(importlib.import_module(module), function)
    wall, cpu = time.perf_counter(), time.process_time()
    answer = call(**json.loads(arguments))
    cost = Cost(time.perf_counter() - wall, time.process_time() - cpu, peak_mb(), answer)
    print(json.dumps(vars(cost)))


if __name__ == "__main__":
    _main()
