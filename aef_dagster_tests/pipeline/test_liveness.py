"""Dead runs are told from live ones: whose run it is, on which machine, since which start."""

import json
import os
import socket
import subprocess
import sys
import threading

import dagster as dg
import pytest
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.events import EngineEventData
from dagster._core.launcher import LaunchRunContext
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from aef_dagster.pipeline.failures import run_failed
from aef_dagster.pipeline.instance import bury_dead_runs
from aef_dagster.pipeline.liveness import (
    BOOT_TAG,
    GRPC_INFO_TAG,
    HOST_TAG,
    LAUNCHER_BOOT_TAG,
    LAUNCHER_HOST_TAG,
    PID_TAG,
    cause_of_death,
    launcher_tags,
    own_tags,
)
from aef_dagster.settings import load_settings

SOCKET = json.dumps({"host": "localhost", "socket": "/tmp/of-a-code-server"})
LOOPBACK = json.dumps({"host": "127.0.0.1", "port": 4000})
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="code", port=4000), "__repository__"),
    "job",
)


@pytest.fixture
def dead():
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def alive():
    """Number of a process that looks like a code server's child."""
    code = "import sys; print(flush=True); sys.stdin.read()  # multiprocessing"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def started(instance, tags, pid=None, origin=None):
    """A run that counts as started; with `pid`, its process said so."""
    status = dg.DagsterRunStatus.STARTED
    run = dg.DagsterRun(job_name="job", status=status, tags=tags, remote_job_origin=origin)
    run = instance.add_run(run)
    if pid is not None:
        instance.report_engine_event("Started", run, EngineEventData.in_process(pid))
    return run


def of_a_command(pid):
    return {PID_TAG: str(pid), HOST_TAG: socket.gethostname()}


@pytest.mark.parametrize("server", [SOCKET, LOOPBACK])
def test_a_run_of_this_machine_lives_as_long_as_its_process(instance, alive, dead, server):
    tags = launcher_tags() | {GRPC_INFO_TAG: server}
    assert cause_of_death(instance, started(instance, tags, alive)) is None
    assert cause_of_death(instance, started(instance, tags)) is None  # it has not said yet
    assert cause_of_death(instance, started(instance, tags, dead)) == "its process was killed"


def test_a_run_launched_again_is_not_the_command_whose_tags_it_keeps(instance, alive, dead):
    tags = of_a_command(dead) | {"aef/command": "cli"}
    assert cause_of_death(instance, started(instance, tags)) == "the command that ran it was killed"
    launched = tags | launcher_tags() | {GRPC_INFO_TAG: SOCKET}
    assert cause_of_death(instance, started(instance, launched, alive)) is None
    assert cause_of_death(instance, started(instance, launched, dead)) == "its process was killed"
    # Another launcher (Kubernetes) names no code server.
    assert cause_of_death(instance, started(instance, tags, origin=ORIGIN)) is None
    # What a command's tags say of another machine is not asked either.
    elsewhere = launched | {HOST_TAG: "elsewhere"}
    assert cause_of_death(instance, started(instance, elsewhere, dead)) == "its process was killed"


def test_a_failure_names_the_command_only_of_its_own_run(instance, tmp_path):
    def started_by(origin):
        run = started(instance, own_tags() | {"aef/command": "cli"}, origin=origin)
        instance.report_run_failed(run)
        record = instance.get_run_record_by_id(run.run_id)
        return run_failed(instance, record, load_settings(home=tmp_path)).details["started_by"]

    assert started_by(None) == "an aef command"
    assert started_by(ORIGIN) == "hand"


@pytest.mark.parametrize("server", [SOCKET, LOOPBACK])
def test_a_run_of_another_machine_is_left_alone(instance, dead, server):
    """127.0.0.1 there is not here, and its process has no number here."""
    tags = launcher_tags() | {GRPC_INFO_TAG: server}
    elsewhere = started(instance, tags | {LAUNCHER_HOST_TAG: "elsewhere"}, dead)
    assert cause_of_death(instance, elsewhere) is None
    unknown = started(instance, {GRPC_INFO_TAG: server}, dead)
    assert cause_of_death(instance, unknown) is None


def test_a_restart_of_the_machine_ends_all_runs_on_it(instance, alive):
    """Their numbers may be those of other programs since."""
    launched = launcher_tags() | {GRPC_INFO_TAG: SOCKET, LAUNCHER_BOOT_TAG: "before"}
    assert cause_of_death(instance, started(instance, launched, alive)) == "its process was killed"
    command = of_a_command(os.getpid()) | {BOOT_TAG: "before"}
    told = cause_of_death(instance, started(instance, command))
    assert told == "the command that ran it was killed"


def test_the_launcher_puts_its_machine_over_that_of_an_earlier_run(tmp_path):
    launcher = {"module": "aef_dagster.pipeline.launching", "class": "WatchedRunLauncher"}
    with dg.DagsterInstance.local_temp(str(tmp_path), {"run_launcher": launcher}) as instance:
        run = started(instance, {LAUNCHER_HOST_TAG: "elsewhere", "kept": "yes"})
        # Without a workspace Dagster goes no further.
        with pytest.raises(DagsterInvariantViolationError, match="requires a workspace"):
            instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
        tags = instance.get_run_by_id(run.run_id).tags
    assert tags == launcher_tags() | {"kept": "yes"}


def test_a_run_that_ends_while_runs_are_looked_at_keeps_its_ending(instance, dead):
    """A code server of another machine is asked of the first run; meanwhile the second ends."""
    ending = started(instance, of_a_command(dead))
    with socket.create_server(("127.0.0.2", 0)) as server:

        def answer():
            connection, _ = server.accept()
            instance.report_run_canceled(ending)
            connection.close()
            server.close()

        where = json.dumps({"host": "127.0.0.2", "port": server.getsockname()[1]})
        started(instance, {GRPC_INFO_TAG: where})  # the newest, so the first
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        bury_dead_runs(instance)
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert instance.get_run_by_id(ending.run_id).status == dg.DagsterRunStatus.CANCELED
