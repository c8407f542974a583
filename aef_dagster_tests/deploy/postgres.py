"""A private PostgreSQL on loopback, for tests: an empty cluster with this deployment's databases.

The server refuses to run as root: there it runs as an account without rights.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

DATABASES = Path(__file__).parents[2] / "deploy" / "databases.sh"
# Marks that an address must escape, and each of them a word that can be searched for.
PASSWORDS = {"dagster": "Dagster%Sluice:/@7", "mlflow": "Mlflow%Weir:/@7"}
START_LIMIT_S = 60


@dataclass(frozen=True)
class Cluster:
    """A running server: its port on 127.0.0.1, the folder of its socket, its programs."""

    port: int
    sockets: Path
    programs: Path

    def url(self, role: str) -> str:
        """Address of a role's database, with driver and password, as MLflow takes it."""
        password = quote(PASSWORDS[role], safe="")
        return f"postgresql+psycopg2://{role}:{password}@127.0.0.1:{self.port}/{role}"

    def environment(self) -> dict[str, str]:
        """What deploy/dagster.postgres.yaml reads."""
        return {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.port),
            "DAGSTER_PG_DB": "dagster",
            "DAGSTER_PG_USER": "dagster",
            "DAGSTER_PG_PASSWORD": PASSWORDS["dagster"],
        }

    def dump(self, database: str) -> str:
        """Everything in a database, as SQL."""
        command = [
            str(self.programs / "pg_dump"), "--host", str(self.sockets), "--port", str(self.port),
            "--username", "postgres", "--inserts", database,
        ]  # fmt: skip
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def find_programs() -> Path | None:
    """Folder of initdb and its like; Debian keeps it out of PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@contextmanager
def running(programs: Path) -> Iterator[Cluster]:
    """A server with the roles and databases of deploy/databases.sh; removed afterwards."""
    # Not pytest's folder: nobody but root can enter that one.
    folder = Path(tempfile.mkdtemp(prefix="aef-postgres-"))
    account = _account()
    if account:
        os.chown(folder, int(account["user"]), int(account["group"]))
    cluster = Cluster(free_port(), folder, programs)
    server = None
    try:
        subprocess.run(
            [programs / "initdb", "--pgdata", folder / "data", "--username", "postgres",
             "--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync",
             "--encoding", "UTF8", "--locale", "C.UTF-8"],
            check=True, capture_output=True, cwd=folder, **account,
        )  # fmt: skip
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", "-k", folder, "-h", "127.0.0.1",
                 "-p", str(cluster.port), "-c", "fsync=off", "-c", "log_statement=all"],
                stdout=log, stderr=log, cwd=folder, **account,
            )  # fmt: skip
        _wait(cluster, server)
        subprocess.run(
            [DATABASES], check=True, capture_output=True,
            env=os.environ | {
                "PGHOST": str(folder), "PGPORT": str(cluster.port),
                "DAGSTER_PG_PASSWORD": PASSWORDS["dagster"],
                "MLFLOW_PG_PASSWORD": PASSWORDS["mlflow"],
            },
        )  # fmt: skip
        yield cluster
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            server.wait(30)
        shutil.rmtree(folder)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _account() -> dict:
    """For subprocess: the account to run under, if we are root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _wait(cluster: Cluster, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    ready = [cluster.programs / "pg_isready", "-q", "-h", cluster.sockets, "-p", str(cluster.port)]
    while subprocess.run(ready).returncode != 0:
        log = (cluster.sockets / "server.log").read_text()
        assert server.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.1)
