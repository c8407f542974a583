import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from aef_dagster.models.engine.course import RECORDED, State
from aef_dagster.models.engine.cpu import Training
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import PAPER, STRONG, Budget, Recipe
from aef_dagster.models.unfinished import STALE_AFTER_SECONDS, UNFINISHED, UnfinishedFile, sweep

RECIPES = {
    "plain": Recipe(validations=4, spinup_days=60),
    "strong": replace(STRONG, validations=4, spinup_days=60),
    "averaged": Recipe(validations=4, spinup_days=60, averaging=0.3),
    "static layers": Recipe(validations=4, spinup_days=60, static_layers=(4,), softplus=True),
    "paper": PAPER,
}


def state(value=1.0):
    arrays = {"weights.b": np.full((3, 2), value, np.float32), "weights.a": np.zeros(0, np.float32)}
    arrays |= {"moment1.b": np.zeros(1, np.float32), "moment2.b": np.ones(1, np.float32)}
    record = dict.fromkeys(RECORDED) | {
        "update": 7,
        "curve": [{"update": 5, "valid_nse": float("nan")}],
        "seconds": 1.25,
    }
    return State(arrays, record)


def only_file(folder):
    (path,) = (folder / UNFINISHED).iterdir()
    return path


def test_a_state_comes_back_as_it_was_written(tmp_path):
    file = UnfinishedFile(tmp_path, "abc", 0)
    assert file.read() is None
    file.write(state(2.0))
    file.write(state(0.1))
    read = file.read()
    assert read is not None
    assert (read.update, read.seconds) == (7, 1.25)
    assert np.isnan(read.record["curve"][0]["valid_nse"])
    assert set(read.arrays) == {"weights.a", "weights.b", "moment1.b", "moment2.b"}
    for name, array in state(0.1).arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)
        assert read.arrays[name].dtype == np.float32
    assert only_file(tmp_path).name == "abc-0.safetensors"
    assert UnfinishedFile(tmp_path, "abd", 0).read() is None
    file.remove()
    file.remove()
    assert file.read() is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def overwrite(path):
    path.write_bytes(b"not a state at all, but long enough to look at")


def forget_record(path):
    from safetensors.numpy import save_file

    save_file({"weights.a": np.zeros(1, np.float32)}, path)


def break_record(path):
    from safetensors.numpy import save_file

    save_file({"weights.a": np.zeros(1, np.float32)}, path, metadata={"record": '{"update": '})


