"""A failure in plain words: which run, what failed and why, what is kept, what to do next.

Here: reading what Dagster wrote down of a failed run, or of a schedule or sensor that failed.
Not here: when somebody is told (alerts.py), and how (alert_channels.py).
"""

import re
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick, InstigatorType
from dagster._utils.error import SerializableErrorInfo

from aef_dagster.pipeline.alert_channels import Summary
from aef_dagster.pipeline.liveness import is_launched
from aef_dagster.settings import Settings, masked

# Errors whose sentence says what to mend; any other is a bug.
MENDABLE = ("UserError", "DataFileError")
UNITS = {"basin_models": "basin", "aef_embeddings": "year"}
LONGEST_SENTENCE = 600
MOST_NAMES = 10
MOST_REASONS = 8
_HEADLINE = re.compile(r"\d+ of \d+ \w+ failed")
_DIED = re.compile(r"Step \S+ failed health check: (.*)", re.DOTALL)


@dataclass(frozen=True)
class Reason:
    """Why something failed.

    Attributes
    ----------
    sentence
        In words.
    names
        The partitions (basins, years) that it is the reason for; none if for the whole asset.
    mendable
        Whether the sentence says what to mend; else it is a bug.
    """

    sentence: str
    names: tuple[str, ...] = ()
    mendable: bool = True


@dataclass(frozen=True)
class FailedStep:
    """A failed asset of a run: its name, a line such as `2 of 64 basins failed`, the reasons."""

    asset: str
    headline: str
    reasons: tuple[Reason, ...]


@dataclass
class RunFacts:
    """What a run's events tell: failed steps, and assets planned and made with their partitions."""

    failed: list[FailedStep] = field(default_factory=list)
    planned: set[str] = field(default_factory=set)
    made: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ending: str = ""


