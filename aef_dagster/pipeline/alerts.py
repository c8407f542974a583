"""Telling a person of failures: the sensor that does, and what it remembers.

Here: which failures were not told yet on which channel. A sensor of Dagster's own kind for failed
runs goes on to the next run when its function fails; here each channel goes on only when it took
the message, so a dead webhook costs no message and keeps no e-mail waiting.
Not here: the words (failures.py), the sending (alert_channels.py).
Concept: https://docs.dagster.io/guides/automate/sensors
"""

import json
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from aef_dagster.pipeline.alert_channels import Channel, Log, NotSentError, open_channels
from aef_dagster.pipeline.failures import run_failed, tick_failed
from aef_dagster.settings import Settings

NAME = "tell_of_failures"
# A tick of the daemon may last 60 s; two channels with five messages of some seconds fit in.
MOST_AT_ONCE = 5
LONGEST_TICK_S = 30.0
# A channel that was dead for longer is not flooded with what is long known.
FORGET_AFTER_S = 7 * 86_400.0


class Place(NamedTuple):
    """Up to where a channel was told: a run's event, and a time for each schedule and sensor."""

    run: int
    since: float
    ticks: dict[str, float]


class Failure(NamedTuple):
    """One failure, and where a channel stands that was told of it; no record: nothing to tell."""

    after: Place
    moment: float
    found: dg.RunRecord | InstigatorTick | None


def failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor `tell_of_failures`; on by default only where a channel is set."""
    channels = open_channels(settings)
    on = dg.DefaultSensorStatus.RUNNING if channels else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=15,
        default_status=on,
        description="Tells of failed runs, schedules and sensors in plain words, by webhook or "
        "e-mail (AEF_ALERT_WEBHOOK, AEF_ALERT_EMAIL_TO); on by default where one of them is set. "
        "Without, it writes them to the log of its tick. Cancelled runs are not told.",
    )
    def tell_of_failures(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        told, cursor = tell(context, channels or [Log(context.log)], settings)
        return dg.SensorResult(cursor=cursor, skip_reason=told)

    return tell_of_failures


def tell(
    context: dg.SensorEvaluationContext, channels: Sequence[Channel], settings: Settings
) -> tuple[str, str]:
    """Tell each channel what it was not told yet; what was done in words, and the new cursor."""
    instance = context.instance
    places = {name: Place(*value) for name, value in json.loads(context.cursor or "{}").items()}
    newest = _newest(instance)
    deadline = time.monotonic() + LONGEST_TICK_S
    told = []

    for channel in channels:
        place = places.get(channel.name)
        if place is None:
            places[channel.name] = Place(newest, time.time(), {})
            told.append(f"{channel.name}: listens from now on")
            continue
        # A history that was deleted or restored counts its events anew.
        place = place._replace(run=min(place.run, newest))
        sent = 0
        for failure in _untold(instance, place):
            found = failure.found
            if found is not None and time.time() - failure.moment < FORGET_AFTER_S:
                if sent == MOST_AT_ONCE or time.monotonic() > deadline:
                    break
                summary = (
                    tick_failed(found, settings)
                    if isinstance(found, InstigatorTick)
                    else run_failed(instance, found, settings)
                )
                try:
                    channel.send(summary)
                except NotSentError as error:
                    context.log.error(f"{error}; tried again at the next tick")
                    told.append(f"{error}; tried again at the next tick")
                    break
                sent += 1
            place = failure.after
        places[channel.name] = place
        if sent:
            told.append(f"{channel.name}: told of {sent} failure{'s' if sent > 1 else ''}")
    return "; ".join(told) or "nothing failed", json.dumps(places)


def _untold(instance: dg.DagsterInstance, place: Place) -> Iterator[Failure]:
    """Failures after a place, runs first, each with the place after it."""
    changes = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(
            event_type=dg.DagsterEventType.RUN_FAILURE, after_storage_id=place.run
        ),
        limit=25,
        ascending=True,
    ).records
    for change in changes:
        place = place._replace(run=change.storage_id)
        record = instance.get_run_record_by_id(change.run_id)
        # A run that was cancelled, or deleted, is told to nobody.
        failed = record is not None and record.dagster_run.status == dg.DagsterRunStatus.FAILURE
        yield Failure(place, change.timestamp, record if failed else None)
    for state in instance.all_instigator_state():
        origin = state.instigator_origin_id
        after = place.ticks.get(origin, place.since)
        ticks = instance.get_ticks(
            origin, state.selector_id, after=after, limit=25, statuses=[TickStatus.FAILURE]
        )
        for tick in sorted(ticks, key=lambda tick: tick.timestamp):
            place = place._replace(ticks={**place.ticks, origin: tick.timestamp})
            # One message for a source that is away for a week, not one a tick.
            first = tick.tick_data.consecutive_failure_count <= 1
            tells = first and state.instigator_name != NAME
            yield Failure(place, tick.timestamp, tick if tells else None)


def _newest(instance: dg.DagsterInstance) -> int:
    found = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
    return found[0].storage_id if found else 0
