"""Whether a run that counts as started still has a process.

Here: the tags by which a run names its process or its machine, and how a dead run is told from a
live one. Not here: who asks (instance.py at each command, launching.py for the daemon).
"""

import json
import os
import socket
from pathlib import Path

import dagster as dg
import psutil

PID_TAG, HOST_TAG, BOOT_TAG = "aef/pid", "aef/host", "aef/boot"
# Names of their own: launched again from the page, a run keeps the tags of the command it was.
LAUNCHER_HOST_TAG, LAUNCHER_BOOT_TAG = "aef/launcher_host", "aef/launcher_boot"
# Dagster's, for the code server that a run was given to.
GRPC_INFO_TAG = ".dagster/grpc_info"
_HERE = ("localhost", "127.0.0.1", "::1")


def own_tags() -> dict[str, str]:
    """Tags of a run that this process executes."""
    return {PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), BOOT_TAG: _boot()}


def launcher_tags() -> dict[str, str]:
    """Tags of a run that this process gives to a code server."""
    return {LAUNCHER_HOST_TAG: socket.gethostname(), LAUNCHER_BOOT_TAG: _boot()}


def is_launched(run: dg.DagsterRun) -> bool:
    """Whether a launcher started the run, whatever a command's tags on it say."""
    return GRPC_INFO_TAG in run.tags or run.remote_job_origin is not None


def cause_of_death(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """Why a started run has no process any more; None if it has one, or nobody here can know.

    A run of a command carries its process in its tags. One of the daemon is a child of a code
    server: one that listens on its own machine only is a neighbour of the launcher, whose machine
    is in the tags, and the run's process is looked for if that is this one; any other is asked.
    """
    if GRPC_INFO_TAG in run.tags:
        server = json.loads(run.tags[GRPC_INFO_TAG])
        if "socket" in server or server["host"] in _HERE:
            return None if _lives_here(instance, run) else "its process was killed"
        knows = _knows(server, run.run_id)
        return None if knows else f"the code server on {server['host']} lost it"
    if PID_TAG not in run.tags or is_launched(run):
        return None
    if run.tags[HOST_TAG] != socket.gethostname():
        return None
    # After a restart of the machine the number may be another program's.
    same_boot = run.tags.get(BOOT_TAG, _boot()) == _boot()
    alive = same_boot and psutil.pid_exists(int(run.tags[PID_TAG]))
    return None if alive else "the command that ran it was killed"


def _boot() -> str:
    """Name of the time since this machine was last started; "" where the system has none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _lives_here(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run beside its launcher may live; on another machine than this it may."""
    if run.tags.get(LAUNCHER_HOST_TAG) != socket.gethostname():
        return True
    if run.tags[LAUNCHER_BOOT_TAG] != _boot():
        return False
    pid = _pid_in_log(instance, run)
    return pid is None or _runs(pid)


def _pid_in_log(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """The process that a run of the daemon said it is."""
    told = instance.event_log_storage.get_logs_for_run(
        run.run_id, of_type={dg.DagsterEventType.ENGINE_EVENT}, limit=5
    )
    events = [entry.dagster_event for entry in told if entry.dagster_event]
    found = [event.engine_event_data.metadata.get("pid") for event in events]
    return next((int(str(pid.value)) for pid in found if pid is not None), None)


def _runs(pid: int) -> bool:
    """Whether this is a process that a code server started, not another that got its number."""
    try:
        return "multiprocessing" in " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False


def _knows(server: dict, run_id: str) -> bool:
    """Whether a code server has this run; one that does not answer may have it."""
    # A third of a second that no command needs.
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest

    client = DagsterGrpcClient(
        host=server["host"], port=server["port"], use_ssl=server.get("use_ssl", False)
    )
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=5)
    except dg.DagsterError:
        return True
    return json.loads(answer)["can_cancel"]
