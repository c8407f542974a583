"""A run that is cancelled from its page frees its slot of the pool, and leaves MLflow in order."""

import time

import pytest

from aef_dagster_tests.faults.live import told_to_mlflow, wait, workers

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(600)]


def test_the_next_run_starts_when_one_is_cancelled(live):
    first = live.launch(["00902003", "00902004", "00902005"])
    second = live.launch(["00902006"])
    worker = live.worker_of(first)
    assert live.status(second) == "QUEUED"
    cancelled = time.monotonic()
    live.terminate(first)
    live.wait_status(first, "CANCELED")
    cancelled_s = time.monotonic() - cancelled
    worker.wait(timeout=20)
    live.wait_status(second, "STARTED", "SUCCESS")
    next_s = time.monotonic() - cancelled
    live.wait_status(second, "SUCCESS")
    wait("workers to end", lambda: not workers(live.home))
    assert told_to_mlflow(live.home)[1] == 0
    print(f"FIGURES cancelled_s={cancelled_s:.1f} next_started_s={next_s:.1f}")
    assert cancelled_s < 90 and next_s < 120
