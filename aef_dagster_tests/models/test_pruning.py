"""What a clean-up finds among checkpoints, what it leaves alone, and that a kill harms nothing."""

import json
import os
import time

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models import pruning
from aef_dagster.models.checkpoints import Checkpoint, partial_folder, write_checkpoint
from aef_dagster.models.ensembles import ensemble
from aef_dagster.models.pruning import (
    DAMAGED,
    HALF_REMOVED,
    HALF_WRITTEN,
    OLDER,
    STATES,
    SUPERSEDED,
    UNASKED,
    at_work,
    left_behind,
    remove,
    sort_checkpoints,
)
from aef_dagster.models.scoring import score_rows, simulation_table

DATES = np.arange("2003-10-01", "2003-12-30", dtype="datetime64[D]")
HOUR, DAY = 3600, 24 * 3600


@pytest.fixture
def write(make_job, tmp_path):
    """Writes the checkpoint of a job as if it had been trained, some days ago."""

    def write(seed=0, *, days=3.0, asked=True):
        job = make_job(seed=seed)
        flow = np.full((1, len(DATES)), 1.0 + seed, dtype=np.float32)
        with partial_folder(tmp_path) as partial:
            checkpoint = write_checkpoint(
                tmp_path, job.hash, partial=partial, job=job,
                simulation=simulation_table(job.targets, DATES, flow, flow),
                scores=score_rows(job, DATES, flow, flow),
                run={"seconds": 1.0, "basin_days": 2, "peak_mb": 3.0},
            )  # fmt: skip
        if asked:
            checkpoint.add_request({"asset": "basin_models", "space": "aef", "k": 7})
        aged(checkpoint.folder, days * DAY)
        return checkpoint

    return write


def aged(path, seconds):
    """Set all times of a file or folder back."""
    then = time.time() - seconds
    for each in (*path.rglob("*"), path):
        os.utime(each, (then, then))


