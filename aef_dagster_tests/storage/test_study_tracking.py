"""An experiment's results on its parent run: sent late, replaced, never doubled."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from aef_dagster.storage.tracking import EXPERIMENT, StudyRecord, TrackedRun, Tracking
from aef_dagster_tests.storage.mlflow_server import free_port, running

KEY = "study:small:donor_scaling"
NOTE = "mlflow.note.content"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A migrated, empty store to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    at(folder).setup()
    return folder / "mlflow.db"


@pytest.fixture
def tracking(store, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(store.read_bytes())
    return at(tmp_path)


@pytest.fixture
def found(tmp_path):
    """Results as an experiment leaves them: a picture and a table in the home."""
    (tmp_path / "cdf.png").write_bytes(b"picture 1")
    (tmp_path / "table.csv").write_text("k,nse\n8,0.5\n")
    return StudyRecord(
        KEY,
        "donor scaling",
        tags={"size": "small", "sample": "true"},
        metrics={"median_nse": 0.6, "best_k": 8.0},
        note="**8 donors** are best",
        files={"pictures/cdf.png": tmp_path / "cdf.png", "scores.csv": tmp_path / "table.csv"},
    )


def at(folder, uri=None):
    return Tracking(
        uri or f"sqlite:///{folder}/mlflow.db", folder / "outbox", folder / "files", "http://page"
    )


def trained(key):
    return TrackedRun(
        key=key, parent_key=KEY, parent_name="donor scaling", name=key, started=1.0, ended=2.0,
        tags={"experiments": "donor_scaling in_vs_out_of_sample"}, metrics={"nse": 0.5},
    )  # fmt: skip


def runs(tracking):
    client = MlflowClient(tracking_uri=tracking.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def the_parent(tracking):
    (parent,) = [run for run in runs(tracking) if run.data.tags.get("parent_key") == KEY]
    return parent


def content(tracking, name):
    uri = f"{the_parent(tracking).info.artifact_uri}/{name}"
    return Path(download_artifacts(uri, tracking_uri=tracking.uri)).read_bytes()


@pytest.mark.parametrize("first", ["trainings", "results"])
def test_results_stand_on_the_parent_of_the_trainings(tracking, found, first):
    steps = [lambda: tracking.enqueue(trained("a")), lambda: tracking.enqueue_study(found)]
    for step in steps if first == "trainings" else steps[::-1]:
        step()
        assert tracking.drain().sent == 1
    parent = the_parent(tracking)
    (nested,) = [run for run in runs(tracking) if run.info.run_id != parent.info.run_id]
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert nested.data.tags["experiments"] == "donor_scaling in_vs_out_of_sample"
    assert parent.data.metrics == {"median_nse": 0.6, "best_k": 8.0}
    assert parent.data.tags[NOTE] == "**8 donors** are best"
    assert parent.data.tags["sample"] == "true"
    assert parent.info.run_name == "donor scaling"
    assert content(tracking, "pictures/cdf.png") == b"picture 1"
    assert content(tracking, "scores.csv") == b"k,nse\n8,0.5\n"
    assert f"/runs/{parent.info.run_id}?" in tracking.study_url(KEY)


def test_a_later_reading_replaces_and_the_same_one_is_not_sent(tracking, found, tmp_path):
    tracking.enqueue_study(found)
    tracking.drain()
    tracking.enqueue_study(replace(found, at=found.at + 1))
    assert tracking.drain().sent == 0

    (tmp_path / "cdf.png").write_bytes(b"picture 2")
    later = replace(
        found, at=found.at + 2, tags={"sample": "true"}, metrics={"median_nse": 0.4}, note="none"
    )
    tracking.enqueue_study(later)
    assert tracking.drain().sent == 1
    parent = the_parent(tracking)
    assert parent.data.metrics["median_nse"] == 0.4
    assert math.isnan(parent.data.metrics["best_k"])
    assert parent.data.tags[NOTE] == "none"
    assert "size" not in parent.data.tags
    assert content(tracking, "pictures/cdf.png") == b"picture 2"
    assert len(runs(tracking)) == 1


def test_a_waiting_record_is_replaced(tracking, found):
    for value in (0.1, 0.2, 0.3):
        tracking.enqueue_study(replace(found, metrics={"median_nse": value}))
    other = replace(found, key=f"{KEY}@2", name="other")
    tracking.enqueue_study(other)
    assert tracking.drain().sent == 2
    assert the_parent(tracking).data.metrics == {"median_nse": 0.3}


def test_a_return_to_what_mlflow_has_withdraws_what_waits(tracking, found):
    tracking.enqueue_study(found)
    tracking.drain()
    tracking.enqueue_study(replace(found, note="a slip"))
    tracking.enqueue_study(found)
    outcome = tracking.drain()
    assert (outcome.sent, outcome.waiting) == (0, 0)
    assert the_parent(tracking).data.tags[NOTE] == "**8 donors** are best"


def test_a_record_that_arrives_while_another_is_sent_is_not_lost(tracking, found):
    tracking.enqueue_study(found)
    tracking.enqueue(trained("a"))  # sent first, and then a newer reading is written

    def newer(key):
        if key == "a":
            tracking.enqueue_study(replace(found, metrics={"median_nse": 0.9}, at=found.at + 1))

    tracking.drain(on_sent=newer)
    tracking.drain()
    assert the_parent(tracking).data.metrics["median_nse"] == 0.9
    assert tracking.drain().waiting == 0


def test_a_death_before_the_ledger_doubles_nothing(tracking, found):
    tracking.enqueue_study(found)
    tracking.drain()
    for entry in tracking.ledger.iterdir():
        entry.unlink()
    tracking.enqueue_study(found)
    assert tracking.drain().sent == 1
    client = MlflowClient(tracking_uri=tracking.uri)
    history = client.get_metric_history(the_parent(tracking).info.run_id, "median_nse")
    assert [point.value for point in history] == [0.6]


def test_files_that_have_gone_cost_themselves_only(tracking, found, tmp_path, caplog):
    tracking.enqueue_study(found)
    (tmp_path / "cdf.png").unlink()
    assert tracking.drain().sent == 1
    assert "cdf.png is gone" in caplog.text
    assert content(tracking, "scores.csv") == b"k,nse\n8,0.5\n"


@pytest.mark.server
def test_results_wait_for_a_server_and_are_replaced_there(found, tmp_path):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    dead = at(tmp_path, uri)
    dead.enqueue_study(found)
    assert dead.drain().waiting == 1
    assert dead.study_url(KEY) is None
    with running(tmp_path, port):
        tracking = at(tmp_path, uri)
        assert tracking.drain().sent == 1
        assert content(tracking, "pictures/cdf.png") == b"picture 1"
        (tmp_path / "cdf.png").write_bytes(b"picture 2")
        tracking.enqueue_study(replace(found, metrics={"median_nse": 0.4}, at=found.at + 1))
        assert tracking.drain().sent == 1
        metrics = the_parent(tracking).data.metrics
        assert metrics["median_nse"] == 0.4
        assert math.isnan(metrics["best_k"])
        assert content(tracking, "pictures/cdf.png") == b"picture 2"
