"""The assets on a real instance: what they leave, what they report, what they refuse."""

import json
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.pipeline.config import TrainingConfig
from aef_dagster.storage.warehouse import Warehouse


def materializations(result, key="basin_models"):
    return [
        event.materialization
        for event in result.all_events
        if event.event_type_value == "ASSET_MATERIALIZATION"
        and event.asset_key == dg.AssetKey.from_user_string(key)
    ]


def evaluations(result):
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def failure_of(result):
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data


def corrupt(session, pattern, line, text):
    """Overwrite one line of one of the sample's files; returns the file."""
    (path,) = session.home.sample.rglob(pattern)
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prepare_fills_the_tables(session):
    store = session.warehouse
    assert store.count("basins") == 24
    assert store.count("aef_embeddings") == 24 * 8
    assert store.count("basin_embedding") == 24
    assert store.count("similarity") == 4 * 24 * 24
    assert store.count("donors") == 4 * 24 * 23
    years = session.instance.get_materialized_partitions(dg.AssetKey("aef_embeddings"))
    assert years == {str(year) for year in range(2017, 2025)}
    flow = store.frame("SELECT count(DISTINCT gauge_id) AS n FROM streamflow")
    assert flow["n"][0] == 24


def test_stability_and_drift_leave_tables_and_pictures(run, session):
    result = run("embedding_stability", "donor_drift")
    assert result.success
    stability = session.warehouse.frame("SELECT * FROM embedding_stability")
    assert (len(stability), stability["n_years"].unique().tolist()) == (24, [8])
    assert stability["mean_cosine"].between(0.5, 1.0).all()
    assert stability["sample"].all()
    drift = session.warehouse.frame("SELECT * FROM donor_drift")
    assert (drift["jaccard"] == 1).all()  # ranked once so far
    assert not drift["moved"].any()
    pictures = {
        "embedding_stability": ["map_of_change", "years_against_years", "bands_against_steps"],
        "donor_drift": ["map_of_change"],
    }
    for asset, names in pictures.items():
        (told,) = materializations(result, asset)
        for name in names:
            assert "data:image/png;base64," in told.metadata[name].value
        assert told.metadata["sample"].value is True


def test_everything_made_from_the_sample_says_so(session):
    assert session.warehouse.frame("SELECT bool_and(sample) AS s FROM basins")["s"][0]
    assert session.warehouse.frame("SELECT bool_and(sample) AS s FROM aef_embeddings")["s"][0]


def test_climate_of_models_comes_from_the_training_period_only(session, run):
    before = session.warehouse.frame("SELECT * FROM attributes WHERE origin = 'training_period'")
    path = next(session.home.forcings.glob("*.parquet"))
    table = pd.read_parquet(path)
    late = pd.to_datetime(table["date"]) >= "1996-10-01"
    table.loc[late, "prcp"] = 99.0
    table.to_parquet(path)
    assert run("attributes").success
    after = session.warehouse.frame("SELECT * FROM attributes WHERE origin = 'training_period'")
    order = ["gauge_id", "attribute"]
    pd.testing.assert_frame_equal(
        before.sort_values(order, ignore_index=True), after.sort_values(order, ignore_index=True)
    )


def test_a_year_again_changes_nothing(session, run):
    key = dg.AssetKey("aef_embeddings")

    def version():
        event = session.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=["2020"]), limit=1
        ).records[0]
        return event.asset_materialization.tags["dagster/data_version"]

    before = version()
    result = run("aef_embeddings", config={"aef_embeddings": {"years": [2020]}})
    assert result.success
    assert version() == before
    assert session.warehouse.count("aef_embeddings") == 24 * 8


def test_a_year_that_the_source_lacks_is_named(session, run):
    result = run("aef_embeddings", config={"aef_embeddings": {"years": [2025]}})
    assert "no embeddings of 2025" in failure_of(result).user_failure_data.description


def test_one_bad_year_is_not_stored_and_costs_no_other(session, run):
    (path,) = session.home.sample.rglob("*_2019.csv")
    table = pd.read_csv(path)
    table.loc[3, list(BANDS)] *= 1.5  # no mean of unit vectors is this long
    table.to_csv(path, index=False)
    store = session.warehouse
    stored = store.frame("SELECT * FROM aef_embeddings WHERE year = 2019 ORDER BY gauge_id")
    with store.write() as connection:
        connection.execute("DELETE FROM aef_embeddings WHERE year = 2020")
    result = run("aef_embeddings", config={"aef_embeddings": {"years": [2018, 2019, 2020]}})
    assert not result.success
    check = evaluations(result)["complete_and_finite"]
    assert not check.passed
    assert path.name in check.metadata["2019"].text
    again = store.frame("SELECT * FROM aef_embeddings WHERE year = 2019 ORDER BY gauge_id")
    pd.testing.assert_frame_equal(stored, again)
    assert [m.partition for m in materializations(result, "aef_embeddings")] == ["2018", "2020"]
    assert store.count("aef_embeddings") == 24 * 8


