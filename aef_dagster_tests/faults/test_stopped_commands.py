"""A command told to end, by Ctrl-C or a cluster's scheduler: what is finished is kept and told."""

import signal
import subprocess
import time

import dagster as dg
import pytest

from aef_dagster.pipeline.servers import DEFINITIONS
from aef_dagster_tests.deploy.postgres import free_port
from aef_dagster_tests.deploy.processes import graphql, program
from aef_dagster_tests.faults.live import (
    LAUNCH,
    MODELS,
    ended,
    environment,
    finished,
    launched,
    start_training,
    told_to_mlflow,
    wait,
    workers,
)

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

TARGETS = ["00901001", "00902001", "00903001"]
STOPPED = 130


def test_a_command_told_to_end_keeps_what_is_finished_and_goes_on(home):
    def materialized():
        return instance.get_materialized_partitions(MODELS)

    instance = dg.DagsterInstance.from_config(str(home.root / "dagster"))
    command = start_training(home, TARGETS)
    try:
        done = wait("a finished basin", materialized)
        told = time.monotonic()
        command.terminate()
        said = ended(command, code=STOPPED)
        ended_s = time.monotonic() - told
        assert "what is finished is kept, and the same command goes on" in said
        assert workers(home) == []
        (run,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED]))
        assert MODELS in run.asset_selection
        kept = materialized()
        assert done <= kept < set(TARGETS)
        whole = len(finished(home))
        assert len(kept) <= whole < len(TARGETS)
        basins, running = told_to_mlflow(home)
        # What was just being told is left running, and ended by the next that sends.
        assert kept <= set(basins) and running <= 1

        again = ended(start_training(home, TARGETS))
        assert f"{whole} models reused" in again
        assert materialized() == set(TARGETS)
        assert told_to_mlflow(home) == (TARGETS, 0)
        print(f"FIGURES ended_s={ended_s:.1f} kept={len(kept)}")
        assert ended_s < 90
    finally:
        instance.dispose()
        if command.poll() is None:
            command.kill()


@pytest.mark.server
def test_pages_that_are_closed_cancel_what_runs_in_them(home):
    def status(run_id):
        return instance.get_run_by_id(run_id).status.value

    def partitions():
        return instance.get_materialized_partitions(MODELS)

    ports = free_port(), free_port()
    pages = subprocess.Popen(
        [program("aef"), "dev", "--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])],
        cwd=home.root, env=environment(home), stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    instance = dg.DagsterInstance.from_config(str(home.root / "dagster"))
    try:
        for line in pages.stdout:
            if "Ctrl-C" in line:
                break
        page = f"http://127.0.0.1:{ports[0]}"
        at_work, queued = (
            graphql(page, LAUNCH, launched(targets, DEFINITIONS))["launchRun"]["run"]
            for targets in (TARGETS, ["00901004"])
        )
        done = wait("a finished basin", partitions)
        told = time.monotonic()
        pages.send_signal(signal.SIGINT)
        said = ended(pages)
        ended_s = time.monotonic() - told
        assert f"cancelling run {at_work['runId'][:8]}; what is finished is kept" in said
        assert status(at_work["runId"]) == "CANCELED"
        # One slot of the pool: it waits for the next `aef dev`.
        assert status(queued["runId"]) == "QUEUED"
        assert done <= partitions() < set(TARGETS)
        assert workers(home) == []
        assert partitions() <= set(told_to_mlflow(home)[0])
        print(f"FIGURES ended_s={ended_s:.1f}")
        assert ended_s < 20  # 32 before runs were cancelled
    finally:
        instance.dispose()
        if pages.poll() is None:
            pages.kill()
