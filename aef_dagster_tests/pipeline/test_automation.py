"""What happens by itself when a year appears: real ticks on a real instance, nothing replaced."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError
from aef_dagster.pipeline.automation import EMBEDDINGS
from aef_dagster.pipeline.build import build_defs
from aef_dagster.pipeline.config import TrainingConfig

MONDAY = datetime(2026, 11, 23, 6, tzinfo=UTC)
REFRESHED = ["basin_embedding", "similarity/aef", "donors/aef", "donor_drift"]


class World:
    """A prepared home, its ticks, and the runs that they ask for."""

    def __init__(self, session):
        self.session, self.instance = session, session.instance
        self.definitions = build_defs(session.settings)
        self.repository = self.definitions.get_repository_def()
        self.tables = Path(self.definitions.resources["embeddings"].tables)
        self._cursor = None
        self._weeks = 0

    def years(self) -> list[int]:
        return sorted(int(file.stem[-4:]) for file in self.tables.glob("*.csv"))

    def file(self, year: int) -> Path:
        (found,) = self.tables.glob(f"*{year}.csv")
        return found

    def publish(self, year: int, change: float = 0.3) -> None:
        """A year more, in the form of the latest one, its vectors somewhat changed."""
        latest = self.file(max(self.years()))
        table = pd.read_csv(latest)
        vectors = table[list(BANDS)].to_numpy()
        noise = np.random.default_rng(year).normal(size=vectors.shape)
        turned = vectors + change * noise * np.abs(vectors).mean()
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        turned *= length / np.linalg.norm(turned, axis=1, keepdims=True)
        table[list(BANDS)] = turned
        table["year"] = year
        table.to_csv(self.tables / latest.name.replace(latest.stem[-4:], str(year)), index=False)

    def schedule_tick(self):
        """The weekly tick."""
        self._weeks += 1
        schedule = self.repository.get_schedule_def("new_aef_years")
        # Left again, or Dagster goes on using this instance in tests that have their own.
        with dg.build_schedule_context(
            instance=self.instance,
            repository_def=self.repository,
            resources={"embeddings": self.definitions.resources["embeddings"]},
            scheduled_execution_time=MONDAY + timedelta(weeks=self._weeks),
        ) as context:
            return schedule.evaluate_tick(context)

    def fetch(self, *requests: dg.RunRequest) -> list[dg.ExecuteInProcessResult]:
        """Runs that the schedule asks for."""
        job = self.definitions.resolve_job_def("fetch_aef_years")
        return [
            job.execute_in_process(
                partition_key=request.partition_key,
                instance=self.instance,
                raise_on_error=False,
                tags=request.tags,
            )
            for request in requests
        ]

    def automation_tick(self) -> list[str]:
        """One evaluation of all conditions; what it asks for is run."""
        result = dg.evaluate_automation_conditions(
            self.definitions,
            instance=self.instance,
            asset_selection=dg.AssetSelection.all(),
            cursor=self._cursor,
        )
        self._cursor = result.cursor
        keys = self.definitions.resolve_asset_graph().get_all_asset_keys()
        requested = sorted(
            key.to_user_string() for key in keys if result.get_num_requested(key) > 0
        )
        if requested:
            self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                asset_selection=[dg.AssetKey.from_user_string(key) for key in requested],
                instance=self.instance,
                tags={"dagster/from_automation_condition": "true"},
            )
        return requested

    def run(self, key: str, config: dict | None = None, name: str | None = None) -> None:
        """Materialize an asset, as a person would."""
        self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey.from_user_string(key)],
            instance=self.instance,
            run_config={"ops": {name or key: {"config": config or {}}}},
        )

    def settle(self) -> list[str]:
        """Tick until nothing more is asked for; everything asked for, in its order."""
        asked: list[str] = []
        for _ in range(10):
            now = self.automation_tick()
            if not now:
                return asked
            asked += now
        raise AssertionError(f"it never comes to rest: {asked}")


@pytest.fixture
def world(session):
    return World(session)


def skipped(tick) -> str:
    assert tick.run_requests == []
    return tick.skip_message


def test_nothing_new_is_said_and_nothing_is_refreshed(world):
    first, last = world.years()[0], world.years()[-1]
    assert f"all {len(world.years())} years" in skipped(world.schedule_tick())
    assert f"{first} to {last}" in skipped(world.schedule_tick())
    assert world.settle() == []


def test_a_new_year_is_found_fetched_and_followed_by_the_right_assets_only(world):
    assert world.settle() == []
    (new,) = {2025} - set(world.years())
    world.publish(new)
    (request,) = world.schedule_tick().run_requests
    assert (request.partition_key, request.tags["aef/reason"]) == (str(new), "missing here")
    (fetched,) = world.fetch(request)
    assert fetched.success
    assert world.settle() == REFRESHED
    assert world.settle() == []
    assert "2017-2025" in set(
        world.session.warehouse.frame("SELECT DISTINCT years FROM basin_embedding")["years"]
    )
    assert "all" in skipped(world.schedule_tick())


def test_a_year_that_failed_is_asked_for_again_next_week_and_others_are_not_held_up(world):
    world.publish(2025)
    whole = world.file(2025).read_text()
    world.file(2025).write_text(whole.replace("A63", "A64"))
    before = world.session.warehouse.frame("SELECT * FROM aef_embeddings")
    with pytest.raises(dg.DagsterError) as told:
        world.schedule_tick()
    assert "A63" in str(told.value.__cause__)
    world.file(2025).write_text(_with_a_hole(whole))
    (first,) = world.schedule_tick().run_requests
    (failed,) = world.fetch(first)
    assert not failed.success
    assert len(world.session.warehouse.frame("SELECT * FROM aef_embeddings")) == len(before)
    world.file(2025).write_text(whole)
    (second,) = world.schedule_tick().run_requests
    assert second.run_key != first.run_key
    (fetched,) = world.fetch(second)
    assert fetched.success


def test_the_same_year_again_changes_nothing(world):
    assert world.settle() == []
    year = world.years()[-1]
    # Other bytes, the same content: another edition by its hash, so it is fetched again.
    world.file(year).write_text(world.file(year).read_text().rstrip("\n") + "\n\n")
    (request,) = world.schedule_tick().run_requests
    assert request.tags["aef/reason"] == "of another edition at the source"
    (fetched,) = world.fetch(request)
    assert fetched.success
    assert world.settle() == []
    assert "all" in skipped(world.schedule_tick())


def test_another_dataset_version_of_a_year_is_fetched_and_told(world):
    assert world.settle() == []
    year = world.years()[0]
    table = pd.read_csv(world.file(year)).assign(dataset_version="1.2")
    table.to_csv(world.file(year), index=False)
    (request,) = world.schedule_tick().run_requests
    (fetched,) = world.fetch(request)
    checks = {e.check_name: e for e in fetched.get_asset_check_evaluations()}
    assert not checks["same_edition"].passed
    assert set(checks["same_edition"].metadata) == {"1.2", "unknown"}
    assert world.settle() == ["basin_embedding"]  # its vectors are the same: nothing follows


def test_the_running_year_waits_until_it_is_over(world):
    running = datetime.now(UTC).year
    world.publish(running)
    assert f"{running} is not over yet" in skipped(world.schedule_tick())


@pytest.mark.parametrize("job_name", ["fetch_aef_years", "__ASSET_JOB"])
def test_while_years_are_fetched_none_is_asked_for(world, job_name):
    world.publish(2025)
    world.instance.add_run(
        dg.DagsterRun(
            job_name=job_name,
            status=dg.DagsterRunStatus.STARTED,
            asset_selection=frozenset({EMBEDDINGS}),
        )
    )
    assert "right now" in skipped(world.schedule_tick())


@pytest.mark.slow
def test_what_was_chosen_survives_a_new_year(world):
    assert world.settle() == []
    world.run("basin_embedding", {"pooling": "plain_mean", "years": [2018, 2025]})
    world.run("similarity/aef", {"raw": True}, name="similarity__aef")
    assert world.settle() == ["donors/aef", "donor_drift"]
    world.publish(2025)
    world.fetch(*world.schedule_tick().run_requests)
    assert world.settle() == REFRESHED
    pooled = world.session.warehouse.frame("SELECT DISTINCT pooling, years FROM basin_embedding")
    assert pooled.values.tolist() == [["plain_mean", "2018,2025"]]
    last = world.instance.get_latest_materialization_event(dg.AssetKey(["similarity", "aef"]))
    assert last.asset_materialization.metadata["raw"].value == "True"
    world.run("basin_embedding", {})  # somebody asked: the defaults are meant
    pooled = world.session.warehouse.frame("SELECT DISTINCT pooling FROM basin_embedding")
    assert pooled.values.tolist() == [["unit_mean"]]


def test_a_source_that_offers_the_running_year_only(world):
    for year in world.years():
        world.file(year).rename(world.file(year).with_suffix(".old"))
    kept = sorted(world.tables.glob("*.old"))[-1]
    running = datetime.now(UTC).year
    table = pd.read_csv(kept).assign(year=running)
    table.to_csv(world.tables / f"only_{running}.csv", index=False)
    assert f"{running} is not over yet" in skipped(world.schedule_tick())


@pytest.mark.slow
def test_only_trained_basins_whose_donors_moved_are_trained_again(world):
    sensor = world.repository.get_sensor_def("retrain_moved_basins")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert world.settle() == []
    first, second, *_ = world.session.basins
    world.session.train([first, second], TrainingConfig())

    def tick(cursor=None):
        with dg.build_sensor_context(
            instance=world.instance,
            repository_def=world.repository,
            cursor=cursor,
            resources={"warehouse": world.definitions.resources["warehouse"]},
        ) as context:
            return sensor.evaluate_tick(context)

    world.run("donor_drift")
    quiet = tick()
    assert "no trained basin is among the 0" in skipped(quiet)
    for year in [*world.years(), 2025]:  # one year of nine moves few donors
        world.publish(year, change=30.0)
    requests = world.schedule_tick().run_requests
    assert len(requests) == len(world.years())
    world.fetch(*requests)
    assert world.settle() == REFRESHED
    drift = world.session.warehouse.frame("SELECT * FROM donor_drift").set_index("gauge_id")
    expected = sorted({first, second} & set(drift.index[drift["moved"]]))
    assert expected, "the new year was to move the donors of a trained basin"
    (request,) = tick(quiet.cursor).run_requests
    assert request.run_config["ops"]["basin_models"]["config"]["basins"] == expected
    again = world.definitions.resolve_job_def("train_moved_basins").execute_in_process(
        instance=world.instance, run_config=request.run_config
    )
    trained = {event.partition for event in again.get_asset_materialization_events()}
    assert trained == set(expected)
    assert skipped(tick(tick(quiet.cursor).cursor))


def test_what_trains_is_never_automatic(world):
    graph = world.definitions.resolve_asset_graph()
    automatic = {
        node.key.to_user_string()
        for node in graph.asset_nodes
        if node.automation_condition is not None
    }
    assert automatic == set(REFRESHED)
    assert world.repository.get_schedule_def("new_aef_years").default_status.value == "STOPPED"


def test_another_time_for_the_schedule_is_a_setting(session):
    def cron(text):
        settings = session.settings.model_copy(update={"new_years_cron": text})
        definitions = build_defs(settings).get_repository_def()
        return definitions.get_schedule_def("new_aef_years").cron_schedule

    assert cron("* * * * *") == "* * * * *"
    with pytest.raises(UserError, match="AEF_NEW_YEARS_CRON='sometimes' is no cron expression"):
        cron("sometimes")


def _with_a_hole(table: str) -> str:
    lines = table.splitlines()
    cells = lines[1].split(",")
    return "\n".join([lines[0], ",".join([*cells[:-1], ""]), *lines[2:]]) + "\n"
