"""The pages of one home: Dagster's (with its daemon) and MLflow's, as one foreground process.

Here: which servers these are, that there is one set of them a home, and where it can be found.
They listen on loopback unless another address is asked for, and what that opens is said aloud.
Not here: starting and ending processes (server_processes.py), whom Dagster's page obeys
(webserver.py), servers for more than one person or machine (deploy/).
"""

import errno
import fcntl
import ipaddress
import logging
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import dagster as dg
import yaml

from aef_dagster.errors import UserError
from aef_dagster.pipeline.cancelling import cancel_runs_of
from aef_dagster.pipeline.server_processes import ServerProcesses
from aef_dagster.settings import PREFIX, Settings, masked

logger = logging.getLogger("aef_dagster")

HOST = "127.0.0.1"
MLFLOW_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
MLFLOW_PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# The lineage with most groups unfolded: folded, a newcomer sees seven boxes and no asset; with all
# of them unfolded the page zooms out until no name can be read.
GROUPS = ("basins", "embeddings", "models", "evaluation", "report")
GRAPH_PAGE = "/asset-groups?expanded=" + "%2C".join(f"global%40global%3A{g}" for g in GROUPS)
REPOSITORY = Path(__file__).parents[2]
DEFINITIONS = "aef_dagster.definitions"
LOCK = ".dev.lock"
CODE, WEB, DAEMON, MLFLOW = "Dagster's code server", "Dagster", "Dagster's daemon", "MLflow"


def serve(
    settings: Settings,
    tracking_uri: str,
    dagster_port: int,
    mlflow_port: int,
    runs_page: str,
    host: str = HOST,
) -> None:
    """Run all servers until Ctrl-C or SIGTERM; one that dies after a minute is started again.

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
    with (
        _only_one(settings.home, logs / LOCK) as lock,
        # A socket's path must be short, which a home's may not be; nobody else can enter this one.
        tempfile.TemporaryDirectory(prefix="aef-dev-") as folder,
    ):
        _serve(
            settings, tracking_uri, dagster_port, mlflow_port, runs_page, host, logs, lock,
            Path(folder),
        )  # fmt: skip


def pages_of(settings: Settings) -> str:
    """Where a person finds the pages of a home.

    Parameters
    ----------
    settings
        Settings of the home.

    Returns
    -------
    str
        Addresses: those of the `aef dev` that is running, else those of AEF_DAGSTER_URL and
        AEF_MLFLOW_URL, if the first is set; else the command that opens the pages.
    """
    running = _addresses_of_running(settings.home / "logs" / LOCK)
    if running:
        return " and ".join(running)
    if "dagster_url" in settings.model_dump(exclude_defaults=True):
        return f"{settings.dagster_url} and {settings.mlflow_url}"
    return "`make dev` (or `aef dev`) opens the pages, and prints their addresses"


def led_to_open_pages(settings: Settings) -> Settings:
    """The settings of a command, whose links lead to the pages of this home that are open.

    Parameters
    ----------
    settings
        Settings of the home.

    Returns
    -------
    Settings
        With the addresses of the `aef dev` that is running, where none are set.
    """
    running = _addresses_of_running(settings.home / "logs" / LOCK)
    as_set = settings.model_dump(exclude_defaults=True)
    links = dict(zip(("dagster_url", "mlflow_url"), running, strict=False))
    return settings.model_copy(
        update={name: page for name, page in links.items() if name not in as_set}
    )


def _serve(
    settings: Settings, tracking_uri: str, dagster_port: int, mlflow_port: int, runs_page: str,
    host: str, logs: Path, lock: IO[str], folder: Path,
) -> None:  # fmt: skip
    own_mlflow = not tracking_uri.startswith("http")  # else a server of its own is running
    seen_at = _seen_at(host)
    if not is_loopback(host):
        print(exposure(host), file=sys.stderr, flush=True)
    addresses = {WEB: f"http://{seen_at}:{dagster_port}", MLFLOW: settings.mlflow_url}
    if dagster_port == mlflow_port:
        raise UserError(f"both servers cannot have port {dagster_port}; choose two")
    _require_free(host, dagster_port, "dagster")
    if own_mlflow:
        addresses[MLFLOW] = f"http://{seen_at}:{mlflow_port}"
        _require_free(host, mlflow_port, "mlflow")
    # For this process, which asks the pages, and for those it starts.
    os.environ |= _unproxied(seen_at)
    # Else each look of the daemon at each sensor is told, some 8 MB a day; the pages show them too.
    environment = (
        {"DAGSTER_DAEMON_LOG_LEVEL": "warning"}
        | os.environ
        | {
            **_links(settings, addresses[WEB], addresses[MLFLOW]),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Not an argument: an address may hold a password, and arguments are for all to see.
            "MLFLOW_BACKEND_STORE_URI": tracking_uri,
            # Job execution would add seven processes that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )
    code_socket, workspace = folder / "code", folder / "workspace.yaml"
    workspace.write_text(_workspace(code_socket))
    commands = _commands(settings, host, dagster_port, mlflow_port, code_socket, workspace)
    dagster_log, mlflow_log = logs / "dagster.log", logs / "mlflow.log"
    processes = ServerProcesses(REPOSITORY, environment, lock.fileno())
    try:
        processes.start(CODE, commands[CODE], dagster_log, by_child=True)
        if own_mlflow:
            processes.start(MLFLOW, commands[MLFLOW], mlflow_log)
        _tell(lock, processes, addresses)
        print(f"starting; logs are in {logs}", flush=True)
        processes.wait_for(CODE, lambda: _listens(code_socket))
        for name in (WEB, DAEMON):
            processes.start(name, commands[name], dagster_log)
        _tell(lock, processes, addresses)
        processes.wait_for(WEB, lambda: _answers(f"{addresses[WEB]}/server_info"))
        if own_mlflow:
            processes.wait_for(MLFLOW, lambda: _answers(f"{addresses[MLFLOW]}/health"))
        print(f"Dagster  {addresses[WEB]}{GRAPH_PAGE}", flush=True)
        print(f"MLflow   {addresses[MLFLOW]}{runs_page}", flush=True)
        print("Ctrl-C ends both", flush=True)

        def revived(told: str) -> None:
            print(told, flush=True)
            _tell(lock, processes, addresses)

        processes.watch(revived)
        print("stopping (a few seconds)", flush=True)
        # First: it would start what waits in the queue.
        processes.end(DAEMON)
        with dg.DagsterInstance.get() as instance:
            left = cancel_runs_of(instance, code_socket, addresses[WEB], lambda: processes.hurried)
        if left:
            print(f"killing what did not end in time: {left} of them", flush=True)
    finally:
        # A look of the daemon that found the code server gone would be told as a failure.
        processes.stop(last=CODE)


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
        f"answers to the names in {MLFLOW_HOSTS} only, which {names}; Dagster to addresses of this "
        "machine, and to the name in AEF_DAGSTER_URL."
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


def _unproxied(host: str) -> dict[str, str]:
    """Environment in which the pages are asked directly, also behind a proxy for the internet."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if known == "*":  # no proxy for anybody
        return {}
    names = ",".join(name for name in (known, host, HOST, "localhost") if name)
    return {"no_proxy": names, "NO_PROXY": names}


