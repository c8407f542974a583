"""The instance of a home: its file, and runs of commands that died."""

import os
import socket
import subprocess
import sys

import dagster as dg
import pytest
import yaml

from aef_dagster.errors import UserError
from aef_dagster.pipeline.instance import bury_dead_runs, render_instance
from aef_dagster.pipeline.liveness import HOST_TAG, PID_TAG
from aef_dagster.settings import load_settings
from aef_dagster.storage.home import Home


def test_the_file_points_into_the_home(tmp_path):
    folder = render_instance(load_settings(home=tmp_path / "a home"))
    rendered = yaml.safe_load((folder / "dagster.yaml").read_text())
    assert rendered["storage"]["sqlite"]["base_dir"] == str(tmp_path / "a home/dagster/storage")
    assert rendered["telemetry"] == {"enabled": False}


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    settings = load_settings(home=tmp_path)
    path = render_instance(settings) / "dagster.yaml"
    path.write_text("storage: {postgres: {}}\n")
    render_instance(settings)
    assert path.read_text() == "storage: {postgres: {}}\n"


@pytest.mark.parametrize("name", ["100%", "we[ird]*", "br{a}ce"])
def test_a_home_that_libraries_would_misread_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="choose another AEF_HOME"):
        Home(tmp_path / name).claim({"dataset": "sample"})


def test_runs_of_killed_commands_are_marked_and_others_are_not(instance):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    runs = {}
    for name, pid in (("dead", dead.pid), ("alive", os.getpid())):
        run = dg.DagsterRun(
            job_name="job",
            status=dg.DagsterRunStatus.STARTED,
            tags={PID_TAG: str(pid), HOST_TAG: socket.gethostname()},
        )
        runs[name] = instance.add_run(run).run_id
    bury_dead_runs(instance)
    assert instance.get_run_by_id(runs["dead"]).status == dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(runs["alive"]).status == dg.DagsterRunStatus.STARTED
