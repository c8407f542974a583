"""The Dagster instance of one home, and runs started from the command line.

Here: rendering dagster.yaml into the home, and `materialize`, which runs assets in this process
on that instance, so that every command shows in the UI afterwards.
Not here: runs that the UI or the daemon start.
"""

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import psutil
import yaml

from aef_dagster.errors import UserError
from aef_dagster.settings import Settings

# Links to files of the checkout; a wheel gets copies.
TEMPLATES = {"sqlite": "dagster.yaml", "postgres": "dagster.postgres.yaml"}
POOLS = ("training", "earth_engine")
PID_TAG, HOST_TAG = "aef/pid", "aef/host"
_OWN_FOLDER = "var/dagster"
_HEADER = "# Rendered by aef from the checkout's dagster.yaml, again at each command."


def render_instance(settings: Settings) -> Path:
    """Write `dagster.yaml` of this home, with absolute paths; returns the DAGSTER_HOME folder."""
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    template = Path(__file__).parents[1] / TEMPLATES[settings.dagster_storage]
    text = template.read_text().replace(_OWN_FOLDER, str(folder))
    parsed = yaml.safe_load(text)  # a home whose name breaks the file should fail here
    database = parsed["storage"].get("postgres", {}).get("postgres_db", {})
    asked = [value["env"] for value in database.values() if isinstance(value, dict)]
    missing = [name for name in asked if name not in os.environ]
    if missing:
        raise UserError(
            f"AEF_DAGSTER_STORAGE=postgres needs {', '.join(missing)} in the environment; see "
            "deploy/README.md"
        )
    target = folder / "dagster.yaml"
    # A file that someone wrote for this home (PostgreSQL, another launcher) is theirs.
    if not target.exists() or target.read_text().startswith(_HEADER):
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(f"{_HEADER} To change it, delete this line.\n{text}")
        temporary.replace(target)
    return folder


def materialize(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: Sequence[dg.AssetKey | str],
    *,
    config: dict[str, dict] | None = None,
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialize assets in this process, on the home's instance.

    Parameters
    ----------
    selection
        Asset keys, as `donors/aef` or AssetKey.
    config
        Config by asset (`donors__aef` for `donors/aef`).

    Raises
    ------
    UserError
        A step failed: with the step's own sentence.
    KeyboardInterrupt
        The run was stopped by Ctrl-C or SIGTERM; it is canceled in the pages.
    """
    keys = [dg.AssetKey.from_user_string(k) if isinstance(k, str) else k for k in selection]
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        run_config={
            "ops": {name: {"config": values} for name, values in (config or {}).items()},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        instance=instance,
        asset_selection=keys,
        tags={**(tags or {}), PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname()},
        raise_on_error=False,
    )
    if not result.success:
        if _interrupted(result):
            instance.report_run_canceled(result.dagster_run)
            raise KeyboardInterrupt
        raise UserError(_cause(result))
    return result


def open_pools(instance: dg.DagsterInstance) -> None:
    """Give each pool its default limit now: in the first pass that meets it, the queue has none."""
    known = {limit.name for limit in instance.event_log_storage.get_pool_limits()}
    for pool in POOLS:
        if pool not in known:
            instance.event_log_storage.initialize_concurrency_limit_to_default(pool)


def bury_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of commands that were killed: nobody else would, and they would run for ever."""
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED], tags={HOST_TAG: socket.gethostname()}
    )
    for run in instance.get_runs(unfinished):
        if not psutil.pid_exists(int(run.tags[PID_TAG])):
            instance.report_run_failed(run, "the command that ran it was killed")


def quiet_dagster() -> None:
    """Leave the terminal to the progress bar: Dagster's own lines are in the UI."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a signal ended the run; Dagster, and DuckDB in a query, turn it into errors."""
    failures = [event for event in result.all_events if event.is_step_failure]
    errors = [event.step_failure_data.error for event in failures]
    return any(
        error is not None
        and ("Interrupt" in (error.cls_name or "") or "Query interrupted" in error.to_string())
        for error in errors
    )


def _cause(result: dg.ExecuteInProcessResult) -> str:
    failures = [event for event in result.all_events if event.is_step_failure]
    sentences = []
    for event in failures:
        data = event.step_failure_data
        failure, error = data.user_failure_data, data.error
        if failure is not None and failure.description:
            told = failure.description
        elif error is not None:
            innermost = error
            while innermost.cause is not None:
                innermost = innermost.cause
            told = innermost.message.strip().removeprefix("aef_dagster.errors.")
            told = told.removeprefix("UserError: ").removeprefix("DataFileError: ")
        else:
            told = "failed"
        sentences.append(f"{event.step_key}: {told}")
    return "; ".join(sentences) or "the run failed before its first step; see the Dagster page"
