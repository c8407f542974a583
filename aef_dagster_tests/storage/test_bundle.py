"""The bundle: real tiny models, a real registry, and what comes out when it is loaded again."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.ensembles import ensemble
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import PAPER, STRONG, Budget, Recipe
from aef_dagster.models.simulate import predict
from aef_dagster.models.training import train
from aef_dagster.storage.bundle import bundle_key, save_bundle
from aef_dagster.storage.registry import load_bundle, promote, register_bundle
from aef_dagster.storage.tracking import Tracking
from aef_dagster_tests.models.conftest import FORCINGS, IDS, PERIODS, make_data
from aef_dagster_tests.storage.mlflow_server import free_port, running

STATICS = ("residence", "class_number", "soil")
SPINUP = 60
STRANGER = "newbasin"
JOB = TrainingJob(
    dataset="toy", forcing="toy", data_version="1", targets=IDS[:1], donors=IDS[2:],
    role="ungauged", periods=PERIODS, representation="attributes17",
    recipe=Recipe(validations=2, spinup_days=SPINUP),
    budget=Budget("micro", hidden=8, updates=20, batch=8, window=60), seed=0, sample=True,
)  # fmt: skip
STRONG_JOB = replace(JOB, recipe=replace(STRONG, spinup_days=SPINUP))
# The study's rate learns nothing in 20 updates.
PAPER_JOB = replace(JOB, recipe=replace(PAPER, learning_rate=1e-2, max_epochs=None))
OTHER_TARGET = replace(JOB, targets=IDS[1:2], seed=7)
MEMBERS = [JOB, replace(JOB, seed=1)]


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def root(data, tmp_path_factory):
    """Checkpoints of all jobs above. Do not write to it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    jobs = [*MEMBERS, STRONG_JOB, PAPER_JOB, OTHER_TARGET]
    assert [outcome.error for outcome in train(jobs, data, folder, workers=1)] == [None] * len(jobs)
    return folder


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory):
    """A bundle of one model. Do not write to it."""
    return bundled(tmp_path_factory.mktemp("plain") / "bundle", root, JOB.hash)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    at(folder).setup()
    return folder


def at(folder, uri=None):
    uri = uri or f"sqlite:///{folder}/mlflow.db"
    return Tracking(uri, folder / "outbox", folder / "mlflow-artifacts", "http://page")


def bundled(folder, root, *hashes, **changes):
    options = {
        "title": "a study", "marks": ["surrogate"], "forcing_names": FORCINGS,
        "static_names": STATICS,
    }  # fmt: skip
    save_bundle(folder, [root / name for name in hashes], **(options | changes))
    return folder


def table_of(data, gauge_id, start=None, end=None, name=None):
    """A basin of the toy world as a user would give it."""
    row = data.rows([gauge_id])[0]
    table = pd.DataFrame(data.forcing[row], columns=list(FORCINGS))
    table.insert(0, "gauge_id", name or gauge_id)
    table.insert(1, "date", data.dates.astype("datetime64[s]"))
    statics = data.representation("attributes17")
    for column, value in zip(statics.numeric_names, statics.numeric[row], strict=True):
        table[column] = value
    table["soil"] = str(statics.categories[row, 0])
    return table.set_index("date", drop=False).loc[start:end].reset_index(drop=True)


def days_before(date, days):
    return str(np.datetime64(date, "D") - days)


def test_a_loaded_bundle_simulates_what_the_checkpoint_stored(plain, root, data):
    table = table_of(data, IDS[0], days_before(PERIODS.test_start, SPINUP), PERIODS.test_end)
    result = load_bundle(plain).predict(table)
    assert list(result.columns) == ["gauge_id", "date", "sim"]
    assert result["date"].tolist() == table["date"].tolist()
    assert result["sim"][:SPINUP].isna().all()
    stored = Checkpoint.open(root, JOB.hash).simulation()
    np.testing.assert_allclose(result["sim"][SPINUP:], stored["sim"], atol=1e-5)


@pytest.mark.parametrize(
    ("job", "before"), [(STRONG_JOB, SPINUP), (PAPER_JOB, PAPER_JOB.budget.window - 1)]
)
def test_whole_records_give_what_the_models_give(job, before, root, data, tmp_path):
    """With flow divided by precipitation, and with a window for each day."""
    bundle = load_bundle(bundled(tmp_path / "bundle", root, job.hash))
    table = table_of(data, IDS[1])
    result = bundle.predict(table)["sim"]
    assert result[:before].isna().all()
    checkpoint, first = Checkpoint.open(root, job.hash), str(data.dates[before])
    expected = predict(checkpoint, data, IDS[1:2], first, str(data.dates[-1]))["sim"]
    np.testing.assert_allclose(result[before:], expected, atol=1e-5)


