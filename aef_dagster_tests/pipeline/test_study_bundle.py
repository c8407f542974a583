"""The bundle of a study as an asset: registered where it simulates as trained, else not at all."""

import dataclasses

import pytest

from aef_dagster.models.recipes import BUDGETS
from aef_dagster.pipeline.assets import report
from aef_dagster.storage.registry import champion_tags, load_bundle

pytestmark = pytest.mark.slow

STUDY = {"study_bundle": {"size": "sample"}}


@pytest.fixture
def trained(session, run, monkeypatch):
    """A session with the models of all folds, trained briefly."""
    brief = dataclasses.replace(BUDGETS["toy"], updates=5)
    monkeypatch.setitem(BUDGETS, "toy", brief)
    asked = {"size": "sample", "partitions": ["folds/attributes17"]}
    assert run("basin_clusters").success
    assert run("regional_models", config={"regional_models": asked}).success
    assert run("regional_scores").success
    return session


def test_a_bundle_is_registered_only_if_it_simulates_as_trained(trained, run, monkeypatch):
    uri = trained.tracking.uri
    # Nothing is that close: so the check fails, and no version may be made.
    with monkeypatch.context() as strict:
        strict.setattr(report, "CLOSE_ENOUGH", 0.0)
        refused = run("study_bundle", config=STUDY)
    (check,) = refused.get_asset_check_evaluations()
    assert not refused.success
    assert not check.passed
    trained.tracking.setup()
    assert champion_tags(uri) is None

    made = run("study_bundle", config=STUDY)
    (check,) = made.get_asset_check_evaluations()
    assert made.success
    assert check.passed
    assert 0 <= check.metadata["largest_difference_mm_per_day"].value < report.CLOSE_ENOUGH
    tags = champion_tags(uri)
    assert tags["version"] == "1"
    assert tags["representation"] == "attributes17"
    assert load_bundle("models:/aef_dagster@champion", uri).metadata.signature is not None
