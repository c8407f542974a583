"""The space fusion: refused before its networks are there, and blind to the basin it ranks for."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import UserError
from aef_dagster.experiments.donor_scaling import FUSED
from aef_dagster.models.recipes import BUDGETS
from aef_dagster.pipeline.config import LearnedSimilarity
from aef_dagster.pipeline.learned_similarity import learned_similarity
from aef_dagster.storage.tables import donor_frame, similarity_matrix

KEY = f"folds/{FUSED}"
STUDY = {"regional_models": {"size": "sample"}}
CANARY = "00903002"


def sentence(result):
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    while error.cause is not None:
        error = error.cause
    return error.message


def test_fusion_refuses_before_its_networks_are_there(run):
    basin = {"basin_models": {"basins": [CANARY], "space": "fusion"}}
    told = sentence(run("basin_models", config=basin))
    assert "materialize `donors/fusion` first" in told
    told = sentence(run("similarity/fusion"))
    assert f"materialize the partition {KEY} of `regional_models`" in told
    assert "aef study" in told
    assert "materialize `similarity/fusion` first" in sentence(run("donors/fusion"))


@pytest.fixture
def trained(session, run, monkeypatch):
    """The networks of fusion, trained briefly."""
    brief = dataclasses.replace(BUDGETS["toy"], updates=60)
    monkeypatch.setitem(BUDGETS, "toy", brief)

    def train():
        assert run("regional_models", partition_key=KEY, config=STUDY).success
        assert run("regional_scores").success
        assert run("similarity/fusion", "donors/fusion").success
        return similarity_matrix(session.warehouse, "fusion")

    assert run("basin_clusters").success
    return train


@pytest.mark.slow
def test_a_basins_row_comes_from_the_network_that_held_it_out(session, run, trained):
    matrix, ids = trained()
    assert ids == sorted(session.basins)
    assert matrix.shape == (24, 24)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-6)
    assert np.isfinite(matrix).all()
    # Each row has its own network's view: two basins need not agree how alike they are.
    assert not np.allclose(matrix, matrix.T, atol=1e-3)
    donors = donor_frame(session.warehouse, "fusion")
    assert donors.groupby("gauge_id").size().tolist() == [23] * 24

    path = session.home.streamflow / f"{CANARY}.parquet"
    table = pd.read_parquet(path)
    flow = (table["streamflow"].to_numpy() * 3 + 1)[::-1].astype("float32")
    table.assign(streamflow=flow).to_parquet(path)
    again, _ids = trained()
    fold = session.warehouse.frame(
        "SELECT gauge_id, fold FROM scores WHERE current AND design = 'folds'"
    ).set_index("gauge_id")["fold"]
    blind = (fold == fold[CANARY]).reindex(ids).to_numpy()
    np.testing.assert_array_equal(matrix[blind], again[blind])
    assert (matrix[~blind] != again[~blind]).any(axis=1).all()

    # Networks of another budget do not count, and none is replaced by another's.
    with pytest.raises(UserError, match="networks that are not there yet"):
        learned_similarity(session.home, session.warehouse, LearnedSimilarity(budget="tiny"))
    job_hash = session.warehouse.frame(
        "SELECT job_hash FROM scores WHERE current AND design = 'folds' LIMIT 1"
    )["job_hash"][0]
    shutil.rmtree(session.home.checkpoints / job_hash)
    with pytest.raises(UserError, match=f"the network {job_hash} of the space fusion is gone"):
        learned_similarity(session.home, session.warehouse, LearnedSimilarity())
