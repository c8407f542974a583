"""Two runs ask for the same basins at the same time: each is trained and told once."""

import time

import pytest

from aef_dagster.pipeline.scores import collect_scores
from aef_dagster.storage.warehouse import Warehouse
from aef_dagster_tests.faults.conftest import BASINS
from aef_dagster_tests.faults.live import finished, told_to_mlflow

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


def test_two_commands(asked_twice):
    assert len(finished(asked_twice)) == len(BASINS)
    table = Warehouse(asked_twice.warehouse).frame("SELECT * FROM scores")
    assert sorted(table["gauge_id"]) == BASINS
    assert table["current"].all()
    assert not table.duplicated(["job_hash", "gauge_id", "space", "k"]).any()
    assert table["mlflow_run_id"].notna().all()
    assert told_to_mlflow(asked_twice) == (BASINS, 0)
    assert not list((asked_twice.checkpoints / ".partial").iterdir())


@pytest.mark.server
def test_two_runs_of_the_daemon(live):
    targets = ["00904001", "00904003"]
    pools = live.instance.event_log_storage
    pools.set_concurrency_slots("training", 2)
    try:
        started = time.monotonic()
        runs = [live.launch(targets) for _ in range(2)]
        for run in runs:
            live.wait_status(run, "SUCCESS")
        both_s = time.monotonic() - started
    finally:
        pools.set_concurrency_slots("training", 1)  # other tests count on one
    first, second = (live.instance.get_run_record_by_id(run) for run in runs)
    assert max(first.start_time, second.start_time) < min(first.end_time, second.end_time)
    assert live.materialized(targets) == sorted(targets * 2)  # each run tells of what it gave
    rows = collect_scores(live.home.checkpoints, "basin_models", lambda _key: None)
    assert sorted(rows[rows["gauge_id"].isin(targets)]["gauge_id"]) == targets
    basins, running = told_to_mlflow(live.home)
    assert [basin for basin in basins if basin in targets] == targets and running == 0
    print(f"FIGURES both_s={both_s:.1f}")
