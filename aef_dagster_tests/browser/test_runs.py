"""Several basins at once, and a basin that cannot be trained, as their pages tell of them."""

import re
from collections.abc import Iterator

import pytest

from aef_dagster_tests.browser.looking import at_partition, keep, wait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# Neighbours in the list, so that they are one run.
BASINS = ["00902002", "00902003", "00902004"]
UNTOUCHED, DAMAGED = "00903006", "00904006"
STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status partitionNames } } }"""


@pytest.fixture
def damaged(pages) -> Iterator[str]:
    """A basin whose forcing file lacks its end, and what it was made of too; whole afterwards."""
    (raw,) = pages.home.sample.rglob(f"{DAMAGED}_lump_*_forcing_leap.txt")
    paths = [pages.home.forcings / f"{DAMAGED}.parquet", raw]
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content[: len(content) // 2])
    yield DAMAGED
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)


def colour(page, basin: str) -> str:
    """Of the dot beside a basin in the list of partitions."""
    dot = page.locator(f"[data-tooltip='{basin}'] + div").first
    red, green, blue = map(int, re.findall(r"\d+", dot.evaluate(
        "dot => getComputedStyle(dot).backgroundColor"
    )))  # fmt: skip
    if max(red, green, blue) - min(red, green, blue) < 50:
        return "grey"
    return "green" if green == max(red, green, blue) else "red"


def test_a_backfill_of_three_basins_is_chosen_launched_and_shown(page, pages):
    page.goto(f"{pages.dagster}/assets/basin_models?view=partitions")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_role("button", name="Custom", exact=True).click()
    page.get_by_role("img", name="expand_more").last.click()
    page.get_by_role("menuitem", name=re.compile("^Select all")).click()  # none, then
    for basin in BASINS:
        page.get_by_placeholder("Filter partitions").fill(basin)
        page.get_by_role("menuitem", name=basin).click()
    page.keyboard.press("Escape")
    launch = page.get_by_role("button", name="Launch backfill")
    keep(page, "backfill-dialog")
    launch.click()
    launch.wait_for(state="detached")

    page.goto(f"{pages.dagster}/runs?view=backfills")
    link = page.locator("a[href^='/runs/b/']").first
    link.wait_for()
    backfill = link.get_attribute("href").rpartition("/")[2]

    def ended() -> dict | None:
        found = pages.ask(STATUS, id=backfill)["partitionBackfillOrError"]
        return found if found["status"] not in ("REQUESTED", "COMPLETING") else None

    told = wait("the end of the backfill", ended)
    assert told["status"] == "COMPLETED_SUCCESS"
    assert sorted(told["partitionNames"]) == BASINS
    page.goto(f"{pages.dagster}/runs/b/{backfill}")
    page.get_by_text("100% completed").wait_for()
    for basin in BASINS:
        page.get_by_text(basin, exact=True).first.wait_for()
    # The heading of a column, and the status.
    assert page.get_by_text("Succeeded", exact=True).count() == 2
    keep(page, "backfill")

    page.goto(f"{pages.dagster}/assets/basin_models{at_partition(BASINS[0])}")
    page.get_by_text("hydrograph", exact=True).wait_for()
    assert [colour(page, basin) for basin in BASINS] == ["green"] * 3
    assert colour(page, UNTOUCHED) == "grey"


def test_a_damaged_file_is_named_on_the_pages_of_its_run_and_basin(
    page, pages, materialize, damaged
):
    run, status = materialize("basin_models", damaged)
    assert status == "FAILURE"
    page.goto(f"{pages.dagster}/runs/{run}")
    page.get_by_text("RUN_FAILURE").first.wait_for()
    page.get_by_role("button", name="View full message").last.click()
    told = page.get_by_role("dialog").last
    sentence = told.get_by_text(re.compile(f"basin {damaged}.*not a readable Parquet file")).first
    sentence.scroll_into_view_if_needed()
    assert "`aef prepare`" in sentence.inner_text()
    keep(page, "failed-run")

    page.goto(f"{pages.dagster}/assets/basin_models{at_partition(damaged)}")
    page.get_by_text(f"Run {run[:8]} failed, and did not materialize this asset.").wait_for()
    assert colour(page, damaged) == "red"
