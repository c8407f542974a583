"""The disk is full: one sentence, nothing half written taken for whole, and going on afterwards.

Real ENOSPC: the part of a home that is written lies on a disk of its own, which is filled.
"""

import json
import re
import shutil
import sys
import textwrap

import pandas as pd
import pytest

from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.basins.ingest import read_series
from aef_dagster.storage.warehouse import Warehouse
from aef_dagster_tests.deploy.processes import program
from aef_dagster_tests.faults.files import FULL, SmallDisk, aef, on_disk, told_by
from aef_dagster_tests.faults.live import environment, finished, wait

pytestmark = pytest.mark.fault

KB = 1024


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MB, empty."""
    found = SmallDisk(tmp_path / "disk")
    yield found
    found.close()


def test_while_training(home, disk):
    home.checkpoints.mkdir(exist_ok=True)
    on_disk(home, disk, home.checkpoints)
    command = [program("aef"), "train", "00901001", "--budget", "toy", "--workers", "1"]
    aef(home, *command[1:], disk=disk)
    (done,) = (path.parent.name for path in disk.seen.glob("*/manifest.json"))

    command.insert(2, "00902001")
    training = disk.start(command, environment(home))
    wait("a worker", lambda: list(disk.seen.glob(".partial/*/worker-*.log")))
    disk.fill()
    told = told_by(training, 2)
    # Of the model, or of its state, whichever came first.
    assert re.search(f"(checkpoint|unfinished).*{disk.folder}/.*could not be written", told)
    assert FULL in told
    assert "1 of 2 basins failed, the others are kept" in told
    assert [path.parent.name for path in disk.seen.glob("*/manifest.json")] == [done]
    assert list((disk.seen / ".partial").iterdir()) == []

    disk.empty()
    told = aef(home, *command[1:], disk=disk)
    assert "1 models reused" in told
    whole = {path.parent.name for path in disk.seen.glob("*/manifest.json")}
    assert len(whole) == 2
    assert done in whole


def test_while_reading_the_basins_with_damaged_files_about(home, disk):
    (damaged,) = home.forcings.glob("00901002.parquet")
    content = bytearray(damaged.read_bytes())
    damaged.write_bytes(bytes(content[: len(content) // 2]))

    on_disk(home, disk, home.lake)
    for path in disk.seen.glob("forcings/0090[34]*.parquet"):
        path.unlink()
    disk.fill(leave=500 * KB)
    told = aef(home, "prepare", code=2, disk=disk)
    assert "forcings: basin 0090" in told
    assert ".parquet could not be written: " + FULL in told
    assert list(disk.seen.glob("forcings/*.tmp")) == []
    there = {path.stem for path in disk.seen.glob("forcings/*.parquet")}
    assert 12 <= len(there) < 24
    for gauge_id in there - {"00901002"}:
        read_series(disk.seen / "forcings" / f"{gauge_id}.parquet", FORCINGS)
    disk.empty()

    before = Warehouse(home.warehouse).frame("SELECT * FROM donors ORDER BY ALL")
    with home.warehouse.open("r+b") as file:
        file.write(bytes(4096))
    told = aef(home, "prepare", code=2, disk=disk)
    assert f"{home.warehouse} cannot be read as a DuckDB file" in told
    assert "Move it away, with its .wal, and run `aef prepare`" in told
    home.warehouse.unlink()
    aef(home, "prepare", disk=disk)
    for path in disk.seen.glob("forcings/*.parquet"):
        read_series(path, FORCINGS)
        there.add(path.stem)
    assert len(there) == 24
    after = Warehouse(home.warehouse).frame("SELECT * FROM donors ORDER BY ALL")
    pd.testing.assert_frame_equal(after, before)


# Run where the disk is: for several amounts of space a table is replaced by a larger one.
REPLACE = """
    import json, sys
    import numpy as np, pandas as pd
    from pathlib import Path
    from aef_dagster.errors import UserError
    from aef_dagster.storage.warehouse import Warehouse

    store = Warehouse(Path(sys.argv[1]) / "warehouse.duckdb")
    n = int(sys.argv[2])
    frame = pd.DataFrame({"space": "aef", "gauge_id": "01013500", "rank": range(n),
                          "donor_id": "01022500", "cosine": np.random.default_rng(n).random(n)})
    try:
        store.replace("donors", frame)
        print(json.dumps(["written", store.count("donors")]))
    except UserError as error:
        print(json.dumps([str(error), store.count("donors")]))
"""


def test_while_the_warehouse_is_written(home, disk):
    def replace(n):
        command = [sys.executable, "-c", textwrap.dedent(REPLACE), str(disk.folder), str(n)]
        return json.loads(told_by(disk.start(command, environment(home)), 0).splitlines()[-1])

    # The very first write, which makes the file.
    sentence = f"{disk.folder / 'warehouse.duckdb'} could not be written: {FULL}"
    for leave in (0, 8 * KB):
        disk.fill(leave)
        assert replace(10) == [sentence, 0]
        assert [path.name for path in disk.seen.iterdir()] == ["filler"]
        disk.empty()
    assert replace(10) == ["written", 10]
    for leave in (0, 300 * KB):
        disk.fill(leave)
        assert replace(500_000) == [sentence, 10]
        disk.empty()
    assert replace(500_000) == ["written", 500_000]


def test_while_dagster_keeps_its_records_and_mlflow_is_told(home, disk):
    shutil.copytree(home.dagster, home.root / "kept")
    on_disk(home, disk, home.dagster)
    disk.fill(leave=40 * KB)
    told = aef(home, "train", "00901001", "--budget", "toy", code=2, disk=disk)
    assert "Dagster's records of the runs could not be written: " + FULL in told
    assert finished(home) == []

    home.dagster.unlink()
    (home.root / "kept").rename(home.dagster)
    address = f"sqlite:///{disk.folder}/mlflow.db"
    # A training is worth more than its record: that waits.
    told = aef(home, "train", "00901001", "--budget", "toy", disk=disk, AEF_TRACKING_URI=address)
    assert "database or disk is full. 1 results wait" in told
    told = aef(home, "sync", code=2, disk=disk, AEF_TRACKING_URI=address)
    assert "0 sent, 1 still wait: " + FULL in told
    disk.empty()
    told = aef(home, "sync", disk=disk, AEF_TRACKING_URI=address)
    assert "1 sent, 0 waiting" in told


def test_a_folder_that_may_only_be_read(home, disk):
    command = [sys.executable, "-c", textwrap.dedent(REPLACE), str(disk.folder), "5"]
    told_by(disk.start(command, environment(home)), 0)
    remount = ["mount", "-o", "remount,ro", str(disk.folder)]
    told_by(disk.start(remount, environment(home)), 0)
    told, _rows = json.loads(told_by(disk.start(command, environment(home)), 0))
    assert "warehouse.duckdb cannot be opened: Read-only file system" in told
