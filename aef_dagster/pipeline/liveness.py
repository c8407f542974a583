"""Whether a run that counts as started still has a process.

Here: the tags by which a command's run names its process, and how a dead run is told from a live
one. Not here: who asks (instance.py at each command, launching.py for the daemon).
"""

import json
import os
import socket
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.storage.tags import GRPC_INFO_TAG

PID_TAG, HOST_TAG, BOOT_TAG = "aef/pid", "aef/host", "aef/boot"
_HERE = ("localhost", "127.0.0.1", "::1")


def own_tags() -> dict[str, str]:
    """Tags of a run that this process executes."""
    return {PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), BOOT_TAG: _boot()}


def cause_of_death(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """Why a started run has no process any more; None if it has one, or nobody here can know.

    A run of a command carries its process in its tags. One of the daemon is a child of a code
    server: on this machine its process is looked for, on another one the server is asked.
    """
    if PID_TAG in run.tags:
        if run.tags[HOST_TAG] != socket.gethostname():
            return None
        # After a restart of the machine the number may be another program's.
        same_boot = run.tags.get(BOOT_TAG, _boot()) == _boot()
        alive = same_boot and psutil.pid_exists(int(run.tags[PID_TAG]))
        return None if alive else "the command that ran it was killed"
    if GRPC_INFO_TAG not in run.tags:
        return None
    server = json.loads(run.tags[GRPC_INFO_TAG])
    if "socket" in server or server["host"] in _HERE:
        pid = _pid_in_log(instance, run)
        return None if pid is None or _runs(pid) else "its process was killed"
    return None if _knows(server, run.run_id) else f"the code server on {server['host']} lost it"


def _boot() -> str:
    """Name of the time since this machine was last started; "" where the system has none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


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
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster._serdes import deserialize_value

    client = DagsterGrpcClient(
        host=server["host"], port=server["port"], use_ssl=server.get("use_ssl", False)
    )
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=5)
    except DagsterUserCodeUnreachableError:
        return True
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel
