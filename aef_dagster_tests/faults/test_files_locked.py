"""The warehouse is held by another program: named when patience ends, waited for before."""

import subprocess
import sys
import threading
import time

import pytest

from aef_dagster.errors import UserError
from aef_dagster.storage.warehouse import Warehouse

pytestmark = pytest.mark.fault

HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reader")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a program that holds the file until its standard input ends."""
    started = []

    def start(path, kind):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in started:
        holder.stdin.close()
        holder.wait(60)
        holder.stdout.close()


@pytest.mark.parametrize("kind", ["writer", "reader"])
def test_the_program_is_named_and_its_end_awaited(tmp_path, hold, kind):
    store = Warehouse(tmp_path / "warehouse.duckdb", patience_s=0.5)
    with store.write() as connection:
        connection.execute("INSERT INTO basins (gauge_id) VALUES ('01013500')")
    holder = hold(store.path, kind)
    started = time.monotonic()
    with pytest.raises(UserError) as caught, store.write():
        pass
    waited = time.monotonic() - started
    assert 0.5 <= waited < 5
    assert f"python3.{sys.version_info.minor} (PID {holder.pid})" in str(caught.value)
    assert "close it there and run this again" in str(caught.value)

    patient = Warehouse(store.path, patience_s=60)
    started = time.monotonic()
    threading.Timer(0.7, holder.stdin.close).start()
    with patient.write() as connection:
        connection.execute("INSERT INTO basins (gauge_id) VALUES ('01022500')")
    assert 0.6 <= time.monotonic() - started < 30
    assert store.count("basins") == 2
