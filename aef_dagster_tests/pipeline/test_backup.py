"""Keeping a home for years: clean-up, backup and restore, and the page docs/operating.md."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from aef_dagster.models.checkpoints import Checkpoint, partial_folder, write_checkpoint
from aef_dagster.models.pruning import SUPERSEDED
from aef_dagster.pipeline.config import TrainingConfig
from aef_dagster.pipeline.pruning import in_force, prune
from aef_dagster.pipeline.scores import result_key, trained_hashes
from aef_dagster.pipeline.session import Session
from aef_dagster.settings import load_settings
from aef_dagster.storage.warehouse import Warehouse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
TARGET = "00902003"


def shell(command, folder, variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    answer = subprocess.run(
        command, cwd=folder, env=clean | variables | {"PATH": path}, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


def train(session, seeds):
    session.train([TARGET], TrainingConfig(seeds=seeds, workers=2))


def trained_on_other_data(root, job_hash):
    """A checkpoint of the same choice, asked for earlier, when the data were others; its hash."""
    model = Checkpoint.open(root, job_hash)
    job = replace(model.job(), data_version="before")
    with partial_folder(root) as partial:
        made = write_checkpoint(
            root, job.hash, partial=partial, job=job, simulation=model.simulation(),
            scores=model.scores(), run=model.run(), weights=model.weights(), scaler=model.scaler(),
            curve=model.curve(),
        )  # fmt: skip
    (request,) = model.requests()
    earlier = request.pop("asked_at") - 60
    made.add_request(request)
    (path,) = (made.folder / "requests").iterdir()
    os.utime(path, (earlier, earlier))
    return made.hash


def shift(root, seconds):
    """Make all checkpoints older; which one was asked for last stays as it was."""
    for path in root.rglob("*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def scores_of(session):
    return session.warehouse.frame("SELECT * FROM scores WHERE current ORDER BY job_hash, gauge_id")


@pytest.mark.slow
def test_a_clean_up_takes_what_was_superseded_and_nothing_else(session, run, tmp_path):
    root = session.home.checkpoints
    train(session, seeds=1)
    current = trained_hashes(root)
    before = {trained_on_other_data(root, *current)}
    assert prune(session.home, session.warehouse, 30, dry_run=False).leftovers == []  # of today
    shift(root, 3 * 24 * 3600)
    assert run("basin_scores").success
    scores = scores_of(session)
    assert set(scores["job_hash"]) == current
    # What MLflow was not told yet names files of its checkpoint.
    waiting = session.home.outbox / f"{result_key(*before, 'aef', 8)}.json"
    waiting.write_text("{}")
    assert prune(session.home, session.warehouse, 30, dry_run=True).kept == 2
    waiting.unlink()

    told = shell(["aef", "prune"], tmp_path, {"AEF_HOME": str(session.home.root)}).stdout
    assert re.search(rf"{SUPERSEDED} +1 ", told)
    assert re.search(r"kept +1 ", told)
    assert "nothing was removed; `aef prune --yes` frees" in told
    assert trained_hashes(root) == before | current
    told = shell(["aef", "prune", "--yes"], tmp_path, {"AEF_HOME": str(session.home.root)}).stdout
    assert "MB freed" in told
    assert trained_hashes(root) == current
    assert not list(root.glob(".pruned-*"))

    assert run("basin_scores").success
    pd.testing.assert_frame_equal(scores_of(session), scores)
    assert session.warehouse.count("scores") == len(scores)

    # What only the table names stays until the table is made anew.
    for request in root.glob("*/requests/*.json"):
        request.write_text(request.read_text().replace('"basin_models"', '"an asset of old"'))
    assert in_force(session.home, session.warehouse) == current
    assert run("basin_scores").success
    assert in_force(session.home, session.warehouse) == set()


@pytest.mark.slow
def test_a_home_is_backed_up_while_in_use_and_opened_elsewhere(session, tmp_path):
    train(session, seeds=2)
    old, new, backup = session.home.root, tmp_path / "elsewhere" / "var", tmp_path / "backup"
    runs = {run.run_id for run in session.instance.get_runs()}  # and its files stay open
    scores, store = scores_of(session), session.warehouse
    (ensemble,) = scores.loc[scores["n_members"] == 2, "job_hash"]
    with partial_folder(session.home.checkpoints):  # a training at work
        told = shell(["aef", "backup", str(backup)], tmp_path, {"AEF_HOME": str(old)}).stdout
    assert f"of {old} are in {backup}" in told
    assert not (backup / "checkpoints" / ".partial").exists()
    session.instance.dispose()
    old.rename(tmp_path / "lost")

    home = {"AEF_HOME": str(new)}
    shell(["aef", "restore", str(backup)], tmp_path, home)
    shell(["aef", "prepare"], tmp_path, home)
    shell(["aef", "simulate", TARGET, "-o", "simulation.csv"], tmp_path, home)
    assert not old.exists()
    flow = pd.read_csv(tmp_path / "simulation.csv")
    assert list(flow) == ["date", "obs", "sim", "sim_std"]
    assert (flow["sim_std"] > 0).any()

    restored = Session(load_settings(home=new))
    pd.testing.assert_frame_equal(scores_of(restored), scores)
    store = Warehouse(new / "warehouse.duckdb")
    for view in ("forcings", "streamflow"):
        assert store.frame(f"SELECT count(DISTINCT gauge_id) AS n FROM {view}")["n"][0] == 24
    simulated = store.frame("SELECT DISTINCT job_hash FROM simulations")["job_hash"]
    assert set(simulated) == set(scores["job_hash"])
    assert all(Checkpoint.open(new / "checkpoints", name).exists for name in scores["job_hash"])
    assert in_force(restored.home, store) == set(scores["job_hash"])

    # Dagster's history, with the events of the training.
    assert runs <= {run.run_id for run in restored.instance.get_runs()}
    event = restored.instance.get_latest_materialization_event(dg.AssetKey("basin_models"))
    assert event.asset_materialization.partition == TARGET

    # MLflow: nothing is sent twice, and files are where the home is now.
    from mlflow import MlflowClient

    run_id = restored.tracking.run_id(result_key(ensemble, "aef", 8))
    assert run_id == scores.set_index("job_hash").loc[ensemble, "mlflow_run_id"]
    client = MlflowClient(restored.tracking.uri)
    assert client.get_run(run_id).info.artifact_uri.startswith(new.as_uri())
    assert "hydrograph.svg" in {file.path for file in client.list_artifacts(run_id)}
    train(restored, seeds=2)
    assert trained_hashes(new / "checkpoints") == set(scores["job_hash"])  # all reused


def test_the_backup_waits_for_whoever_writes(session, tmp_path):
    """The DuckDB file is whole, though another process is writing when the backup begins."""
    writer = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from aef_dagster.storage.warehouse import Warehouse\n"
        "with Warehouse(Path(sys.argv[1])).write() as connection:\n"
        "    connection.execute(\"INSERT INTO exclusions VALUES ('basins', 'x', 'late')\")\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(3)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", writer, str(session.home.warehouse)], stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "writing\n"
    began = time.monotonic()
    backup = tmp_path / "backup"
    shell(["aef", "backup", str(backup)], tmp_path, {"AEF_HOME": str(session.home.root)})
    assert process.wait(timeout=10) == 0
    process.stdout.close()
    assert time.monotonic() - began > 2
    found = Warehouse(backup / "warehouse.duckdb").frame("SELECT reason FROM exclusions")
    assert found["reason"].tolist() == ["late"]


def test_the_errors_of_the_page_are_those_of_the_code():
    source = "".join(path.read_text() for path in sorted((ROOT / "aef_dagster").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    rows = re.findall(r"^\| (`.*?) \|", PAGE.partition("## Common errors")[2], re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for words in re.findall(r"`([^`]+)`", row):
            assert words in source, words


def test_the_page_links_to_what_is_there():
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert {"../deploy/README.md", "settings.md"} <= set(targets)
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target
