"""What the tests of Ray ask of Dagster, and how they see what trains. Not here: servers, head."""

from contextlib import suppress

import dagster as dg
import psutil

from aef_dagster_tests.faults.live import LAUNCH, MODELS, REPOSITORY

LIMIT_S = 300
BACKFILL = """mutation($params: LaunchBackfillParams!)
  { launchPartitionBackfill(backfillParams: $params)
    { ... on LaunchBackfillSuccess { backfillId } } }"""


def backfill(servers, keys) -> str:
    """Ask for a backfill of `basin_models`; its id."""
    told = servers.ask(
        BACKFILL, params={"assetSelection": [{"path": MODELS.path}], "partitionNames": keys}
    )
    return told["launchPartitionBackfill"]["backfillId"]


def launch(servers, **config) -> str:
    """Ask for one run, as the Launchpad does; its id. The daemon takes 30 s to see a backfill."""
    told = servers.ask(LAUNCH, params={
        "selector": {**REPOSITORY, "jobName": "__ASSET_JOB",
                     "assetSelection": [{"path": MODELS.path}]},
        "runConfigData": {"ops": {"basin_models": {"config": config}}},
    })["launchRun"]  # fmt: skip
    return told["run"]["runId"]


def two_trainings():
    """Steps with a worker process under them, each with its Ray worker; once there are two."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "aef_dagster.models.worker" not in (process.info["cmdline"] or ()):
            continue
        with suppress(psutil.NoSuchProcess):
            above = process.parents()
            ray = [up for up in above if "JobSupervisor" in " ".join(up.cmdline())]
            found += [(above[0], ray[0])] if ray else []
    return found if len(found) == 2 else None


def runs_of(instance, backfill_id):
    """Runs of a backfill."""
    return instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))


def events(instance, run_id, kind):
    """Events of a run that are of a kind."""
    logged = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
    return [event for event in logged if event.event_type_value == kind]
