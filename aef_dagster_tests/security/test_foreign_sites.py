"""Other web sites cannot command Dagster's page: headers, real requests, a real browser."""

import functools
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance

from aef_dagster.errors import UserError
from aef_dagster.pipeline.webserver import SETTING, Wall, origin_of
from aef_dagster.settings import load_settings
from aef_dagster_tests.storage.mlflow_server import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PUBLIC = "https://dagster.example.org"
OWN = "127.0.0.1:3000"
START_LIMIT_S = 120
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html"}
DELETE = 'mutation { deletePipelineRun(runId: "%s") { __typename } }'
JSON = {"Content-Type": "application/json"}


def refusal(path="/graphql", method="POST", kind="http", came_to="127.0.0.1", **headers):
    """What the wall says to a request; header names with _ for -."""
    named = [(k.replace("_", "-").lower().encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": kind, "path": path, "headers": named, "server": (came_to, 3000),
             "scheme": "ws" if kind == "websocket" else "http"}  # fmt: skip
    if kind == "http":
        scope["method"] = method
    return Wall(None, PUBLIC).refusal(scope)


@pytest.mark.parametrize("host", [OWN, "localhost:3000", "LocalHost:3000", "127.0.0.1",
                                  "127.3.2.1:1", "[::1]:3000", "dagster.example.org",
                                  "DAGSTER.example.org", "dagster.example.org:443"])  # fmt: skip
def test_a_name_that_is_ours_is_answered(host):
    assert refusal(host=host) is None


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:3000", "localhost.evil.org",
                                  "127.0.0.1.evil.org", "dagster.example.org.evil.org", "10.1.2.3",
                                  "", "[::1", "127.0.0.1@evil.org", "evil.org/@127.0.0.1",
                                  "a@127.0.0.1", "127.0.0.1:3000, evil.org", "2130706433",
                                  "evil.org#127.0.0.1"])  # fmt: skip
def test_another_name_is_refused_with_the_setting(host):
    told = refusal(host=host)
    assert told is not None and SETTING in told and told.count(".\n") == 0


def test_two_names_are_none_and_no_name_neither():
    two = [(b"host", OWN.encode()), (b"host", b"evil.example.org")]
    for headers in (two, two[::-1], []):
        scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": headers}
        assert SETTING in Wall(None, PUBLIC).refusal(scope)


def test_the_address_that_a_connection_came_to_is_ours():
    """`--host 0.0.0.0`, and the probes of Kubernetes."""
    assert refusal(host="10.1.2.3:3000", came_to="10.1.2.3") is None
    assert refusal(host="10.1.2.4:3000", came_to="10.1.2.3") is not None


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [(OWN, f"http://{OWN}", True), ("localhost:8080", "http://localhost:8080", True),
     ("dagster.example.org", PUBLIC, True), (OWN, PUBLIC, True),  # a proxy that hides the name
     (OWN, "http://127.0.0.1:5000", False), (OWN, "http://localhost:3000", False),
     (OWN, f"https://{OWN}", False), (OWN, "null", False), (OWN, "https://evil.example.org", False),
     ("dagster.example.org", "http://dagster.example.org.evil.org", False),
     (OWN, "file://", False), (OWN, f"http://{OWN}.evil.org", False)],
)  # fmt: skip
def test_only_our_own_pages_may_send(kind, host, origin, fine):
    told = refusal(kind=kind, host=host, origin=origin)
    assert (told is None) is fine
    assert fine or SETTING in told


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_opens_the_page_and_nothing_else_does(site):
    ask = functools.partial(refusal, "/assets/x", "GET", host=OWN, sec_fetch_site=site)
    mode, frame = {"sec_fetch_mode": "navigate"}, {"sec_fetch_dest": "iframe"}
    assert ask(**mode, sec_fetch_dest="document") is None
    assert ask(**mode, **frame) is not None
    assert ask(sec_fetch_mode="no-cors", sec_fetch_dest="image") is not None
    assert ask() is not None
    posted = refusal("/graphql", host=OWN, sec_fetch_site=site, **mode, sec_fetch_dest="document")
    assert posted is not None
    for own in ("same-origin", "none"):
        assert refusal("/graphql", host=OWN, sec_fetch_site=own) is None


def test_no_question_goes_by_get():
    """An image of a foreign page says nothing of where it comes from, but on loopback."""
    for path in ("/graphql", "/prefix/graphql"):
        assert refusal(path, "GET", host=OWN, accept="image/*") is not None
        assert refusal(path, "GET", host=OWN) is not None
        assert refusal(path, "GET", host=OWN, accept="text/html,*/*") is None
    assert refusal("/server_info", "GET", host=OWN) is None


