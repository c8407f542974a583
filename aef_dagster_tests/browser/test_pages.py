"""The pages as a hydrologist meets them: a real `aef dev`, a real browser, a real training."""

import json
import re
import urllib.request

import pytest

from aef_dagster.pipeline.servers import GRAPH_PAGE
from aef_dagster_tests.browser.looking import at_partition, keep

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TARGET = "00901001"
# Chart.js draws on a canvas, where no text can be read; what it was given stands in React's own
# fields of that canvas.
DRAWN = """canvas => {
  let node = canvas[Object.keys(canvas).find(key => key.startsWith('__reactFiber'))];
  while (!node.memoizedProps?.data?.datasets) node = node.return;
  const {labels, datasets} = node.memoizedProps.data;
  const values = datasets[0].data.map((point, i) => [labels[i], point.y]);
  return Object.fromEntries(values.filter(([, value]) => Number.isFinite(value)));
}"""
# How much of it is of the colour of its points: one alone is some 20 pixels.
PAINTED = """canvas => {
  const {width, height} = canvas;
  const all = canvas.getContext('2d').getImageData(0, 0, width, height).data;
  let blue = 0;
  for (let i = 0; i < all.length; i += 4)
    if (all[i + 3] > 200 && all[i + 2] > all[i] + 60 && all[i + 2] > all[i + 1] + 60) blue++;
  return blue;
}"""
# The one chart that the search leaves, with all its points.
ALONE = """points => {
  const plots = document.querySelectorAll('.js-plotly-plot');
  return plots.length === 1 && plots[0].data?.[0]?.y?.length === points;
}"""


@pytest.fixture(scope="module")
def trained(materialize):
    """The run that trained the basin, launched from its page."""
    run, status = materialize("basin_models", TARGET)
    assert status == "SUCCESS"
    return run


@pytest.fixture(scope="module")
def run_in_mlflow(trained, pages):
    """Address of the basin's run in MLflow, as Dagster's page gives it."""
    return pages.metadata("basin_models", TARGET)["mlflow_run"]


def test_the_graph_shows_every_group(page, pages):
    page.goto(pages.dagster + GRAPH_PAGE)
    for name in ("basin_embedding", "basin_models", "trust", "aef_embeddings", "study_report"):
        page.get_by_text(name, exact=True).first.wait_for()
    keep(page, "asset-graph")


def test_one_basin_is_materialized_from_its_page(page, pages, trained):
    page.goto(f"{pages.dagster}/assets/basin_models{at_partition(TARGET)}")
    page.get_by_text("hydrograph", exact=True).wait_for()
    keep(page, "basin-page")

    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/svg+xml']")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    keep(page, "hydrograph")
    page.keyboard.press("Escape")


def test_the_page_and_its_plots_show_the_numbers_of_the_run(page, pages, trained):
    told = pages.metadata("basin_models", TARGET)
    page.goto(f"{pages.dagster}/assets/basin_models{at_partition(TARGET)}")
    row = page.locator("tr").filter(has=page.get_by_text("nse", exact=True))
    assert str(told["nse"]) in row.inner_text()

    page.goto(f"{pages.dagster}/assets/basin_models")
    page.get_by_text("Plots", exact=True).first.click()
    for name in ("nse", "kge"):
        title = page.get_by_text(name, exact=True)
        plot = title.locator("xpath=following::canvas[1]")
        plot.scroll_into_view_if_needed()
        assert plot.evaluate(DRAWN)[TARGET] == told[name]
        page.wait_for_function(f"canvas => ({PAINTED})(canvas) >= 10", arg=plot.element_handle())
    keep(page, "plots")


def test_links_lead_to_mlflow_and_back(page, pages, run_in_mlflow):
    page.goto(f"{pages.dagster}/assets/basin_models{at_partition(TARGET)}")
    link = page.locator(f"a[href^='{pages.mlflow}']").first
    link.wait_for()
    assert link.get_attribute("href") == run_in_mlflow
    page.goto(run_in_mlflow)
    page.get_by_text("valid_nse").first.wait_for()
    page.get_by_text(TARGET).first.wait_for()
    keep(page, "mlflow-run")
    back = page.locator(f"a[href^='{pages.dagster}/runs/']").first
    back.wait_for()
    page.goto(back.get_attribute("href"))
    page.get_by_text("basin_models").first.wait_for()

    page.goto(f"{pages.mlflow}/#/experiments/1/runs?workflowType=machine_learning")
    study = page.get_by_text(re.compile("^run .*aef")).first
    study.locator("xpath=ancestor::div[4]").locator("button").first.click()  # unfold its basins
    page.get_by_text(f"{TARGET} aef").first.wait_for()


def test_mlflow_draws_the_whole_learning_curve(page, pages, run_in_mlflow):
    run = re.search(r"/runs/(\w+)", run_in_mlflow)[1]
    history = f"{pages.mlflow}/api/2.0/mlflow/metrics/get-history"
    with urllib.request.urlopen(f"{history}?run_id={run}&metric_key=valid_nse") as response:
        points = json.load(response)["metrics"]
    assert len(points) > 3

    page.goto(run_in_mlflow)
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("valid_nse")
    page.wait_for_function(ALONE, arg=len(points))
    plot = page.locator(".js-plotly-plot")
    drawn = plot.evaluate("plot => [Array.from(plot.data[0].x), Array.from(plot.data[0].y)]")
    assert drawn == [[one["step"] for one in points], [one["value"] for one in points]]
    assert plot.locator(".scatterlayer path.js-line").first.is_visible()
    keep(page, "learning-curve")
