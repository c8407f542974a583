import logging
import math
import os
import time

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import DataFileError
from aef_dagster.evaluation.metrics import METRICS
from aef_dagster.models.checkpoints import Checkpoint, partial_folder, write_checkpoint
from aef_dagster.models.inputs import prepare
from aef_dagster.models.scoring import score_rows, simulation_table

DATES = np.arange("2003-10-01", "2004-09-30", dtype="datetime64[D]")


@pytest.fixture
def write(toy, make_job, tmp_path):
    """Writes the checkpoint of a job as if it had been trained."""

    def write(job=None):
        job = job or make_job()
        rng = np.random.default_rng(0)
        simulated = rng.gamma(1.0, 1.0, size=(len(job.targets), len(DATES))).astype(np.float32)
        observed = simulated + 0.1
        with partial_folder(tmp_path) as partial:
            return write_checkpoint(
                tmp_path,
                job.hash,
                partial=partial,
                job=job,
                simulation=simulation_table(job.targets, DATES, observed, simulated),
                scores=score_rows(job, DATES, observed, simulated),
                run={"seconds": 1.0, "basin_days": 2, "peak_mb": 3.0},
                weights={"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
                scaler=prepare(job, toy).scaler,
                curve=[{"update": 20, "valid_nse": math.nan}],
            )

    return write


def test_everything_comes_back(write, make_job, toy, tmp_path):
    job = make_job(targets=("00000001", "00000002"), donors=("00000003", "00000004"))
    written = write(job)
    checkpoint = Checkpoint.open(tmp_path, job.hash)
    assert checkpoint == written
    assert checkpoint.exists
    assert checkpoint.job() == job
    assert checkpoint.members() == (job.hash,)
    assert checkpoint.record()["kind"] == "model"
    assert checkpoint.scaler() == prepare(job, toy).scaler
    assert checkpoint.curve() == [{"update": 20, "valid_nse": None}]
    assert checkpoint.run()["basin_days"] == 2
    np.testing.assert_array_equal(checkpoint.weights()["a"], [[0, 1, 2], [3, 4, 5]])
    table = checkpoint.simulation()
    assert list(table.columns) == ["gauge_id", "date", "obs", "sim", "sim_std"]
    assert len(table) == 2 * len(DATES)
    assert table["gauge_id"].unique().tolist() == ["00000001", "00000002"]
    assert table["date"].iloc[0] == pd.Timestamp("2003-10-01")
    assert table["sim_std"].isna().all()
    np.testing.assert_allclose(table["obs"] - table["sim"], 0.1, atol=1e-5)


def test_a_row_of_scores_per_target(write, make_job):
    rows = write(make_job(targets=("00000001", "00000002"), donors=("00000003",))).scores()
    assert [row["gauge_id"] for row in rows] == ["00000001", "00000002"]
    for row in rows:
        assert row["role"] == "ungauged"
        assert row["n_days"] == len(DATES)
        assert (row["period_start"], row["period_end"]) == ("2003-10-01", "2004-09-29")
        assert set(METRICS) < set(row)
        assert 0.9 < row["nse"] < 1.0


def test_a_target_without_flow_has_missing_scores(make_job):
    nothing = np.full((1, len(DATES)), np.nan, dtype=np.float32)
    (row,) = score_rows(make_job(), DATES, nothing, np.ones_like(nothing))
    assert row["n_days"] == 0
    assert all(math.isnan(row[metric]) for metric in METRICS)


def test_nothing_unfinished_is_left(write, tmp_path):
    written = write()
    assert [path.name for path in tmp_path.iterdir() if path.name != ".partial"] == [written.hash]
    assert list((tmp_path / ".partial").iterdir()) == []


def test_a_writer_that_fails_leaves_nothing(make_job, tmp_path):
    with pytest.raises(TypeError), partial_folder(tmp_path) as partial:
        write_checkpoint(
            tmp_path,
            make_job().hash,
            partial=partial,
            job=make_job(),
            simulation=None,
            scores=[],
            run={"seconds": object()},
        )
    assert not Checkpoint.open(tmp_path, make_job().hash).exists
    assert list((tmp_path / ".partial").iterdir()) == []


def test_writing_again_keeps_the_first(write):
    first = write()
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert write() == first
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: os.truncate(folder / "simulation.parquet", 100),
        lambda folder: (folder / "scores.json").write_text("[]"),
    ],
)
def test_a_damaged_folder_is_set_aside_and_counts_as_absent(write, tmp_path, caplog, harm):
    for number in (1, 2):
        checkpoint = write()
        harm(checkpoint.folder)
        with caplog.at_level(logging.WARNING):
            assert not checkpoint.exists
        assert f"checkpoint {checkpoint.hash} is damaged" in caplog.text
        assert not checkpoint.folder.exists()
        assert (tmp_path / ".corrupt" / f"{checkpoint.hash}-{number}" / "job.json").exists()


def test_requests_are_kept_once_each(write):
    checkpoint = write()
    assert checkpoint.requests() == []
    one, other = {"space": "aef", "k": 100}, {"space": "random", "k": 100}
    for label in (one, other, dict(reversed(one.items()))):
        checkpoint.add_request(label)
    found = checkpoint.requests()
    times = [request.pop("asked_at") for request in found]
    # `one` was asked for last, and kept once.
    assert found == [other, one]
    assert times == sorted(times)
    assert checkpoint.exists


def test_reading_an_absent_checkpoint_says_so(tmp_path):
    checkpoint = Checkpoint.open(tmp_path, "0" * 16)
    assert not checkpoint.exists
    for read in (checkpoint.job, checkpoint.simulation, checkpoint.weights):
        with pytest.raises(DataFileError, match="no such checkpoint: train the job first"):
            read()


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    old, new = tmp_path / ".partial" / "old", tmp_path / ".partial" / "new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    with partial_folder(tmp_path):
        assert not old.exists()
        assert new.exists()