def test_an_address_has_the_origin_that_browsers_write():
    for address, origin in {
        "https://Dagster.example.org:443/x?y": "https://dagster.example.org",
        "http://h:80": "http://h", "http://h:443/": "http://h:443", "http://[::1]:3": "http://[::1]:3",
    }.items():  # fmt: skip
        assert origin_of(address) == origin


def test_the_deployment_has_the_wall_and_tells_it_its_name(tmp_path):
    webserver = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["webserver"]
    assert webserver["command"][:3] == ["python", "-m", "aef_dagster.pipeline.webserver"]
    site = "https://${DAGSTER_SITE:-dagster.localhost}"
    assert webserver["environment"]["AEF_DAGSTER_URL"] == site
    values = yaml.safe_load((DEPLOY / "values.yaml").read_text())
    (named,) = values["dagsterWebserver"]["env"]
    host = values["ingress"]["dagsterWebserver"]["host"]
    assert named == {"name": "AEF_DAGSTER_URL", "value": f"https://{host}"}
    # What the chart starts is what the image made of its name.
    (line,) = re.findall(r"^RUN (printf .*dagster-webserver)$", (DEPLOY / "Dockerfile").read_text(),
                         re.M)  # fmt: skip
    made = tmp_path / "dagster-webserver"
    command, _, target = line.rpartition(" > ")
    assert target == "/opt/venv/bin/dagster-webserver"
    made.write_bytes(subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout)
    assert made.read_text().splitlines() == [
        "#!/bin/sh", 'exec python -m aef_dagster.pipeline.webserver "$@"',
    ]  # fmt: skip


def test_no_variable_of_a_service_in_kubernetes_is_taken_for_a_setting(monkeypatch):
    values = yaml.safe_load((DEPLOY / "values.yaml").read_text())
    (release,) = set(re.findall(r"helm install (\S+)", (DEPLOY / "README.md").read_text()))
    services = [d["name"] for d in values["dagster-user-deployments"]["deployments"]]
    for service in (*services, f"{release}-dagster-webserver"):
        monkeypatch.setenv(f"{service.upper().replace('-', '_')}_SERVICE_HOST", "10.0.0.1")
    load_settings()
    monkeypatch.setenv("AEF_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(UserError, match="there is no such setting"):
        load_settings()


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    """A Dagster instance with nothing in it but runs."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with DagsterInstance.from_config(str(home)) as opened:
        yield opened


@pytest.fixture(scope="module")
def port(instance, tmp_path_factory):
    """Port of our webserver on that instance, without any code."""
    number, log = free_port(), tmp_path_factory.mktemp("web") / "log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "aef_dagster.pipeline.webserver", "--empty-workspace",
             "--port", str(number)],
            env=clean | {"DAGSTER_HOME": instance.root_directory, "AEF_DAGSTER_URL": PUBLIC},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=log.parent,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not _answers(number):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield number
    finally:
        server.terminate()
        server.wait(30)


def _answers(port):
    try:
        return send(port, "/server_info", "GET")[0] == 200
    except OSError:
        return False


def send(port, path, method="POST", body=None, **headers):
    """Status and text that a request with exactly these headers is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def run(instance):
    """A run that can be deleted."""
    instance.add_run(dg.DagsterRun("job", run_id=(run_id := os.urandom(16).hex())))
    return run_id


server = pytest.mark.server


@server
def test_a_foreign_site_deletes_no_run(port, instance, run):
    text = json.dumps({"query": DELETE % run})
    query = "/graphql?" + urllib.parse.urlencode({"query": DELETE % run})
    evil = {"Origin": "https://evil.example.org"}
    for status, told in (
        send(port, "/graphql", body=text, **JSON, **evil),
        send(port, "/graphql", body=text, **JSON, Origin="null"),
        send(port, "/graphql", body=text, **JSON, Host="evil.example.org"),
        send(port, "/graphql", body=text, **JSON, Host=f"evil.org:{port}",
             Origin=f"http://evil.org:{port}"),
        send(port, query, **evil),
        send(port, query, "GET", **evil),
        send(port, query, "GET", Host="evil.example.org"),
        send(port, query, "GET", **{"Sec-Fetch-Site": "cross-site"}),
        send(port, "/graphql", "OPTIONS", **evil),
    ):  # fmt: skip
        assert status == 403 and SETTING in told and told.count("\n") == 1
    assert send(port, query, "GET") == (403, "Questions are put to /graphql by POST.\n")
    # A link to the same address shows Dagster's form for questions, and asks nothing.
    status, told = send(port, query, "GET", **LINK, **{"Sec-Fetch-Site": "cross-site"})
    assert status == 200 and run not in told
    assert instance.has_run(run)


@server
@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://{own}"}, {"Origin": PUBLIC}, {"Sec-Fetch-Site": "same-origin"},
     {"Host": "dagster.example.org", "Origin": PUBLIC}],
    ids=["curl", "page", "proxy that hides the name", "fetch", "proxy"],
)  # fmt: skip
def test_its_own_page_and_programs_are_obeyed(headers, port, instance, run):
    own = {name: value.format(own=f"127.0.0.1:{port}") for name, value in headers.items()}
    status, told = send(port, "/graphql", body=json.dumps({"query": DELETE % run}), **JSON, **own)
    assert status == 200 and "DeletePipelineRunSuccess" in told
    assert not instance.has_run(run)


