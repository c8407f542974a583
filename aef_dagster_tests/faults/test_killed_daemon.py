"""The daemon is killed: what it had queued and scheduled goes on with the next one, once."""

import time

import dagster as dg
import pytest

from aef_dagster_tests.deploy.test_postgres import BACKFILL, LAUNCH, SCHEDULE, START, TICKS
from aef_dagster_tests.faults.live import MODELS

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(600)]

RESET = """mutation($selector: ScheduleSelector!) { resetSchedule(scheduleSelector: $selector)
  { __typename ... on ScheduleStateResult { scheduleState { status } } } }"""
# Not neighbours: a run each, and the pool has one slot.
TARGETS = ["00901005", "00903005"]


@pytest.fixture
def scheduled(live):
    """The servers with the schedule of new years on, each minute, for this test only."""
    live.ask(START, selector=SCHEDULE)
    yield live
    told = live.ask(RESET, selector=SCHEDULE)["resetSchedule"]
    assert told["scheduleState"]["status"] == "STOPPED", told


def test_a_new_daemon_goes_on_with_backfill_and_schedule(scheduled):
    live = scheduled

    def ticks():
        state = live.ask(TICKS, selector=SCHEDULE)["scheduleOrError"]["scheduleState"]
        return sorted(tick["timestamp"] for tick in state["ticks"])

    def runs(*statuses):
        of_backfill = live.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
        return [run for run in of_backfill if run.status.value in statuses]

    # First: a tick can be a minute away, and the runs of the backfill take less.
    before = live.wait("a tick", ticks)
    backfill = live.ask(
        LAUNCH, params={"assetSelection": [{"path": MODELS.path}], "partitionNames": TARGETS}
    )["launchPartitionBackfill"]["backfillId"]
    live.wait("a run to train and one to wait", lambda: runs("STARTED") and runs("QUEUED"))
    live.kill("daemon")
    killed = time.monotonic()
    live.start("daemon")
    live.wait(
        "the backfill to end",
        lambda: (
            live.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"]
            == "COMPLETED_SUCCESS"
        ),
    )
    ended_s = time.monotonic() - killed
    assert live.materialized(TARGETS) == TARGETS
    assert len(runs("SUCCESS")) == 2 and len(runs("FAILURE", "CANCELED")) == 0
    after = live.wait("a tick of the new daemon", lambda: [t for t in ticks() if t > before[-1]])
    assert len({int(moment // 60) for moment in ticks()}) == len(ticks()), "one tick a minute"
    print(f"FIGURES ended_s={ended_s:.1f} ticks={len(before)}+{len(after)}")
