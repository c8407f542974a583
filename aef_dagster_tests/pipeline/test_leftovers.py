"""Steps that outlive their run, where the cluster is down: runs are marked all the same.

Not here: what a real Ray head does (ray/test_ray_ended_runs.py).
"""

import socket
import subprocess
import sys

import dagster as dg
import pytest

from aef_dagster.pipeline.executors import stop_steps_of_ended_runs
from aef_dagster.pipeline.instance import bury_dead_runs
from aef_dagster.pipeline.leftovers import leftover_sensors
from aef_dagster.pipeline.liveness import HOST_TAG, PID_TAG
from aef_dagster.settings import load_settings
from aef_dagster_tests.deploy.postgres import free_port


@pytest.fixture
def nowhere(monkeypatch):
    """Settings of an executor whose cluster nobody answers for."""
    pytest.importorskip("dagster_ray", reason="the extra ray is not installed")
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AEF_EXECUTOR", "ray")
    monkeypatch.setenv("AEF_RAY_ADDRESS", address)
    return load_settings()


def test_a_cluster_that_is_down_keeps_no_run_from_being_marked(instance, nowhere, caplog):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    tags = {PID_TAG: str(process.pid), HOST_TAG: socket.gethostname()}
    status = dg.DagsterRunStatus.STARTED
    runs = [instance.add_run(dg.DagsterRun(job_name="job", status=status, tags=tags))
            for _ in range(2)]  # fmt: skip
    bury_dead_runs(instance)
    ended = {instance.get_run_by_id(run.run_id).status for run in runs}
    assert ended == {dg.DagsterRunStatus.FAILURE}
    (told,) = [entry.getMessage() for entry in caplog.records if entry.name == "aef_dagster"]
    assert told.startswith(
        f"a run was marked as failed, but no Ray head answers at {address_of(nowhere)}"
    )


def test_the_sensor_says_that_it_asks_again(instance, nowhere):
    (sensor,) = leftover_sensors(nowhere)
    told = sensor(dg.build_sensor_context(instance))
    assert told.skip_message.startswith(f"no Ray head answers at {address_of(nowhere)}")
    assert told.skip_message.endswith("asked again at the next tick")


def test_without_ray_nothing_looks(instance):
    settings = load_settings(executor="k8s")
    assert leftover_sensors(settings) == []
    assert stop_steps_of_ended_runs(instance, settings) == []


def address_of(settings):
    return f"AEF_RAY_ADDRESS={settings.ray_address}"
