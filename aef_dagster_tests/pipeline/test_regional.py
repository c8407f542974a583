"""Regional models as assets: what a partition leaves and reports, and what is refused."""

import dataclasses

import dagster as dg
import pytest

from aef_dagster.experiments.designs import folds
from aef_dagster.experiments.sizes import SIZES
from aef_dagster.experiments.study import merged, plan_study
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.recipes import BUDGETS
from aef_dagster.pipeline.study_inputs import plan_regional, study_basins
from aef_dagster.storage.mlflow_store import connect, find_run

KEY = "folds/attributes17"
STUDY = {"regional_models": {"size": "sample"}}


@pytest.fixture
def brief(monkeypatch):
    """What becomes of a training is looked at here, not its skill."""
    monkeypatch.setitem(BUDGETS, "toy", dataclasses.replace(BUDGETS["toy"], updates=30))


def materializations(result):
    return [
        event.materialization
        for event in result.all_events
        if event.event_type_value == "ASSET_MATERIALIZATION"
        and event.asset_key == dg.AssetKey("regional_models")
    ]


def sentence(result):
    """The error's own words, or those of the asset's failure."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    told, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
    if told is not None and told.description:
        return told.description
    while error.cause is not None:
        error = error.cause
    return error.message


def test_a_partition_leaves_models_scores_and_runs(session, run, brief):
    assert run("basin_clusters").success
    result = run("regional_models", partition_key=KEY, config=STUDY)
    assert result.success
    (made,) = materializations(result)
    assert made.partition == KEY
    told = {name: entry.value for name, entry in made.metadata.items()}
    assert (told["models"], told["reused"], told["size"], told["sample"]) == (3, 0, "sample", True)
    assert told["surrogate"] is False
    assert -10 < told["median_nse"] < 1
    assert told["train_seconds"] > 0
    assert told["by_model"].count("all others") == 3
    assert "data:image/png;base64," in told["nse_of_basins"]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("no_leakage", True)
    assert check.metadata["jobs"].value == 3

    assert run("regional_scores").success
    scores = session.warehouse.frame("SELECT * FROM scores WHERE asset = 'regional_models'")
    assert len(scores) == scores["gauge_id"].nunique() == 24
    assert scores["current"].all()
    assert scores["n_donors"].tolist() == [16] * 24
    assert set(scores["design"]) == {"folds"}
    assert set(scores["role"]) == {"ungauged"}
    assert set(scores["learned_from"]) == {""}
    assert scores[["space", "k"]].isna().all(axis=None)
    assert scores.set_index("gauge_id")["fold"].to_dict() == folds(session.basins, 3)
    hashes = set(scores["job_hash"])
    assert len(hashes) == 3
    for job_hash in hashes:
        checkpoint = Checkpoint.open(session.home.checkpoints, job_hash)
        assert checkpoint.exists
        assert not set(checkpoint.job().donors) & set(checkpoint.job().targets)

    client = connect(session.tracking.uri)
    experiment = client.get_experiment_by_name("aef_dagster").experiment_id
    row = scores.iloc[0]
    tracked = client.get_run(row["mlflow_run_id"])
    parent = find_run(client, experiment, "parent_key", "study:sample:in_vs_out_of_sample")
    assert tracked.data.tags["mlflow.parentRunId"] == parent.info.run_id
    tags = {"design": "folds", "fold": str(row["fold"]), "job_hash": row["job_hash"],
            "dagster_run_id": result.run_id, "sample": "true", "surrogate": "false"}  # fmt: skip
    assert tags.items() <= tracked.data.tags.items()
    of_job = scores[scores["job_hash"] == row["job_hash"]]
    assert tracked.data.metrics["median_nse"] == pytest.approx(of_job["nse"].median())

    again = run("regional_models", partition_key=KEY, config=STUDY)
    (event,) = materializations(again)
    assert event.metadata["reused"].value == 3
    assert event.metadata["train_seconds"].value == 0
    assert event.tags["dagster/data_version"] == made.tags["dagster/data_version"]
    (check,) = again.get_asset_check_evaluations()
    assert check.passed
    assert {path.name for path in session.home.checkpoints.glob("[!.]*")} == hashes


def test_a_partition_that_the_size_does_not_ask_for_says_so(session, run):
    assert run("basin_clusters").success
    result = run("regional_models", partition_key="folds/attributes27", config=STUDY)
    told = sentence(result)
    assert "size sample" in told
    assert "folds/attributes27" in told
    assert "DagsterStepOutputNotFoundError" not in told


def test_what_is_no_partition_or_no_experiment_is_named(run):
    wrong = {"regional_models": {"size": "sample", "partitions": ["folds/colour"]}}
    result = run("regional_models", config=wrong)
    assert "folds/colour is no partition" in sentence(result)
    assert "nothing was asked for" in sentence(run("regional_models", config=STUDY))


def test_before_clusters_regional_models_say_what_to_do(run):
    result = run("regional_models", partition_key=KEY, config=STUDY)
    assert "basin_clusters" in sentence(result)


def test_an_unknown_experiment_is_refused_before_anything_is_trained(session, run):
    assert run("basin_clusters").success
    config = {"regional_models": {"size": "sample", "experiments": ["contrls"]}}
    result = run("regional_models", partition_key=KEY, config=config)
    assert "no experiment contrls; choose from in_vs_out_of_sample" in sentence(result)
    assert not list(session.home.checkpoints.glob("*"))


def test_experiments_refuse_before_there_are_scores(run):
    assert run("basin_clusters").success
    for name, upstream in (("controls", "regional_models"), ("donor_scaling", "basin_models")):
        result = run(name, config={name: {"size": "sample"}})
        assert f"`{upstream}`" in sentence(result)
        assert "aef study" in sentence(result)


@pytest.mark.slow
def test_clusters_of_stand_in_embeddings_mark_all_that_is_held_out_by_them(session, run):
    """Also where the network is told attributes; the mark is no part of a model's name."""
    assert run("basin_clusters").success
    home, store, size = session.home, session.warehouse, SIZES["sample"]
    asks = list(merged(plan_study(study_basins(home, store, "sample"), size, ["cross_regime"])))

    def planned():
        return plan_regional(home, store, asks, size, "sample", "daymet", "fp32").jobs

    before = [job for _ask, job in planned()]
    assert not any(job.surrogate for job in before)
    with store.write() as connection:
        connection.execute("UPDATE basin_embedding SET surrogate = true")
    after = planned()
    assert [job.hash for _ask, job in after] == [job.hash for job in before]
    unmarked = {ask.partition for ask, job in after if not job.surrogate}
    told = ("folds", "climates", "regions", "gauged", "fewer_folds")
    assert unmarked == {f"{design}/attributes17" for design in told}
