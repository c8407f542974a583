"""The pages of docs/reference/ are what the code says now."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference):
    return reference.pages()


def test_the_committed_pages_are_not_stale(reference, pages):
    found = {path.name: path.read_text() for path in (DOCS / "reference").glob("*.md")}
    assert found.keys() == pages.keys()
    stale = [name for name in pages if found[name] != pages[name]]
    assert not stale, f"run {reference.COMMAND}"


def test_the_pages_do_not_depend_on_the_settings_of_who_makes_them(reference, pages, monkeypatch):
    monkeypatch.setenv("AEF_DATASET", "camels_us")
    monkeypatch.setenv("AEF_NEW_YEARS_CRON", "0 1 1 1 *")
    monkeypatch.setenv("AEF_ALERT_WEBHOOK", "https://hooks.example.org/x")
    monkeypatch.setenv("COLUMNS", "40")
    assert reference.pages() == pages


def test_they_say_what_a_reader_looks_for(pages):
    assets, commands = pages["assets.md"], pages["commands.md"]
    assert "| `leak_free` | blocking | No target among its own donors" in assets
    assert "| `seeds` | `1` | at least 1, at most 50 | Members of the ensemble" in assets
    assert "- pool: `training`" in assets
    assert "| `new_aef_years` | schedule, `0 6 * * 1` UTC | off |" in assets
    assert "| `refresh_what_changed` | sensor, each 30 s | on |" in assets
    assert "| `tell_of_failures` | sensor, each 15 s | off |" in assets
    assert "## `aef embeddings years`" in commands
    assert "| `GAUGE_IDS` | required | Gauge ids of the targets. |" in commands
    assert "| `--seeds` | `1` | Members of the ensemble" in commands
