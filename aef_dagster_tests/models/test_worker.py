import io
import json
from dataclasses import replace

import numpy as np
import pytest

from aef_dagster.models import worker
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import TrainingData
from aef_dagster.models.engine import cpu
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import Budget


@pytest.fixture
def serve(toy, tmp_path):
    def serve(*jobs, data=toy):
        data.save(tmp_path / "data")
        channel = io.StringIO()
        lines = [json.dumps([job.to_json()]) for job in jobs]
        folders = tmp_path / "data", tmp_path / "checkpoints", tmp_path / "partial"
        (tmp_path / "checkpoints").mkdir()
        worker.serve(lines, channel, *folders, 20.0, "cpu")
        return [json.loads(line) for line in channel.getvalue().splitlines()]

    return serve


def test_a_job_becomes_a_checkpoint(serve, toy, make_job, tmp_path):
    messages = serve(make_job())
    assert messages[0] == {
        "event": "progress",
        "job": make_job().hash,
        "phase": "prepare",
        "update": 0,
        "updates": 20,
    }
    assert (messages[-2]["phase"], messages[-2]["update"]) == ("save", 20)
    assert messages[-1] == {"event": "done", "job": make_job().hash}
    checkpoint = Checkpoint.open(tmp_path / "checkpoints", make_job().hash)
    expected = cpu.train(prepare(make_job(), toy))
    for name, values in checkpoint.weights().items():
        np.testing.assert_array_equal(values, expected.weights[name])
    table = checkpoint.simulation()
    np.testing.assert_array_equal(table["sim"], expected.simulation[0])
    test = toy.span("2003-10-01", "2004-09-30")
    np.testing.assert_array_equal(table["obs"], toy.streamflow[0, test])
    assert checkpoint.run()["best_update"] == expected.best_update
    assert checkpoint.run()["torch"]


def test_a_target_without_flow_has_null_scores(serve, toy, make_job, tmp_path):
    flow = toy.streamflow.copy()
    flow[0] = np.nan
    serve(make_job(), data=replace(toy, streamflow=flow))
    checkpoint = Checkpoint.open(tmp_path / "checkpoints", make_job().hash)
    (row,) = checkpoint.scores()
    assert (row["gauge_id"], row["n_days"]) == ("00000001", 0)
    assert np.isnan(row["nse"])
    assert json.loads((checkpoint.folder / "scores.json").read_text())[0]["nse"] is None
    assert checkpoint.simulation()["sim"].notna().all()


def test_failures_are_told_and_the_next_job_goes_on(serve, make_job):
    impossible = make_job(budget=Budget("none", hidden=-1, updates=1, batch=1, window=60))
    messages = serve(make_job(donors=("00000099",)), impossible, make_job())
    events = [message for message in messages if message["event"] != "progress"]
    assert [event["event"] for event in events] == ["failed", "failed", "done"]
    assert "00000099" in events[0]["error"]
    assert events[0]["traceback"] == ""
    assert events[1]["error"].startswith("RuntimeError: ")
    assert "network.py" in events[1]["traceback"]


def test_jobs_trained_together_become_checkpoints_too(toy, make_job, tmp_path):
    """What a worker does on a GPU, on CPU tensors: the GPU engine in place of the CPU's."""
    toy.save(tmp_path / "data")
    (tmp_path / "scratch").mkdir()
    data, channel = TrainingData.open(tmp_path / "data"), io.StringIO()
    desk = worker._Desk(channel, data, tmp_path / "checkpoints", tmp_path / "scratch", 0.0)
    (tmp_path / "checkpoints").mkdir()
    gone = make_job(donors=("00000099",))
    jobs = [make_job(), make_job(seed=1, precision="bf16"), gone, make_job(seed=2)]
    worker.train_together(jobs, desk, "cpu")
    told = [json.loads(line) for line in channel.getvalue().splitlines()]
    ended = {message["job"]: message["event"] for message in told if message["event"] != "progress"}
    assert ended == {job.hash: "failed" if job is gone else "done" for job in jobs}
    for job in (jobs[0], jobs[1], jobs[3]):
        checkpoint = Checkpoint.open(tmp_path / "checkpoints", job.hash)
        run = checkpoint.run()
        assert (run["engine"], run["precision"]) == ("gpu", job.precision)
        assert len(checkpoint.curve()) == 2
    assert not list((tmp_path / "checkpoints" / ".unfinished").iterdir())
    by_cpu = cpu.train(prepare(jobs[0], toy))
    table = Checkpoint.open(tmp_path / "checkpoints", jobs[0].hash).simulation()
    np.testing.assert_allclose(table["sim"], by_cpu.simulation[0], atol=2e-3)


def test_peak_memory_is_that_of_this_process():
    import psutil

    now = psutil.Process().memory_info().rss / 1024**2
    assert 0.5 * now < worker.peak_mb() < 50 * now
