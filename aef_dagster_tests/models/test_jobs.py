import json
import subprocess
import sys
from dataclasses import replace

import pytest

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import RECIPES, Scaling


def test_a_job_that_would_leak_cannot_exist(make_job):
    with pytest.raises(UserError, match="00000001 is an ungauged target and among its own donors"):
        make_job(donors=("00000001", "00000002"))


def test_a_gauged_target_must_be_a_donor(make_job):
    with pytest.raises(UserError, match="00000001 is a gauged target and not among the donors"):
        make_job(role="gauged")
    assert make_job(role="gauged", targets=("00000002",)).role == "gauged"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"donors": ()}, "at least one donor"),
        ({"targets": ()}, "at least one target"),
        ({"donors": ("00000002", "00000002")}, "donor 00000002 is named more than once"),
        ({"targets": ("00000001", "00000001")}, "target 00000001 is named more than once"),
        ({"targets": "00000001"}, "must be a sequence"),
        ({"role": "both"}, "role must be one of"),
        ({"threads": 0}, "at least one thread"),
    ],
)
def test_other_jobs_that_cannot_exist(make_job, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make_job(**changes)


def test_overlapping_periods_cannot_exist():
    with pytest.raises(UserError, match="periods must not overlap"):
        Periods("2000-01-01", "2001-01-01", "2001-01-01", "2002-01-01", "2002-01-02", "2003-01-01")


def test_order_of_donors_and_targets_does_not_matter(make_job):
    job = make_job(targets=("00000001", "00000002"), donors=("00000003", "00000004"))
    turned = make_job(targets=("00000002", "00000001"), donors=("00000004", "00000003"))
    assert turned == job
    assert turned.hash == job.hash


def test_hash_is_sensitive_to_all_that_determines_weights(make_job):
    job = make_job()
    changes = [
        {"dataset": "other"},
        {"forcing": "other"},
        {"data_version": "2"},
        {"targets": ("00000099",)},
        {"donors": job.donors[1:]},
        {"role": "gauged", "targets": job.donors[:1]},
        {"periods": replace(job.periods, test_end="2004-09-29")},
        {"representation": "none"},
        {"recipe": replace(job.recipe, dropout=0.39)},
        {"recipe": replace(job.recipe, scaling=Scaling(one_hot=False))},
        {"recipe": replace(job.recipe, static_layers=(16,))},
        {"budget": replace(job.budget, updates=21)},
        {"seed": 1},
        {"threads": 2},
        {"precision": "bf16"},
    ]
    hashes = {replace(job, **change).hash for change in changes} | {job.hash}
    assert len(hashes) == len(changes) + 1


def test_labels_are_not_hashed(make_job):
    assert make_job(sample=False, surrogate=True).hash == make_job().hash


def test_json_returns_the_same_job(make_job):
    job = make_job()
    again = TrainingJob.from_json(json.loads(json.dumps(job.to_json())))
    assert again == job
    assert again.hash == job.hash
    assert len(job.hash) == 16
    for recipe in (*RECIPES.values(), replace(job.recipe, static_layers=(16, 8))):
        job = make_job(recipe=recipe)
        assert TrainingJob.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_hash_is_the_same_in_another_process(make_job):
    job = make_job()
    code = (
        "import json, sys; from aef_dagster.models.jobs import TrainingJob; "
        "print(TrainingJob.from_json(json.load(sys.stdin)).hash, 'torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(job.to_json()),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(sys.path)},
    )
    assert answer.stdout.split() == [job.hash, "False"]
