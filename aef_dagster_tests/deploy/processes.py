"""The deployment's Dagster processes as real ones on loopback, and its GraphQL, for tests."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from aef_dagster_tests.deploy.postgres import free_port

WORKSPACE = Path(__file__).parents[2] / "deploy" / "workspace.yaml"
START_LIMIT_S = 120
STOP_LIMIT_S = 30


def program(name: str) -> str:
    """A command of this Python's environment."""
    return str(Path(sys.executable).with_name(name))


def graphql(page: str, query: str, variables: dict) -> dict:
    """The answer of a Dagster page's GraphQL, which must hold no error."""
    request = urllib.request.Request(
        f"{page}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


class Servers:
    """Code location, webserver and daemon of one home, each started and stopped by itself.

    Parameters
    ----------
    folder
        Where logs go, and the folder the processes work in.
    environment
        Settings of the home; DAGSTER_HOME and the database's among them.
    """

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        self._code, self._web = free_port(), free_port()
        self._environment = os.environ | environment | {
            "DAGSTER_CODE_HOST": "127.0.0.1",
            "DAGSTER_CODE_PORT": str(self._code),
        }  # fmt: skip
        self._running: dict[str, subprocess.Popen] = {}

    def start(self, name: str) -> None:
        """Start `code`, `webserver` or `daemon`; the first two answer afterwards."""
        on_loopback = ["--host", "127.0.0.1", "--port"]
        command = {
            "code": [program("dagster"), "api", "grpc", *on_loopback, str(self._code),
                     "--module-name", "aef_dagster.definitions"],
            "webserver": [sys.executable, "-m", "aef_dagster.pipeline.webserver", *on_loopback,
                          str(self._web), "--workspace", str(WORKSPACE)],
            "daemon": [program("dagster-daemon"), "run", "--workspace", str(WORKSPACE)],
        }[name]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, env=self._environment, cwd=self.folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        if name == "code":
            check = [program("dagster"), "api", "grpc-health-check", "--port", str(self._code)]
            self.wait("the code location", lambda: _succeeds(check, self._environment))
        elif name == "webserver":
            self.wait(
                "the webserver", lambda: _answers(f"http://127.0.0.1:{self._web}/server_info")
            )

    def stop(self, name: str) -> None:
        """End a server and all that it started, as an orchestrator does: SIGTERM, then SIGKILL."""
        process = self._running.pop(name)
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)
        left = [child for child in family[1:] if child.is_running()]
        for child in left:
            child.terminate()
        for child in psutil.wait_procs(left, timeout=STOP_LIMIT_S)[1]:
            child.kill()

    def stop_all(self) -> None:
        """End what is still running, those first that talk to the others."""
        for name in reversed(list(self._running)):
            self.stop(name)

    def commands(self) -> str:
        """Command lines of the servers and of all that they started, which anybody may read."""
        family = [psutil.Process(process.pid) for process in self._running.values()]
        family += [child for parent in family for child in parent.children(recursive=True)]
        return "\n".join(" ".join(process.cmdline()) for process in family if process.is_running())

    def logs(self) -> str:
        """All that the servers said."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def ask(self, query: str, **variables) -> dict:
        """The answer of the webserver's GraphQL, which must hold no error."""
        return graphql(f"http://127.0.0.1:{self._web}", query, variables)

    def wait(self, what: str, happened: Callable[[], object], limit_s: float = START_LIMIT_S):
        """What `happened` gives once it is true; all servers must live meanwhile."""
        deadline = time.monotonic() + limit_s
        while True:
            found = happened()
            if found:
                return found
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended: {self.logs()[-3000:]}"
            told = f"waited {limit_s:.0f} s for {what}: {self.logs()[-3000:]}"
            assert time.monotonic() < deadline, told
            time.sleep(0.5)


def _succeeds(command: list[str], environment: dict[str, str]) -> bool:
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def _answers(page: str) -> bool:
    try:
        with urllib.request.urlopen(page, timeout=2):
            return True
    except OSError:
        return False
