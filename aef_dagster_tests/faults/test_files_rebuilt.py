"""Damaged Parquet files of single basins: a training rebuilds them, to the same numbers.

Not here: in how many ways a file goes bad (test_files_damaged.py).
"""

import logging
import multiprocessing
import time

import numpy as np
import pytest

from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.basins.ingest import read_series, rebuild
from aef_dagster.errors import DataFileError, UserError
from aef_dagster.pipeline.mending import read_mended
from aef_dagster.pipeline.resources import build_resources
from aef_dagster.settings import load_settings
from aef_dagster.storage.warehouse import Warehouse
from aef_dagster_tests.faults.files import aef
from aef_dagster_tests.faults.live import weights

pytestmark = pytest.mark.fault

TARGET = "00901001"
LOG = logging.getLogger("of an asset")


@pytest.fixture
def dataset(home):
    return opened(home.root)


def opened(root):
    """The raw data of a home."""
    return build_resources(load_settings(home=root))["dataset"]


def cut(path):
    """Lose the second half, and the footer with it; what was lost."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


def flip(path):
    """Change one bit of the values, of which Parquet itself does not know."""
    content = path.read_bytes()
    path.write_bytes(content[:-5000] + bytes([content[-5000] ^ 4]) + content[-4999:])
    return content


def test_a_training_goes_on_with_the_same_numbers(home, asked_twice):
    store = Warehouse(home.warehouse)
    with store.write():  # a copied home: its views follow it at the first write
        pass
    frame = store.frame(
        "SELECT donor_id FROM donors WHERE gauge_id = ? AND space = 'aef' ORDER BY rank", [TARGET]
    )
    first, *_, last = frame["donor_id"]  # all others, ranked
    damaged = {
        home.forcings / f"{TARGET}.parquet": flip,
        home.streamflow / f"{first}.parquet": cut,
        # Of no donor, yet all flow is looked at for who can be one.
        home.streamflow / f"{last}.parquet": cut,
    }
    whole = {path: damage(path) for path, damage in damaged.items()}
    told = aef(home, "train", TARGET, "--budget", "toy", "--workers", "1")
    for path, damage in damaged.items():
        proof = (
            "and has its old checksum" if damage is flip else "its old checksum was lost with it"
        )
        assert f"{path} was damaged: rebuilt from the raw data, {proof}" in told
        assert path.read_bytes() == whole[path]
    assert weights(home)[TARGET] == weights(asked_twice)[TARGET]


def test_what_cannot_be_rebuilt_is_told_and_left(home, dataset, caplog):
    path = home.forcings / f"{TARGET}.parquet"
    flip(path)
    damaged = path.read_bytes()
    (raw,) = home.sample.rglob(f"{TARGET}_lump_*_forcing_leap.txt")
    lines = raw.read_text().splitlines(keepends=True)

    def read():
        return read_series(path, FORCINGS)

    # Another number on a day: not what the file was made of.
    raw.write_text("".join([*lines[:-1], lines[-2].replace(lines[-2][:10], lines[-1][:10])]))
    with pytest.raises(DataFileError, match=r"materialize it again \(`aef prepare`\)"):
        read_mended(read, home, dataset, LOG)
    assert "the raw data of basin 00901001 have changed since it was read" in caplog.text
    raw.write_text("".join(lines[:9]) + "nonsense\n")
    with pytest.raises(DataFileError, match="not a readable Parquet file"):
        read_mended(read, home, dataset, LOG)
    assert f"{path} was not rebuilt: basin {TARGET}: {raw}, line 10" in caplog.text
    raw.unlink()
    with pytest.raises(DataFileError, match="not a readable Parquet file"):
        read_mended(read, home, dataset, LOG)
    assert path.read_bytes() == damaged
    # Files that no raw data stand behind are not touched.
    other = home.root / "other.parquet"
    with pytest.raises(DataFileError, match="gone"):
        read_mended(lambda: fail(DataFileError(other, "gone")), home, dataset, LOG)
    raw.write_text("".join(lines))
    assert len(read_mended(read, home, dataset, LOG)["date"]) == len(lines) - 4


def fail(error):
    raise error


def rebuild_often(root, path):
    reader = opened(root).open()
    for _ in range(15):
        rebuild(reader, path, "streamflow")


def test_two_processes_that_rebuild_one_file_at_once(home, dataset):
    path = home.streamflow / f"{TARGET}.parquet"
    whole = read_series(path, ["streamflow"])
    cut(path)
    rebuild(dataset.open(), path, "streamflow")
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=rebuild_often, args=(home.root, path)) for _ in range(2)]
    for process in both:
        process.start()
    deadline, reads = time.monotonic() + 120, 0
    while any(process.is_alive() for process in both):
        assert time.monotonic() < deadline
        found = read_series(path, ["streamflow"])
        np.testing.assert_array_equal(found["streamflow"], whole["streamflow"])
        reads += 1
    assert [process.exitcode for process in both] == [0, 0]
    assert reads > 15
    assert list(home.streamflow.glob("*.tmp")) == []


def test_a_basin_without_raw_data(home, dataset):
    with pytest.raises(UserError, match="99999999"):
        rebuild(dataset.open(), home.forcings / "99999999.parquet", "forcings")