def test_recent_weather_alone_gives_the_unit_of_flow_by_its_own_mean(root, data, tmp_path):
    bundle = load_bundle(bundled(tmp_path / "bundle", root, STRONG_JOB.hash))
    whole, recent = table_of(data, IDS[1]), table_of(data, IDS[1], start="2002-10-01")
    learnt = whole.set_index("date").loc[PERIODS.train_start : PERIODS.train_end]
    ratio = recent["prcp"].mean() / learnt["prcp"].mean()
    assert abs(ratio - 1) > 0.01
    flows = [bundle.predict(table)["sim"].to_numpy()[-300:] for table in (whole, recent)]
    np.testing.assert_allclose(flows[1], flows[0] * ratio, rtol=1e-3, atol=1e-5)


def test_basins_together_in_any_order_are_those_alone(plain, data):
    bundle = load_bundle(plain)
    one, other = table_of(data, IDS[3], end="2001-01-01"), table_of(data, IDS[4], "2003-01-01")
    mixed = pd.concat([one, other]).sample(frac=1, random_state=0)
    together = bundle.predict(mixed)
    assert together["gauge_id"].tolist() == mixed["gauge_id"].tolist()
    for table in (one, other):
        alone = bundle.predict(table).set_index("date")["sim"]
        found = together[together["gauge_id"] == table["gauge_id"][0]].set_index("date")["sim"]
        np.testing.assert_allclose(found.sort_index(), alone, atol=1e-6)


def test_a_known_target_is_simulated_by_its_own_models_and_others_by_all(root, data, tmp_path):
    both = load_bundle(bundled(tmp_path / "both", root, JOB.hash, OTHER_TARGET.hash))
    flows = {}
    for job in (JOB, OTHER_TARGET):
        single = load_bundle(bundled(tmp_path / job.hash, root, job.hash))
        flows[job.targets[0]] = single.predict(table_of(data, IDS[0], name=STRANGER))["sim"]
    for gauge_id, flow in flows.items():
        known = both.predict(table_of(data, IDS[0], name=gauge_id))["sim"]
        np.testing.assert_allclose(known, flow, atol=1e-6)
    assert not np.allclose(*[flow.dropna() for flow in flows.values()])
    unknown = both.predict(table_of(data, IDS[0], name=STRANGER))["sim"]
    np.testing.assert_allclose(unknown, np.mean(list(flows.values()), axis=0), atol=1e-6)


def test_an_ensemble_brings_its_members(root, data, tmp_path):
    made = ensemble(root, MEMBERS)
    bundle = load_bundle(bundled(tmp_path / "bundle", root, made.hash))
    start = days_before(PERIODS.test_start, SPINUP)
    result = bundle.predict(table_of(data, IDS[0], start, PERIODS.test_end))
    np.testing.assert_allclose(result["sim"][SPINUP:], made.simulation()["sim"], atol=1e-5)


def test_nothing_is_pickled_and_the_environment_is_this_one(plain, monkeypatch):
    # Loading a bundle compiles its code beside it.
    files = [p for p in plain.rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    assert {path.suffix for path in files} <= {
        "", ".json", ".yaml", ".txt", ".py", ".safetensors"
    }  # fmt: skip
    for path in files:
        # A pickle of protocol 2 or later, and the archive that torch.save makes.
        assert not path.read_bytes().startswith((b"\x80", b"PK\x03\x04")), path
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    load_bundle(plain)
    lines = (plain / "requirements.txt").read_text().split()
    assert len(lines) >= 5
    for line in lines:
        name, pinned = line.split("==")
        assert version(name).partition("+")[0] == pinned
    assert "requirements.txt" in (plain / "python_env.yaml").read_text()


def test_signature_and_example_show_what_a_table_looks_like(plain):
    bundle = load_bundle(plain)
    inputs = bundle.metadata.get_input_schema()
    assert inputs.input_names() == ["gauge_id", "date", *FORCINGS, *STATICS]
    assert bundle.metadata.get_output_schema().input_names() == ["gauge_id", "date", "sim"]
    assert "mean precipitation" in bundle.metadata.metadata["units"]
    assert bundle.metadata.metadata["marks"] == ["sample", "surrogate"]
    result = bundle.predict(bundle.metadata.load_input_example(str(plain)))
    assert np.isfinite(result["sim"][SPINUP:]).all()
    assert len(result) > SPINUP


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda t: t.drop(index=100), "is not followed by the next day"),
        (lambda t: pd.concat([t, t[100:101]]), "comes twice"),
        (lambda t: t.assign(residence=np.arange(len(t), dtype=float)), "one value a basin"),
        (lambda t: t.assign(pet=t["pet"].where(t.index != 100)), "pet is missing on 2000-04-10"),
        (lambda t: t[:SPINUP], "give earlier days"),
        (lambda t: t.assign(date=t["date"].where(t.index != 100)), "no gauge_id or no date"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(change, cause, plain, data):
    with pytest.raises(UserError, match=cause):
        load_bundle(plain).predict(change(table_of(data, IDS[0])))


def test_a_missing_static_input_is_the_donors_mean(plain, root, data):
    scaler = Checkpoint.open(root, JOB.hash).scaler()
    mean = dict(zip(scaler.static_names, scaler.static_mean, strict=True))["residence"]
    bundle, table = load_bundle(plain), table_of(data, IDS[0])
    missing = bundle.predict(table.assign(residence=np.nan))["sim"]
    at_mean = bundle.predict(table.assign(residence=mean))["sim"]
    np.testing.assert_allclose(missing, at_mean, atol=1e-6)
    assert np.abs(missing - bundle.predict(table)["sim"]).max() > 1e-3


def test_what_does_not_belong_together_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="would be empty"):
        bundled(tmp_path / "b", root)
    with pytest.raises(UserError, match="static inputs are not those"):
        bundled(tmp_path / "b", root, JOB.hash, static_names=("residence",))
    with pytest.raises(DataFileError, match="train the job again"):
        bundled(tmp_path / "b", root, "0" * 16)
    described = json.loads((root / JOB.hash / "job.json").read_text())
    bundle = bundled(tmp_path / "bundle", root, JOB.hash)
    about = bundle / "artifacts" / "about.json"
    code = f'"code_version": "{described["code_version"]}"'
    assert code in about.read_text()
    about.write_text(about.read_text().replace(code, '"code_version": "0"'))
    with pytest.raises(UserError, match="version 0 of the training code"):
        load_bundle(bundle)


