import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.devices import choose_device
from aef_dagster.models.ensembles import ensemble
from aef_dagster.models.recipes import PAPER, STRONG, Budget
from aef_dagster.models.simulate import predict
from aef_dagster.models.training import train

LONG = Budget("long", hidden=8, updates=100_000, batch=8, window=60)


def files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Contents of all files that equal jobs must share, bit for bit."""
    names = ("weights.safetensors", "simulation.parquet", "scores.json", "scaler.json")
    return {name: (checkpoint.folder / name).read_bytes() for name in names}


def left_behind(root: Path) -> list[str]:
    """What lies beside whole checkpoints."""
    names = [path.name for path in root.iterdir() if not (path / "manifest.json").exists()]
    partial = root / ".partial"
    names = [name for name in names if name not in (".partial", ".unfinished")]
    return names + [p.name for p in partial.iterdir()]


def worker_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "aef_dagster.models.worker" in child.cmdline()]


def test_alone_beside_others_and_reused(toy, make_job, tmp_path):
    """One test for what belongs together, because worker processes take seconds to start."""
    jobs = [make_job(seed=seed) for seed in range(4)]
    heard = []
    outcomes = list(train(jobs, toy, tmp_path / "two", workers=2, on_progress=heard.append))
    assert {outcome.job for outcome in outcomes} == set(jobs)
    for outcome in outcomes:
        assert outcome.error is None
        assert not outcome.reused
        assert outcome.basin_days == 20 * 8 * 60
        assert outcome.peak_mb > 50
        # One worker trained two, and the first one's time is not that of the second.
        assert (
            outcome.seconds
            > 0.9 * Checkpoint.open(tmp_path / "two", outcome.job.hash).run()["seconds"]
        )
        assert [row["gauge_id"] for row in outcome.scores] == ["00000001"]
    assert {event.job_hash for event in heard} == {job.hash for job in jobs}
    assert {event.phase for event in heard} >= {"prepare", "simulate", "save"}
    assert max(event.basin_days for event in heard) == 20 * 8 * 60

    (alone,) = train(jobs[2:3], toy, tmp_path / "one")
    beside = Checkpoint.open(tmp_path / "two", jobs[2].hash)
    assert files(Checkpoint.open(tmp_path / "one", jobs[2].hash)) == files(beside)
    assert str(alone.scores) == str(beside.scores())
    assert left_behind(tmp_path / "two") == []

    # Reused ones come first, and what is damaged is trained again, to the same bits.
    before = files(beside)
    (beside.folder / "weights.safetensors").unlink()
    again = list(train(jobs, toy, tmp_path / "two"))
    assert [outcome.reused for outcome in again] == [True, True, True, False]
    assert again[-1].job == jobs[2]
    assert files(beside) == before

    # An ensemble of them, and a new simulation with it.
    made = ensemble(tmp_path / "two", jobs)
    assert ensemble(tmp_path / "two", jobs[::-1]).folder == made.folder
    members = np.stack(
        [Checkpoint.open(tmp_path / "two", job.hash).simulation()["sim"] for job in jobs]
    )
    table = made.simulation()
    np.testing.assert_allclose(table["sim"], members.mean(0), rtol=1e-5)
    np.testing.assert_allclose(table["sim_std"], members.std(0), rtol=1e-4, atol=1e-6)
    assert made.record()["kind"] == "ensemble"
    assert set(made.members()) == {job.hash for job in jobs}
    assert made.run()["basin_days"] == 4 * 20 * 8 * 60
    observed = table["obs"] - table["obs"].mean()
    nse = 1 - ((table["sim"] - table["obs"]) ** 2).sum() / (observed**2).sum()
    assert made.scores()[0]["nse"] == pytest.approx(nse, rel=1e-4)
    again = predict(made, toy, ["00000001"], "2003-10-01", "2004-09-30")
    np.testing.assert_allclose(again[["sim", "sim_std"]], table[["sim", "sim_std"]], atol=1e-5)
    other = predict(beside, toy, ["00000005", "00000006"], "2002-01-01", "2002-01-10")
    assert len(other) == 20
    assert np.isfinite(other["sim"]).all()


@pytest.mark.parametrize("recipe", [STRONG, replace(PAPER, learning_rate=1e-2)])
def test_a_prediction_of_the_test_period_is_what_was_stored(toy, make_job, tmp_path, recipe):
    job = make_job(recipe=replace(recipe, max_epochs=None), donors=("00000002", "00000003"))
    list(train([job], toy, tmp_path))
    checkpoint = Checkpoint.open(tmp_path, job.hash)
    again = predict(checkpoint, toy, job.targets, "2003-10-01", "2004-09-30")
    np.testing.assert_allclose(again["sim"], checkpoint.simulation()["sim"], atol=1e-5)
    # Days near the beginning of the record are those of a longer span that has them too.
    early = predict(checkpoint, toy, job.targets, "2000-01-01", "2000-06-30")["sim"].to_numpy()
    later = predict(checkpoint, toy, job.targets, "2000-05-01", "2000-06-30")["sim"].to_numpy()
    if recipe.evaluation == "windowed":
        np.testing.assert_allclose(early[-len(later) :], later, atol=1e-5)
    assert np.isfinite(early).all()


@pytest.mark.fault
def test_failing_jobs_and_a_killed_worker_cost_their_own_jobs_only(toy, make_job, tmp_path):
    forcing = toy.forcing.copy()
    forcing[7, 400, 0] = np.nan
    gap, unknown = make_job(donors=("00000008",)), make_job(targets=("00000099",))
    killed = make_job(donors=("00000002",), budget=LONG)
    good = make_job(donors=("00000002", "00000003"))

    def kill(progress):
        if progress.job_hash == killed.hash and progress.phase == "train":
            for process in worker_processes():
                process.kill()

    jobs, data = [gap, unknown, killed, good], replace(toy, forcing=forcing)
    outcomes = {
        outcome.job: outcome for outcome in train(jobs, data, tmp_path, workers=1, on_progress=kill)
    }
    assert "basin 00000008: forcing prcp is missing on 2001-02-04" in outcomes[gap].error
    assert "00000099" in outcomes[unknown].error
    assert f"basin 00000001 (job {killed.hash}) was ended by SIGKILL" in outcomes[killed].error
    assert outcomes[good].error is None
    for failed in (gap, unknown, killed):
        assert outcomes[failed].folder is None
        assert outcomes[failed].scores == []
        assert not Checkpoint.open(tmp_path, failed.hash).exists
    assert left_behind(tmp_path) == []


class Enough(Exception):
    pass


@pytest.mark.fault
def test_a_killed_training_goes_on_where_it_was(toy, make_job, tmp_path):
    job = make_job(budget=Budget("some", hidden=8, updates=1500, batch=8, window=60))

    def kill(progress):
        if progress.update > 500:
            for process in worker_processes():
                process.kill()

    (killed,) = train([job], toy, tmp_path, on_progress=kill, keep_every_s=0.1)
    assert "was ended by SIGKILL" in killed.error
    (kept,) = (tmp_path / ".unfinished").iterdir()
    assert kept.name == f"{job.hash}-0.safetensors"

    (again,) = train([job], toy, tmp_path)
    checkpoint = Checkpoint.open(tmp_path, job.hash)
    assert again.error is None
    assert 0 < checkpoint.run()["resumed_at"] < 1500
    assert not kept.exists()
    list(train([job], toy, tmp_path / "whole"))
    assert files(checkpoint) == files(Checkpoint.open(tmp_path / "whole", job.hash))


def test_stopping_early_ends_the_workers_and_leaves_nothing_half(toy, make_job, tmp_path):
    def stop(progress):
        if progress.phase == "train":
            raise Enough

    with pytest.raises(Enough):
        list(train([make_job(budget=LONG)], toy, tmp_path, on_progress=stop))
    assert worker_processes() == []
    assert left_behind(tmp_path) == []


@pytest.mark.fault
def test_workers_end_when_their_caller_is_killed(toy, make_job, tmp_path):
    toy.save(tmp_path / "data")
    code = """