def _seen_at(host: str) -> str:
    """The address that this machine reaches a listening address by."""
    try:
        return HOST if ipaddress.IPv4Address(host).is_unspecified else host
    except ValueError:
        raise UserError(
            f"--host {host}: give an IPv4 address of this machine, such as 127.0.0.1 or 0.0.0.0"
        ) from None


def _commands(
    settings: Settings, host: str, dagster_port: int, mlflow_port: int, code_socket: Path,
    workspace: Path,
) -> dict[str, list[str]]:  # fmt: skip
    """What `dagster dev` would start, with a webserver of our own, and MLflow."""
    python = Path(sys.executable)
    found_by = ["--workspace", str(workspace)]
    return {
        CODE: [
            str(python.with_name("dagster")), "code-server", "start", "--socket", str(code_socket),
            "--module-name", DEFINITIONS, "--location-name", DEFINITIONS,
            "--inject-env-vars-from-instance", "--log-level", "warning",
        ],
        MLFLOW: [
            str(python.with_name("mlflow")), "server", "--host", host, "--port", str(mlflow_port),
            "--workers", "1",
            "--artifacts-destination", str(settings.home / "mlflow-artifacts"),
        ],
        WEB: [
            str(python), "-m", "aef_dagster.pipeline.webserver", "--host", host,
            "--port", str(dagster_port), *found_by,
        ],
        DAEMON: [str(python.with_name("dagster-daemon")), "run", *found_by],
    }  # fmt: skip


def _workspace(code_socket: Path) -> str:
    """Where webserver and daemon find the code; schedules are remembered by this name of it."""
    server = {"socket": str(code_socket), "location_name": DEFINITIONS}
    return yaml.safe_dump({"load_from": [{"grpc_server": server}]})


def _tell(lock: IO[str], processes: ServerProcesses, addresses: dict[str, str]) -> None:
    """Write into the lock who holds it, and where the pages are."""
    lock.truncate(0)
    lock.write(f"aef dev {os.getpid()}, {processes}\n{' '.join(addresses.values())}")
    lock.flush()


@contextmanager
def _only_one(home: Path, path: Path) -> Iterator[IO[str]]:
    """A lock on the pages of a home, which its servers hold too: two daemons would quarrel."""
    with path.open("a+") as lock:
        if not _locked(lock, fcntl.LOCK_EX):
            lock.seek(0)
            holders, _, addresses = lock.read().strip().partition("\n")
            where = f" at {addresses.replace(' ', ' and ')}" if addresses else ""
            raise UserError(
                f"the pages of {home} are open already ({holders or 'starting just now'}, by "
                f"process number): use them{where}, or end these processes first"
            )
        lock.truncate(0)
        yield lock


def _addresses_of_running(path: Path) -> list[str]:
    """Addresses of the pages that are open, Dagster's first; none if none are."""
    try:
        with path.open() as lock:
            if _locked(lock, fcntl.LOCK_SH):
                return []
            return lock.read().partition("\n")[2].split()
    except OSError:
        return []


def _locked(lock: IO[str], kind: int) -> bool:
    """Whether a lock could be had; a command that only looks holds it for less than the wait."""
    for wait_s in (0.1, 0):
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            time.sleep(wait_s)
        else:
            return True
    return False


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


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _listens(path: Path) -> bool:
    """Whether a server is at a socket; a code server comes to it with its code loaded."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
