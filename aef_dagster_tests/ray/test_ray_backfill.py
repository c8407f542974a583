"""A backfill on a real Ray head: two runs train at once, and the death of one's Ray worker."""

import math
import os
import signal
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.storage.home import Home
from aef_dagster_tests.ray.conftest import TOKEN
from aef_dagster_tests.ray.training import (
    LIMIT_S,
    MODELS,
    backfill,
    events,
    runs_of,
    two_trainings,
)

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(600)]

# Two ranges of keys: a run each.
# Three each: the second may be whole when the first is told of, the third is not.
RANGES = [[f"0090{region}00{number}" for number in (1, 2, 3)] for region in (1, 3)]


def test_two_runs_train_at_once_and_a_killed_worker_costs_only_what_it_was_at(
    servers, instance, environment, head
):
    def ended(backfill_id, count):
        runs = runs_of(instance, backfill_id)
        return len(runs) == count and all(run.is_finished for run in runs) and runs

    first = backfill(servers, [key for keys in RANGES for key in keys])
    steps = servers.wait("two steps that train at once", two_trainings, LIMIT_S)
    (one, one_worker), (other, other_worker) = steps
    assert one_worker != other_worker, "a Ray worker each"
    told = [step.environ() for step in (one, other)]
    assert {of["PYTHON_CPU_COUNT"] for of in told} == {"1"}
    assert {of["CUDA_VISIBLE_DEVICES"] for of in told} == {"0", "1"}, "Ray deals out its GPUs"
    assert {of["AEF_HOME"] for of in told} == {environment["AEF_HOME"]}

    # Kill the worker of the run that is the first to finish one of its basins.
    finished = servers.wait("a finished basin", lambda: materialized(instance), LIMIT_S)[0]
    run = instance.get_run_by_id(finished.run_id)
    key = finished.partition_key
    pids = {event.pid for event in events(instance, run.run_id, "STEP_WORKER_STARTED")}
    step, worker = next(pair for pair in steps if pair[0].pid in pids)
    family = [step, *step.children(recursive=True)]
    os.kill(worker.pid, signal.SIGKILL)
    killed_at = time.time()
    runs = servers.wait("both runs to end", lambda: ended(first, 2), LIMIT_S)
    assert psutil.wait_procs(family, timeout=10)[1] == [], "nothing trains on unseen"

    statuses = {r.run_id: r.status for r in runs}
    assert statuses.pop(run.run_id) == dg.DagsterRunStatus.FAILURE
    assert list(statuses.values()) == [dg.DagsterRunStatus.SUCCESS]
    (failure,) = [entry for entry in instance.all_logs(run.run_id)
                  if entry.dagster_event and entry.dagster_event.is_step_failure]  # fmt: skip
    sentence = failure.dagster_event.step_failure_data.error.message
    print(f"told {failure.timestamp - killed_at:.1f} s after the kill: {sentence}")
    assert "its Ray job died" in sentence and "what was finished is kept" in sentence, sentence
    overlap = [spans(instance, r.run_id) for r in runs]
    assert max(start for start, _ in overlap) < min(end for _, end in overlap)
    submissions = {
        event.event_specific_data.metadata["Ray Submission ID"].value
        for r in runs for event in events(instance, r.run_id, "STEP_WORKER_STARTING")
    }  # fmt: skip
    assert len(submissions) == 2

    wanted = next(keys for keys in RANGES if key in keys)
    (again,) = servers.wait("the repeat", lambda b=backfill(servers, wanted): ended(b, 1), LIMIT_S)
    assert again.status == dg.DagsterRunStatus.SUCCESS
    reused = {
        event.partition: event.materialization.metadata["reused"].value
        for event in events(instance, again.run_id, "ASSET_MATERIALIZATION")
    }
    assert sorted(reused) == wanted and reused[key] and not all(reused.values())
    checkpoints = Home(Path(environment["AEF_HOME"])).checkpoints
    made = [Checkpoint.open(checkpoints, folder.name) for folder in checkpoints.iterdir()
            if not folder.name.startswith(".")]  # fmt: skip
    scores = {row["gauge_id"]: row["nse"] for found in made for row in found.scores()}
    assert sorted(scores) == sorted(key for keys in RANGES for key in keys)
    assert all(math.isfinite(nse) for nse in scores.values())
    logs = "".join(path.read_text() for path in head.folder.rglob("*.log"))
    assert "execute_step" in logs and TOKEN not in logs


def materialized(instance):
    return instance.fetch_materializations(MODELS, limit=10, ascending=True).records


def spans(instance, run_id):
    """When a run's step started and ended."""
    (stats,) = instance.get_run_step_stats(run_id)
    return stats.start_time, stats.end_time
