"""What the browser tests share: the pages of one real `aef dev`, and a browser.

All files use one home, so each trains basins of its own.
Not here: what is asked of the pages (looking.py).
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from aef_dagster.storage.home import Home
from aef_dagster_tests.browser.looking import PATIENCE_S, Pages, at_partition
from aef_dagster_tests.chromium import chromium, require_chromium
from aef_dagster_tests.deploy.postgres import free_port

AEF = Path(sys.executable).with_name("aef")


@pytest.fixture(scope="package")
def environment(tmp_path_factory):
    """Settings of the home: the schedule, which is off, would ask each minute."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    home = tmp_path_factory.mktemp("home") / "var"
    return clean | {"AEF_HOME": str(home), "AEF_NEW_YEARS_CRON": "* * * * *"}


@pytest.fixture(scope="package")
def pages(environment):
    """The pages of a prepared home; ends the servers after."""
    require_chromium()
    subprocess.run([AEF, "prepare"], env=environment, check=True, capture_output=True)
    ports = (free_port(), free_port())
    server = subprocess.Popen(
        [AEF, "dev", "--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])],
        env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    told = ""
    try:
        while "Ctrl-C" not in told:
            line = server.stdout.readline()
            assert line, f"aef dev ended early: {told}"
            told += line
        family = psutil.Process(server.pid).children(recursive=True)
        assert len(family) >= 4
        yield Pages(*re.findall(r"http://[^\s/]+", told), Home(Path(environment["AEF_HOME"])))
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(60)
        server.stdout.close()
    assert code == 0
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == [], "Ctrl-C must end every process"


@pytest.fixture(scope="package")
def browser():
    """A started Chromium."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def page(browser, pages):
    """A window for all tests, in which MLflow's assistant stays closed."""
    opened = browser.new_page(viewport={"width": 1500, "height": 900})
    opened.set_default_timeout(PATIENCE_S * 1000)
    opened.add_init_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')"
    )
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def materialize(page, pages):
    """Clicks Materialize on the page of an asset, or of one basin; the run's id and status.

    `sure` confirms that assets before it were not made, of which the page warns.
    """

    def click(asset: str, partition: str | None = None, sure: bool = False) -> tuple[str, str]:
        page.goto(f"{pages.dagster}/assets/{asset}{at_partition(partition)}")
        page.get_by_role("button", name=re.compile("Materialize")).first.click()
        if partition:
            page.get_by_role("button", name="Launch 1 run").click()
        if sure:
            page.get_by_role("button", name="Confirm").click()
        toast = page.get_by_text(re.compile(r"Launched run\s+\w+")).first
        toast.wait_for()
        return pages.ended(re.search(r"run\s+(\w+)", toast.inner_text())[1])

    return click