def test_coverage_looks_at_all_years_not_only_at_the_last_run(session, run):
    store = session.warehouse
    with store.write() as connection:
        connection.execute("DELETE FROM aef_embeddings WHERE year = 2017 AND gauge_id = '00901001'")
    result = run("aef_embeddings", config={"aef_embeddings": {"years": [2018]}})
    check = evaluations(result)["coverage"]
    assert not check.passed
    assert check.metadata["2017"].text == "00901001"


def test_what_an_earlier_source_left_is_not_pooled(session, run):
    for path in session.home.sample.rglob("*_201[789].csv"):
        path.unlink()
    assert run("basin_embedding").success
    pooled = session.warehouse.frame("SELECT DISTINCT years, n_years FROM basin_embedding")
    assert pooled.values.tolist() == [["2020-2024", 5]]


def test_a_finished_mean_keeps_its_origin(session, run):
    paths = sorted(session.home.sample.rglob("BasinEmbeddings_sample_*.csv"))
    mean = pd.read_csv(paths[0]).drop(columns="year")
    for path in paths:
        path.unlink()
    mean.to_csv(paths[0].with_name("finished_surrogate.csv"), index=False)
    assert run("basin_embedding").success
    stored = session.warehouse.frame(
        "SELECT DISTINCT route, source_files, surrogate, n_years FROM basin_embedding"
    )
    assert stored.values.tolist() == [["table", "finished_surrogate.csv", True, 0]]


def test_pooling_as_the_study_did_it_is_recorded(session, run):
    result = run("basin_embedding", config={"basin_embedding": {"pooling": "plain_mean"}})
    assert result.success
    stored = session.warehouse.frame("SELECT * FROM basin_embedding")
    assert set(stored["pooling"]) == {"plain_mean"}
    lengths = np.linalg.norm(stored[list(BANDS)].to_numpy(float), axis=1)
    assert (lengths < 1).all()


def test_every_declared_check_is_evaluated_by_its_asset(session, run):
    for key, config in (
        ("forcings", {}), ("streamflow", {}), ("aef_embeddings", {"years": [2017]}),
        ("basin_embedding", {}), ("similarity/aef", {}), ("donors/aef", {}),
    ):  # fmt: skip
        result = run(key, config={key.replace("/", "__"): config} if config else None)
        node = session.definitions.resolve_asset_graph().get(dg.AssetKey.from_user_string(key))
        assert set(evaluations(result)) == {check.name for check in node.check_keys}, key
        assert all(evaluation.passed for evaluation in evaluations(result).values()), key


def test_one_bad_file_excludes_one_basin_and_says_where(session, run):
    bad = "00901002"
    path = corrupt(session, f"{bad}_lump_cida_forcing_leap.txt", 50, "1990 2 15 12 not a number")
    result = run("forcings")
    assert result.success
    check = evaluations(result)["all_basins_readable"]
    assert not check.passed
    reason = check.metadata[bad].text
    assert path.name in reason
    assert "line 50" in reason
    assert len(list(session.home.forcings.glob("*.parquet"))) == 23
    recorded = session.warehouse.frame("SELECT gauge_id, asset FROM exclusions")
    assert recorded.values.tolist() == [[bad, "forcings"]]
    # mended, it comes back and the exclusion is gone
    corrupt(session, path.name, 50, path.read_text().splitlines()[48].replace(" 14 ", " 15 ", 1))
    run("forcings")
    assert session.warehouse.count("exclusions") == 0
    assert len(list(session.home.forcings.glob("*.parquet"))) == 24


