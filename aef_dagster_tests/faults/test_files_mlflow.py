"""MLflow is killed in the middle of a training: that goes on, and nothing is lost or told twice."""

import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from aef_dagster.storage.tracking import EXPERIMENT
from aef_dagster_tests.faults.files import aef
from aef_dagster_tests.faults.live import ended, finished, start_training, wait
from aef_dagster_tests.storage import mlflow_server

pytestmark = pytest.mark.fault

TARGETS = ["00901001", "00902001", "00903001"]


def told_to(address):
    """Runs of our experiment by name."""
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    return client, {run.info.run_name: run for run in runs}, len(runs)


def kill(server: psutil.Process) -> None:
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.kill()
    # The server itself is reaped by who started it.
    psutil.wait_procs(family[1:], timeout=20)


def serving(port: int) -> psutil.Process:
    """The process of the server on a port: a child of these tests."""
    return next(child for child in psutil.Process().children() if str(port) in child.cmdline())


def test_killed_in_the_middle_of_a_training(home, tmp_path, record_property):
    port = mlflow_server.free_port()
    ledger = home.outbox / "sent"
    with mlflow_server.running(tmp_path, port) as address:
        training = start_training(home, TARGETS, AEF_TRACKING_URI=address)
        wait("the first run told", lambda: list(ledger.glob("*.json")))
        kill(serving(port))
    killed = time.monotonic()
    told = ended(training)
    record_property("seconds to go on without MLflow", round(time.monotonic() - killed, 1))
    assert "`aef sync` sends them" in told
    assert len(finished(home)) == 3
    sent = len(list(ledger.glob("*.json")))
    waiting = len(list(home.outbox.glob("*.json")))
    assert sent >= 1
    assert waiting >= 1
    assert sent + waiting == 3

    with mlflow_server.running(tmp_path, port) as address:
        assert f"{waiting} sent, 0 waiting" in aef(home, "sync", AEF_TRACKING_URI=address)
        assert "0 sent, 0 waiting" in aef(home, "sync", AEF_TRACKING_URI=address)
        client, runs, n = told_to(address)
        assert n == 4  # a run a basin, and their parent
        nested = [run for run in runs.values() if "gauge_id" in run.data.tags]
        assert sorted(run.data.tags["gauge_id"] for run in nested) == TARGETS
        for run in nested:
            assert run.info.status == "FINISHED"
            assert run.data.params["n_donors"] == "8"
            for name in ("nse", "kge", "train_seconds"):
                assert len(client.get_metric_history(run.info.run_id, name)) == 1
            curve = client.get_metric_history(run.info.run_id, "valid_nse")
            steps = [point.step for point in curve]
            assert steps == sorted(set(steps))
            assert steps
            files = [Path(found.path).stem for found in client.list_artifacts(run.info.run_id)]
            assert sorted(files) == ["hydrograph", "job"]
