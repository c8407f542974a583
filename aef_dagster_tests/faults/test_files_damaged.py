"""Files go bad in many ways, drawn by a seed: what is read is right, or refused in a sentence.

Never a wrong number, a traceback or a crash. Not here: what commands make of damaged files, and
how these are rebuilt (test_files_full.py).
"""

import json
import logging
import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import numpy as np
import pytest

from aef_dagster.basins.ingest import read_series
from aef_dagster.errors import DataFileError
from aef_dagster.models.checkpoints import partial_folder, write_checkpoint
from aef_dagster.models.engine.course import RECORDED, State
from aef_dagster.models.inputs import prepare
from aef_dagster.models.scoring import score_rows, simulation_table
from aef_dagster.models.unfinished import UnfinishedFile
from aef_dagster.storage.tracking import TrackedRun, Tracking
from aef_dagster.storage.warehouse import Warehouse
from aef_dagster_tests.faults.files import damages
from aef_dagster_tests.models import conftest as toy_world

pytestmark = pytest.mark.fault

DATES = np.arange("2003-10-01", "2004-09-30", dtype="datetime64[D]")
VARIABLES = ("prcp", "dayl", "srad", "tmax", "tmin", "vp", "pet")


toy, make_job = toy_world.toy, toy_world.make_job


@pytest.fixture
def checkpoint(toy, make_job, tmp_path):
    """A checkpoint as a training leaves it, with one request."""
    job = make_job()
    simulated = np.random.default_rng(0).gamma(1.0, 1.0, (1, len(DATES))).astype(np.float32)
    with partial_folder(tmp_path / "root") as partial:
        written = write_checkpoint(
            tmp_path / "root", job.hash, partial=partial, job=job,
            simulation=simulation_table(job.targets, DATES, simulated + 0.1, simulated),
            scores=score_rows(job, DATES, simulated + 0.1, simulated),
            run={"seconds": 1.0}, weights={"a": np.arange(400, dtype=np.float32)},
            scaler=prepare(job, toy).scaler, curve=[{"update": 20, "valid_nse": 0.5}],
        )  # fmt: skip
    written.add_request({"asset": "basin_models", "space": "aef", "k": 8})
    return written


def test_checkpoints(checkpoint, tmp_path, caplog):
    kept = tmp_path / "kept"
    shutil.copytree(checkpoint.folder, kept)
    parts = [path.name for path in sorted(kept.iterdir()) if path.is_file()]
    assert len(parts) == 8
    found_out = 0
    for name in parts:
        for what, content in damages((kept / name).read_bytes(), 12, seed=1):
            (checkpoint.folder / name).write_bytes(content)
            caplog.clear()
            if checkpoint.exists:  # blanks of the manifest may change
                assert name == "manifest.json", (name, what)
                assert json.loads(content) == json.loads((kept / name).read_text()), what
            else:
                assert f"checkpoint {checkpoint.hash} is damaged" in caplog.text
                assert f"{checkpoint.root}/.corrupt/{checkpoint.hash}-" in caplog.text
                found_out += 1
            shutil.rmtree(checkpoint.folder, ignore_errors=True)
            shutil.copytree(kept, checkpoint.folder)
    assert found_out >= 8 * 18 - 8
    assert checkpoint.exists


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"job.json": 1}'])
def test_a_manifest_that_seals_nothing(checkpoint, manifest):
    (checkpoint.folder / "manifest.json").write_text(manifest)
    assert not checkpoint.exists


def test_requests(checkpoint):
    (path,) = (checkpoint.folder / "requests").iterdir()
    whole, request = path.read_bytes(), checkpoint.requests()
    refused = 0
    for _what, content in damages(whole, 60, seed=2):
        path.write_bytes(content)
        refused += checkpoint.requests() == []
        assert checkpoint.requests() in ([], request)
    assert refused >= 60
    label = {name: value for name, value in request[0].items() if name != "asked_at"}
    checkpoint.add_request(label)  # asked for again: mended
    assert path.read_bytes() == whole


def test_states_of_unfinished_trainings(tmp_path, caplog):
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}.layer": rng.normal(size=(16, 8)).astype(np.float32)
        for part in ("weights", "moment1", "moment2")
    }
    file = UnfinishedFile(tmp_path, "0" * 16, 0)
    file.write(State(arrays, dict.fromkeys(RECORDED, 1)))
    (path,) = (tmp_path / ".unfinished").iterdir()
    refused = 0
    for what, content in damages(path.read_bytes(), 80, seed=3):
        path.write_bytes(content)
        caplog.clear()
        state = file.read()
        if state is None:
            assert f"{path} is damaged" in caplog.text
            assert "trained from the beginning" in caplog.text
            refused += 1
        else:
            assert state.record == dict.fromkeys(RECORDED, 1), what
            for name, array in arrays.items():
                np.testing.assert_array_equal(state.arrays[name], array)
    assert refused >= 80


def test_parquet_of_the_lake(home, caplog):
    path = home.forcings / "00901003.parquet"
    whole = read_series(path, VARIABLES)
    refused = 0
    for what, content in damages(path.read_bytes(), 200, seed=4):
        path.write_bytes(content)
        try:
            found = read_series(path, VARIABLES)
        except DataFileError as error:
            assert str(error).startswith(f"basin 00901003: {path}: not a readable Parquet file")
            assert "aef prepare" in str(error)
            refused += 1
        else:
            for name, values in whole.items():
                np.testing.assert_array_equal(found[name], values, err_msg=what)
    # What Parquet itself does not notice is noticed by the hash of the content.
    assert refused >= 190


# A process of its own, and in it one for each damage: DuckDB may crash, and must not.
READ = """
    import hashlib, json, os, sys
    from pathlib import Path
    import duckdb
    from aef_dagster.errors import UserError
    from aef_dagster.storage.warehouse import Warehouse

    def content(store):
        answers = {}
        for table in ("basins", "attributes", "donors", "similarity", "basin_embedding"):
            with store.read() as connection:
                rows = connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            answers[table] = hashlib.sha256(repr(rows).encode()).hexdigest()
        return answers

    for path in map(Path, sys.argv[1:]):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            store = Warehouse(path, patience_s=1)
            told = []
            for deed in ("read", "write"):
                try:
                    if deed == "read":
                        told.append(content(store))
                    else:
                        with store.write() as connection:
                            connection.execute("DELETE FROM donors WHERE space = 'random'")
                        told.append("written")
                except UserError as error:
                    told.append(str(error))
                except BaseException as error:
                    told.append(f"BUG {type(error).__name__}: {error}")
            os.write(write, json.dumps(told).encode())
            os._exit(0)
        os.close(write)
        answer = b""
        while part := os.read(read, 65536):
            answer += part
        os.close(read)
        status = os.waitpid(child, 0)[1]
        print(json.dumps([status, json.loads(answer or b"null")]))
"""


def test_the_warehouse(home, tmp_path):
    content = home.warehouse.read_bytes()
    cases = [("nothing", content), *damages(content, 30, seed=5)]
    paths = []
    for number, (_what, damaged) in enumerate(cases):
        paths.append(tmp_path / f"{number}" / "warehouse.duckdb")
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(damaged)
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ), *map(str, paths)], capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (status, (right, written)), *others = map(json.loads, answer.stdout.splitlines())
    assert (status, written) == (0, "written")
    assert len(others) == len(cases) - 1
    refused = 0
    for path, (what, _), (status, told) in zip(paths[1:], cases[1:], others, strict=True):
        assert status == 0, what  # no crash
        sentence = f"{path} cannot be read as a DuckDB file"
        assert told[0] == right or str(told[0]).startswith(sentence), (what, told)
        assert told[1] == "written" or told[1].startswith(sentence), (what, told)
        refused += told[0] != right
    assert refused >= 6 + 10


def test_a_damaged_parquet_behind_a_view_is_the_one_named(home):
    store = Warehouse(home.warehouse)
    with store.write():  # a copied home: its views follow it at the first write
        pass
    path = home.streamflow / "00901004.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataFileError) as caught:
        store.frame("SELECT sum(streamflow) FROM streamflow")
    assert str(caught.value).startswith(f"basin 00901004: {path}: not a readable Parquet file")
    assert "delete it and run `aef prepare`" in str(caught.value)
    # And it costs no write of a table.
    with store.write() as connection:
        connection.execute("DELETE FROM donors WHERE space = 'random'")
    assert store.frame("SELECT count(*) AS n FROM donors WHERE space = 'random'")["n"][0] == 0


def record(key):
    return TrackedRun(key=key, parent_key="p", parent_name="study", name=key, started=1.0,
                      ended=2.0, metrics={"nse": 0.5})  # fmt: skip


def tracking(folder):
    return Tracking(
        f"sqlite:///{folder}/mlflow.db", folder / "outbox", folder / "files",
        "http://127.0.0.1:5000",
    )  # fmt: skip


def tell(folder, keys):
    """Tell MLflow of records, in a process of its own: a process keeps its database open."""
    for key in keys:
        known = tracking(folder)
        known.enqueue(record(key))
        assert known.drain().error is None


def in_process(folder, *keys):
    process = multiprocessing.get_context("spawn").Process(target=tell, args=(folder, keys))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def keys_told(folder):
    """Record keys of all runs in the database, sorted, read without MLflow."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        rows = connection.execute("SELECT value FROM tags WHERE key = 'record_key'").fetchall()
    return sorted(key for (key,) in rows)


def test_the_database_of_mlflow(tmp_path, caplog):
    in_process(tmp_path, "old")
    database = tmp_path / "mlflow.db"
    content = database.read_bytes()
    for damaged in (content[: len(content) // 2], bytes(4096) + content[4096:], b"none" * 2000):
        database.write_bytes(damaged)
        store = tracking(tmp_path)
        store.enqueue(record("new"))
        with caplog.at_level(logging.WARNING):
            outcome = store.drain()
        assert (outcome.sent, outcome.waiting) == (0, 1)
        assert f"MLflow at sqlite:///{database}: {outcome.error}" in caplog.text

    # Moved away: a new one is made, which is told again of what the old one knew.
    database.unlink()
    in_process(tmp_path, "new", "old")
    assert keys_told(tmp_path) == ["new", "old"]
    # The old one is back: it is asked before anything is told it, and nothing is there twice.
    database.write_bytes(content)
    (tmp_path / "outbox" / "sent" / "old.json").unlink()
    in_process(tmp_path, "old")
    assert keys_told(tmp_path) == ["old"]
