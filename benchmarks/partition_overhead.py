"""What a basin costs beyond its training, in 4 spaces, and the page of 20,000 partitions.

The asset `basin_models` itself, a run of 671 basins a space, asked for as a backfill asks: a SQLite
instance, an MLflow store of SQLite, real checkpoints, and models so small that nearly all is
overhead. Real basins where the files are, else made-up ones in their formats.

`ms_per_partition` is the sum of two, over all models. *The run's process*: its seconds on the clock
less those in which it waited for its worker: planning, reading, pictures, MLflow, events, checks.
*The worker*: its CPU seconds less those of training (what `seconds` in run.json spans, in CPU time
of some models trained again): its start, the scaler, the simulation of the test period, scores,
checkpoint. One worker, so that on two cores neither takes the other's time. `cpu_ms` is the sum in
CPU seconds. The two work side by side: `clock_ms` is what is left of the run on the clock without
the seconds of training. `peak_mb` is the largest resident memory of the run's process, `first_mb`
and `last_mb` its median while the first and the last quarter of the models came in.

`page_s` is how long the webserver takes for the query of an asset's partitions page, all 20,000
materialized: the median of five; `page_worst_s` the worst; `page_cold_s` the one before them.

Some 15 minutes. BENCH_BASINS=64 BENCH_SPACES=1 BENCH_PARTITIONS=2000 try it in two; BENCH_HOME
keeps what `aef prepare` makes. On a busy machine look at `cpu_ms`.
"""

import os
import shutil
import statistics
import tempfile
from pathlib import Path

from aef_dagster.errors import UserError
from aef_dagster.similarity.spaces import SPACES
from benchmarks.measuring import SHARED, in_fresh_process, print_table, real_settings
from benchmarks.runs import bench_home

BASINS, PARTITIONS = 671, 20_000
WORK = "benchmarks.partition_work"


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    basins = int(os.environ.get("BENCH_BASINS", BASINS))
    partitions = int(os.environ.get("BENCH_PARTITIONS", PARTITIONS))
    spaces = list(SPACES)[: int(os.environ.get("BENCH_SPACES", len(SPACES)))]
    with bench_home() as kept, tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        world = find_world(kept, basins)
        prepared = kept / f"prepared-{Path(world['data_dir']).name}-{world['forcing']}"
        if not prepared.is_dir():
            unfinished = Path(folder) / "prepared"
            in_fresh_process(WORK, "prepare", world=world, home=str(unfinished))
            shutil.copytree(unfinished, prepared)
        home = Path(folder) / "var"
        shutil.copytree(prepared, home)
        trained = in_fresh_process(
            WORK, "train", world=world, home=str(home), basins=basins, spaces=spaces
        )
        page = in_fresh_process(WORK, "page", folder=f"{folder}/page", partitions=partitions)
    told, waits = trained.answer, page.answer
    print_table(
        f"{told['models']} models: {basins} basins of {world['data_dir']} in {len(spaces)} spaces",
        ("ms a model", "clock", "CPU"),
        [(name, f"{clock:.1f}", f"{cpu:.1f}") for name, (clock, cpu) in told["parts"].items()],
    )
    print_table(
        "resident memory of the run's process", ("quarter of the models", "MB"),
        [(number + 1, f"{mb:.0f}") for number, mb in enumerate(told["quarters_mb"])],
    )  # fmt: skip
    return {
        "ms_per_partition": f"{told['parts']['overhead'][0]:.1f}",
        "cpu_ms": f"{told['parts']['overhead'][1]:.1f}",
        "clock_ms": f"{told['clock_ms']:.1f}",
        "peak_mb": f"{trained.peak_mb:.0f}",
        "first_mb": f"{told['quarters_mb'][0]:.0f}",
        "last_mb": f"{told['quarters_mb'][-1]:.0f}",
        "page_s": f"{statistics.median(waits['warm']):.3f}",
        "page_worst_s": f"{max(waits['warm']):.3f}",
        "page_cold_s": f"{waits['cold']:.3f}",
    }


def find_world(folder: Path, basins: int) -> dict[str, str]:
    """Settings of the real basins, or of made-up ones whose files are written into a folder."""
    try:
        real = real_settings()
        tables = real.embeddings_dir or SHARED / "aef_surrogate"
        if not tables.exists():
            raise UserError(f"{tables} is not here")
    except UserError as error:
        print(f"made-up basins, for {error}")
        return make_world(folder / f"made-up-{basins}", basins)
    return _settings(real.data_dir, real.forcing, tables)


def make_world(folder: Path, basins: int) -> dict[str, str]:
    """Settings of so many made-up basins, whose files are written if they are not there."""
    if not folder.is_dir():
        in_fresh_process(WORK, "write_basins", folder=str(folder), basins=basins)
    return _settings(folder, "daymet", folder / "aef_embeddings")


def _settings(data: Path, forcing: str, tables: Path) -> dict[str, str]:
    return {"data_dir": str(data), "forcing": forcing, "embeddings_dir": str(tables)}