import json, os, signal, sys
from pathlib import Path
import psutil
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.training import train

def kill_me(progress):
    if progress.phase == "train":
        print(psutil.Process().children()[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

job = TrainingJob.from_json(json.load(sys.stdin))
folder = Path(sys.argv[1])
list(train([job], TrainingData.open(folder / "data"), folder / "checkpoints", on_progress=kill_me))
"""
    caller = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps(make_job(budget=LONG).to_json()),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert caller.returncode == -signal.SIGKILL, caller.stderr
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(caller.stdout)).wait(timeout=10)


def test_a_caller_that_ends_in_the_middle_ends_the_workers_first(toy, make_job, tmp_path):
    """Dagster leaves an asset it stops suspended: nobody closes its training before Python ends."""
    toy.save(tmp_path / "data")
    code = """
import json, sys
from pathlib import Path
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.training import train

jobs = [TrainingJob.from_json(described) for described in json.load(sys.stdin)]
folder = Path(sys.argv[1])
results = train(jobs, TrainingData.open(folder / "data"), folder / "checkpoints", workers=2)
print(next(results).job.hash)
left = [results]
left.append(left)
"""
    short, long = make_job(), make_job(budget=LONG)
    caller = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps([short.to_json(), long.to_json()]),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (caller.returncode, caller.stderr) == (0, "")
    assert caller.stdout.split() == [short.hash]
    assert left_behind(tmp_path / "checkpoints") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(toy, make_job, tmp_path):
    reason = "built without CUDA" if torch.version.cuda is None else "finds no GPU"
    with pytest.raises(UserError, match=f"device cuda: .*{reason}.*set AEF_DEVICE=auto or cpu"):
        train([make_job()], toy, tmp_path, device="cuda")
    assert choose_device("auto").name == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_jobs_are_trained_together_on_a_gpu(toy, make_job, tmp_path):
    jobs = [make_job(seed=seed) for seed in range(4)]
    outcomes = list(train(jobs, toy, tmp_path, device="cuda"))
    assert {outcome.job for outcome in outcomes} == set(jobs)
    assert all(outcome.error is None for outcome in outcomes)
    assert Checkpoint.open(tmp_path, jobs[0].hash).run()["engine"] == "gpu"


def test_devices_and_workers_that_do_not_exist_are_refused_at_once(toy, make_job, tmp_path):
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        train([make_job()], toy, tmp_path, device="tpu")
    with pytest.raises(UserError, match="at least one worker"):
        train([make_job()], toy, tmp_path, workers=0)


def test_ensembles_that_are_none(make_job, tmp_path):
    with pytest.raises(UserError, match="at least two members"):
        ensemble(tmp_path, [make_job(), make_job()])
    with pytest.raises(UserError, match="one job with different seeds"):
        ensemble(tmp_path, [make_job(), make_job(seed=1, representation="none")])
    with pytest.raises(UserError, match=r"2 of 2 members are not trained yet \(seed 0, 1\)"):
        ensemble(tmp_path, [make_job(), make_job(seed=1)])


def test_the_seam_imports_no_heavy_module():
    code = (
        "import sys, aef_dagster.models.training, aef_dagster.models.ensembles, "
        "aef_dagster.models.simulate, aef_dagster.models.statics; "
        "print([m for m in ('torch', 'mlflow', 'sklearn', 'scores', 'safetensors') "
        "if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert answer.stdout.strip() == "[]"
