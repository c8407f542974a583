"""A home that was lived in, with hostile names in its data and secrets in its environment.

Here: real commands and servers on a small prepared sample, and what they printed.
Not here: what must be true of it (test_lived_home.py).
"""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import psutil

from aef_dagster.basins.dataset import sample_folder
from aef_dagster.basins.sample import write_sample
from aef_dagster.storage.home import Home
from aef_dagster_tests.deploy.processes import graphql
from aef_dagster_tests.storage.mlflow_server import free_port

AEF = Path(sys.executable).with_name("aef")
# What a shell would do to these names makes files called "owned".
HOME_NAME = "it's; touch owned $(touch owned) `touch owned` & | home"
TARGET = "00901001"
NAMES = {
    TARGET: "<script>alert(1)</script> ![x](http://192.0.2.1/x.png) $(touch owned)",
    "00902001": "'); DROP TABLE scores; -- \" | `touch owned`",
    "00903001": "[click](javascript:alert(1)) <img src=x onerror=alert(1)>",
}
STUDY = 'it\'s; $(touch owned) <b>"study"</b>'
# Secrets with the marks that an address must escape.
SECRETS = {
    "tracking": "Spill/way#7",
    "postgres": "Sluice+Gate",
    "key": "Penstock-Private-Key",
    "mlflow": "Weir-Token",
    "webhook": "Floodgate-Hook",
    "smtp": "Culvert-Mail",
}
START_LIMIT_S = 120


def forms(secret: str) -> list[bytes]:
    """A secret as it stands, as an address has it, and as HTTP sends it."""
    texts = {secret, quote(secret, safe=""), quote(secret)}
    coded = base64.b64encode(f"user:{secret}".encode()).decode()
    return [text.encode() for text in (*texts, coded.rstrip("="))]


class Refusing(BaseHTTPRequestHandler):
    """A server that is there and answers each request with an error."""

    def do_GET(self):
        self.server.asked.append(self.headers.get("Authorization", ""))  # type: ignore[attr-defined]
        body = json.dumps({"error_code": "INTERNAL_ERROR", "message": f"no: {self.path}"}).encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the library asks for

    def log_message(self, *_args):
        """Say nothing on the terminal."""


@contextmanager
def refusing_server() -> Iterator[tuple[str, list[str]]]:
    """Address with a password in it of a server that fails, and the headers it was asked with."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        password = quote(SECRETS["tracking"], safe="")
        yield f"http://user:{password}@127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Lived:
    """What is left of a home's days."""

    folder: Path
    home: Path
    environment: dict[str, str]
    answers: dict[str, subprocess.CompletedProcess] = field(default_factory=dict)
    sockets: list[tuple[str, str]] = field(default_factory=list)
    commands: str = ""
    pages: str = ""
    asked: list[str] = field(default_factory=list)

    def aef(self, label: str, *arguments: str, **environment: str) -> None:
        """Run a command as a user would, and keep what it printed."""
        self.answers[label] = subprocess.run(
            [AEF, *arguments], cwd=self.folder, env=self.environment | environment, timeout=240,
            capture_output=True, text=True,
        )  # fmt: skip

    @property
    def printed(self) -> str:
        """All that the commands said."""
        return "\n".join(a.stdout + a.stderr for a in self.answers.values())


def live(folder: Path) -> Lived:
    """Prepare, train, fail, look at it by real servers, send to MLflow."""
    home = folder / HOME_NAME
    root = sample_folder(Home(home).sample, "planted")
    root.parent.mkdir(parents=True)
    write_sample(root, "planted")
    _rename_basins(root)
    key = folder / "key.json"
    key.write_text(json.dumps({
        "type": "service_account", "client_email": "a@b.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token", "private_key": SECRETS["key"],
    }))  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    clean.pop("PYTHONDONTWRITEBYTECODE", None)
    found = Lived(folder, home, clean | {
        "AEF_HOME": str(home),
        "AEF_EE_KEY_FILE": str(key),
        "AEF_EE_PROJECT": "a-project",
        "DAGSTER_PG_PASSWORD": SECRETS["postgres"],
        "MLFLOW_TRACKING_TOKEN": SECRETS["mlflow"],
        "AEF_ALERT_WEBHOOK": f"https://127.0.0.1:9/{SECRETS['webhook']}",
        "AEF_ALERT_EMAIL_TO": "someone@example.org",
        "AEF_ALERT_SMTP": "smtps://user@127.0.0.1:9",
        "AEF_ALERT_SMTP_PASSWORD": SECRETS["smtp"],
    })  # fmt: skip
    with refusing_server() as (address, asked):
        with_password = {"AEF_TRACKING_URI": address}
        found.aef("prepare", "prepare", **with_password)
        # The others do not change the home.
        with ThreadPoolExecutor() as threads:
            threads.submit(found.aef, "train", "train", TARGET, **with_password)
            threads.submit(found.aef, "refused", "train", "$(touch owned)", **with_password)
            # The route that uses the key.
            threads.submit(found.aef, "doctor", "doctor", **with_password,
                           AEF_DATASET="camels_us", AEF_SOURCE="earth_engine")  # fmt: skip
        found.asked = list(asked)
    _serve(found)
    return found


def _rename_basins(root: Path) -> None:
    (table,) = root.rglob("camels_name.txt")
    rows = []
    for row in table.read_text().splitlines():
        gauge_id, huc, name = row.split(";", 2)
        rows.append(";".join([gauge_id, huc, _quoted(NAMES.get(gauge_id.zfill(8), name))]))
    table.write_text("\n".join([*rows, ""]))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(';"') else name


def _serve(found: Lived) -> None:
    """Look at the home by `aef dev`, and send what waits to its MLflow with a password."""
    ports = free_port(), free_port()
    command = [AEF, "dev", "--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    log = found.folder / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=found.folder, env=found.environment, stdout=out, stderr=out,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_up(process, log)
        password = quote(SECRETS["tracking"], safe="")
        uri = f"http://user:{password}@127.0.0.1:{ports[1]}"
        found.aef("sync", "sync", AEF_TRACKING_URI=uri)
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for member in family:
            found.commands += " ".join(member.cmdline()) + "\n"
            for socket in member.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found.sockets.append((socket.laddr.ip, str(socket.laddr.port)))
        found.pages = _pages(ports[0])
        assert {str(port) for port in ports} <= {port for _ip, port in found.sockets}
    finally:
        process.terminate()
        process.wait(60)
    found.pages += log.read_text()


def _wait_until_up(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while "Ctrl-C ends both" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _pages(port: int) -> str:
    """What the Dagster pages show of runs, resources and instance."""
    query = """{ instance { info }
      runsOrError(limit: 50) { ... on Runs { results { runId runConfigYaml tags { key value }
        eventConnection { events { ... on MessageEvent { message } } } } } } }"""
    return json.dumps(graphql(f"http://127.0.0.1:{port}", query, {}))
