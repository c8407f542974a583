"""The command line as a person meets it: words, exit codes, files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

AEF = Path(sys.executable).with_name("aef")


@pytest.fixture
def aef(tmp_path):
    """Run `aef` in an empty folder, as a user would."""

    def call(*arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
        return subprocess.run(
            [AEF, *arguments], cwd=tmp_path, env=clean | environment, capture_output=True,
            text=True, timeout=240,
        )  # fmt: skip

    return call


def refused(answer, *words):
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout
    told = " ".join(answer.stderr.split())
    for word in words:
        assert word in told, told


@pytest.mark.parametrize("command", ["", "demo", "doctor", "prepare", "train", "study", "simulate",
                                     "sync", "prune", "dev"])  # fmt: skip
def test_help_teaches(aef, command):
    answer = aef(*([command] if command else []), "--help")
    assert answer.returncode == 0
    assert len(answer.stdout) > 300


def test_doctor_on_the_sample_needs_nothing(aef):
    answer = aef("doctor")
    assert answer.returncode == 0
    assert "nothing to download" in answer.stdout


def test_doctor_says_what_must_go_where(aef, tmp_path):
    (tmp_path / "camels").mkdir()
    answer = aef("doctor", AEF_DATASET="camels_us", AEF_DATA_DIR="camels")
    assert answer.returncode == 2
    told = "".join(answer.stdout.split())  # long paths are folded
    assert "basin_timeseries_v1p2_metForcing_obsFlow.zip" in told
    assert "camels_attributes_v2.0/camels_topo.txt" in told
    assert "AEF_EMBEDDINGS_DIR" in told


def test_a_folder_without_data_is_one_sentence(aef, tmp_path):
    (tmp_path / "empty").mkdir()
    answer = aef("prepare", AEF_DATASET="camels_us", AEF_DATA_DIR="empty")
    refused(answer, "camels_name.txt", "aef doctor")


def test_a_command_without_data_does_not_bind_the_home(aef, tmp_path):
    refused(aef("prepare", AEF_DATASET="camels_us"), "AEF_DATA_DIR is not set")
    refused(aef("prepare", AEF_FORCING="maurer"), "AEF_FORCING=daymet")
    refused(aef("simulate", "00901001"), "is no home yet")
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_setting_is_one_sentence(aef):
    refused(aef("prepare", AEF_DATASETS="x"), "did you mean AEF_DATASET")


def test_training_before_preparing_is_one_sentence(aef):
    refused(aef("train", "00901001"), "aef prepare")


@pytest.mark.slow
def test_commands_of_embeddings(aef, tmp_path):
    assert "download" in aef("embeddings", "--help").stdout
    real = {"AEF_DATASET": "camels_us", "AEF_SOURCE": "table", "AEF_EMBEDDINGS_DIR": "tables"}
    refused(aef("embeddings", "years", **real), "tables does not exist", "AEF_EMBEDDINGS_DIR")
    bands = [f"A{i:02d}" for i in range(64)]
    table = pd.DataFrame([[1013500, 2018, *[0.1] * 64]], columns=["hru_id", "year", *bands])
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables" / "basins_2018.csv", index=False)
    answer = aef("embeddings", "years", **real)
    assert answer.stdout.split() == ["2018", "not", "here"]
    refused(
        aef("embeddings", "download", "tables", "--url", "http://127.0.0.1:9/x.csv"),
        "http://127.0.0.1:9/x.csv could not be read",
    )
    refused(
        aef("embeddings", "export", "2020", "--bucket", "b", **real), "set AEF_SOURCE=earth_engine"
    )
    refused(
        aef("embeddings", "export", "2020", "--bucket", "b", AEF_SOURCE="earth_engine"),
        "set AEF_DATASET=camels_us",
    )
    refused(aef("embeddings", "years"), "run `aef prepare` or `aef demo` first")
    refused(
        aef("embeddings", "years", AEF_DATASET="camels_us", AEF_SOURCE="earth_engine"),
        "set AEF_EE_PROJECT",
    )


def test_the_way_of_a_user(aef, tmp_path):
    """Prepare, train, simulate, sync, and each mistake on the way."""
    prepared = aef("prepare")
    assert prepared.returncode == 0, prepared.stderr
    assert "24 basins" in prepared.stdout

    refused(aef("train", "00901009"), "00901009", "did you mean")
    refused(aef("train", "00901001", "--k", "24"), "24 donors", "from 1 to 23")
    refused(aef("train", "00901001", "--space", "colour"), "--space colour")
    refused(aef("prepare", AEF_SAMPLE="null"), "One home is one world", "AEF_HOME")
    refused(aef("simulate", "00901001"), "aef train 00901001")

    trained = aef("train", "901001", "--seeds", "2", AEF_TRACKING_URI="http://127.0.0.1:9")
    assert trained.returncode == 0, trained.stderr
    assert "00901001" in trained.stdout
    assert "NSE 0." in trained.stdout
    assert "sample" in trained.stdout

    written = aef("simulate", "901001", "-o", "flow.parquet")
    assert written.returncode == 0, written.stderr
    flow = pd.read_parquet(tmp_path / "flow.parquet")
    assert list(flow) == ["date", "obs", "sim", "sim_std"]
    assert (flow["sim"] >= 0).all()
    assert (flow["sim_std"] > 0).any()
    refused(aef("simulate", "901001", "-o", "flow.xlsx"), ".csv or .parquet")
    refused(aef("simulate", "901001", "--space", "random"), "--space random")

    waiting = list((tmp_path / "var" / "outbox").glob("*.json"))
    assert len(waiting) == 1
    sent = aef("sync")
    assert sent.returncode == 0, sent.stderr
    assert "1 sent, 0 waiting" in sent.stdout
    assert "0 sent, 0 waiting" in aef("sync").stdout


def test_a_study_refuses_in_a_sentence(aef, tmp_path):
    refused(aef("study"), "is no home yet", "aef prepare")
    # A home that is claimed and empty.
    (tmp_path / "var").mkdir()
    world = '{"dataset": "sample", "forcing": "daymet", "sample": "planted"}'
    (tmp_path / "var" / "world.json").write_text(world)
    refused(aef("study", "--size", "huge"), "unknown size 'huge'", "sample, small, full")
    refused(aef("study", "--only", "contrls"), "no experiment contrls", "controls")
    refused(aef("study"), "no donors", "aef prepare")


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_keeps_what_is_done_and_goes_on(aef, tmp_path):
    assert aef("prepare").returncode == 0
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    targets = ["901001", "902001", "903001", "904001", "901002", "902002"]
    command = subprocess.Popen(
        [AEF, "train", *targets], cwd=tmp_path, env=clean, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    checkpoints = tmp_path / "var" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    told, _ = command.communicate(timeout=60)
    assert command.returncode == 130, told
    assert "what is finished is kept" in told
    assert "Traceback" not in told
    done = len(list(checkpoints.glob("*/manifest.json")))
    assert 1 <= done < len(targets)
    again = aef("train", *targets)
    assert again.returncode == 0, again.stderr
    assert f"{done} models reused" in again.stderr
