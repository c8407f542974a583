"""Steps on a real Ray head whose run is killed or cancelled: they end, and nothing else does."""

import os
import signal
import time

import dagster as dg
import psutil
import pytest

from aef_dagster.pipeline.executors.ended_on_ray import RUN_ID
from aef_dagster_tests.faults.live import TERMINATE
from aef_dagster_tests.ray.training import LIMIT_S, events, launch, two_trainings

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(300)]

# Basins that no other test trains. Undisturbed, each run would train for more than a minute.
SEEDS = 4
BASINS = [[f"0090{region}00{number}" for number in range(1, 7)] for region in (2, 4)]


@pytest.fixture
def foreign(servers, head):
    """A job of a run that this instance does not know: another's on the same cluster."""
    job = {"entrypoint": "sleep 600", "metadata": {RUN_ID: "of-another-instance"}}
    submitted = head.ask("jobs/", job)["submission_id"]
    yield submitted
    head.ask(f"jobs/{submitted}/stop", {})


def test_what_ended_runs_left_on_ray_is_stopped(servers, instance, head, foreign):
    ids = [launch(servers, basins=basins, seeds=SEEDS) for basins in BASINS]
    steps = servers.wait("two steps that train at once", two_trainings, LIMIT_S)
    killed, cancelled = map(instance.get_run_by_id, ids)
    families = {run.run_id: family_of(steps, instance, run) for run in (killed, cancelled)}

    # A run's first event is told by its own process.
    (start,) = events(instance, killed.run_id, "PIPELINE_START")
    os.kill(start.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    told = servers.ask(TERMINATE, id=cancelled.run_id)["terminateRun"]
    assert told["__typename"] == "TerminateRunSuccess", told

    def ended(run):
        alive = [process for process in families[run.run_id] if process.is_running()]
        return not alive and time.monotonic() - killed_at

    cancelled_s = servers.wait("the cancelled run's step to end", lambda: ended(cancelled), 60)
    stopped_s = servers.wait("the killed run's step to end", lambda: ended(killed), 90)
    print(f"FIGURES cancelled_s={cancelled_s:.1f} stopped_s={stopped_s:.1f}")

    status = instance.get_run_by_id(killed.run_id).status
    assert status == dg.DagsterRunStatus.FAILURE
    said = [entry.message for entry in instance.all_logs(killed.run_id)]
    job = job_of(head, killed)["submission_id"]
    assert f"The run has ended: Ray job {job} was told to stop" in said
    assert events(instance, killed.run_id, "STEP_SUCCESS") == []
    servers.wait("Ray to say so", lambda: job_of(head, killed)["status"] == "STOPPED", 30)
    assert job_of(head, cancelled)["status"] == "STOPPED"
    servers.wait(
        "the cancelled run",
        lambda: instance.get_run_by_id(cancelled.run_id).status == dg.DagsterRunStatus.CANCELED, 60,
    )  # fmt: skip
    assert head.ask(f"jobs/{foreign}")["status"] == "RUNNING"


def family_of(steps, instance, run) -> list[psutil.Process]:
    """The step of a run, with the processes that it started."""
    pids = {event.pid for event in events(instance, run.run_id, "STEP_WORKER_STARTED")}
    (step,) = (step for step, _worker in steps if step.pid in pids)
    return [step, *step.children(recursive=True)]


def job_of(head, run) -> dict:
    """What Ray says of the job of a run's only step."""
    jobs = head.ask("jobs/")
    (job,) = (job for job in jobs if (job["metadata"] or {}).get(RUN_ID) == run.run_id)
    return job
