"""Dagster and MLflow on a real PostgreSQL: restarts lose nothing, passwords are shown nowhere."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
from mlflow import MlflowClient

from aef_dagster.storage.tracking import EXPERIMENT, TrackedRun, Tracking
from aef_dagster_tests.deploy.postgres import PASSWORDS
from aef_dagster_tests.deploy.processes import Servers, program

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(360)]

INSTANCE = Path(__file__).parents[2] / "deploy" / "dagster.postgres.yaml"
# Not neighbours: a run each, of which the pool lets one run at a time.
TARGETS = ["00901001", "00903001"]
MODELS = dg.AssetKey("basin_models")
SECRETS = ("Sluice", "Weir")
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "aef_dagster"}
SCHEDULE = {**REPOSITORY, "scheduleName": "new_aef_years"}

LAUNCH = """mutation($params: LaunchBackfillParams!)
  { launchPartitionBackfill(backfillParams: $params)
    { ... on LaunchBackfillSuccess { backfillId } } }"""
START = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector)
  { __typename } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id)
  { ... on PartitionBackfill { status } } }"""
TICKS = """query($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector)
  { ... on Schedule { scheduleState { status ticks { timestamp status } } } } }"""


@pytest.fixture
def home(cluster, tmp_path, monkeypatch):
    """Settings of a prepared sample home whose instance and MLflow are on PostgreSQL."""
    folder = tmp_path / "var" / "dagster"
    folder.mkdir(parents=True)
    shutil.copy(INSTANCE, folder / "dagster.yaml")
    environment = cluster.environment() | {
        "AEF_HOME": str(folder.parent),
        "AEF_TRACKING_URI": cluster.url("mlflow"),
        "AEF_NEW_YEARS_CRON": "* * * * *",
        "DAGSTER_HOME": str(folder),
    }
    for command in (
        # As deploy/README.md says: a pool is without limit in the first pass that meets it.
        [program("dagster"), "instance", "concurrency", "set", "training", "1"],
        [program("aef"), "prepare"],
    ):
        # MLflow makes its folder for files where it is called from.
        subprocess.run(command, env=os.environ | environment, cwd=tmp_path, check=True)
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def servers(home, tmp_path):
    """Code location and webserver, up; the daemon is started by the test."""
    found = Servers(tmp_path, home)
    try:
        found.start("code")
        found.start("webserver")
        yield found
    finally:
        found.stop_all()


@pytest.fixture
def instance(home):
    with dg.DagsterInstance.from_config(home["DAGSTER_HOME"]) as found:
        yield found


def test_roles_enter_their_own_database_only(cluster):
    for role, other in (("dagster", "mlflow"), ("mlflow", "dagster")):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            psycopg2.connect(
                host="127.0.0.1", port=cluster.port, user=role, password=PASSWORDS[role],
                dbname=other,
            )  # fmt: skip
    log = (cluster.sockets / "server.log").read_text()
    assert "CREATE DATABASE dagster" not in log  # the script's statements hold passwords
    assert not [secret for secret in SECRETS if secret in log]