def test_a_backfill_run_keeps_good_basins_and_fails_the_bad(session, run):
    """The contract with Dagster's range runs, which are beta: one event per good basin."""
    good, bad = "00901001", "00901002"
    corrupt(session, f"{bad}_streamflow_qc.txt", 10, f"{bad} 1990 01 10 oops A")
    run("streamflow")
    result = run(
        "basin_models",
        tags={
            "dagster/asset_partition_range_start": good,
            "dagster/asset_partition_range_end": bad,
        },
    )
    assert not result.success
    told = failure_of(result).user_failure_data.description
    assert "1 of 2 basins failed" in told
    assert bad in told
    assert "line 10" in told
    events = materializations(result)
    assert [event.partition for event in events] == [good]
    metadata = events[0].metadata
    assert metadata["nse"].value > -5
    assert metadata["hydrograph"].value.startswith("![](data:image/svg+xml;base64,")
    assert metadata["sample"].value is True
    assert session.instance.get_materialized_partitions(dg.AssetKey("basin_models")) == {good}
    checks = evaluations(result)
    assert checks["no_leakage"].passed
    assert not checks["complete"].passed

    # what is done is not trained again, and links lead both ways
    client_url = metadata["mlflow_run"].value
    again = run("basin_models", partition_key=good)
    assert again.success
    (event,) = materializations(again)
    assert event.metadata["reused"].value is True
    assert event.metadata["mlflow_run"].value == client_url
    assert set(evaluations(again)) == {"no_leakage", "complete"}

    scored = run("basin_scores")
    assert scored.success
    assert set(evaluations(scored)) == {"every_gauged_basin_scored", "mostly_skilful"}
    table = session.warehouse.frame("SELECT * FROM scores")
    assert table["gauge_id"].tolist() == [good]
    row = table.iloc[0]
    assert row["mlflow_run_id"] == client_url.rsplit("/", 1)[1].split("?")[0]
    assert row["nse"] == pytest.approx(metadata["nse"].value, abs=1e-4)
    assert (row["space"], row["k"], row["budget"], row["seed"]) == ("aef", 8, "tiny", 0)
    simulated = session.warehouse.frame("SELECT job_hash, sim, obs FROM simulations")
    assert set(simulated["job_hash"]) == {row["job_hash"]}
    assert simulated["sim"].notna().all()

    from mlflow import MlflowClient

    mlflow_run = MlflowClient(session.tracking.uri).get_run(row["mlflow_run_id"])
    assert mlflow_run.data.tags["dagster_run_id"] == result.run_id
    assert result.run_id in mlflow_run.data.tags["dagster_run"]
    assert mlflow_run.data.metrics["nse"] == pytest.approx(row["nse"])
    assert mlflow_run.data.tags["sample"] == "true"


@pytest.mark.slow
def test_two_spaces_with_equal_donors_are_one_job_and_two_results(session, run):
    config = {"basins": ["00901003"], "k": 23}
    first = run("basin_models", config={"basin_models": config | {"space": "aef"}})
    second = run("basin_models", config={"basin_models": config | {"space": "random"}})
    assert materializations(first)[0].metadata["reused"].value is False
    assert materializations(second)[0].metadata["reused"].value is True
    run("basin_scores")
    table = session.warehouse.frame("SELECT job_hash, space, mlflow_run_id FROM scores")
    assert table["job_hash"].nunique() == 1
    assert sorted(table["space"]) == ["aef", "random"]
    assert table["mlflow_run_id"].nunique() == 2


def test_training_is_refused_on_donors_whose_check_failed(session, run):
    session.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(["donors", "aef"]), check_name="leak_free", passed=False,
            blocking=True, metadata={},
        )
    )  # fmt: skip
    result = run("basin_models", partition_key="00901001")
    assert "leak_free of donors/aef failed" in failure_of(result).user_failure_data.description


def test_training_is_refused_on_donors_whose_run_died(session, run):
    with session.warehouse.write() as connection:
        connection.execute("DELETE FROM similarity WHERE space = 'aef'")
    assert not run("donors/aef").success
    result = run("basin_models", partition_key="00901001")
    assert (
        "materialize it again, before training" in failure_of(result).user_failure_data.description
    )


def test_partitions_and_config_must_not_differ(session, run):
    result = run(
        "basin_models", partition_key="00901001",
        config={"basin_models": {"basins": ["00901002"]}},
    )  # fmt: skip
    assert "leave one of them out" in failure_of(result).user_failure_data.description


