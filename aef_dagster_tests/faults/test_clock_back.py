"""The clock goes back a day: what is asked for now is in force, whatever older files are dated."""

import os
import subprocess
import time

import pandas as pd
import pytest

from aef_dagster.storage.outbox import StudyRecord
from aef_dagster.storage.tracking import Tracking
from aef_dagster.storage.warehouse import Warehouse
from aef_dagster_tests.deploy.processes import program
from aef_dagster_tests.faults.conftest import BASINS
from aef_dagster_tests.faults.live import copied, ended, environment, finished, start_training

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

DAY_S = 24 * 3600


def date(path, moment):
    os.utime(path, (moment, moment))


def test_a_model_asked_for_now_is_in_force_over_one_dated_ahead(asked_twice, tmp_path):
    home, basin = copied(asked_twice.root, tmp_path / "var"), BASINS[0]
    unfinished = home.checkpoints / ".unfinished"
    ahead, forgotten = unfinished / "0-0.safetensors", unfinished / "1-0.safetensors"
    unfinished.mkdir(exist_ok=True)
    for path in (ahead, forgotten):
        path.write_bytes(b"")
    tomorrow = time.time() + DAY_S
    for path in [home.checkpoints, *home.checkpoints.rglob("*")]:
        date(path, tomorrow)
    date(forgotten, time.time() - 60 * DAY_S)
    # Its record was corrected: another model, for the same choice.
    record = home.streamflow / f"{basin}.parquet"
    table = pd.read_parquet(record)
    flow = table.select_dtypes("number").columns[0]
    table[flow] *= 1.1
    table.to_parquet(record, index=False)
    before = finished(home)
    ended(start_training(home, [basin]))

    (new,) = set(finished(home)) - set(before)
    scores = Warehouse(home.warehouse).frame("SELECT * FROM scores WHERE gauge_id = ?", [basin])
    assert len(scores) == 2
    assert list(scores[scores["current"]]["job_hash"]) == [new]
    simulated = subprocess.run(
        [program("aef"), "simulate", basin], cwd=home.root, env=environment(home),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{basin}_{new}.csv" in "".join(simulated.stdout.split())
    assert ahead.exists() and not forgotten.exists()


def test_an_experiment_read_now_replaces_one_dated_ahead(tmp_path):
    from mlflow import MlflowClient

    def tracking():
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        return Tracking(uri, tmp_path / "outbox", tmp_path / "files", "http://127.0.0.1:5000")

    def record(nse, at):
        return StudyRecord("study:x", "x", metrics={"nse": nse}, at=at)

    now = time.time()
    mlflow = tracking()
    mlflow.enqueue_study(record(0.1, now + DAY_S))
    (waits,) = (tmp_path / "outbox").glob("study-*.json")
    stem = waits.stem.rpartition("@")[0]
    waits.rename(waits.with_name(f"{stem}@{time.time_ns() + DAY_S * 10**9}.json"))
    mlflow.enqueue_study(record(0.2, now))
    assert mlflow.drain().sent == 1

    client = MlflowClient(tracking_uri=mlflow.uri)
    (run,) = client.search_runs(["1"])
    assert run.data.metrics == {"nse": 0.2}
    mlflow.enqueue_study(record(0.3, now + DAY_S))
    assert mlflow.drain().sent == 1
    mlflow.enqueue_study(record(0.4, now))
    assert mlflow.drain().sent == 1
    assert client.get_run(run.info.run_id).data.metrics == {"nse": 0.4}
    client.log_metric(run.info.run_id, "basins", 3, timestamp=int((now + DAY_S) * 1000))
    mlflow.summarise_parent("study:x", lambda _rows: {"basins": 4.0})
    assert client.get_run(run.info.run_id).data.metrics["basins"] == 4


def test_a_parent_left_running_by_a_killed_process_is_ended(tmp_path):
    """Its maker died between two calls to MLflow."""
    from mlflow import MlflowClient

    mlflow = Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "outbox",
                      tmp_path / "files", "http://127.0.0.1:5000")  # fmt: skip
    mlflow.setup()
    client = MlflowClient(tracking_uri=mlflow.uri)
    left = client.create_run("1", tags={"parent_key": "study:x"}).info.run_id
    mlflow.enqueue_study(StudyRecord("study:x", "x", metrics={"nse": 0.1}))
    assert mlflow.drain().sent == 1
    assert client.get_run(left).info.status == "FINISHED"