def test_a_backfill_and_a_schedule_outlive_daemon_and_webserver(
    servers, instance, home, cluster, tmp_path
):
    def of_status(*statuses):
        return [
            run for run in instance.get_runs(dg.RunsFilter(statuses=list(statuses)))
            if MODELS in (run.asset_selection or ())
        ]  # fmt: skip

    def ticks():
        state = servers.ask(TICKS, selector=SCHEDULE)["scheduleOrError"]["scheduleState"]
        assert state["status"] == "RUNNING"
        return sorted(tick["timestamp"] for tick in state["ticks"] if tick["status"] == "SKIPPED")

    assert servers.ask(START, selector=SCHEDULE)["startSchedule"]["__typename"] == (
        "ScheduleStateResult"
    )
    servers.start("daemon")
    before = servers.wait("a tick of the schedule", ticks)
    launched = servers.ask(
        LAUNCH, params={"assetSelection": [{"path": MODELS.path}], "partitionNames": TARGETS}
    )["launchPartitionBackfill"]
    backfill = launched["backfillId"]
    servers.wait("the first run to start", lambda: of_status(dg.DagsterRunStatus.STARTED))
    shown = servers.ask("{ instance { info } }")["instance"]["info"]
    assert "PostgresRunStorage" in shown
    commands = servers.commands()
    assert [word for word in SECRETS if word in shown + commands] == []
    servers.stop("daemon")
    servers.stop("webserver")

    # What only the database remembers now: a run that trains, one that waits for the pool.
    queued = of_status(dg.DagsterRunStatus.QUEUED)
    assert len(queued) == 1 and queued[0].tags["dagster/backfill"] == backfill

    servers.start("webserver")
    servers.start("daemon")
    assert ticks()[: len(before)] == before
    servers.wait(
        "the backfill to end",
        lambda: (
            servers.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"]
            == "COMPLETED_SUCCESS"
        ),
    )
    after = servers.wait("a tick of the new daemon", lambda: later(ticks(), before[-1]))
    assert len({int(moment // 60) for moment in after}) == len(after), "one tick a minute"

    made = instance.fetch_materializations(MODELS, limit=10).records
    assert sorted(record.partition_key for record in made) == TARGETS
    assert len(of_status(dg.DagsterRunStatus.SUCCESS)) == 2
    first, second = sorted(instance.get_run_records(dg.RunsFilter(
        tags={"dagster/backfill": backfill})), key=lambda record: record.start_time)  # fmt: skip
    assert second.start_time >= first.end_time, "one training at a time, across the restart"

    servers.stop_all()
    client = MlflowClient(tracking_uri=cluster.url("mlflow"))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    told = [run.data.tags.get("gauge_id") for run in client.search_runs([experiment.experiment_id])]
    assert sorted(gauge_id for gauge_id in told if gauge_id) == TARGETS
    written = {
        "logs": servers.logs(), "history": cluster.dump("dagster"), "runs": cluster.dump("mlflow"),
        "files": "".join(p.read_text() for p in tmp_path.rglob("*")
                         if p.suffix in (".json", ".yaml", ".out", ".err", ".html")),
    }  # fmt: skip
    assert TARGETS[0] in written["history"] and TARGETS[0] in written["runs"]
    assert [name for name, text in written.items() for word in SECRETS if word in text] == []


def test_mlflow_on_postgresql_keeps_a_run_and_hides_its_password(
    cluster, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    tracking = Tracking(cluster.url("mlflow"), tmp_path / "outbox", tmp_path / "files", "http://x")
    tracking.setup()
    tracking.enqueue(record("kept"))
    assert tracking.drain().sent == 1
    assert tracking.run_id("kept") in cluster.dump("mlflow")

    # MLflow itself would try ten times, 100 s in all; a wrong password is told at once.
    wrong = Tracking(
        cluster.url("mlflow").replace("Weir", "WeirWrong"), tmp_path / "other", tmp_path / "files",
        "http://x",
    )  # fmt: skip
    wrong.enqueue(record("waits"))
    with caplog.at_level(logging.DEBUG):
        outcome = wrong.drain()
    assert outcome.waiting == 1 and "password authentication failed" in outcome.error
    ledger = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for text in (caplog.text, outcome.error, ledger):
        assert "Weir" not in text


def later(ticks, moment):
    """All ticks, once the last of them is later than a moment."""
    return ticks if ticks[-1] > moment else []


def record(key):
    return TrackedRun(
        key=key, parent_key="study", parent_name="study", name=key, started=100.0, ended=110.0,
        tags={"gauge_id": "none"}, parent_tags={}, params={"k": "8"}, metrics={"nse": 0.5},
        curve=[("valid_nse", 0, 0.1)],
    )  # fmt: skip