@pytest.mark.slow
def test_the_targets_flow_cannot_reach_the_weights(session, run):
    """The canary: whatever the target's flow is, its model is the same; only its scores differ."""
    target = "00902003"
    before = run("basin_models", partition_key=target)
    path = session.home.streamflow / f"{target}.parquet"
    table = pd.read_parquet(path)
    table["streamflow"] = (table["streamflow"] * 3 + 1).astype("float32")
    table.to_parquet(path)
    after = run("basin_models", partition_key=target)
    folders = [
        Path(materializations(result)[0].metadata["checkpoint"].value) for result in (before, after)
    ]
    assert folders[0] != folders[1]
    weights = [(folder / "weights.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert evaluations(after)["no_leakage"].passed

    # the scores in force are those of the data in force
    assert run("basin_scores").success
    rows = session.warehouse.frame("SELECT job_hash, current, nse FROM scores").set_index(
        "job_hash"
    )
    assert rows["current"].to_dict() == {folders[0].name: False, folders[1].name: True}
    shown = session.scores([target], TrainingConfig().resolve("sample"))
    assert shown["job_hash"].tolist() == [folders[1].name]


def test_a_scaler_that_saw_more_than_donors_is_found_out(session, run):
    from aef_dagster.pipeline.checks import check_leakage
    from aef_dagster.pipeline.inputs import plan_basins

    target = "00902004"
    choice = TrainingConfig().resolve("sample")
    assert run("basin_models", partition_key=target).success
    plan = plan_basins(
        session.home, session.warehouse, choice, [target], "sample", "daymet", "fp32"
    )
    assert check_leakage(session.home.checkpoints, plan.jobs[target], plan.data).passed
    path = session.home.checkpoints / plan.jobs[target][0].hash / "scaler.json"
    scaler = json.loads(path.read_text())
    scaler["flow_mean"] *= 1.001
    path.write_text(json.dumps(scaler))
    assert not check_leakage(session.home.checkpoints, plan.jobs[target], plan.data).passed
    assert not check_leakage(session.home.checkpoints, [], plan.data).passed


@pytest.mark.slow
def test_a_river_without_a_streamflow_file_can_be_a_target_and_no_donor(session, run):
    target, neighbour = "00902002", "00902003"
    (path,) = session.home.sample.rglob(f"{target}_streamflow_qc.txt")
    path.unlink()
    assert run("streamflow").success
    result = run("basin_models", config={"basin_models": {"basins": [target, neighbour]}})
    assert result.success
    found = {event.partition: event.metadata for event in materializations(result)}
    assert found[target]["n_days"].value == 0
    assert target not in found[neighbour]["donors"].text
    assert found[neighbour]["n_donors"].value == 8


def test_training_before_donors_says_what_to_do(session, run):
    Warehouse(session.home.warehouse).replace(
        "donors", pd.DataFrame({"gauge_id": pd.Series(dtype=str)}), space="distance"
    )
    result = run(
        "basin_models", partition_key="00901001",
        config={"basin_models": {"space": "distance"}},
    )  # fmt: skip
    assert "materialize `donors/distance` first" in failure_of(result).user_failure_data.description


@pytest.mark.slow
def test_prepare_leaves_a_year_without_partition_alone(session):
    """A table may be ahead of the calendar: the running year is not a partition yet."""
    (path,) = session.home.sample.rglob("*_2024.csv")
    ahead = pd.read_csv(path).assign(year=2999)
    ahead.to_csv(path.with_name("BasinEmbeddings_sample_2999.csv"), index=False)
    session.prepare()
    years = session.instance.get_materialized_partitions(dg.AssetKey("aef_embeddings"))
    assert years == {str(year) for year in range(2017, 2025)}
    assert session.warehouse.count("aef_embeddings") == 24 * 8


@pytest.mark.slow
def test_a_basin_without_flow_is_simulated_and_counted(session, run):
    """An ungauged river for real: no flow, no score, and a simulation all the same."""
    target = "00902002"
    path = session.home.streamflow / f"{target}.parquet"
    table = pd.read_parquet(path)
    table.assign(streamflow=np.float32(np.nan)).to_parquet(path)
    result = run("basin_models", partition_key=target)
    assert result.success
    (event,) = materializations(result)
    assert event.metadata["n_days"].value == 0
    assert "nse" not in event.metadata
    assert run("basin_scores").success
    row = session.warehouse.frame("SELECT nse, n_days FROM scores").iloc[0]
    assert pd.isna(row["nse"])
    assert row["n_days"] == 0


@pytest.mark.slow
def test_published_scores_stand_beside_ours(session, run, tmp_path, monkeypatch):
    from aef_dagster.evaluation.summaries import compare_published
    from aef_dagster.pipeline.scores import collect_scores

    target = "00901001"
    assert run("basin_models", partition_key=target).success
    scores = collect_scores(session.home.checkpoints, "basin_models", lambda key: None)
    assert compare_published(scores, None) is None
    (tmp_path / "published_nse_531.csv").write_text(
        f"gauge_id,lstm,model_b\n{target},0.7,0.5\n01013500,0.1,0.1\n"
    )
    beside = compare_published(scores, str(tmp_path))
    assert beside[["basins", "lstm", "model_b"]].values.tolist() == [[1, 0.7, 0.5]]
    assert beside["here"][0] == pytest.approx(scores["nse"][0])
