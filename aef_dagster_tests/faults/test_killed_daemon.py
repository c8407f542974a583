"""The daemon is killed: what it had queued and scheduled goes on with the next one, once."""

import time

import dagster as dg
import pytest

from aef_dagster_tests.deploy.test_postgres import BACKFILL, LAUNCH, SCHEDULE, START, TICKS
from aef_dagster_tests.faults.live import MODELS

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(600)]

# Not neighbours: a run each, and the pool has one slot.
TARGETS = ["00901005", "00903005"]


def test_a_new_daemon_goes_on_with_backfill_and_schedule(live):
    def ticks():
        state = live.ask(TICKS, selector=SCHEDULE)["scheduleOrError"]["scheduleState"]
        return sorted(tick["timestamp"] for tick in state["ticks"])

    def runs(*statuses):
        of_backfill = live.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
        return [run for run in of_backfill if run.status.value in statuses]

    live.ask(START, selector=SCHEDULE)
    backfill = live.ask(
        LAUNCH, params={"assetSelection": [{"path": MODELS.path}], "partitionNames": TARGETS}
    )["launchPartitionBackfill"]["backfillId"]
    before = live.wait("a tick", ticks)
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
