"""Whether the newest year is here: by dates given, on a real instance, by Dagster's evaluator."""

import asyncio
from datetime import UTC, date, datetime

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import CronFreshnessPolicyEvaluator
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time

from aef_dagster.pipeline.automation import EMBEDDINGS
from aef_dagster.pipeline.build import build_defs
from aef_dagster.pipeline.freshness import due_year, newest_year_result, stored_evaluation
from aef_dagster.settings import load_settings

REAL = {"route": "cog", "sample": False, "surrogate": False}


def fetched(instance, *years, **marks):
    for year in years:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(EMBEDDINGS, partition=str(year), metadata=marks or REAL)
        )


@pytest.mark.parametrize(
    ("today", "due"),
    [("2026-01-01", 2024), ("2026-03-11", 2024), ("2026-06-30", 2024), ("2026-07-01", 2025),
     ("2026-12-31", 2025), ("2027-06-30", 2025)],
)  # fmt: skip
def test_a_year_is_due_half_a_year_after_its_end_and_never_while_it_runs(today, due):
    day = date.fromisoformat(today)
    assert due_year(day) == due
    assert newest_year_result([2017, due], day, made_up=False, route="cog")[0]
    assert not newest_year_result([2017, due - 1], day, made_up=False, route="cog")[0]


def test_the_warning_says_which_year_and_what_to_do_on_this_route():
    day = date(2026, 9, 1)
    _, by_cog = newest_year_result([2023, 2024], day, made_up=False, route="cog")
    assert by_cog["told"] == (
        "2024 is the newest here, but 2025 should have been out since July 2026: materialize 2025, "
        "or switch on the schedule new_aef_years"
    )
    _, by_table = newest_year_result([2024], day, made_up=False, route="table")
    assert "put its table into AEF_EMBEDDINGS_DIR" in by_table["told"]


def test_the_sample_never_warns_and_an_empty_home_says_nothing(instance):
    assert stored_evaluation(instance, date(2040, 1, 1), "cog") is None
    fetched(instance, 2017, 2018, route="cog", sample=True, surrogate=False)
    found = stored_evaluation(instance, date(2040, 1, 1), "cog")
    assert found.passed and "made-up" in found.metadata["told"].value


def test_an_old_year_fetched_again_does_not_hide_that_the_new_one_is_missing(instance):
    fetched(instance, 2023, 2024, 2017)
    assert stored_evaluation(instance, date(2026, 6, 30), "cog").passed
    missing = stored_evaluation(instance, date(2026, 7, 1), "cog")
    assert not missing.passed and missing.severity == dg.AssetCheckSeverity.WARN
    fetched(instance, 2025)
    assert stored_evaluation(instance, date(2026, 7, 1), "cog").passed


def test_years_of_another_route_hide_nothing(instance):
    """The asset's own check counts rows of the active route; a year fetched anew has new rows."""
    fetched(instance, 2024)
    fetched(instance, 2025, route="table", sample=False, surrogate=True)
    day = date(2026, 7, 1)
    missing = stored_evaluation(instance, day, "cog")
    assert not missing.passed and missing.metadata["newest"].value == "2024"
    assert stored_evaluation(instance, day, "earth_engine").metadata["told"].value == (
        "nothing is stored yet"
    )
    fetched(instance, 2025)
    assert stored_evaluation(instance, day, "cog").passed


def test_the_daily_sensor_writes_the_check_where_the_page_shows_it(instance, tmp_path):
    definitions = build_defs(load_settings(home=tmp_path / "var", source="cog"))
    sensor = definitions.get_repository_def().get_sensor_def("watch_newest_year")
    key = dg.AssetCheckKey(EMBEDDINGS, "newest_year")

    def tick():
        with dg.build_sensor_context(instance=instance) as context:
            return sensor.evaluate_tick(context).skip_message

    assert tick() == "no year was fetched yet"
    fetched(instance, 2017)
    assert "2017 is the newest here" in tick()
    (record,) = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).values()
    assert record.evaluation.check_name == "newest_year" and not record.evaluation.passed
    assert instance.get_runs() == []


def test_the_policy_wants_something_fetched_since_new_year_by_july(instance, tmp_path):
    settings = load_settings(home=tmp_path / "var", dataset="camels_us", source="cog")
    node = build_defs(settings).resolve_asset_graph().get(EMBEDDINGS)

    def state(day: str):
        with freeze_time(datetime.fromisoformat(day).replace(tzinfo=UTC)):
            context = LoadingContextForTest(instance)
            evaluator = CronFreshnessPolicyEvaluator()
            return asyncio.run(evaluator.evaluate_freshness(context, node))

    assert state("2026-07-02") == FreshnessState.UNKNOWN
    with freeze_time(datetime(2026, 3, 20, tzinfo=UTC)):
        fetched(instance, 2025)
    assert state("2026-07-02") == FreshnessState.PASS
    assert state("2027-06-30") == FreshnessState.PASS
    assert state("2027-07-02") == FreshnessState.FAIL
    with freeze_time(datetime(2027, 7, 3, tzinfo=UTC)):
        fetched(instance, 2026)
    assert state("2027-07-04") == FreshnessState.PASS


def test_no_policy_where_no_year_comes_by_itself(tmp_path):
    for choice in ({}, {"dataset": "camels_us", "source": "table"}):
        settings = load_settings(home=tmp_path / "var", **choice)
        assert build_defs(settings).resolve_asset_graph().get(EMBEDDINGS).freshness_policy is None
