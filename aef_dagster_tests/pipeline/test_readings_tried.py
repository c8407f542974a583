"""Readings of a study from the command's side: those that fail do not stop the others."""

import dataclasses

import pytest

from aef_dagster.errors import UserError
from aef_dagster.experiments.sizes import SIZES
from aef_dagster.experiments.study import plan_study
from aef_dagster.models.recipes import BUDGETS
from aef_dagster.pipeline.study_inputs import study_basins

SIZE = SIZES["sample"]


@pytest.fixture
def controls_trained(session, run, monkeypatch):
    """A session with the models of one experiment, trained briefly."""
    brief = dataclasses.replace(BUDGETS["toy"], updates=5)
    monkeypatch.setitem(BUDGETS, "toy", brief)
    assert run("basin_clusters", "embedding_stability").success
    basins = study_basins(session.home, session.warehouse, session.settings.dataset)
    keys = sorted(
        {ask.partition for ask in plan_study(basins, SIZE, ["controls"])["controls"].regional}
    )
    asked = {"size": SIZE.name, "experiments": ["controls"], "partitions": keys}
    assert run("regional_models", config={"regional_models": asked}).success
    assert run("regional_scores").success
    return session


@pytest.mark.slow
def test_each_reading_is_tried_and_each_failure_told(controls_trained):
    told = []
    names = ["in_vs_out_of_sample", "controls", "regime_model"]
    with pytest.raises(UserError) as error:
        controls_trained.read(names, SIZE, told.append)
    assert told == [f"reading {name}" for name in names]
    first, *causes = str(error.value).splitlines()
    assert first.startswith("2 of 3 readings failed, the others are kept")
    assert [cause.split(":")[0] for cause in causes] == ["in_vs_out_of_sample", "regime_model"]
    assert all("no scores of " in cause for cause in causes)
    estimates = controls_trained.warehouse.frame("SELECT DISTINCT experiment FROM estimates")
    assert estimates["experiment"].tolist() == ["controls"]
