"""One Ray head on loopback, one prepared home and its Dagster servers, for the tests of Ray."""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest

from aef_dagster_tests.deploy.postgres import free_port
from aef_dagster_tests.deploy.processes import Servers, program

TOKEN = "Weir-and-sluice-token-of-thirty-two-characters"
CPUS, GPUS = 2, 2


class Head:
    """A Ray head, and the processes that it started."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.address = f"http://127.0.0.1:{free_port()}"
        self.environment = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
        }
        ports = {"--port": free_port(), "--dashboard-port": int(self.address.rpartition(":")[2]),
                 "--dashboard-agent-listen-port": free_port(),
                 "--ray-client-server-port": free_port()}  # fmt: skip
        command = [
            program("ray"), "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1",
            *(str(word) for pair in ports.items() for word in pair),
            # GPUs by name only: Ray deals them out, and nothing here computes on them.
            "--num-cpus", str(CPUS), "--num-gpus", str(GPUS),
            "--object-store-memory", "80000000", "--temp-dir", str(folder),
        ]  # fmt: skip
        with (folder / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | self.environment, cwd=folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def ask(self, path: str, body: dict | None = None):
        """What its API answers; Ray's client would want the token when it is first imported."""
        request = urllib.request.Request(
            f"{self.address}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        """Whether its page is up."""
        try:
            return bool(self.ask("version"))
        except OSError:
            return False

    def family(self) -> list[psutil.Process]:
        """All processes of this head: they name its folder, or descend from one that does."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            if str(self.folder) not in " ".join(process.info["cmdline"] or ()):
                continue
            with suppress(psutil.NoSuchProcess):
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
        return list(found.values())

    def stop(self) -> list[psutil.Process]:
        """End it; returns what did not end by itself."""
        family = self.family()
        self.process.terminate()
        left = psutil.wait_procs(family, timeout=45)[1]
        for process in left:
            process.kill()
        self.process.wait(30)
        return left


@pytest.fixture(scope="session")
def head():
    """A running Ray head with two CPUs."""
    for name in ("ray", "dagster_ray"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is missing: pip install 'aef-dagster[ray]'")
    # Not pytest's folder: Ray's sockets lie in it, whose names may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="aef-ray-"))
    found = Head(folder)
    try:
        yield found
    finally:
        left = found.stop()
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []


@pytest.fixture(scope="session")
def environment(head, tmp_path_factory):
    """Settings of a prepared sample home whose runs go to Ray."""
    home = tmp_path_factory.mktemp("ray") / "var"
    found = head.environment | {
        "AEF_HOME": str(home),
        "AEF_EXECUTOR": "ray",
        "AEF_RAY_ADDRESS": head.address,
        "AEF_DEVICE": "cpu",
        "AEF_STEP_GPUS": "1",
        "AEF_TRAINING_SLOTS": "2",
        "DAGSTER_HOME": str(home / "dagster"),
    }
    subprocess.run([program("aef"), "prepare"], env=os.environ | found, check=True)
    return found


@pytest.fixture(scope="session")
def servers(head, environment, tmp_path_factory):
    """Code location, webserver and daemon of that home."""
    found = Servers(tmp_path_factory.mktemp("servers"), environment)
    try:
        for name in ("code", "webserver", "daemon"):
            found.start(name)
        found.wait("the Ray head", head.answers)
        yield found
    finally:
        found.stop_all()


@pytest.fixture
def instance(environment):
    """Dagster's records of that home."""
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as found:
        yield found
