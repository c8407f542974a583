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
import yaml

from aef_dagster.errors import UserError
from aef_dagster.models.devices import count_devices
from aef_dagster.pipeline.executors import stop_steps_of_ended_runs
from aef_dagster.pipeline.failures import interrupted, sentence_of
from aef_dagster.pipeline.liveness import cause_of_death, own_tags
from aef_dagster.settings import Settings, load_settings

logger = logging.getLogger("aef_dagster")

# Links to files of the checkout; a wheel gets copies.
TEMPLATES = {"sqlite": "dagster.yaml", "postgres": "dagster.postgres.yaml"}
# A slot of it is a device: steps in it are those that train.
TRAINING = "training"
POOLS = (TRAINING, "earth_engine")
SLOTS_NOTE = "aef/training_slots"
_OWN_FOLDER = "var/dagster"
_HEADER = "# Rendered by aef from the checkout's dagster.yaml, again at each command."


def missing_variables(settings: Settings) -> list[str]:
    """Variables that say where Dagster's database is, and are not set."""
    template = Path(__file__).parents[1] / TEMPLATES[settings.dagster_storage]
    storage = yaml.safe_load(template.read_text())["storage"]
    database = storage.get("postgres", {}).get("postgres_db", {})
    asked = [value["env"] for value in database.values() if isinstance(value, dict)]
    return [name for name in asked if name not in os.environ]


def render_instance(settings: Settings) -> Path:
    """Write `dagster.yaml` of this home, with absolute paths; returns the DAGSTER_HOME folder."""
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    template = Path(__file__).parents[1] / TEMPLATES[settings.dagster_storage]
    text = template.read_text().replace(_OWN_FOLDER, str(folder))
    yaml.safe_load(text)  # a home whose name breaks the file should fail here
    if missing := missing_variables(settings):
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
        tags={**(tags or {}), **own_tags()},
        raise_on_error=False,
    )
    if not result.success:
        if _interrupted(result):
            instance.report_run_canceled(result.dagster_run)
            raise KeyboardInterrupt
        raise UserError(_cause(result))
    return result


def open_pools(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Give each pool its limit now: in the first pass that meets it, the queue has none.

    `training` has a slot a device, and follows when their number changes. What was set is noted in
    the instance, so that a limit that a person set by hand is known by being another: it stays,
    until it is set back to the number noted. Noted too are the machine that set it, and whether
    AEF_TRAINING_SLOTS said so: a machine that only counts its devices lowers nothing of another's,
    and changes nothing that another was told.
    """
    storage, notes = instance.event_log_storage, instance.daemon_cursor_storage
    limits = {limit.name: limit for limit in storage.get_pool_limits()}
    for pool in POOLS:
        if pool != TRAINING and pool not in limits:
            storage.initialize_concurrency_limit_to_default(pool)
    now, slots = limits.get(TRAINING), training_slots(settings)
    told, here = settings.training_slots is not None, socket.gethostname()
    # One value, "4 gauge1 told": of two, Dagster drops the one that is new beside one that is not.
    noted = notes.get_cursor_values({SLOTS_NOTE}).get(SLOTS_NOTE, "")
    number, host, how = [*noted.split(), "", "", ""][:3]
    if now is not None and not now.from_default:
        of_a_person = str(now.limit) != number
        of_another = host != here and not told and (how == "told" or slots < now.limit)
        if of_a_person or of_another:
            return
    note = f"{slots} {here} {'told' if told else 'counted'}"
    if now is None or now.from_default or now.limit != slots:
        storage.set_concurrency_slots(TRAINING, slots)
    if note != noted:
        notes.set_cursor_values({SLOTS_NOTE: note})


def training_slots(settings: Settings) -> int:
    """Runs that may train at once: as set, else by the GPUs of this machine, else one."""
    if settings.training_slots is not None:
        return settings.training_slots
    if settings.device == "cpu":
        return 1
    return max(1, count_devices() // (settings.step_gpus or 1))


def bury_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs whose process was killed: where no daemon looks, they would run for ever.

    What they left on a cluster is stopped; one that cannot be reached is told in a warning.
    """
    buried = False
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        cause = cause_of_death(instance, run)
        if cause is None:
            continue
        # It may have ended, as it should, while its process was looked for.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(now, cause)
            buried = True
    if buried:
        try:
            stop_steps_of_ended_runs(instance, load_settings())
        except UserError as error:
            logger.warning("a run was marked as failed, but %s", error)


def quiet_dagster() -> None:
    """Leave the terminal to the progress bar: Dagster's own lines are in the UI."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a signal ended the run."""
    failures = [event for event in result.all_events if event.is_step_failure]
    return any(interrupted(event.step_failure_data.error) for event in failures)


def _cause(result: dg.ExecuteInProcessResult) -> str:
    failures = [event for event in result.all_events if event.is_step_failure]
    sentences = [f"{event.step_key}: {sentence_of(event).sentence}" for event in failures]
    return "; ".join(sentences) or "the run failed before its first step; see the Dagster page"
