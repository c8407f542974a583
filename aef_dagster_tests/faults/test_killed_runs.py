"""Runs of the daemon that are killed, told to end, or lost with the machine."""

import json
import signal
import time

import dagster as dg
import pytest
from safetensors import safe_open

from aef_dagster_tests.faults.conftest import BASINS
from aef_dagster_tests.faults.live import (
    KEEP_EVERY_S,
    finished,
    told_to_mlflow,
    wait,
    weights,
    workers,
)

# Seconds to let a stopped worker run, and updates of 300 that leave it enough to be killed at.
AWAKE_S, EARLY = 0.3, 150

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(600)]


def test_a_killed_run_fails_and_a_repeat_goes_on(live, asked_twice):
    home, before = live.home, finished(live.home)
    run_id = live.launch(BASINS)
    worker = live.worker_of(run_id)
    wait("the first model", lambda: set(finished(home)) - set(before))
    states = home.checkpoints / ".unfinished"

    def early_state():
        """Let the seconds pass after which a state is due; true once one is kept early enough.

        Leaves the worker stopped then: it would train on until it sees that nobody listens, and a
        model nearly done would be done, its state gone.
        """
        worker.send_signal(signal.SIGSTOP)
        time.sleep(KEEP_EVERY_S)
        worker.send_signal(signal.SIGCONT)
        awake = time.monotonic()
        while time.monotonic() < awake + AWAKE_S:
            if any(states.glob("*.safetensors")):
                worker.send_signal(signal.SIGSTOP)
                if any(updates_made(path) <= EARLY for path in states.glob("*.safetensors")):
                    return True
                worker.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        return False

    # None comes where it was stopped between two models: then once more, within the next.
    wait("a kept state", early_state)
    killed = time.monotonic()
    run = worker.parent()
    run.kill()
    worker.send_signal(signal.SIGCONT)
    worker.wait(timeout=20)
    worker_s = time.monotonic() - killed
    live.wait_status(run_id, "FAILURE")
    failed_s = time.monotonic() - killed
    kept = set(finished(home)) - set(before)
    assert 1 <= len(kept) < len(BASINS)
    (state,) = states.glob("*.safetensors")

    again = live.launch(BASINS)
    live.wait_status(again, "STARTED", "SUCCESS")
    next_s = time.monotonic() - killed
    live.wait_status(again, "SUCCESS")
    assert not state.exists()
    resumed = home.checkpoints / state.stem.rpartition("-")[0] / "run.json"
    assert json.loads(resumed.read_text())["resumed_at"] > 0
    assert {basin: weights(home)[basin] for basin in BASINS} == weights(asked_twice)
    assert told_to_mlflow(home)[1] == 0
    print(f"FIGURES worker_s={worker_s:.1f} failed_s={failed_s:.1f} next_started_s={next_s:.1f}")
    assert failed_s < 90


def updates_made(state):
    """Updates after which a state was kept."""
    with safe_open(state, framework="np") as opened:
        return json.loads(opened.metadata()["record"])["update"]


def test_a_run_that_is_told_to_end_keeps_what_is_finished(live):
    targets = ["00901002", "00902002", "00903002"]
    run_id = live.launch(targets)
    worker = live.worker_of(run_id)
    done = live.wait("a finished basin", lambda: live.materialized(targets))
    told = time.monotonic()
    worker.parent().terminate()
    live.wait_status(run_id, "CANCELED", "FAILURE")
    ended_s = time.monotonic() - told
    worker.wait(timeout=20)
    assert live.status(run_id) == "FAILURE"
    assert set(done) <= set(live.materialized(targets)) < set(targets)
    basins, running = told_to_mlflow(live.home)
    assert set(live.materialized(targets)) <= set(basins) and running == 0
    print(f"FIGURES ended_s={ended_s:.1f}")
    assert ended_s < 90


def test_a_run_that_died_with_its_code_server_is_marked(live):
    """As after a power cut: nobody is left who saw it die."""
    run_id = live.launch(["00901003"])
    worker = live.worker_of(run_id)
    run = worker.parent()
    live.kill("code")
    run.kill()
    killed = time.monotonic()
    assert live.status(run_id) == "STARTED"
    live.start("code")
    live.wait_status(run_id, "FAILURE")
    print(f"FIGURES failed_s={time.monotonic() - killed:.1f}")
    (why,) = [
        entry.dagster_event.message
        for entry in live.instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    ]
    assert "its process was killed" in why
    wait("its worker to end", lambda: not workers(live.home))
    again = live.launch(["00901003"])
    live.wait_status(again, "SUCCESS")
