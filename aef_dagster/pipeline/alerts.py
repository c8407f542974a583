"""Telling a person of failures: the sensor that does, and what it remembers.

Here: which failures were not told yet on which channel. A sensor of Dagster's own kind for failed
runs goes on to the next run when its function fails; here each channel goes on only when it took
the message, so a dead webhook costs no message and keeps no e-mail waiting.
Not here: the words (failures.py), the sending (alert_channels.py).
Concept: https://docs.dagster.io/guides/automate/sensors
"""

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus

from aef_dagster.pipeline.alert_channels import (
    Channel,
    Log,
    NotSentError,
    Summary,
    open_channels,
)
from aef_dagster.pipeline.failures import run_failed, tick_failed, without_words
from aef_dagster.settings import Settings

NAME = "tell_of_failures"
# A tick of the daemon may last 60 s. Each of two channels begins messages for so long, and its last
# one takes 10 s more by webhook, 15 s by e-mail.
MOST_AT_ONCE = 5
BEGINS_S = 10.0
# A channel that was dead for longer is not flooded with what is long known.
FORGET_AFTER_S = 7 * 86_400.0


class Place(NamedTuple):
    """Up to where a channel was told: a run's event, and a time for each schedule and sensor.

    `told` are schedules and sensors of whose present failing the channel was told.
    """

    run: int
    since: float
    ticks: dict[str, float]
    told: Sequence[str] = ()


class Failure(NamedTuple):
    """One failure, and where a channel stands that was told of it; no record: nothing to tell."""

    after: Place
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
    told = []

    for channel in channels:
        place = places.get(channel.name)
        if place is None:
            places[channel.name] = Place(newest, time.time(), {})
            told.append(f"{channel.name}: listens from now on")
            continue
        # A history that was deleted or restored counts its events anew.
        place = place._replace(run=min(place.run, newest))
        places[channel.name], done = _tell_one(context, channel, place, settings)
        told += done
    return "; ".join(told) or "nothing failed", json.dumps(places)


def _tell_one(
    context: dg.SensorEvaluationContext, channel: Channel, place: Place, settings: Settings
) -> tuple[Place, list[str]]:
    """Tell one channel; where it stands now, and what was done in words."""
    deadline = time.monotonic() + BEGINS_S
    sent, told = 0, []
    try:
        for failure in _untold(context.instance, place):
            if failure.found is not None:
                if sent == MOST_AT_ONCE or time.monotonic() > deadline:
                    break
                channel.send(_in_words(context, failure.found, settings))
                sent += 1
            place = failure.after
    except NotSentError as error:
        told.append(f"{error}; tried again at the next tick")
        context.log.error(told[-1])
    except Exception as error:
        # A tick that fails keeps no cursor: both channels would be told all of it again.
        told.append(f"{channel.name}: {_odd(error)}; tried again at the next tick")
        context.log.error(f"{told[-1]}\n{_way_to(error)}")
    if sent:
        told.append(f"{channel.name}: told of {sent} failure{'s' if sent > 1 else ''}")
    return place, told


def _in_words(
    context: dg.SensorEvaluationContext, found: dg.RunRecord | InstigatorTick, settings: Settings
) -> Summary:
    """What to tell of a failure; where its records cannot be read, only that it is one."""
    try:
        if isinstance(found, InstigatorTick):
            return tick_failed(found, settings)
        return run_failed(context.instance, found, settings)
    except Exception as error:
        context.log.error(f"a failure has no words: {_odd(error)}\n{_way_to(error)}")
        return without_words(found, settings)


def _odd(error: Exception) -> str:
    # Not its message, which may hold the webhook's address or the password.
    return f"unexpected {type(error).__name__}"


def _way_to(error: Exception) -> str:
    return "".join(traceback.format_tb(error.__traceback__))


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
        yield Failure(place, record if failed and _recent(change.timestamp) else None)
    for state in instance.all_instigator_state():
        if state.instigator_name != NAME:
            for failure in _untold_ticks(instance, place, state):
                place = failure.after
                yield failure


def _untold_ticks(
    instance: dg.DagsterInstance, place: Place, state: InstigatorState
) -> Iterator[Failure]:
    """Failures of one schedule or sensor: of each unbroken row of them the first not yet told.

    One message for a source that is away for a week, not one a tick. Which is the first goes by
    what the channel was told: of a longer row only the newest 25 are read, and the channel may
    have been dead for longer than that.
    """
    origin = state.instigator_origin_id
    after = place.ticks.get(origin, place.since)
    ticks = instance.get_ticks(
        origin, state.selector_id, after=after, limit=25, statuses=[TickStatus.FAILURE]
    )
    for number, tick in enumerate(sorted(ticks, key=lambda tick: tick.timestamp)):
        worked = tick.consecutive_failure_count <= 1 or (
            number == 0 and _worked(instance, state, after, tick.timestamp)
        )
        known = origin in place.told and not worked
        tells = not known and _recent(tick.timestamp)
        told = {*place.told} - {origin} | ({origin} if known or tells else set())
        place = place._replace(ticks={**place.ticks, origin: tick.timestamp}, told=sorted(told))
        yield Failure(place, tick if tells else None)


def _worked(
    instance: dg.DagsterInstance, state: InstigatorState, after: float, before: float
) -> bool:
    """Whether a schedule or sensor did its work between two moments."""
    good = [TickStatus.SUCCESS, TickStatus.SKIPPED]
    return bool(
        instance.get_ticks(
            state.instigator_origin_id, state.selector_id, before, after, limit=1, statuses=good
        )
    )


def _recent(moment: float) -> bool:
    return time.time() - moment < FORGET_AFTER_S


def _newest(instance: dg.DagsterInstance) -> int:
    found = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
    return found[0].storage_id if found else 0