def sentence_of(event: dg.DagsterEvent) -> Reason:
    """Why a step failed, as one sentence: the asset's own, or that of the innermost error."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return Reason(data.user_failure_data.description)
    reason = error_in_words(data.error)
    # A step on another machine that died: no bug of ours, and the executor says what to do.
    died = _DIED.match(reason.sentence)
    return Reason(died[1]) if died else reason


def error_in_words(error: SerializableErrorInfo | None) -> Reason:
    """What a person can mend in an error that Dagster wrapped; else its innermost cause."""
    if error is None:
        return Reason("failed", mendable=False)
    while error.cause is not None and error.cls_name not in MENDABLE:
        error = error.cause
    name = error.cls_name or "Exception"
    told = error.message.strip().removeprefix("aef_dagster.errors.").removeprefix(f"{name}: ")
    return Reason(told, mendable=name in MENDABLE)


def interrupted(error: SerializableErrorInfo | None) -> bool:
    """Whether a signal ended the step; Dagster, and DuckDB in a query, turn it into errors."""
    return error is not None and (
        "Interrupt" in (error.cls_name or "") or "Query interrupted" in error.to_string()
    )


def run_failed(instance: dg.DagsterInstance, record: dg.RunRecord, settings: Settings) -> Summary:
    """What a person should know of a failed run.

    Parameters
    ----------
    record
        The run, ended.
    settings
        For the link, and to say whose run it was.
    """
    run = record.dagster_run
    facts = _facts(instance, run.run_id)
    link = _page(settings, f"runs/{run.run_id}")
    by, again = _started_by(run)
    lasted = _duration(record)
    lines = [f"{_where(settings)}. Started by {by}{lasted}.", *_asked(run)]
    lines += ["", "What failed:"]
    for step in facts.failed:
        lines += _step_lines(step)
    if not facts.failed:
        lines.append(f"- the run was ended from outside: {_short(facts.ending)}")
    lines += ["", "What is kept:", *_kept_lines(facts)]
    lines += ["", f"What to do: {_next_step(facts, again)}", "", f"The run: {link}"]
    short = run.run_id[:8]
    return Summary(
        title=f"aef: run {short} failed: {_title(facts)}",
        text=masked("\n".join(lines)),
        details={
            "kind": "run",
            "run_id": run.run_id,
            "link": link,
            "dataset": settings.dataset,
            "started_by": by,
            "began": record.start_time,
            "ended": record.end_time,
            "failed": [
                {"asset": step.asset, "names": list(reason.names),
                 "reason": _short(reason.sentence), "mendable": reason.mendable}
                for step in facts.failed for reason in step.reasons
            ],
            "kept": {asset: sorted(keys) for asset, keys in facts.made.items()},
        },
    )  # fmt: skip


def tick_failed(tick: InstigatorTick, settings: Settings) -> Summary:
    """What a person should know of a schedule or sensor that failed."""
    kind = _kind(tick)
    reason = error_in_words(tick.error)
    at = datetime.fromtimestamp(tick.timestamp, UTC)
    link = _page(settings, "automation")
    mend = "mend what the sentence names" if reason.mendable else _BUG
    lines = [
        f"{_where(settings)}. At {at:%Y-%m-%d %H:%M} UTC.",
        "",
        f"What failed:\n- {_short(reason.sentence)}",
        "",
        "What is kept: everything; no run was started.",
        "",
        f"What to do: {mend}. The {kind} tries again at its next time by itself; you are not told "
        "again until it has worked in between.",
        "",
        f"The page: {link}",
    ]
    return Summary(
        title=f"aef: the {kind} {tick.instigator_name} failed",
        text=masked("\n".join(lines)),
        details={
            "kind": kind,
            "name": tick.instigator_name,
            "link": link,
            "dataset": settings.dataset,
            "began": tick.timestamp,
            "failed": [{"reason": _short(reason.sentence), "mendable": reason.mendable}],
        },
    )


def without_words(found: dg.RunRecord | InstigatorTick, settings: Settings) -> Summary:
    """That something failed, and where to look; for what the platform could not put in words."""
    if isinstance(found, InstigatorTick):
        kind, name, link = _kind(found), found.instigator_name, _page(settings, "automation")
        details = {"kind": kind, "name": name}
    else:
        kind, name = "run", found.dagster_run.run_id
        link = _page(settings, f"runs/{name}")
        details = {"kind": kind, "run_id": name}
    return Summary(
        title=f"aef: the {kind} {name} failed",
        text=f"Why could not be put in words: please report it.\n\nThe page: {link}",
        details={**details, "link": link, "dataset": settings.dataset},
    )


_BUG = "this is no fault of your data or settings: the page has the traceback, please report it"
_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ENGINE_EVENT,
}


def _facts(instance: dg.DagsterInstance, run_id: str) -> RunFacts:
    facts, early = RunFacts(), list[Reason]()
    for record in instance.get_records_for_run(run_id, of_type=_EVENTS).records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        kind, key = event.event_type, event.asset_key.to_user_string() if event.asset_key else ""
        if kind == dg.DagsterEventType.STEP_FAILURE:
            if not interrupted(event.step_failure_data.error):
                facts.failed.append(_failed_step(event))
        elif kind == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            facts.planned.add(key)
        elif kind == dg.DagsterEventType.ASSET_MATERIALIZATION:
            facts.made[key] |= {event.partition} if event.partition else set()
        elif kind == dg.DagsterEventType.ENGINE_EVENT:
            error = event.engine_event_data.error
            early = [error_in_words(error)] if error else early
        else:
            facts.ending = event.message or ""
    if early and not facts.failed:  # such as an executor that cannot be started
        facts.failed.append(FailedStep("before the first step", "failed", tuple(early)))
    return facts


def _failed_step(event: dg.DagsterEvent) -> FailedStep:
    asset = (event.step_key or "").replace("__", "/")
    reason, data = sentence_of(event), event.step_failure_data
    found = _HEADLINE.match(reason.sentence)
    headline = found[0] if found else "failed"
    by_sentence: dict[str, list[str]] = defaultdict(list)
    # The asset's failure carries a reason for each partition.
    told: Mapping = (data.user_failure_data.metadata or {}) if data.user_failure_data else {}
    for name, value in told.items():
        by_sentence[str(value.value)].append(name)
    reasons = tuple(Reason(text, tuple(names)) for text, names in by_sentence.items())
    return FailedStep(asset, headline, reasons or (reason,))


def _step_lines(step: FailedStep) -> list[str]:
    lines = [f"- {step.asset}: {step.headline}"]
    for reason in step.reasons[:MOST_REASONS]:
        names = f"{_some(reason.names)}: " if reason.names else ""
        odd = "" if reason.mendable else "unexpected error, "
        lines.append(f"    {names}{odd}{_short(reason.sentence)}")
    if len(step.reasons) > MOST_REASONS:
        lines.append(f"    and {len(step.reasons) - MOST_REASONS} reasons more, on the run's page")
    return lines


def _kept_lines(facts: RunFacts) -> list[str]:
    failed = {step.asset for step in facts.failed}
    lines = []
    for asset, keys in sorted(facts.made.items()):
        unit = UNITS.get(asset, "partition") + ("s" if len(keys) > 1 else "")
        amount = f"{len(keys)} {unit} ({_some(sorted(keys))})" if keys else "made anew"
        lines.append(f"- {asset}: {amount}")
    waiting = sorted(facts.planned - set(facts.made) - failed)
    if waiting and not facts.failed:
        lines.append(f"- of {_some(waiting)}: as it was before; of models, their last states")
    elif waiting:
        lines.append(f"- as it was before, since this run did not come to it: {_some(waiting)}")
    return lines or ["- all that was there before; this run finished nothing"]


def _next_step(facts: RunFacts, again: str) -> str:
    reasons = [reason for step in facts.failed for reason in step.reasons]
    if not reasons:
        return (
            "look at the memory and the disk of the machine if you did not end it yourself, then "
            f"{again}. What is finished is not done twice."
        )
    bugs = not all(reason.mendable for reason in reasons)
    first = _BUG if bugs else "mend what the sentences above name"
    return f"{first}{'. Then' if bugs else ', then'} {again}. What is finished is not done twice."


def _title(facts: RunFacts) -> str:
    if not facts.failed:
        return "ended from outside"
    return ", ".join(
        step.asset if step.headline == "failed" else f"{step.headline[:-7]} of {step.asset}"
        for step in facts.failed[:3]
    )


def _started_by(run: dg.DagsterRun) -> tuple[str, str]:
    """Who asked for the run, and how to ask again."""
    page = "re-execute the run on its page"
    if "aef/command" in run.tags and not is_launched(run):
        return "an aef command", "run the same command again"
    for tag, kind in (
        ("dagster/backfill", "the backfill"),
        ("dagster/schedule_name", "the schedule"),
        ("dagster/sensor_name", "the sensor"),
    ):
        if tag in run.tags:
            return f"{kind} {run.tags[tag]}", page
    return "hand", page


def _asked(run: dg.DagsterRun) -> list[str]:
    """What the run was asked for, where its config or partitions say so."""
    parts = []
    first = run.tags.get("dagster/asset_partition_range_start")
    if first:
        last = run.tags.get("dagster/asset_partition_range_end")
        parts.append(first if first == last else f"{first} to {last}")
    if "dagster/partition" in run.tags:
        parts.append(run.tags["dagster/partition"])
    config: Mapping[str, Any] = run.run_config or {}
    for asset in config.get("ops", {}).values():
        for name, value in (asset.get("config") or {}).items():
            if value not in (None, "", []):
                shown = _some([str(item) for item in value]) if isinstance(value, list) else value
                parts.append(f"{name} {shown}")
    return [f"Asked for: {'; '.join(parts)}."] if parts else []


def _kind(tick: InstigatorTick) -> str:
    return "schedule" if tick.instigator_type == InstigatorType.SCHEDULE else "sensor"


def _page(settings: Settings, path: str) -> str:
    return f"{settings.dagster_url.rstrip('/')}/{path}"


def _where(settings: Settings) -> str:
    return f"Basins: {settings.dataset}. Home: {settings.home} on {socket.gethostname()}"


def _duration(record: dg.RunRecord) -> str:
    if not record.start_time or not record.end_time:
        return ""
    minutes = round((record.end_time - record.start_time) / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"; it ran {hours}{minutes % 60} min" if minutes else "; it ran less than a minute"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - MOST_NAMES
    return ", ".join(listed[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _short(sentence: str) -> str:
    # Before the cut: half a password looks like none.
    sentence = masked(" ".join(sentence.split()))
    if len(sentence) <= LONGEST_SENTENCE:
        return sentence
    return sentence[:LONGEST_SENTENCE] + " ... (whole on the page)"