def file(path, text="some bytes", age=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    aged(path, age)
    return path


def kinds(leftovers):
    return {item.path.name: item.kind for item in leftovers}


def test_what_is_in_force_or_young_stays_and_the_rest_says_why(write, tmp_path):
    current, superseded, unasked = write(0), write(1), write(2, asked=False)
    young, older, unreadable = write(3, days=0.9), write(4), write(5)
    asked_again = write(6)
    asked_again.add_request({"asset": "basin_models", "space": "aef", "k": 7})
    record = older.record() | {"code_version": "0"}
    file(older.folder / "job.json", json.dumps(record))
    file(unreadable.folder / "job.json", "{")
    for each in (older, unreadable):
        aged(each.folder, 3 * DAY)
    (tmp_path / "notes").mkdir()  # not ours

    found = sort_checkpoints(tmp_path, {current.hash, "f" * 16})
    assert found.kept == {current.hash, young.hash, asked_again.hash}
    assert kinds(found.leftovers) == {
        superseded.hash: SUPERSEDED, unasked.hash: UNASKED, older.hash: OLDER,
        unreadable.hash: DAMAGED,
    }  # fmt: skip
    size = sum(path.stat().st_size for path in superseded.folder.rglob("*") if path.is_file())
    assert {item.n_bytes for item in found.leftovers if item.kind == SUPERSEDED} == {size}

    assert len(remove(tmp_path, found.leftovers)) == 4
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {*found.kept, "notes", ".partial", ".asked"}
    assert all(Checkpoint.open(tmp_path, name).exists for name in found.kept)


def test_members_of_a_kept_ensemble_stay(write, tmp_path):
    members = [write(0), write(1)]
    whole = ensemble(tmp_path, [member.job() for member in members])
    alone = write(2)
    aged(whole.folder, 3 * DAY)
    found = sort_checkpoints(tmp_path, {whole.hash})
    assert found.kept == {whole.hash, *(member.hash for member in members)}
    assert kinds(found.leftovers) == {alone.hash: SUPERSEDED}

    # An ensemble of today is kept with members that nothing else names.
    aged(whole.folder, HOUR)
    assert members[0].hash in sort_checkpoints(tmp_path, set()).kept
    aged(whole.folder, 3 * DAY)
    assert sort_checkpoints(tmp_path, set()).kept == set()


def test_states_go_by_the_youngest_network_of_their_job(tmp_path):
    states = tmp_path / ".unfinished"
    old, young = "a" * 16, "b" * 16
    for network in (0, 1):
        file(states / f"{old}-{network}.safetensors", age=(31 + network) * DAY)
        # The first network was done long before the last was killed.
        file(states / f"{young}-{network}.safetensors", age=(40 - 20 * network) * DAY)
    file(states / f"{young}-1.0123", age=2 * HOUR)
    file(states / f"{young}-2.0123", age=HOUR / 2)
    found = left_behind(tmp_path, 30)
    assert kinds(found) == {
        f"{old}-0.safetensors": STATES, f"{old}-1.safetensors": STATES,
        f"{young}-1.0123": HALF_WRITTEN,
    }  # fmt: skip
    assert len(left_behind(tmp_path, 10)) == 5
    assert len(remove(tmp_path, found)) == 3
    assert {path.name for path in states.iterdir()} == {
        f"{young}-0.safetensors", f"{young}-1.safetensors", f"{young}-2.0123",
    }  # fmt: skip


def test_what_lies_beside(tmp_path):
    file(tmp_path / ".corrupt" / f"{'a' * 16}-1" / "job.json")
    file(tmp_path / ".pruned-1" / "0-b" / "job.json")
    for name, age in (("killed", 2 * DAY), ("lately", 2 * HOUR)):
        aged(file(tmp_path / ".partial" / name / "data" / "forcing.npy").parents[1], age)
    found = left_behind(tmp_path, 30)
    assert kinds(found) == {
        f"{'a' * 16}-1": DAMAGED, ".pruned-1": HALF_REMOVED, "killed": HALF_WRITTEN,
    }  # fmt: skip
    remove(tmp_path, found)
    assert [path.name for path in (tmp_path / ".partial").iterdir()] == ["lately"]
    assert list((tmp_path / ".corrupt").iterdir()) == []
    assert not list(tmp_path.glob(".pruned-*"))


def test_nothing_is_touched_while_a_training_is_at_work(write, tmp_path):
    superseded = write(1)
    state = file(tmp_path / ".unfinished" / f"{'a' * 16}-0.safetensors", age=40 * DAY)
    before = [*sort_checkpoints(tmp_path, set()).leftovers, *left_behind(tmp_path, 30)]
    assert len(before) == 2
    with partial_folder(tmp_path) as partial:
        aged(partial, HOUR / 2)
        assert at_work(tmp_path)
        assert sort_checkpoints(tmp_path, set()).leftovers == []
        assert left_behind(tmp_path, 30) == []
        # Begun between finding and removing.
        assert remove(tmp_path, before) == []
    assert superseded.exists
    assert state.exists()
    # Asked for between finding and removing.
    superseded.add_request({"asset": "basin_models", "space": "random", "k": 7})
    assert kinds(remove(tmp_path, before)) == {state.name: STATES}
    assert superseded.exists


def test_killed_while_removing_leaves_whole_checkpoints_only(write, tmp_path, monkeypatch):
    first, second = write(0), write(1)
    found = sort_checkpoints(tmp_path, set()).leftovers
    aside = tmp_path / f".pruned-{os.getpid()}"

    def killed(path):
        (path / "job.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pruning, "rmtree", killed)
        remove(tmp_path, found)
    left = [each for each in (first, second) if each.folder.exists()]
    assert len(left) == 1
    assert left[0].exists
    assert len(list(aside.iterdir())) == 1

    # The next clean-up goes on, also one with the same process id.
    again = [*left_behind(tmp_path, 30), *sort_checkpoints(tmp_path, set()).leftovers]
    assert sorted(kinds(remove(tmp_path, again)).values()) == sorted([HALF_REMOVED, SUPERSEDED])
    assert not aside.exists()
    assert not first.folder.exists()
    assert not second.folder.exists()


def test_what_another_process_removed_counts_for_nothing(write, tmp_path):
    write(0)
    found = sort_checkpoints(tmp_path, set()).leftovers
    assert len(remove(tmp_path, found)) == 1
    assert remove(tmp_path, found) == []


def test_what_cannot_be_removed_is_one_sentence(write, tmp_path):
    folder = write(0).folder
    found = sort_checkpoints(tmp_path, set()).leftovers
    file(tmp_path / f".pruned-{os.getpid()}")  # in the way of the folder to move into
    with pytest.raises(UserError, match=f"{folder} cannot be removed: File exists"):
        remove(tmp_path, found)
    assert folder.exists()
