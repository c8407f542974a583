"""The whole study of the sample as a person runs it: killed, gone on with, asked for again.

One home is killed early and finished, a second runs two experiments unbroken, a third is the world
where embeddings know nothing. All of it is slow: some 150 models.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from aef_dagster.experiments.sizes import SIZES
from aef_dagster.experiments.study import EXPERIMENTS, merged, plan_study
from aef_dagster.pipeline.study_inputs import study_basins
from aef_dagster.storage.home import Home
from aef_dagster.storage.mlflow_store import connect, search_runs
from aef_dagster.storage.warehouse import Warehouse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

AEF = Path(sys.executable).with_name("aef")
RESULT = re.compile(r"RESULT experiments=(\d+) jobs=(\d+) reused=(\d+) seconds=\d+")
DIFFERENCE = "paired difference of NSE"
TWO = ("--only", "in_vs_out_of_sample", "--only", "controls")
SIZE = SIZES["sample"]


def environment(home: Path, world: str = "planted") -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    return clean | {"AEF_HOME": str(home), "AEF_SAMPLE": world}


def aef(home: Path, *arguments: str, world: str = "planted"):
    """Run a command beside the home, as a user would."""
    return subprocess.run(
        [AEF, *arguments], cwd=home.parent, env=environment(home, world), capture_output=True,
        text=True, timeout=900,
    )  # fmt: skip


def result_of(answer) -> tuple[int, int, int]:
    """Experiments, jobs, reused: of the last line that a study prints."""
    assert answer.returncode == 0, answer.stderr
    found = RESULT.fullmatch(answer.stdout.splitlines()[-1])
    assert found, answer.stdout[-300:]
    return tuple(int(number) for number in found.groups())


def estimates(home: Path, *experiments: str) -> pd.DataFrame:
    """Rows of the table, in an order of their own."""
    table = Warehouse(Home(home).warehouse).frame("SELECT * FROM estimates")
    table = table[table["experiment"].isin(experiments)] if experiments else table
    return table.sort_values(list(table.columns[:7]), ignore_index=True)


def difference(home: Path, experiment: str, design: str, against: str) -> pd.Series:
    """The row that holds `aef` against another representation."""
    table = estimates(home, experiment)
    (row,) = [
        row
        for _, row in table[table["measure"] == DIFFERENCE].iterrows()
        if (row["of"], row["design"], row["against"]) == ("aef", design, against)
    ]
    return row


def asked(home: Path) -> dict[str, int]:
    """Trainings that the plans ask for, by the experiment under which MLflow shows them."""
    basins = study_basins(Home(home), Warehouse(Home(home).warehouse), "sample")
    plans = plan_study(basins, SIZE)
    counts = {name: sum(len(ask.targets) for ask in plan.donors) for name, plan in plans.items()}
    for names in merged(plans).values():
        counts[names[0]] += 1
    return counts


@pytest.fixture(scope="module")
def killed(prepared, tmp_path_factory):
    """A home whose study was killed after some models, and how many these were."""
    home = tmp_path_factory.mktemp("killed") / "var"
    shutil.copytree(prepared, home)
    command = subprocess.Popen(
        [AEF, "study", "--size", "sample"], cwd=home.parent, env=environment(home),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(list(home.glob("checkpoints/*/manifest.json"))) < 5:
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    command.send_signal(signal.SIGKILL)
    command.wait()
    done = len(list(home.glob("checkpoints/*/manifest.json")))
    assert not home.joinpath("study").exists()
    return home, done


@pytest.fixture(scope="module")
def studied(killed):
    """The same home after the same command, to its end."""
    home, done = killed
    return home, done, aef(home, "study", "--size", "sample")


@pytest.fixture(scope="module")
def unbroken(prepared, tmp_path_factory):
    """Another home, with two experiments run without a break."""
    home = tmp_path_factory.mktemp("unbroken") / "var"
    shutil.copytree(prepared, home)
    return home, aef(home, "study", "--size", "sample", *TWO)


def test_a_killed_study_goes_on_to_its_end(studied):
    home, done, answer = studied
    experiments, jobs, reused = result_of(answer)
    assert experiments == len(EXPERIMENTS) + 1  # and trust
    assert done <= reused < jobs
    assert jobs == len(list(home.glob("checkpoints/*/weights.safetensors")))
    assert set(estimates(home)["experiment"]) == set(EXPERIMENTS)
    assert estimates(home)["sample"].all()
    for name, experiment in EXPERIMENTS.items():
        assert experiment.title in answer.stdout, name


def test_the_report_tells_of_every_experiment(studied):
    home, _done, answer = studied
    page = home / "study" / "sample" / "index.html"
    assert f"the report: {page}" in answer.stdout
    text = page.read_text(encoding="utf-8")
    heading = text[text.index("<h1") : text.index("<h2")]
    assert "sample" in heading.lower()
    for name, experiment in EXPERIMENTS.items():
        assert f'id="{name.replace("_", "-")}"' in text
        assert experiment.title in text
    assert "not run" not in heading
    assert not re.search(r"(src|href)=[\"']https?:", text.split("<footer")[0])


def test_mlflow_has_a_run_an_experiment_with_its_trainings(studied):
    home, _done, _answer = studied
    client = connect(f"sqlite:///{Home(home).mlflow_db}")
    place = client.get_experiment_by_name("aef_dagster").experiment_id
    for name, trainings in asked(home).items():
        (parent,) = search_runs(client, place, "parent_key", f"study:sample:{name}")
        assert parent.info.status == "FINISHED"
        tags = {"experiment": name, "size": "sample", "dataset": "sample", "budget": "toy",
                "sample": "true", "surrogate": "false"}  # fmt: skip
        assert tags.items() <= parent.data.tags.items()
        assert "**" in parent.data.tags["mlflow.note.content"]
        assert parent.data.metrics, name
        files = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
        assert {"reading.json", "estimates.csv"} <= files
        nested = search_runs(client, place, "mlflow.parentRunId", parent.info.run_id)
        assert len(nested) == trainings, name
        keys = [run.data.tags["record_key"] for run in nested]
        assert len(keys) == len(set(keys))
        for run in nested[:2]:
            assert run.data.tags["sample"] == "true"
            held = {entry.path for entry in client.list_artifacts(run.info.run_id)}
            assert "job.json" in held
    assert not list(Home(home).outbox.glob("*.json"))


def test_broken_and_unbroken_end_with_the_same_numbers(studied, unbroken):
    home, _done, _answer = studied
    other, answer = unbroken
    experiments, jobs, reused = result_of(answer)
    assert (experiments, reused) == (3, 0)
    assert jobs < 30
    names = ("in_vs_out_of_sample", "controls")
    assert set(estimates(other)["experiment"]) == set(names)
    text = (other / "study" / "sample" / "index.html").read_text(encoding="utf-8")
    assert "mechanisms" in text[text.index("not run") : text.index("<h2")]
    # Whole numbers are read as such where no row of a table is without one.
    pd.testing.assert_frame_equal(
        estimates(home, *names), estimates(other, *names), check_dtype=False, check_exact=True
    )


def test_the_planted_effect_is_found(unbroken):
    home, _answer = unbroken
    assert difference(home, "controls", "folds", "shuffled")["low"] > 0


def test_asked_again_a_study_trains_nothing(studied):
    home, _done, answer = studied
    _experiments, before, _reused = result_of(answer)
    again = aef(home, "study", "--size", "sample")
    _experiments, jobs, reused = result_of(again)
    assert jobs == reused == before
    assert "training:" not in again.stderr
    # One experiment by itself does not touch what the others told.
    table = estimates(home)
    alone = aef(home, "study", "--size", "sample", "--only", "controls")
    experiments, jobs, reused = result_of(alone)
    assert experiments == 2  # and trust
    assert 0 < jobs == reused < before
    assert EXPERIMENTS["mechanisms"].title not in alone.stdout
    pd.testing.assert_frame_equal(estimates(home), table)


def test_where_embeddings_know_nothing_none_is_found(tmp_path):
    home = tmp_path / "var"
    assert aef(home, "prepare", world="null").returncode == 0
    result_of(aef(home, "study", "--size", "sample", *TWO, world="null"))
    table = estimates(home)
    asked_of = table[(table["measure"] == DIFFERENCE) & (table["of"] == "aef")]
    asked_of = asked_of[asked_of["against"].isin(["none", "shuffled", "attributes17", "random"])]
    asked_of = asked_of[asked_of["design"].isin(["folds", "regions"])]
    assert len(asked_of) == 5
    found = asked_of[asked_of["low"] > 0]
    assert found.empty, found[["design", "against", "value", "low", "high"]]
