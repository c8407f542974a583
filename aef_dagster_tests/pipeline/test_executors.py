"""Executors and slots: what the settings choose, and what of them reaches a step."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models.training import usable_cores
from aef_dagster.pipeline.build import build_defs, steps_that_train
from aef_dagster.pipeline.executors import choose_executor
from aef_dagster.pipeline.executors.share import Share
from aef_dagster.pipeline.instance import SLOTS_NOTE, open_pools, training_slots
from aef_dagster.pipeline.liveness import PID_TAG
from aef_dagster.pipeline.resources import build_resources
from aef_dagster.settings import load_settings

TRAINS = ["basin_models", "regional_models"]


def test_those_steps_train_that_are_in_the_pool(tmp_path):
    from aef_dagster.pipeline.assets import build_assets

    assert sorted(steps_that_train(build_assets(load_settings(home=tmp_path)))) == TRAINS


@pytest.mark.parametrize(
    ("name", "library"), [("ray", "ray"), ("k8s", "kubernetes"), ("in_process", ""),
                          ("multiprocess", "")]
)  # fmt: skip
def test_definitions_load_with_each_executor_and_import_no_other(tmp_path, name, library):
    if library:
        pytest.importorskip("dagster_" + name, reason=f"the extra {name} is not installed")
    code = (
        "import sys; from aef_dagster.definitions import defs; "
        "print(defs().executor.name, *({'ray', 'kubernetes'} & set(sys.modules)))"
    )
    environment = os.environ | {"AEF_EXECUTOR": name, "AEF_HOME": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [name, *([library] if library else [])]


def test_a_training_step_asks_for_its_share_and_counts_on_no_more(monkeypatch):
    share = Share.of_training(load_settings(step_cpus=3, step_gpus=2))
    assert share == Share(3, 2)
    assert share.environment == {"PYTHON_CPU_COUNT": "3"}
    for name, value in share.environment.items():
        monkeypatch.setenv(name, value)
    assert usable_cores() == 3
    monkeypatch.setenv("PYTHON_CPU_COUNT", "default")
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_a_gpu_that_is_insisted_on_is_asked_for():
    assert Share.of_training(load_settings()) == Share(1, 0)
    assert Share.of_training(load_settings(device="cuda")) == Share(1, 1)
    assert Share().environment["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(UserError, match="AEF_DEVICE=cuda cannot train with AEF_STEP_GPUS=0"):
        build_defs(load_settings(device="cuda", step_gpus=0, executor="k8s"))


def test_a_run_of_the_queue_takes_its_share_of_the_gpus_and_a_command_all(tmp_path):
    def gpus(pid, **settings):
        platform = build_resources(load_settings(home=tmp_path, **settings))["platform"]
        return platform.gpus(dg.DagsterRun(job_name="job", tags={PID_TAG: str(pid)}))

    assert gpus(os.getpid()) is None
    # Launched again from the page, a run keeps the tags of the command it was.
    assert (gpus(1), gpus(1, step_gpus=2)) == (1, 2)


def slots(instance):
    return {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}


def test_slots_follow_the_devices_until_a_person_says_otherwise(instance, tmp_path):
    def start(count):
        open_pools(instance, load_settings(home=tmp_path, training_slots=count))
        return slots(instance)["training"]

    assert start(1) == 1
    assert start(4) == 4
    assert start(2) == 2
    instance.event_log_storage.set_concurrency_slots("training", 3)
    assert start(2) == 3
    assert start(5) == 3
    instance.event_log_storage.set_concurrency_slots("training", 2)  # back to what was noted
    assert start(5) == 5


def test_machines_that_share_an_instance_lower_nothing_of_each_other(
    instance, tmp_path, monkeypatch
):
    notes = instance.daemon_cursor_storage

    def start(gpus, told=None):
        monkeypatch.setattr("aef_dagster.pipeline.instance.count_devices", lambda: gpus)
        open_pools(instance, load_settings(home=tmp_path, training_slots=told))
        return slots(instance)["training"]

    def go_to_another_machine():
        number, _, how = notes.get_cursor_values({SLOTS_NOTE})[SLOTS_NOTE].split()
        notes.set_cursor_values({SLOTS_NOTE: f"{number} elsewhere {how}"})

    assert start(gpus=2) == 2
    go_to_another_machine()
    assert start(gpus=4) == 4
    assert start(gpus=3) == 3  # its own, fewer now
    go_to_another_machine()
    assert start(gpus=0) == 3
    assert start(gpus=0, told=2) == 2
    go_to_another_machine()
    assert start(gpus=4) == 2  # told there
    assert start(gpus=4, told=1) == 1
    assert start(gpus=4) == 4  # no longer told


def test_a_note_from_before_machines_were_noted_is_read(instance, tmp_path):
    instance.event_log_storage.set_concurrency_slots("training", 1)
    instance.daemon_cursor_storage.set_cursor_values({SLOTS_NOTE: "1"})
    open_pools(instance, load_settings(home=tmp_path, training_slots=2))
    assert slots(instance)["training"] == 2


def test_a_limit_that_only_the_queue_gave_follows_too(instance, tmp_path):
    instance.event_log_storage.initialize_concurrency_limit_to_default("training")
    open_pools(instance, load_settings(home=tmp_path, training_slots=3))
    assert slots(instance)["training"] == 3


def test_a_slot_is_a_step_worth_of_gpus(monkeypatch):
    monkeypatch.setattr("aef_dagster.pipeline.instance.count_devices", lambda: 4)
    assert training_slots(load_settings()) == 4
    assert training_slots(load_settings(step_gpus=2)) == 2
    assert training_slots(load_settings(step_gpus=8)) == 1
    assert training_slots(load_settings(device="cpu")) == 1
    assert training_slots(load_settings(device="cpu", training_slots=6)) == 6


@pytest.mark.parametrize(
    ("setting", "text", "wanted"),
    [("k8s_node_selector", "gpu=true", "JSON"), ("k8s_node_selector", '["gpu"]', "labels"),
     ("k8s_node_selector", '{"gpu": true}', "labels"), ("k8s_tolerations", "{", "JSON"),
     ("k8s_tolerations", '{"key": "x"}', "a list of tolerations"),
     ("k8s_tolerations", '[{"keys": "x"}]', "a list of tolerations")],
)  # fmt: skip
def test_settings_that_kubernetes_would_not_take_are_refused(setting, text, wanted):
    pytest.importorskip("dagster_k8s", reason="the extra k8s is not installed")
    with pytest.raises(UserError, match=f"AEF_{setting.upper()}=.* is not {wanted}"):
        choose_executor(load_settings(executor="k8s", **{setting: text}), TRAINS)


def test_what_ray_shows_of_a_step_holds_no_password(tmp_path, monkeypatch):
    pytest.importorskip("dagster_ray", reason="the extra ray is not installed")
    from aef_dagster.pipeline.executors.on_ray import environment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_PG_HOST", "db")
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "Sluice")
    settings = load_settings(home="var", tracking_uri="https://anna:Weir@mlflow.example.org")
    told = environment(settings, Share(4, 0))
    assert told["AEF_HOME"] == str(tmp_path / "var")
    assert told["DAGSTER_PG_HOST"] == "db"
    assert told["PYTHON_CPU_COUNT"] == "4"
    assert "AEF_TRACKING_URI" not in told
    monkeypatch.setenv("RAY_STEP_NEEDS", told["RAY_STEP_NEEDS"])
    with pytest.raises(UserError, match="this Ray node has no AEF_TRACKING_URI"):
        choose_executor(load_settings(executor="ray"), TRAINS)
    monkeypatch.setenv("AEF_TRACKING_URI", "https://anna:Weir@mlflow.example.org")
    assert choose_executor(load_settings(executor="ray"), TRAINS).name == "ray"
    assert not [value for value in told.values() if "Weir" in value or "Sluice" in value]


def test_a_ray_head_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("dagster_ray", reason="the extra ray is not installed")
    from aef_dagster.pipeline.executors.on_ray import StepsOnRay

    settings = load_settings(home=tmp_path, ray_address="http://127.0.0.1:9")
    with pytest.raises(
        UserError, match="no Ray head answers at AEF_RAY_ADDRESS=http://127.0.0.1:9"
    ):
        StepsOnRay(settings, Share(), TRAINS)
