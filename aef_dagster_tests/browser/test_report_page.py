"""The study's report as somebody opens it: from Dagster by way of MLflow, and as a file.

The asset writes the page from readings that are stored here; what a study finds is tested
elsewhere. Not here: what stands on the page (experiments/test_report.py).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aef_dagster.evaluation.figures import hydrograph_svg, skill_cdf_png
from aef_dagster.experiments.reading import Check, Picture, Reading, Table
from aef_dagster.experiments.readings_folder import save_reading
from aef_dagster_tests.browser.looking import keep

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SAMPLE = "Made-up sample data: says nothing about real rivers"
TITLE = "Do satellite embeddings help where no river is gauged?"
BROKEN = "all => all.filter(one => !one.complete || one.naturalWidth < 200).map(one => one.alt)"


def reading(name: str, title: str) -> Reading:
    days = np.arange("2012-10-01", "2013-10-01", dtype="datetime64[D]")
    flow = 2 + np.sin(np.arange(len(days)) / 9)
    nse = {"aef": [0.31, 0.52, 0.77], "distance": [-0.2, 0.4, 0.71]}
    wide = pd.DataFrame({"gauge_id": ["00901001", "00901002", "00901003"], **nse}).assign(
        **{f"metric_{i}": np.arange(3) / 7 for i in range(12)}
    )
    return Reading(
        name, title, "Do embeddings pick better donors?", ("The median NSE is 0.52.",),
        {"median_nse": 0.52}, pd.DataFrame({"measure": ["median NSE"], "value": [0.52]}),
        tables=(Table("Scores", wide, "A row a basin."),),
        pictures=(
            Picture("Skill", skill_cdf_png(nse), "A line is a space."),
            Picture("Flow", hydrograph_svg(days, flow, flow * 0.9, title="00901001")),
        ),
        checks=(Check("leak_free", True, "No target was its own donor.", blocking=True),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(pages, materialize):
    """What the asset says of the report that it wrote, launched from its page."""
    folder = pages.home.study / "sample"
    save_reading(reading("in_vs_out_of_sample", "In and out of sample"),
                 folder / "in_vs_out_of_sample")  # fmt: skip
    save_reading(reading("controls", "Controls"), folder / "controls")
    assert materialize("study_report", sure=True)[1] == "SUCCESS"
    return pages.metadata("study_report")


def test_dagster_names_the_file_and_leads_to_the_report_in_mlflow(page, pages, report):
    page.goto(f"{pages.dagster}/assets/study_report")
    page.get_by_text(str(pages.home.report("sample")), exact=True).first.wait_for()
    assert report["page"] == str(pages.home.report("sample"))
    link = page.locator(f"a[href='{report['mlflow_run']}']").first
    link.wait_for()
    keep(page, "report-asset")
    page.goto(link.get_attribute("href"))
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("index.html").first.click()
    inside = page.frame_locator("iframe")
    inside.get_by_role("heading", name=TITLE).wait_for()
    assert inside.get_by_text(SAMPLE).is_visible()
    assert inside.locator(".card img").count() == 4
    assert inside.locator(".card img").evaluate_all(BROKEN) == []
    keep(page, "report-in-mlflow")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_file_opens_whole_without_network_or_complaint(browser, report, width, scheme):
    address = Path(report["page"]).as_uri()
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened, told, asked = context.new_page(), [], []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.get_by_role("heading", name=TITLE).wait_for()
    assert opened.get_by_text(SAMPLE).first.is_visible()
    for name in ("In and out of sample", "Controls"):
        assert opened.get_by_role("heading", name=name).is_visible()

    # The last picture, so that all are asked for; then all are there.
    opened.locator(".card img").last.scroll_into_view_if_needed()
    opened.wait_for_function(
        "[...document.querySelectorAll('.card img')].every(one => one.complete)"
    )
    assert opened.locator(".card img").count() == 4
    assert opened.locator(".card img").evaluate_all(BROKEN) == []
    # Scores and all estimates of each of the two.
    assert [table.locator("tbody tr").count() for table in opened.locator("table").all()] == [
        3, 1, 3, 1,
    ]  # fmt: skip
    page_width = opened.evaluate("document.documentElement.scrollWidth")
    assert page_width <= opened.evaluate("innerWidth") == width
    shade = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(shade.strip("rgb()").split(",")[0]) > 128) == (scheme == "light")
    opened.evaluate("scrollTo(0, 0)")
    keep(opened, f"report-{width}-{scheme}")
    context.close()
    assert told == []
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
