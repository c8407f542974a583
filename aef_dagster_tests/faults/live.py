"""A prepared home in use by real processes, commands and servers, for tests that strike them.

Not here: the faults themselves (test_killed_*.py).
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psutil

from aef_dagster.pipeline.instance import render_instance
from aef_dagster.settings import load_settings
from aef_dagster.storage.home import Home
from aef_dagster.storage.tracking import EXPERIMENT
from aef_dagster_tests.deploy.processes import Servers, program

MODELS = dg.AssetKey("basin_models")
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "aef_dagster"}
LIMIT_S = 120
# Seconds between two states that a training keeps (models/training.py).
KEEP_EVERY_S = 20

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params)
  { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""

TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) { __typename } }"""


def copied(prepared: Path, target: Path) -> Home:
    """A home of its own, as prepared."""
    shutil.copytree(prepared, target)
    render_instance(load_settings(home=target))
    return Home(target)


def environment(home: Home, **more: str) -> dict[str, str]:
    """Variables of a process that works in a home."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    return clean | {
        "AEF_HOME": str(home.root), "DAGSTER_HOME": str(home.root / "dagster"), **more,
    }  # fmt: skip


def start_training(home: Home, targets: list[str], *options: str, **more: str) -> subprocess.Popen:
    """`aef train` of small models, one worker, as a process."""
    return subprocess.Popen(
        [program("aef"), "train", *targets, "--budget", "toy", "--workers", "1", *options],
        cwd=home.root, env=environment(home, **more), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(command: subprocess.Popen, code: int = 0) -> str:
    """What a command said, once it has ended with a code."""
    try:
        told, _ = command.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        command.kill()
        raise
    assert command.returncode == code, told
    assert "Traceback" not in told, told
    return told


def finished(home: Home) -> list[str]:
    """Hashes of the models that are whole."""
    return sorted(path.parent.name for path in home.checkpoints.glob("*/manifest.json"))


def weights(home: Home) -> dict[str, str]:
    """From each basin to the sha256 of its model's weights."""
    found = {}
    for folder in (home.checkpoints / job for job in finished(home)):
        (scored,) = json.loads((folder / "scores.json").read_text())
        content = (folder / "weights.safetensors").read_bytes()
        found[scored["gauge_id"]] = hashlib.sha256(content).hexdigest()
    return found


def told_to_mlflow(home: Home) -> tuple[list[str], int]:
    """Gauge id of each run in a home's MLflow, in order, and how many runs are not ended."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home.mlflow_db}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    basins = [run.data.tags["gauge_id"] for run in runs if "gauge_id" in run.data.tags]
    return sorted(basins), sum(run.info.status == "RUNNING" for run in runs)


def workers(home: Home) -> list[psutil.Process]:
    """Worker processes that train for a home."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "aef_dagster.models.worker" in words and str(home.checkpoints) in words:
            found.append(process)
    return found


def wait(what: str, happened: Callable[[], object], limit_s: float = LIMIT_S, every_s=0.05):
    """What `happened` gives once it is true."""
    deadline = time.monotonic() + limit_s
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited {limit_s:.0f} s for {what}"
        time.sleep(every_s)
    return found


def launched(targets: list[str], location: str = "aef_dagster") -> dict[str, dict]:
    """Variables of LAUNCH for a run of small models, one worker, in a code location."""
    config = {"basins": targets, "budget": "toy", "workers": 1}
    return {"params": {
        "selector": {**REPOSITORY, "repositoryLocationName": location,
                     "jobName": "__ASSET_JOB",
                     "assetSelection": [{"path": MODELS.path}]},
        "runConfigData": {"ops": {"basin_models": {"config": config}}},
    }}  # fmt: skip


class Live(Servers):
    """Code location, webserver and daemon of a home, the models they make, and blows to them."""

    def __init__(self, home: Home, folder: Path):
        super().__init__(folder, environment(home, AEF_NEW_YEARS_CRON="* * * * *"))
        self.home = home
        self.instance = dg.DagsterInstance.from_config(str(home.root / "dagster"))

    def kill(self, name: str) -> None:
        """SIGKILL to a server alone; what it started lives on."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def launch(self, targets: list[str]) -> str:
        """Queue a run of small models, as the Launchpad does; its id."""
        return self.ask(LAUNCH, **launched(targets))["launchRun"]["run"]["runId"]

    def status(self, run_id: str) -> str:
        """Status of a run."""
        return self.instance.get_run_by_id(run_id).status.value

    def wait_status(self, run_id: str, *statuses: str) -> float:
        """Seconds until a run had one of these statuses."""
        started = time.monotonic()

        def there() -> bool:
            record = self.instance.get_run_by_id(run_id)
            told = [entry.message for entry in self.instance.all_logs(run_id)][-5:]
            wrong = record.is_finished and record.status.value not in statuses
            assert not wrong, f"{run_id} ended as {record.status.value}: {told}"
            return record.status.value in statuses

        self.wait(f"{statuses} of {run_id}", there)
        return time.monotonic() - started

    def worker_of(self, run_id: str) -> psutil.Process:
        """The worker of the run that trains now; its parent is the run's process."""
        self.wait_status(run_id, "STARTED")
        return wait("a worker", lambda: workers(self.home))[0]

    def materialized(self, targets: list[str]) -> list[str]:
        """Partition of each materialization of these basins, in order of basins."""
        found = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(MODELS, asset_partitions=targets), limit=100
        ).records
        return sorted(record.partition_key for record in found)

    def terminate(self, run_id: str) -> None:
        """Cancel a run, as its page does."""
        told = self.ask(TERMINATE, id=run_id)["terminateRun"]
        assert told["__typename"] == "TerminateRunSuccess", told

    def close(self) -> None:
        """End all servers, and every process of the home that is left."""
        self.stop_all()
        self.instance.dispose()
        for worker in workers(self.home):
            worker.kill()
