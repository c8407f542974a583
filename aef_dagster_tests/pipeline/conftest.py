"""A prepared sample home, made once: tests copy it or add to it."""

import dataclasses
import shutil

import dagster as dg
import pytest

from aef_dagster.models.recipes import BUDGETS
from aef_dagster.pipeline.build import build_defs
from aef_dagster.pipeline.session import Session
from aef_dagster.settings import load_settings

BRIEF_UPDATES = 40


@pytest.fixture(scope="session")
def prepared(once):
    """A home after `aef prepare` on the sample, and nothing trained. Do not write to it."""

    def prepare(folder):
        with pytest.MonkeyPatch.context() as environment:
            isolated(environment)
            Session(load_settings(home=folder / "var")).prepare()

    return once("prepared", prepare) / "var"


@pytest.fixture
def session(prepared, tmp_path, monkeypatch):
    """A session on a copy of the prepared home."""
    isolated(monkeypatch)
    # These tests look at what becomes of a training, not at its skill.
    brief = dataclasses.replace(BUDGETS["tiny"], updates=BRIEF_UPDATES)
    monkeypatch.setitem(BUDGETS, "tiny", brief)
    home = tmp_path / "var"
    shutil.copytree(prepared, home)
    return Session(load_settings(home=home))


@pytest.fixture
def instance(tmp_path):
    """A persistent instance of its own."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


@pytest.fixture
def run(session):
    """Execute assets of the session's definitions on its instance."""
    job = build_defs(session.settings).resolve_implicit_global_asset_job_def()

    def execute(*keys, config=None, **options):
        return job.execute_in_process(
            asset_selection=[dg.AssetKey.from_user_string(key) for key in keys],
            run_config={"ops": {name: {"config": c} for name, c in (config or {}).items()}},
            instance=session.instance,
            raise_on_error=False,
            **options,
        )

    return execute


def isolated(monkeypatch) -> None:
    """Let what a session exports to the environment end with the test."""
    for name in load_settings().model_dump():
        monkeypatch.setenv(f"AEF_{name.upper()}", "")
    monkeypatch.setenv("DAGSTER_HOME", "")