def test_the_same_bundle_has_one_version(plain, root, data, empty_store, tmp_path):
    shutil.copytree(empty_store, tmp_path / "home")
    uri = f"sqlite:///{tmp_path}/home/mlflow.db"
    again = bundled(tmp_path / "again", root, JOB.hash)
    assert bundle_key(again) == bundle_key(plain)
    first = register_bundle(uri, plain, tags={"size": "small"})
    assert register_bundle(uri, again) == first
    other = bundled(tmp_path / "other", root, MEMBERS[1].hash)
    second = register_bundle(uri, other)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert len(client.search_model_versions("name = 'aef_dagster'")) == 2
    tags = client.get_model_version("aef_dagster", first).tags
    assert tags["bundle_key"] == bundle_key(plain)
    assert (tags["sample"], tags["surrogate"], tags["size"]) == ("true", "true", "small")

    table = table_of(data, IDS[5])
    for number, folder in ((first, plain), (second, other)):
        promote(uri, "aef_dagster", number)
        champion = load_bundle("models:/aef_dagster@champion", uri).predict(table)
        pd.testing.assert_frame_equal(champion, load_bundle(folder).predict(table))
    pd.testing.assert_frame_equal(
        load_bundle(f"models:/aef_dagster/{first}", uri).predict(table),
        load_bundle(plain).predict(table),
    )


def test_a_death_before_the_version_leaves_no_second_run(plain, empty_store, tmp_path):
    shutil.copytree(empty_store, tmp_path / "home")
    uri = f"sqlite:///{tmp_path}/home/mlflow.db"
    register_bundle(uri, plain)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.delete_model_version("aef_dagster", "1")
    register_bundle(uri, plain)
    experiment = client.get_experiment_by_name("aef_dagster")
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_dead_or_unprepared_mlflow_is_told_in_a_sentence(plain, tmp_path):
    dead = "http://user:secret@127.0.0.1:9"
    with pytest.raises(UserError, match="was not registered") as caught:
        register_bundle(dead, plain)
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="no experiment aef_dagster"):
        register_bundle(f"sqlite:///{tmp_path}/new.db", plain)
    with pytest.raises(UserError, match="was not made champion"):
        promote(f"sqlite:///{tmp_path}/new.db", "aef_dagster", "1")
    with pytest.raises(DataFileError, match="no bundle"):
        register_bundle(dead, tmp_path)


@pytest.mark.server
def test_a_server_hands_out_the_champion(plain, data, tmp_path):
    """To a process that knows the address and nothing else."""
    table = table_of(data, IDS[0])
    table.to_parquet(tmp_path / "table.parquet")
    code = (
        "import pandas as pd, sys\n"
        "from aef_dagster.storage.registry import load_bundle\n"
        "bundle = load_bundle('models:/aef_dagster@champion', sys.argv[1])\n"
        "bundle.predict(pd.read_parquet('table.parquet')).to_parquet('result.parquet')\n"
    )
    with running(tmp_path, free_port()) as uri:
        at(tmp_path, uri).setup()
        version_made = register_bundle(uri, plain)
        assert register_bundle(uri, plain) == version_made
        promote(uri, "aef_dagster", version_made)
        package = str(Path(__file__).parents[2])
        subprocess.run(
            [sys.executable, "-c", code, uri], cwd=tmp_path, check=True, timeout=120,
            env=os.environ | {"PYTHONPATH": package},
        )  # fmt: skip
    result = pd.read_parquet(tmp_path / "result.parquet")
    np.testing.assert_allclose(result["sim"], load_bundle(plain).predict(table)["sim"], atol=1e-6)
    assert not (tmp_path / "mlruns").exists()
