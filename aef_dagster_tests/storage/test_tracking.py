"""The outbox, against a real MLflow store: nothing lost, nothing twice."""

import json
import multiprocessing
import sqlite3
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from aef_dagster.storage.tracking import EXPERIMENT, TrackedRun, Tracking


def record(key, nse=0.5, parent="study-1", **changes):
    values = {
        "key": key, "parent_key": parent, "parent_name": "study", "name": key, "started": 100.0,
        "ended": 110.0, "tags": {"gauge_id": key}, "parent_tags": {"space": "aef"},
        "params": {"k": "8"}, "metrics": {"nse": nse},
        "curve": [("valid_nse", step, step / 10) for step in range(3)],
    }  # fmt: skip
    return TrackedRun(**(values | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A migrated, empty store to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    at(folder).setup()
    return folder


@pytest.fixture
def tracking(store, tmp_path):
    (tmp_path / "mlflow.db").write_bytes((store / "mlflow.db").read_bytes())
    return at(tmp_path)


def at(folder, uri=None):
    return Tracking(
        uri or f"sqlite:///{folder}/mlflow.db",
        folder / "outbox",
        folder / "mlflow-artifacts",
        "http://127.0.0.1:5000/",
    )


def runs(tracking):
    client = MlflowClient(tracking_uri=tracking.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def test_a_record_becomes_a_run_nested_under_its_study(tracking, tmp_path):
    picture = tmp_path / "hydrograph.png"
    picture.write_bytes(b"png")
    tracking.enqueue(record("a", artifacts=[str(picture)]))
    tracking.enqueue(record("b", nse=0.7))
    assert tracking.drain().sent == 2
    found = {run.info.run_name: run for run in runs(tracking)}
    parent = found["study"]
    for key in ("a", "b"):
        assert found[key].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found[key].info.status == "FINISHED"
    assert found["b"].data.metrics["nse"] == 0.7
    client = MlflowClient(tracking_uri=tracking.uri)
    assert [p.path for p in client.list_artifacts(found["a"].info.run_id)] == ["hydrograph.png"]
    curve = client.get_metric_history(found["a"].info.run_id, "valid_nse")
    assert [(m.step, m.value) for m in curve] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert f"/runs/{found['a'].info.run_id}?" in tracking.url("a")


def test_nothing_is_sent_twice(tracking):
    tracking.enqueue(record("a"))
    tracking.drain()
    tracking.enqueue(record("a"))
    assert tracking.drain().sent == 0
    assert len(runs(tracking)) == 2


def test_a_lost_ledger_sends_nothing_twice(tracking, tmp_path):
    tracking.enqueue(record("a"))
    tracking.drain()
    run_id = tracking.run_id("a")
    (tracking.ledger / "a.json").unlink()
    later = at(tmp_path)
    later.enqueue(record("a", parent_key="another"))
    assert later.drain().sent == 1
    assert later.run_id("a") == run_id
    assert [run.info.run_name for run in runs(tracking)].count("a") == 1


DIES_BEFORE_THE_LEDGER = """
import os, sys
from pathlib import Path
from aef_dagster.storage import outbox
from aef_dagster_tests.storage.test_tracking import at, record
outbox.Outbox.tick_off = lambda *_: os._exit(9)
tracking = at(Path(sys.argv[1]))
tracking.enqueue(record("a"), fresh=True)
tracking.drain()
"""


def test_a_death_between_sending_and_the_ledger_is_healed(tracking, tmp_path):
    # Of a model trained just now there is no need to ask MLflow, but for the mark it left.
    tracking.enqueue(record("b"))
    tracking.drain()
    died = subprocess.run([sys.executable, "-c", DIES_BEFORE_THE_LEDGER, str(tmp_path)])
    assert died.returncode == 9
    (sent,) = [run for run in runs(tracking) if run.info.run_name == "a"]
    tracking.enqueue(record("a"), fresh=True)
    assert tracking.drain().sent == 1
    assert tracking.run_id("a") == sent.info.run_id
    assert len(runs(tracking)) == 3
    assert {path.suffix for path in tracking.outbox.iterdir() if path.is_file()} == {""}


def test_a_new_store_is_told_what_the_old_one_knew(tracking, tmp_path):
    tracking.enqueue(record("a"))
    tracking.drain()
    (tmp_path / "other.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    other = at(tmp_path, uri=f"sqlite:///{tmp_path}/other.db")
    assert other.run_id("a") is None
    other.enqueue(record("a"))
    assert other.drain().sent == 1
    assert len(runs(other)) == 2  # found by its tag: this store was a copy


def test_a_dead_server_costs_seconds_and_loses_nothing(tracking, tmp_path):
    dead = at(tmp_path, uri="http://127.0.0.1:9")
    dead.enqueue(record("a"))
    started = time.monotonic()
    outcome = dead.drain()
    assert time.monotonic() - started < 6
    assert (outcome.sent, outcome.waiting) == (0, 1)
    assert outcome.error
    assert dead.run_id("a") is None
    assert tracking.drain().sent == 1


def test_a_record_that_is_none_blocks_no_other(tracking):
    tracking.outbox.mkdir(exist_ok=True)
    (tracking.outbox / "a.json").write_text("{")
    tracking.enqueue(record("b's", parent="it's"))
    outcome = tracking.drain()
    assert (outcome.sent, outcome.waiting, outcome.error) == (1, 0, None)
    assert tracking.summarise_parent("it's", lambda rows: {"basins": len(rows)})
    assert [path.name for path in (tracking.outbox / "refused").iterdir()] == ["a.json"]


def test_after_a_failure_mlflow_is_left_alone_for_a_while(tracking, tmp_path):
    dead = at(tmp_path, uri="http://user:secret@127.0.0.1:9")
    dead.enqueue(record("a"))
    assert "secret" not in str(dead.drain().error)
    assert "a moment ago" in dead.drain().error


def test_the_parent_gets_figures_over_its_runs(tracking):
    for key, nse in (("a", 0.2), ("b", 0.6)):
        tracking.enqueue(record(key, nse))
    tracking.enqueue(record("other", 9.0, parent="study-2"))
    tracking.drain()
    run_id = tracking.summarise_parent(
        "study-1",
        lambda rows: {"mean_nse": sum(row["nse"] for row in rows) / len(rows)},
        lambda rows: {"nse.txt": json.dumps(sorted(row["nse"] for row in rows)).encode()},
    )
    client = MlflowClient(tracking_uri=tracking.uri)
    assert client.get_run(run_id).data.metrics["mean_nse"] == pytest.approx(0.4)
    assert [p.path for p in client.list_artifacts(run_id)] == ["nse.txt"]


def test_a_store_that_was_stopped_half_made_is_made_anew(tmp_path):
    tracking = at(tmp_path)
    half = tmp_path / "mlflow.db.unfinished"
    connection = sqlite3.connect(half)
    connection.execute("CREATE TABLE _alembic_tmp_trace_tags (a INTEGER)")
    connection.close()
    tracking.setup()
    assert not half.exists()
    tracking.enqueue(record("a"))
    assert tracking.drain().sent == 1


def _send(folder, key):
    tracking = at(folder)
    tracking.enqueue(record(key))
    tracking.drain()


def test_processes_that_send_at_once_make_one_parent(tracking, tmp_path):
    processes = [
        multiprocessing.get_context("spawn").Process(target=_send, args=(tmp_path, f"p{i}"))
        for i in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    tracking.drain()
    names = [run.info.run_name for run in runs(tracking)]
    assert sorted(names) == ["p0", "p1", "p2", "study"]
