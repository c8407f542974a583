"""What happens without anybody asking: new years of AlphaEarth, and what follows from them.

Here: the condition under which cheap assets refresh, the weekly question which years there are, and
the sensor that trains again where donors moved. Nothing that trains is ever on by itself.
Not here: the assets (assets/), telling of failures (alerts.py), what is fresh (freshness.py), steps
that outlive their run (leftovers.py). What is on by default is in docs/embeddings.md.
Concept: https://docs.dagster.io/guides/automate
"""

from collections.abc import Iterator
from typing import NamedTuple

import dagster as dg

from aef_dagster.embeddings.sources import EmbeddingSource
from aef_dagster.errors import UserError
from aef_dagster.pipeline.alerts import failure_sensor
from aef_dagster.pipeline.freshness import EMBEDDINGS, fetched_with, watch_sensor
from aef_dagster.pipeline.leftovers import leftover_sensors
from aef_dagster.pipeline.partitions import aef_years
from aef_dagster.pipeline.resources import EmbeddingsResource, WarehouseResource
from aef_dagster.settings import Settings

MODELS = dg.AssetKey("basin_models")
DRIFT = dg.AssetKey("donor_drift")
FETCH = "fetch_aef_years"
# Which edition of a year the source had when it was fetched: metadata of each year.
SOURCE_VERSION = "source_version"

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def when_inputs_change() -> dg.AutomationCondition:
    """Refresh once whatever an asset reads has other content than when it was last made.

    Not `eager()`: that one waits as long as any year is missing, and fires whenever a year is
    fetched again, though nothing in it changed.
    """
    changed = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed()
    ).with_label("content of an input changed")
    return (
        changed.since_last_handled()
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_in_progress()
    ).with_label("inputs changed, and nothing is at work on them")


class Automation(NamedTuple):
    """Jobs, schedules and sensors."""

    jobs: list
    schedules: list
    sensors: list


def build_automation(settings: Settings) -> Automation:
    """Everything that runs, or can be made to run, without anybody asking.

    Raises
    ------
    UserError
        The setting for the schedule's times is no cron expression.
    """
    fetch = dg.define_asset_job(
        FETCH,
        selection=[EMBEDDINGS],
        description="Fetch years of AlphaEarth, a run each.",
    )

    @dg.schedule(
        job=fetch,
        cron_schedule=_cron(settings),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Ask the source which years it has, and fetch those that are missing or of "
        "another edition; by default on Mondays. A year that failed is asked for again next time.",
    )
    def new_aef_years(
        context: dg.ScheduleEvaluationContext, embeddings: EmbeddingsResource
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        source = embeddings.open()
        if fetching(context.instance):
            yield dg.SkipReason("years are being fetched right now; asked again next time")
            return
        wanted = wanted_years(context.instance, source)
        asked_at = f"{context.scheduled_execution_time:%Y%m%dT%H%M}"
        for year, reason in wanted.items():
            yield dg.RunRequest(
                # A run key is obeyed once for ever: with the time in it, a failed year comes again.
                run_key=f"{year}-{asked_at}",
                partition_key=year,
                tags={"aef/reason": reason},
            )
        if not wanted:
            yield dg.SkipReason(_nothing_new(source))

    train = dg.define_asset_job(
        "train_moved_basins",
        selection=[MODELS],
        description="Train basins whose donors moved, with the Launchpad's defaults.",
    )

    @dg.asset_sensor(
        asset_key=DRIFT,
        job=train,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Off by default. After each donor_drift: trains those basins again that have a "
        "model and whose donors moved beyond the threshold, and no others.",
    )
    def retrain_moved_basins(
        context: dg.SensorEvaluationContext, event: dg.EventLogEntry, warehouse: WarehouseResource
    ) -> dg.RunRequest | dg.SkipReason:
        told = warehouse.open().frame("SELECT gauge_id FROM donor_drift WHERE moved")["gauge_id"]
        trained = context.instance.get_materialized_partitions(MODELS)
        moved = sorted(set(told) & trained)
        if not moved:
            return dg.SkipReason(f"no trained basin is among the {len(told)} whose donors moved")
        return dg.RunRequest(
            run_key=f"{event.run_id}",
            run_config={"ops": {MODELS.path[-1]: {"config": {"basins": moved}}}},
            tags={"aef/reason": f"donors of {len(moved)} basins moved"},
        )

    refresh = dg.AutomationConditionSensorDefinition(
        "refresh_what_changed",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes basin_embedding, similarity/aef, donors/aef and donor_drift again when "
        "the content of their inputs has changed. Trains nothing.",
    )
    watching = [watch_sensor(settings), failure_sensor(settings), *leftover_sensors(settings)]
    return Automation([fetch, train], [new_aef_years], [refresh, retrain_moved_basins, *watching])


def fetching(instance: dg.DagsterInstance) -> bool:
    """Whether a run is at work on embeddings: which years, only its config may say."""
    return any(
        EMBEDDINGS in (run.asset_selection or ()) or run.job_name == FETCH
        for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    )


def wanted_years(instance: dg.DagsterInstance, source: EmbeddingSource) -> dict[str, str]:
    """Years to fetch, and why: those missing here, or of another edition at the source now.

    A running year, which has no partition yet, is left out.
    """
    stored = instance.get_materialized_partitions(EMBEDDINGS)
    wanted, offered = {}, source.years()
    for key in aef_years.get_partition_keys():
        year = int(key)
        if year not in offered:
            continue
        if key not in stored:
            wanted[key] = "missing here"
        elif fetched_with(instance, key).get(SOURCE_VERSION) != source.version(year):
            wanted[key] = "of another edition at the source"
    return wanted


def _cron(settings: Settings) -> str:
    """The setting, once Dagster has taken it."""
    try:
        dg.ScheduleDefinition(job_name=FETCH, cron_schedule=settings.new_years_cron)
    except dg.DagsterInvalidDefinitionError:
        raise UserError(
            f"AEF_NEW_YEARS_CRON={settings.new_years_cron!r} is no cron expression: five fields, "
            "minute hour day month weekday; `0 6 * * 1` is Mondays at six, UTC"
        ) from None
    return settings.new_years_cron


def _nothing_new(source: EmbeddingSource) -> str:
    years, partitions = source.years(), aef_years.get_partition_keys()
    if not years:
        return "the source has a finished mean only, no years"
    finished = [year for year in years if str(year) in partitions]
    told = [f"all {len(finished)} years of the source are here"]
    if finished:
        told = [f"{told[0]}: {finished[0]} to {finished[-1]}"]
    running = [str(year) for year in years if str(year) not in partitions]
    told += [f"{', '.join(running)} is not over yet"] if running else []
    return "; ".join(told)
