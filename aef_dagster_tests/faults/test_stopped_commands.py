"""SIGTERM to a command, as a cluster's scheduler sends it: what is finished is kept and told."""

import time

import dagster as dg
import pytest

from aef_dagster_tests.faults.live import (
    MODELS,
    ended,
    finished,
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
