"""All basins from the published archive to Parquet and to the cube, beside a plain pandas loop.

Ours: every check of every row, PET, mm/day, the fingerprint, Parquet. The peer: `read_csv` of the
same members of the same archive and nothing else. In turn, each in a process of its own, the
better of two runs. `ratio_to_pandas_loop` = our CPU seconds over the loop's. `peak_mb` is that of
the ingest alone; `cube_s` are seconds on the clock, since somebody waits for them.
"""

import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow  # noqa: F401 - imported before the clock starts, as it is where ingest is called
import xarray  # noqa: F401

from aef_dagster.basins import places
from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import open_dataset
from aef_dagster.basins.ingest import ingest_forcings, ingest_streamflow
from aef_dagster.errors import UserError
from benchmarks.measuring import in_fresh_process, print_table, real_settings

ROUNDS = 2


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    settings = real_settings()
    archive = places.timeseries_archive(settings.data_dir)
    if archive is None or places.timeseries_folder(settings.data_dir) is not None:
        raise UserError(
            f"this benchmark reads {places.ARCHIVE} unopened: {settings.data_dir} should hold it, "
            "and not what it unpacks to"
        )
    files = {"data_dir": str(settings.data_dir), "forcing": settings.forcing}
    here = "benchmarks.ingest"
    ours, peer = [], []
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        for _ in range(ROUNDS):
            ours.append(in_fresh_process(here, "to_parquet", folder=folder, **files))
            peer.append(in_fresh_process(here, "plain_loop", archive=str(archive), **files))
        cube = in_fresh_process(here, "to_cube", folder=folder)
    best, plain = (min(costs, key=lambda cost: cost.cpu_s) for costs in (ours, peer))
    rows = [
        (name, f"{cost.cpu_s:.1f}", f"{cost.wall_s:.1f}", f"{cost.peak_mb:.0f}", cost.answer)
        for name, cost in (
            ("archive to Parquet", best),
            ("plain pandas loop", plain),
            ("Parquet to cube", cube),
        )
    ]
    print_table(f"ingest, {settings.forcing}", ("", "CPU s", "wall s", "peak MB", "basins"), rows)
    return {
        "cpu_s": f"{best.cpu_s:.1f}",
        "peak_mb": f"{max(cost.peak_mb for cost in ours):.0f}",
        "cube_s": f"{cube.wall_s:.2f}",
        "ratio_to_pandas_loop": f"{best.cpu_s / plain.cpu_s:.2f}",
    }


def to_parquet(data_dir: str, forcing: str, folder: str) -> int:
    """Ingest all basins; how many have both forcings and flow."""
    dataset = open_dataset("camels_us", data_dir=Path(data_dir), forcing=forcing)
    weather = ingest_forcings(dataset, Path(folder) / "forcings")
    flow = ingest_streamflow(dataset, Path(folder) / "streamflow", dataset.catalog())
    return len(set(weather.table["gauge_id"]) & set(flow.table["gauge_id"]))


def to_cube(folder: str) -> int:
    """Load the dense cube; how many basins it has."""
    cube = load_cube(Path(folder) / "forcings", Path(folder) / "streamflow")
    return cube.sizes["basin"]


def plain_loop(data_dir: str, forcing: str, archive: str) -> int:
    """Parse the same members as text with pandas, keep nothing; how many basins."""
    dataset = open_dataset("camels_us", data_dir=Path(data_dir), forcing=forcing)
    wanted = set(dataset.gauge_ids())
    done = set()
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            gauge_id = Path(name).name[:8]
            if gauge_id not in wanted:
                continue
            # Three lines of numbers and a line of names stand above the forcings.
            if f"/basin_mean_forcing/{forcing}/" in f"/{name}":
                pd.read_csv(BytesIO(opened.read(name)), sep=r"\s+", skiprows=4, header=None)
            elif "/usgs_streamflow/" in f"/{name}":
                pd.read_csv(BytesIO(opened.read(name)), sep=r"\s+", header=None)
                done.add(gauge_id)
    return len(done)
