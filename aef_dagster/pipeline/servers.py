"""The pages of one home: Dagster's (with its daemon) and MLflow's, as one foreground process.

Here: starting, waiting for, and ending both process trees. Both listen on loopback unless another
address is asked for, and what that opens is said aloud.
Not here: servers for more than one person or machine (deploy/).
"""

import errno
import fcntl
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from aef_dagster.errors import UserError
from aef_dagster.settings import PREFIX, Settings, masked

logger = logging.getLogger("aef_dagster")

HOST = "127.0.0.1"
MLFLOW_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
MLFLOW_PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
START_LIMIT_S = 180
# The lineage with most groups unfolded: folded, a newcomer sees seven boxes and no asset; with all
# of them unfolded the page zooms out until no name can be read.
GROUPS = ("basins", "embeddings", "models", "evaluation", "report")
GRAPH_PAGE = "/asset-groups?expanded=" + "%2C".join(f"global%40global%3A{g}" for g in GROUPS)
STOP_LIMIT_S = 30
REPOSITORY = Path(__file__).parents[2]


def serve(
    settings: Settings,
    tracking_uri: str,
    dagster_port: int,
    mlflow_port: int,
    runs_page: str,
    host: str = HOST,
) -> None:
    """Run both servers until Ctrl-C, SIGTERM, or the death of one of them.

    Parameters
    ----------
    runs_page
        The MLflow page to begin at, below its address.
    host
        IPv4 address of this machine to listen at; another than loopback is warned of.

    Raises
    ------
    UserError
        The pages of this home are open already, a port is taken, the address is not of this
        machine, or a server did not start or died by itself.
    """
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with _only_one(settings.home, logs / ".dev.lock") as lock:
        _serve(settings, tracking_uri, dagster_port, mlflow_port, runs_page, host, logs, lock)


