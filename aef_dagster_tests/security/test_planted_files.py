"""Files that would run something if they were unpickled or imported: refused, and nothing is run.

Each planted pickle makes a file when it is loaded; the tests look for that file.
"""

import hashlib
import importlib.util
import json
import pickle
import py_compile
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import Budget, Recipe
from aef_dagster.models.simulate import load_networks
from aef_dagster.models.training import train
from aef_dagster.models.unfinished import UNFINISHED, UnfinishedFile
from aef_dagster.storage.bundle import save_bundle
from aef_dagster.storage.mlflow_store import import_pyfunc
from aef_dagster.storage.registry import load_bundle, promote, register_bundle
from aef_dagster.storage.tracking import Tracking
from aef_dagster_tests.models.conftest import FORCINGS, IDS, PERIODS, make_data
from aef_dagster_tests.security.plants import Planted

pytestmark = pytest.mark.slow

JOB = TrainingJob(
    dataset="toy", forcing="toy", data_version="1", targets=IDS[:1], donors=IDS[2:],
    role="ungauged", periods=PERIODS, representation="attributes17",
    recipe=Recipe(validations=2, spinup_days=60),
    budget=Budget("micro", hidden=8, updates=20, batch=8, window=60), seed=0, sample=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one real checkpoint, and a bundle of it. Do not write to it."""
    folder = tmp_path_factory.mktemp("planted")
    assert [o.error for o in train([JOB], make_data(), folder / "checkpoints", workers=1)] == [None]
    save_bundle(
        folder / "bundle", [folder / "checkpoints" / JOB.hash], title="a study", marks=[],
        forcing_names=FORCINGS, static_names=("residence", "class_number", "soil"),
    )  # fmt: skip
    return folder


@pytest.fixture
def world(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def mark(tmp_path):
    """Made by whatever runs a planted file."""
    return tmp_path / "ran"


@pytest.fixture
def payload(mark):
    content = pickle.dumps(Planted(mark))
    pickle.loads(content)  # noqa: S301 - it does run, where it is unpickled
    assert mark.is_dir()
    mark.rmdir()
    return content


def sealed(folder: Path) -> None:
    """Let the manifest of a checkpoint agree with its files, as a careful attacker would."""
    manifest = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.iterdir() if p.is_file() and p.name != "manifest.json"
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("weights.safetensors", lambda c: load_networks(c)),
        ("scaler.json", lambda c: c.scaler()),
        ("curve.json", lambda c: c.curve()),
        ("scores.json", lambda c: c.scores()),
        ("run.json", lambda c: c.run()),
        ("job.json", lambda c: c.job()),
        ("simulation.parquet", lambda c: c.simulation()),
    ],
)
def test_a_pickle_in_a_checkpoint_is_refused_in_a_sentence(name, read, world, payload, mark):
    checkpoint = Checkpoint.open(world / "checkpoints", JOB.hash)
    (checkpoint.folder / name).write_bytes(payload)
    sealed(checkpoint.folder)
    assert checkpoint.exists
    with pytest.raises(DataFileError, match="unreadable"):
        read(checkpoint)
    assert not mark.exists()


def test_a_pytorch_file_in_place_of_the_weights_is_refused(world, mark):
    import torch

    checkpoint = Checkpoint.open(world / "checkpoints", JOB.hash)
    torch.save({"weights": Planted(mark)}, checkpoint.folder / "weights.safetensors")
    sealed(checkpoint.folder)
    with pytest.raises(DataFileError, match=r"weights\.safetensors"):
        checkpoint.weights()
    assert not mark.exists()


def test_a_pickle_as_a_state_is_trained_from_the_beginning(world, payload, mark, caplog):
    folder = world / "checkpoints" / UNFINISHED
    folder.mkdir(exist_ok=True)
    (folder / f"{JOB.hash}-0.safetensors").write_bytes(payload)
    assert UnfinishedFile(world / "checkpoints", JOB.hash, 0).read() is None
    assert "trained from the beginning" in caplog.text
    assert not mark.exists()


def test_an_altered_checkpoint_is_trained_again_and_not_read(world, payload, mark):
    """By the real training: the manifest does not agree, so the folder is set aside unread."""
    root = world / "checkpoints"
    (root / JOB.hash / "weights.safetensors").write_bytes(payload)
    (outcome,) = train([JOB], make_data(), root, workers=1)
    assert (outcome.error, outcome.reused) == (None, False)
    assert list((root / ".corrupt").iterdir())
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".", "", ".corrupt", "a/b"])
def test_a_checkpoint_cannot_be_named_out_of_its_folder(name, tmp_path):
    with pytest.raises(DataFileError, match="no name of a checkpoint"):
        Checkpoint.open(tmp_path, name)


def table():
    """A basin of the toy world as a user would give it."""
    data = make_data()
    found = pd.DataFrame(data.forcing[0], columns=list(FORCINGS))
    found.insert(0, "gauge_id", IDS[0])
    found.insert(1, "date", data.dates.astype("datetime64[s]"))
    return found.assign(residence=1.0, class_number=1.0, soil="a")


def test_a_bundle_is_what_mlflow_itself_loads(world):
    """The folder stays a whole MLflow model, and our way of loading it gives the same flow."""
    theirs = import_pyfunc().load_model(str(world / "bundle")).predict(table())
    pd.testing.assert_frame_equal(load_bundle(world / "bundle").predict(table()), theirs)
    assert np.isfinite(theirs["sim"].to_numpy()[60:]).all()


def swapped_for_a_pickle(bundle: Path, payload: bytes, mark: Path) -> None:
    (bundle / "python_model.pkl").write_bytes(payload)
    (bundle / "bundle_model.py").unlink()
    record = (bundle / "MLmodel").read_text()
    record = record.replace("mlflow.pyfunc.loaders.code_model", "mlflow.pyfunc.model")
    lines = [line for line in record.splitlines() if "model_code_path" not in line]
    lines.insert(lines.index("flavors:") + 2, "    python_model: python_model.pkl")
    (bundle / "MLmodel").write_text("\n".join(lines))


def swapped_for_other_code(bundle: Path, payload: bytes, mark: Path) -> None:
    code = bundle / "bundle_model.py"
    code.write_text(f"import os\nos.mkdir({str(mark)!r})\n" + code.read_text())


def compiled_beside_it(bundle: Path, payload: bytes, mark: Path) -> None:
    """Python reads a compiled file beside the source, and this kind without comparing the two."""
    code = bundle / "bundle_model.py"
    other = bundle / "other.py"
    other.write_text(f"import os\nos.mkdir({str(mark)!r})\n" + code.read_text())
    shutil.rmtree(bundle / "__pycache__", ignore_errors=True)
    target = importlib.util.cache_from_source(str(code))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(other), target, invalidation_mode=mode)


PLANTS = [swapped_for_a_pickle, swapped_for_other_code, compiled_beside_it]


@pytest.mark.parametrize("plant", PLANTS)
def test_code_in_a_bundles_folder_is_never_run(plant, world, payload, mark):
    bundle = world / "bundle"
    before = load_bundle(bundle).predict(table())
    plant(bundle, payload, mark)
    pd.testing.assert_frame_equal(load_bundle(bundle).predict(table()), before)
    assert not mark.exists()
    # MLflow would run it: the plant is a real one.
    with suppress(Exception):
        import_pyfunc().load_model(str(bundle))
    assert mark.exists()


def test_a_registered_bundle_whose_code_was_swapped_runs_ours(world, payload, mark):
    uri = f"sqlite:///{world}/mlflow.db"
    tracking = Tracking(uri, world / "outbox", world / "files", "http://page")
    tracking.setup()
    promote(uri, "aef_dagster", register_bundle(uri, world / "bundle"))
    version = MlflowClient(tracking_uri=uri).get_model_version("aef_dagster", "1")
    (stored,) = (world / "files").rglob("MLmodel")
    assert version.run_id in str(stored)
    swapped_for_a_pickle(stored.parent, payload, mark)
    champion = load_bundle("models:/aef_dagster@champion", uri)
    assert champion.predict(table())["sim"].notna().any()
    assert not mark.exists()


def test_what_is_no_bundle_is_told_in_a_sentence(world, payload, mark):
    bundle = world / "bundle"
    (bundle / "artifacts" / "about.json").write_bytes(payload)
    with pytest.raises(DataFileError, match="no bundle of this platform"):
        load_bundle(bundle)
    (bundle / "MLmodel").write_bytes(payload)
    with pytest.raises(UserError, match="no MLflow model"):
        load_bundle(bundle)
    assert not mark.exists()
