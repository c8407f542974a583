"""A prepared home, made once, and its copies: one for a test, one that servers are at."""

import subprocess

import pytest

from aef_dagster.storage.home import Home
from aef_dagster_tests.deploy.processes import program
from aef_dagster_tests.faults.live import Live, copied, ended, environment, start_training

# What several tests train, not all of them in every home.
BASINS = ["00901001", "00902001", "00903001"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Folder of a sample home as `aef prepare` leaves it; to be copied, not used."""
    home = Home(tmp_path_factory.mktemp("prepared") / "var")
    answer = subprocess.run(
        [program("aef"), "prepare"], env=environment(home), cwd=home.root.parent,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return home.root


@pytest.fixture
def home(prepared, tmp_path):
    """A prepared home of the test's own."""
    return copied(prepared, tmp_path / "var")


@pytest.fixture(scope="session")
def asked_twice(prepared, tmp_path_factory):
    """A home in which two commands trained the same basins at the same time, undisturbed."""
    home = copied(prepared, tmp_path_factory.mktemp("twice") / "var")
    commands = [start_training(home, BASINS) for _ in range(2)]
    for command in commands:
        ended(command)
    return home


@pytest.fixture(scope="session")
def live(prepared, tmp_path_factory):
    """A home with code location, webserver and daemon."""
    folder = tmp_path_factory.mktemp("live")
    found = Live(copied(prepared, folder / "var"), folder)
    try:
        for name in ("code", "webserver", "daemon"):
            found.start(name)
        yield found
    finally:
        found.close()
