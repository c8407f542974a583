"""A new year of AlphaEarth, found and fetched by the schedule that somebody switched on."""

from collections.abc import Iterator

import pandas as pd
import pytest

from aef_dagster.basins.dataset import sample_folder
from aef_dagster_tests.browser.looking import keep, wait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

NAME = "new_aef_years"
MADE = """{ assetOrError(assetKey: {path: ["aef_embeddings"]}) { ... on Asset {
  assetMaterializations(limit: 100) { partition runId } } } }"""


@pytest.fixture
def switch(page, pages) -> Iterator:
    """The switch of the schedule on the page of all automation; off again afterwards."""

    def shown():
        page.goto(f"{pages.dagster}/automation")
        row = page.locator("[data-index]").filter(has_text=NAME).last
        # The first box of the row is for choosing it.
        found = row.locator("label").nth(1)
        found.wait_for()
        return found

    yield shown
    found = shown()
    if found.get_by_role("checkbox").is_checked():
        found.click()


def test_the_switched_on_schedule_fetches_a_new_year(page, pages, switch):
    from playwright.sync_api import expect

    def fetched() -> dict[str, str]:
        events = pages.ask(MADE)["assetOrError"]["assetMaterializations"]
        return {event["partition"]: event["runId"] for event in events}

    years = set(fetched())
    new = str(int(max(years)) + 1)
    tables = sample_folder(pages.home.sample, "planted") / "aef_embeddings"
    (latest,) = tables.glob(f"*{max(years)}.csv")
    unfinished = tables / "new.tmp"
    pd.read_csv(latest).assign(year=int(new)).to_csv(unfinished, index=False)
    unfinished.rename(latest.with_name(latest.name.replace(max(years), new)))

    button = switch()
    box = button.get_by_role("checkbox")
    assert not box.is_checked()
    button.click()
    expect(box).to_be_checked()
    keep(page, "automation")

    run = wait(f"the year {new}", lambda: fetched().get(new))
    assert pages.ended(run)[1] == "SUCCESS"
    page.goto(f"{pages.dagster}/locations/aef_dagster.definitions/schedules/{NAME}")
    page.get_by_text("Every minute").first.wait_for()
    page.get_by_role("button", name="1 run requested").click()
    page.get_by_text(f"Tick for {NAME}").wait_for()
    page.get_by_text(run[:8]).first.wait_for()
    keep(page, "schedule")
