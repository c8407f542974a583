"""The warehouse: slices, transactions, and another process in the way."""

import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import UserError
from aef_dagster.storage.warehouse import Warehouse, replace_slice


def donors(space, n=3):
    return pd.DataFrame(
        {
            "space": space,
            "gauge_id": "01013500",
            "rank": range(1, n + 1),
            "donor_id": [f"0102250{i}" for i in range(n)],
            "cosine": np.linspace(0.9, 0.1, n),
        }
    )


@pytest.fixture
def warehouse(tmp_path):
    return Warehouse(tmp_path / "warehouse.duckdb", patience_s=1.0)


def test_a_slice_is_replaced_and_others_stay(warehouse):
    warehouse.replace("donors", donors("aef"), space="aef")
    warehouse.replace("donors", donors("random", 5), space="random")
    warehouse.replace("donors", donors("aef", 2), space="aef")
    counts = warehouse.frame(
        "SELECT space, count(*) AS n FROM donors GROUP BY space ORDER BY space"
    )
    assert counts.values.tolist() == [["aef", 2], ["random", 5]]


def test_ids_keep_their_leading_zero(warehouse):
    warehouse.replace("donors", donors("aef"), space="aef")
    assert warehouse.frame("SELECT gauge_id FROM donors LIMIT 1")["gauge_id"][0] == "01013500"


def test_columns_are_matched_by_name(warehouse):
    shuffled = donors("aef")[["cosine", "donor_id", "rank", "gauge_id", "space"]]
    warehouse.replace("donors", shuffled, space="aef")
    assert (
        warehouse.frame("SELECT donor_id FROM donors WHERE rank = 1")["donor_id"][0] == "01022500"
    )


def test_a_failing_transaction_changes_nothing(warehouse):
    warehouse.replace("donors", donors("aef"), space="aef")
    with pytest.raises(RuntimeError), warehouse.write() as connection:
        replace_slice(connection, "donors", donors("aef", 1), space="aef")
        raise RuntimeError("killed half-way")
    assert warehouse.count("donors") == 3


def test_reading_before_anything_was_written_says_what_to_do(warehouse):
    with pytest.raises(UserError, match="aef prepare"):
        warehouse.frame("SELECT * FROM donors")
    assert warehouse.count("donors") == 0


def test_another_process_is_waited_for_and_then_named(warehouse, tmp_path):
    warehouse.replace("donors", donors("aef"), space="aef")
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            import duckdb, time
            connection = duckdb.connect({str(warehouse.path)!r})
            print("held", flush=True)
            time.sleep(60)
        """)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline().strip() == b"held"
        started = time.monotonic()
        with pytest.raises(UserError, match=str(holder.pid)):
            warehouse.replace("donors", donors("aef"), space="aef")
        assert time.monotonic() - started >= warehouse.patience_s
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    warehouse.replace("donors", donors("aef", 1), space="aef")
    assert warehouse.count("donors") == 1


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "warehouse.duckdb"
    path.write_text("this is not a database" * 100)
    with pytest.raises(UserError, match="cannot be read as a DuckDB file"):
        Warehouse(path).frame("SELECT 1")


def test_a_home_of_an_earlier_version_gains_new_columns(warehouse):
    with warehouse.write() as connection:
        connection.execute("ALTER TABLE scores DROP COLUMN current")
        connection.execute("INSERT INTO scores (job_hash) VALUES ('old')")
    with warehouse.write():
        pass
    row = warehouse.frame("SELECT job_hash, current FROM scores").iloc[0]
    assert row["job_hash"] == "old"
    assert pd.isna(row["current"])


def test_views_follow_a_home_that_was_moved(tmp_path):
    home = tmp_path / "old"
    lake = home / "lake" / "streamflow"
    lake.mkdir(parents=True)
    pd.DataFrame({"gauge_id": ["01013500"], "streamflow": [1.5]}).to_parquet(
        lake / "01013500.parquet"
    )
    Warehouse(home / "warehouse.duckdb").replace("donors", donors("aef"), space="aef")
    moved = tmp_path / "new's place"
    home.rename(moved)
    warehouse = Warehouse(moved / "warehouse.duckdb")
    warehouse.replace("donors", donors("aef"), space="aef")
    assert warehouse.frame("SELECT streamflow FROM streamflow")["streamflow"].tolist() == [1.5]


def test_a_table_that_an_earlier_version_did_not_have_holds_nothing(warehouse):
    with warehouse.write() as connection:
        connection.execute("DROP TABLE trust")
    assert warehouse.count("trust") == 0
    warehouse.replace("donors", donors("aef"))
    assert warehouse.frame("SELECT count(*) AS n FROM trust")["n"][0] == 0  # made by the write


def test_a_home_that_was_copied_is_told_and_heals_at_the_next_write(tmp_path):
    first = tmp_path / "first"
    forcings = first / "lake" / "forcings"
    forcings.mkdir(parents=True)
    days = pd.DataFrame({"date": pd.to_datetime(["2000-01-01"]), "prcp": [1.0]})
    for name in ("dayl", "srad", "tmax", "tmin", "vp", "pet"):
        days[name] = 1.0
    days.to_parquet(forcings / "00000001.parquet")
    with Warehouse(first / "warehouse.duckdb").write():
        pass
    second = first.rename(tmp_path / "second")
    warehouse = Warehouse(second / "warehouse.duckdb")
    with pytest.raises(UserError, match=r"first/lake.*moved or copied.*aef prepare"):
        warehouse.frame("SELECT * FROM forcings")
    with warehouse.write():
        pass
    assert len(warehouse.frame("SELECT * FROM forcings")) == 1