@pytest.mark.parametrize("damage", [cut, empty, overwrite, forget_record, break_record])
def test_a_damaged_file_is_told_and_passed_over(tmp_path, caplog, damage):
    file = UnfinishedFile(tmp_path, "abc", 0)
    file.write(state())
    damage(only_file(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert file.read() is None
    assert "abc-0.safetensors is damaged" in caplog.text
    assert "trained from the beginning" in caplog.text
    file.write(state(3.0))
    assert file.read() is not None


def test_a_state_of_a_version_without_checksums_is_gone_on_with(tmp_path):
    from safetensors.numpy import save_file

    file, before = UnfinishedFile(tmp_path, "abc", 0), state(2.0)
    file.write(before)
    save_file(before.arrays, only_file(tmp_path), metadata={"record": json.dumps(before.record)})
    assert file.read().arrays["weights.b"][0, 0] == 2.0


WRITER = """
import sys
import numpy as np
from pathlib import Path
from aef_dagster.models.engine.course import RECORDED, State
from aef_dagster.models.unfinished import UnfinishedFile

file = UnfinishedFile(Path(sys.argv[1]), "abc", 0)
for update in range(1_000_000):
    parts = ("weights.a", "weights.b", "moment1.a", "moment2.a")
    arrays = {name: np.full(500_000, update, np.float32) for name in parts}
    file.write(State(arrays, dict.fromkeys(RECORDED) | {"update": update, "seconds": 0.0}))
    print(update, flush=True)
"""


def whole(found):
    """The update that a state of the writer above is of; it must not be a mixture."""
    assert found is not None
    assert len(found.arrays) == 4
    assert all(np.all(array == found.update) for array in found.arrays.values())
    return found.update


@pytest.mark.parametrize("absent", ["losses", "moment1"])
def test_a_state_that_lacks_something_is_not_gone_on_with(tmp_path, caplog, absent):
    whole_one, file = state(), UnfinishedFile(tmp_path, "abc", 0)
    record = {name: value for name, value in whole_one.record.items() if name != absent}
    arrays = {k: v for k, v in whole_one.arrays.items() if not k.startswith(absent)}
    file.write(State(arrays, record))
    assert file.read() is None
    assert f"it has no {absent}" in caplog.text


def test_whoever_reads_or_kills_while_it_is_written_finds_a_whole_state(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    file, found = UnfinishedFile(tmp_path, "abc", 0), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            told = [writer.stdout.readline()]
            while len(set(found)) < 20:
                found.append(whole(file.read()))
        finally:
            writer.kill()
        told += writer.stdout.read().splitlines()
    assert found == sorted(found)
    # What was told to be written is there, or what was written next.
    assert int(told[-1]) <= whole(file.read()) <= int(told[-1]) + 1


def test_a_write_that_fails_leaves_the_former_state_and_nothing_else(tmp_path):
    file = UnfinishedFile(tmp_path, "abc", 0)
    file.write(state(1.0))
    with pytest.raises(TypeError):
        file.write(replace(state(2.0), record={"update": object()}))
    assert file.read().arrays["weights.b"][0, 0] == 1.0
    assert only_file(tmp_path).name == "abc-0.safetensors"


def test_what_nobody_went_on_with_is_swept_up(tmp_path):
    sweep(tmp_path)  # nothing there yet
    UnfinishedFile(tmp_path, "old", 0).write(state())
    UnfinishedFile(tmp_path, "young", 0).write(state())
    partial = tmp_path / UNFINISHED / "old.0123"
    partial.write_bytes(b"half written")
    long_ago = time.time() - STALE_AFTER_SECONDS - 60
    for path in (tmp_path / UNFINISHED / "old-0.safetensors", partial):
        os.utime(path, (long_ago, long_ago))
    sweep(tmp_path)
    assert only_file(tmp_path).name == "young-0.safetensors"


@pytest.mark.parametrize(
    ("name", "representation"),
    [*((name, "attributes17") for name in RECIPES), ("strong", "none")],
)
def test_a_training_goes_on_from_its_file_as_if_it_had_never_stopped(
    toy, make_job, tmp_path, name, representation
):
    budget = Budget("micro", hidden=4, updates=12, batch=8, window=60)
    job = make_job(recipe=RECIPES[name], budget=budget, representation=representation)
    inputs, file = prepare(job, toy), UnfinishedFile(tmp_path, job.hash, 0)
    without = Training(inputs)
    for _ in range(12):
        without.step()
        if without.course.validation_is_due:
            without.validate()
        if without.course.update == 5:
            file.write(without.state())
    left = file.read()
    assert left.update == 5
    resumed = Training(inputs)
    resumed.resume(left)
    while not resumed.course.finished:
        resumed.step()
        if resumed.course.validation_is_due:
            resumed.validate()
    assert resumed.course.update == without.course.update == 12
    expected, found = without.state(), resumed.state()
    assert set(found.arrays) == set(expected.arrays)
    for name, array in expected.arrays.items():
        assert found.arrays[name].tobytes() == array.tobytes(), name
    for one, other in (
        (without.course.curve, resumed.course.curve),
        ([expected.record], [found.record]),
    ):
        assert [untimed(row) for row in one] == [untimed(row) for row in other]
    assert without.result().simulation.tobytes() == resumed.result().simulation.tobytes()


def untimed(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "curve")}