@server
def test_a_link_opens_the_page_of_a_run(port, run):
    for site in ("same-site", "cross-site", "none"):
        status, told = send(port, f"/runs/{run}", "GET", **LINK, **{"Sec-Fetch-Site": site})
        assert status == 200 and "<html" in told


@server
def test_a_subscription_is_for_its_own_page(port):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    talk = functools.partial(
        connect, f"ws://127.0.0.1:{port}/graphql", subprotocols=["graphql-ws"], proxy=None
    )
    for origin in (f"http://127.0.0.1:{port}", PUBLIC, None):
        with talk(origin=origin) as socket:
            socket.send(json.dumps({"type": "connection_init", "payload": {}}))
            assert json.loads(socket.recv(timeout=30)) == {"type": "connection_ack"}
    for origin in ("https://evil.example.org", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus) as refused, talk(origin=origin):
            pass
        assert refused.value.response.status_code == 403


@contextmanager
def site(folder):
    """Port of a web site with the files of a folder."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found.server_port
        found.shutdown()
        thread.join()


# All ways that a page has to send something elsewhere without asking first.
ATTACK = """async ([address, query]) => {
  const asked = `${address}/graphql?query=${encodeURIComponent(query)}`;
  const done = [];
  for (const init of [{}, {method: 'POST'}, {method: 'POST', body: query}])
    done.push(fetch(asked, {mode: 'no-cors', ...init}).then(() => 'sent', () => 'failed'));
  done.push(fetch(`${address}/graphql`, {method: 'POST', body: JSON.stringify({query}),
    headers: {'Content-Type': 'application/json'}}).then(() => 'read', () => 'failed'));
  done.push(new Promise(seen => { const image = new Image();
    image.onload = image.onerror = () => seen('image'); image.src = asked; }));
  const frame = document.createElement('iframe');
  frame.name = 'frame'; document.body.append(frame);
  done.push(new Promise(seen => { frame.onload = () => seen('form'); }));
  const form = document.createElement('form');
  form.method = 'POST'; form.action = asked; form.target = 'frame';
  document.body.append(form); form.submit();
  done.push(new Promise(seen => { const socket = new WebSocket(
    address.replace('http', 'ws') + '/graphql', 'graphql-ws');
    socket.onopen = () => seen('open'); socket.onerror = () => seen('failed'); }));
  return Promise.all(done);
}"""
OWN_PAGE = """async query => {
  const answer = await fetch('/graphql', {method: 'POST', body: JSON.stringify({query}),
    headers: {'Content-Type': 'application/json'}});
  const socket = new WebSocket(location.origin.replace('http', 'ws') + '/graphql', 'graphql-ws');
  const opened = await new Promise(seen => {
    socket.onopen = () => seen('open'); socket.onerror = () => seen('failed'); });
  return [answer.status, opened];
}"""


@server
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian's package chromium)")
def test_a_real_browser_carries_no_attack_but_follows_links(port, instance, run, tmp_path):
    from playwright.sync_api import sync_playwright

    address = f"http://127.0.0.1:{port}"
    (tmp_path / "index.html").write_text(f"<a href='{address}/runs/{run}'>the run</a>")
    # As after DNS rebinding: foreign names lead to this machine.
    flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP *.example.org 127.0.0.1"]
    with site(tmp_path) as other, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        # Another site, and another port of this machine, as MLflow's page is.
        for foreign in (f"http://evil.example.org:{other}", f"http://127.0.0.1:{other}"):
            page.goto(foreign)
            done = page.evaluate(ATTACK, [address, DELETE % run])
            assert done[3] == "failed" and done[-1] == "failed", done
            assert instance.has_run(run)
            page.goto(foreign)
            page.get_by_text("the run").click()
            page.wait_for_url(f"{address}/runs/{run}*")
            assert "Dagster" in page.title() or page.locator("#root").count() == 1
        rebound = page.goto(f"http://rebound.example.org:{port}/")
        assert rebound.status == 403 and SETTING in rebound.text()
        page.goto(f"{address}/runs")
        assert page.evaluate(OWN_PAGE, DELETE % run) == [200, "open"]
        assert not instance.has_run(run)
        browser.close()
