"""Whether the newest AlphaEarth year that ought to be here is here.

Here: when a year is due, the check `newest_year` with the daily sensor that looks again, and the
freshness policy of `aef_embeddings`.

Dagster's policy knows when something was fetched, not which year it was: a year fetched again in
spring would hide that the new one is missing. So the check, which goes by years, says what is true,
and the policy shows in the page's own place that nothing at all was fetched since New Year.
Not here: asking the source for new years (automation.py).
Concept: https://docs.dagster.io/guides/observe/asset-freshness-policies
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from aef_dagster.settings import Settings

EMBEDDINGS = dg.AssetKey("aef_embeddings")
# The layer of 2025 was published on 11 March 2026. Twice that time and more is no delay that
# somebody should only wait out.
DUE_MONTH = 7
WATCH = "watch_newest_year"
DAY_S = 86_400

newest_year = dg.AssetCheckSpec(
    "newest_year",
    asset=EMBEDDINGS,
    description="The newest year is stored whose layer should be out: from 1 July on, the year "
    f"before. Looked at when years are fetched, and daily by {WATCH}. Passes for the sample and "
    "for stand-ins, which have no new years.",
)


def due_year(today: date) -> int:
    """Newest year whose layer should be published: that of last year from July on."""
    return today.year - 1 if today.month >= DUE_MONTH else today.year - 2


def newest_year_result(
    stored: Iterable[int], today: date, *, made_up: bool, route: str
) -> tuple[bool, dict[str, str]]:
    """Whether the newest year due is stored, and metadata that says so in words.

    Parameters
    ----------
    stored
        Years stored, of the active route.
    today
        The day that decides what is due.
    made_up
        Whether the newest of them is of the sample or a stand-in.
    route
        `table`, `cog` or `earth_engine`: where a missing year is to come from.
    """
    newest, due = max(stored, default=None), due_year(today)
    if newest is None:
        return True, {"told": "nothing is stored yet"}
    if made_up:
        return True, {"newest": str(newest), "told": "made-up years: no newer one is expected"}
    if newest >= due:
        return True, {"newest": str(newest), "told": f"{newest} is here, {due} was due"}
    todo = (
        f"put its table into AEF_EMBEDDINGS_DIR, or set AEF_SOURCE=cog, then fetch {due}"
        if route == "table"
        else f"materialize {due}, or switch on the schedule new_aef_years"
    )
    told = f"{newest} is the newest here, but {due} should have been out since July {due + 1}"
    return False, {"newest": str(newest), "told": f"{told}: {todo}"}


def freshness_policy(settings: Settings) -> dg.FreshnessPolicy | None:
    """On 1 July something must have been fetched since New Year; none where years do not come.

    The sample never gets a new year, and tables come by hand.
    """
    if settings.dataset == "sample" or settings.source == "table":
        return None
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"0 0 1 {DUE_MONTH} *", lower_bound_delta=timedelta(days=181)
    )


def stored_evaluation(
    instance: dg.DagsterInstance, today: date, route: str
) -> dg.AssetCheckEvaluation | None:
    """The check by the history alone, without opening the warehouse; None if nothing was fetched.

    By which route a year came, and whether it is made up, stands in the metadata that it was
    fetched with. Years of other routes count no more here than in the asset's own check.
    """
    keys = instance.get_materialized_partitions(EMBEDDINGS)
    if not keys:
        return None
    found = [(int(key), fetched_with(instance, key)) for key in keys]
    of_route = {year: told for year, told in found if told.get("route") == route}
    newest = of_route[max(of_route)] if of_route else {}
    passed, metadata = newest_year_result(
        of_route, today, made_up=bool(newest.get("sample") or newest.get("surrogate")), route=route
    )
    return dg.AssetCheckEvaluation(
        asset_key=EMBEDDINGS, check_name=newest_year.name, passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: dg.MetadataValue.text(text) for name, text in metadata.items()},
    )  # fmt: skip


def fetched_with(instance: dg.DagsterInstance, key: str) -> dict[str, object]:
    """Metadata of the last time that a year was fetched; empty if it never was."""
    events = instance.fetch_materializations(
        dg.AssetRecordsFilter(EMBEDDINGS, asset_partitions=[key]), limit=1
    ).records
    told = events[0].asset_materialization if events else None
    return {name: value.value for name, value in told.metadata.items()} if told else {}


def watch_sensor(settings: Settings) -> dg.SensorDefinition:
    """Looks daily whether a year became due; starts no run."""

    @dg.sensor(
        name=WATCH,
        minimum_interval_seconds=DAY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks daily whether a year of AlphaEarth is due that is not here, and writes "
        "the check newest_year. Asks nobody and starts no run.",
    )
    def watch_newest_year(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        found = stored_evaluation(context.instance, datetime.now(UTC).date(), settings.source)
        if found is None:
            return dg.SkipReason("no year was fetched yet")
        context.instance.report_runless_asset_event(found)
        return dg.SkipReason(str(found.metadata["told"].value))

    return watch_newest_year