def _serve(
    settings: Settings, tracking_uri: str, dagster_port: int, mlflow_port: int, runs_page: str,
    host: str, logs: Path, lock: IO[str],
) -> None:  # fmt: skip
    own_mlflow = not tracking_uri.startswith("http")  # else a server of its own is running
    seen_at = _seen_at(host)
    if not is_loopback(host):
        print(exposure(host), file=sys.stderr, flush=True)
    addresses = {"Dagster": f"http://{seen_at}:{dagster_port}", "MLflow": settings.mlflow_url}
    if dagster_port == mlflow_port:
        raise UserError(f"both servers cannot have port {dagster_port}; choose two")
    _require_free(host, dagster_port, "dagster")
    if own_mlflow:
        addresses["MLflow"] = f"http://{seen_at}:{mlflow_port}"
        _require_free(host, mlflow_port, "mlflow")
    environment = os.environ | {
        **_links(settings, addresses["Dagster"], addresses["MLflow"]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Not an argument: an address may hold a password, and arguments are for all to see.
        "MLFLOW_BACKEND_STORE_URI": tracking_uri,
        # Job execution would add seven processes that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    stopped = _stop_on_signals()
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name, command in _commands(settings, host, dagster_port, mlflow_port).items():
            if name == "MLflow" and not own_mlflow:
                continue
            with (logs / f"{name.lower()}.log").open("ab") as log:
                processes[name] = subprocess.Popen(
                    command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log,
                    stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=(lock.fileno(),),
                )  # fmt: skip
        pids = ", ".join(f"{name} {process.pid}" for name, process in processes.items())
        lock.write(f"aef dev {os.getpid()}, {pids}")
        lock.flush()
        print(f"starting; logs are in {logs}", flush=True)
        pages = {"Dagster": "/server_info", "MLflow": "/health"}
        for name, page in pages.items():
            if name not in processes:
                continue
            _wait_for(addresses[name] + page, name, processes, logs, stopped)
        print(f"Dagster  {addresses['Dagster']}{GRAPH_PAGE}", flush=True)
        print(f"MLflow   {addresses['MLflow']}{runs_page}", flush=True)
        print("Ctrl-C ends both", flush=True)
        while not stopped:
            _require_alive(processes, logs)
            time.sleep(0.5)
        print("stopping (a few seconds)", flush=True)
    finally:
        _stop_all(processes)


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine and reached by nobody else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposure(host: str) -> str:
    """What listening at an address that is not loopback means, for a person who asked for it."""
    allowed = os.environ.get(MLFLOW_HOSTS)
    names = f"is {allowed}" if allowed else "is unset: this machine and private networks"
    return (
        f"WARNING: at {host} the Dagster and MLflow pages are open to whoever can reach it. "
        "Neither asks for a password: anybody there can start and delete runs, change this home "
        "and read what this account reads. For other people, leave --host out and put a reverse "
        "proxy with TLS and a password in front (deploy/README.md, deploy/Caddyfile). MLflow "
        f"answers to the names in {MLFLOW_HOSTS} only, which {names}."
    )


def warn_of_open_passwords(settings: Settings) -> None:
    """Say where a password would go over a network for all to read."""
    address = settings.tracking_uri or ""
    # The second way is MLflow's own, for servers that ask for a password.
    given = masked(address) != address or any(name in os.environ for name in MLFLOW_PASSWORDS)
    if (
        given
        and address.startswith("http://")
        and not is_loopback(urlsplit(address).hostname or "")
    ):
        logger.warning(
            "WARNING: the password of AEF_TRACKING_URI=%s goes unencrypted, for the whole network "
            "to read: use https, by a proxy with TLS in front of it (deploy/README.md)",
            masked(address),
        )


def _links(settings: Settings, dagster: str, mlflow: str) -> dict[str, str]:
    """Where links lead that assets and alerts write: as set, else to the pages of this command."""
    links = {"dagster_url": dagster, "mlflow_url": mlflow}
    as_set = settings.model_dump(exclude_defaults=True)
    return {f"{PREFIX}{name.upper()}": as_set.get(name, page) for name, page in links.items()}


def _seen_at(host: str) -> str:
    """The address that this machine reaches a listening address by."""
    try:
        return HOST if ipaddress.IPv4Address(host).is_unspecified else host
    except ValueError:
        raise UserError(
            f"--host {host}: give an IPv4 address of this machine, such as 127.0.0.1 or 0.0.0.0"
        ) from None


def _commands(
    settings: Settings, host: str, dagster_port: int, mlflow_port: int
) -> dict[str, list[str]]:
    python = Path(sys.executable)
    mlflow = [
        str(python.with_name("mlflow")), "server", "--host", host, "--port", str(mlflow_port),
        "--workers", "1",
        "--artifacts-destination", str(settings.home / "mlflow-artifacts"),
    ]  # fmt: skip
    dagster = [
        str(python.with_name("dagster")), "dev", "--host", host, "--port", str(dagster_port),
        "--module-name", "aef_dagster.definitions",
    ]  # fmt: skip
    return {"Dagster": dagster, "MLflow": mlflow}


@contextmanager
def _only_one(home: Path, path: Path) -> Iterator[IO[str]]:
    """A lock on the pages of a home, which its servers hold too: two daemons would quarrel."""
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holders = lock.read().strip() or "starting just now"
            raise UserError(
                f"the pages of {home} are open already ({holders}, by process number): use them, "
                "or end these processes first"
            ) from None
        lock.truncate(0)
        yield lock


def _require_free(host: str, port: int, name: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"--host {host}: this machine has no such address") from None
            raise UserError(
                f"port {port} is taken by another program; choose one with --{name}-port, unless "
                "it is an `aef dev` of yours, which you may want to end"
            ) from None


def _stop_on_signals() -> list[int]:
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, _frame: received.append(signum))
    return received


def _wait_for(address: str, name: str, processes: dict, logs: Path, stopped: list[int]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not stopped:
        _require_alive(processes, logs)
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise UserError(
                    f"{name} did not answer at {address} within {START_LIMIT_S} s; see {logs}"
                ) from None
            time.sleep(0.3)


def _require_alive(processes: dict[str, subprocess.Popen], logs: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise UserError(
                f"{name} ended by itself, or a part of it was killed; the end of "
                f"{logs / (name.lower() + '.log')} says why. Start this again"
            )


def _stop_all(processes: dict[str, subprocess.Popen]) -> None:
    """End both trees: politely, then by force, whole process groups and what left them."""
    import psutil

    family = []
    for process in processes.values():
        try:
            parent = psutil.Process(process.pid)
            family += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    for process in processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    _gone, alive = psutil.wait_procs(family, timeout=STOP_LIMIT_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5)
