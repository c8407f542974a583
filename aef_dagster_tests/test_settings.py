"""Settings: read once, absolute, and never silently ignored."""

import os
from pathlib import Path

import pytest

from aef_dagster.errors import UserError
from aef_dagster.settings import Settings, load_settings, settings_table


def test_relative_paths_are_taken_from_where_the_command_was_called(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEF_HOME", "homes/../var-real")
    monkeypatch.setenv("AEF_DATA_DIR", "camels")
    settings = load_settings()
    monkeypatch.chdir("/")
    assert settings.home == tmp_path / "var-real"
    assert settings.data_dir == tmp_path / "camels"


def test_children_inherit_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("AEF_HOME", "AEF_DATASET", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
    load_settings().export()
    assert os.environ["AEF_HOME"] == str(tmp_path / "var")
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "var" / "dagster")
    assert load_settings().home == tmp_path / "var"
    for name in Settings.model_fields:  # what export wrote is not monkeypatch's to undo
        os.environ.pop(f"AEF_{name.upper()}", None)


def test_a_value_that_is_not_allowed_names_the_variable(monkeypatch):
    monkeypatch.setenv("AEF_DATASET", "camels_gb")
    with pytest.raises(UserError, match="AEF_DATASET='camels_gb'.*'sample' or 'camels_us'"):
        load_settings()


def test_a_misspelt_variable_is_not_ignored(monkeypatch):
    monkeypatch.setenv("AEF_DATADIR", "/data")
    with pytest.raises(UserError, match="did you mean AEF_DATA_DIR"):
        load_settings()


def test_an_empty_variable_is_the_default(monkeypatch):
    monkeypatch.setenv("AEF_DATASET", "")
    assert load_settings().dataset == "sample"


def test_a_relative_tracking_store_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEF_TRACKING_URI", "sqlite:///runs/ml.db")
    assert load_settings().tracking_uri == f"sqlite:///{tmp_path}/runs/ml.db"


def test_every_setting_is_described_and_documented():
    readme = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    for name, _default, meaning in settings_table():
        assert meaning.endswith(".")
        assert f"`{name}`" in readme
        assert meaning in readme
