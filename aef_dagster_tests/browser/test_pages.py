"""The pages as a hydrologist meets them: a real `aef dev`, a real browser, a real training.

`AEF_TEST_PICTURES=docs/pictures` keeps the screenshots that README and docs show.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aef_dagster.pipeline.servers import GRAPH_PAGE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

AEF = Path(sys.executable).with_name("aef")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TARGET = "00901001"
PATIENCE_MS = 120_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    return clean | {"AEF_HOME": str(tmp_path_factory.mktemp("home") / "var")}


@pytest.fixture(scope="module")
def pages(environment):
    """Addresses of the Dagster and MLflow pages of a prepared home; ends the servers after."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian's package chromium)")
    subprocess.run([AEF, "prepare"], env=environment, check=True, capture_output=True)
    ports = (free_port(), free_port())
    server = subprocess.Popen(
        [AEF, "dev", "--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])],
        env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    told = ""
    while "Ctrl-C" not in told:
        line = server.stdout.readline()
        assert line, f"aef dev ended early: {told}"
        told += line
    family = psutil.Process(server.pid).children(recursive=True)
    assert len(family) >= 4
    yield dict(zip(("dagster", "mlflow"), re.findall(r"http://[^\s/]+", told), strict=True))
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    server.stdout.close()
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == [], "Ctrl-C must end every process"


@pytest.fixture(scope="module")
def page(pages):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1500, "height": 900})
        opened.set_default_timeout(PATIENCE_MS)
        opened.add_init_script(
            "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
            "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')"
        )
        yield opened
        browser.close()


def keep(page, name: str) -> None:
    folder = os.environ.get("AEF_TEST_PICTURES")
    if folder:
        time.sleep(2)  # animations
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_graph_shows_every_group(page, pages):
    page.goto(pages["dagster"] + GRAPH_PAGE)
    for name in ("basin_embedding", "basin_models", "trust", "aef_embeddings", "study_report"):
        page.get_by_text(name, exact=True).first.wait_for()
    keep(page, "asset-graph")


def test_one_basin_is_materialized_from_the_page(page, pages):
    page.goto(f"{pages['dagster']}/assets/basin_models?view=partitions&partition={TARGET}")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_role("button", name=re.compile("Launch 1 run")).click()
    page.get_by_text(re.compile("Launched run")).wait_for()
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.get_by_text("hydrograph", exact=True).count():
        assert time.monotonic() < deadline, "the run did not finish"
        page.goto(f"{pages['dagster']}/assets/basin_models?view=partitions&partition={TARGET}")
        page.get_by_text("Latest materialization").wait_for()
        time.sleep(3)
    keep(page, "basin-page")

    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/svg+xml']")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    keep(page, "hydrograph")
    page.keyboard.press("Escape")


def test_links_lead_to_mlflow_and_back(page, pages):
    page.goto(f"{pages['dagster']}/assets/basin_models?view=partitions&partition={TARGET}")
    link = page.locator(f"a[href^='{pages['mlflow']}']").first
    link.wait_for()
    address = link.get_attribute("href")
    page.goto(address)
    page.get_by_text("valid_nse").first.wait_for()
    page.get_by_text(TARGET).first.wait_for()
    keep(page, "mlflow-run")
    back = page.locator(f"a[href^='{pages['dagster']}/runs/']").first
    back.wait_for()
    page.goto(back.get_attribute("href"))
    page.get_by_text("basin_models").first.wait_for()

    page.goto(f"{pages['mlflow']}/#/experiments/1/runs?workflowType=machine_learning")
    study = page.get_by_text(re.compile("^run .*aef")).first
    study.locator("xpath=ancestor::div[4]").locator("button").first.click()  # unfold its basins
    page.get_by_text(f"{TARGET} aef").first.wait_for()
