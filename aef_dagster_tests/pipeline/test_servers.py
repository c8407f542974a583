"""The pages of one home: where they are, where links lead; one `aef dev` a home, and its end."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from aef_dagster.errors import UserError
from aef_dagster.pipeline import servers
from aef_dagster.pipeline.server_processes import ServerProcesses, shorten
from aef_dagster.pipeline.servers import _links, led_to_open_pages, pages_of
from aef_dagster.settings import load_settings
from aef_dagster_tests.storage.mlflow_server import free_port

AEF = Path(sys.executable).with_name("aef")

PAGES = ("http://127.0.0.1:3001", "http://127.0.0.1:5001")


@pytest.mark.parametrize(
    ("address", "links"),
    [({}, PAGES),
     ({"dagster_url": "https://aef.example.org"}, ("https://aef.example.org", PAGES[1])),
     ({"mlflow_url": "https://aef.example.org/m"}, (PAGES[0], "https://aef.example.org/m"))],
)  # fmt: skip
def test_links_lead_where_the_settings_say_else_to_these_pages(
    address, links, tmp_path, monkeypatch
):
    for name in ("AEF_DAGSTER_URL", "AEF_MLFLOW_URL", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
    before = load_settings(home=tmp_path, **address)
    # As each command does, defaults too, before it starts the servers.
    for name in type(before).model_fields:
        monkeypatch.setenv(f"AEF_{name.upper()}", "")
    before.export()
    found = _links(load_settings(), *PAGES)
    assert (found["AEF_DAGSTER_URL"], found["AEF_MLFLOW_URL"]) == links


def test_a_home_has_one_aef_dev_and_what_a_killed_one_left_is_named(tmp_path):
    settings = load_settings(home=tmp_path / "var")
    (settings.home / "logs").mkdir(parents=True)
    path = settings.home / "logs" / ".dev.lock"
    left = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'a+'); "
         "fcntl.flock(f, fcntl.LOCK_EX); f.write('Dagster 4711'); f.flush(); print(); "
         "sys.stdin.read()", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with left:
        left.stdout.readline()
        with pytest.raises(UserError, match="open already .Dagster 4711"):
            servers.serve(settings, "sqlite:///x.db", 3999, 5999, "")
        left.kill()
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(UserError, match="is taken by another program"):
        servers.serve(settings, "sqlite:///x.db", taken.getsockname()[1], 5999, "")


def test_who_is_asked_where_the_pages_are_names_those_that_are_open(tmp_path, monkeypatch):
    for name in ("AEF_DAGSTER_URL", "AEF_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings(home=tmp_path)
    unknown = "`make dev` (or `aef dev`) opens the pages, and prints their addresses"
    assert pages_of(settings) == unknown
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / servers.LOCK
    with servers._only_one(tmp_path, path) as lock:
        assert pages_of(settings) == unknown  # it starts just now
        lock.write(f"aef dev 1\n{' '.join(PAGES)}")
        lock.flush()
        assert pages_of(settings) == " and ".join(PAGES)
        led = led_to_open_pages(settings)
        assert (led.dagster_url, led.mlflow_url) == PAGES
        told = load_settings(home=tmp_path, dagster_url="https://aef.example.org")
        led = led_to_open_pages(told)
        assert (led.dagster_url, led.mlflow_url) == ("https://aef.example.org", PAGES[1])
        with pytest.raises(UserError, match=f"use them at {' and '.join(PAGES)}"):
            servers.serve(settings, "sqlite:///x.db", 3999, 5999, "")
    assert pages_of(settings) == unknown  # what was written is there still
    assert led_to_open_pages(settings) == settings
    told = load_settings(home=tmp_path, dagster_url="https://aef.example.org")
    assert pages_of(told) == f"https://aef.example.org and {settings.mlflow_url}"


def test_a_long_log_is_cut_to_its_last_lines_and_its_writer_goes_on(tmp_path):
    log = tmp_path / "dagster.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(1000):
            writer.write(f"line {number}\n".encode())
        whole = log.read_bytes()
        shorten(log, longest=len(whole), kept=100)
        assert log.read_bytes() == whole
        shorten(log, longest=len(whole) - 1, kept=100)
        assert log.stat().st_size <= 100
        writer.write(b"line 1000\n")
    numbers = [int(line.removeprefix("line ")) for line in log.read_text().splitlines()]
    assert len(numbers) > 8 and numbers == list(range(numbers[0], 1001))
    shorten(tmp_path / "moved.log")


@pytest.fixture
def processes(tmp_path):
    """Servers of a test, one second of life being enough to be started again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM,
                                                              signal.SIGHUP)}  # fmt: skip
    with (tmp_path / "lock").open("w") as lock:
        made = ServerProcesses(tmp_path, dict(os.environ), lock.fileno(), steady_s=1.0)
        yield made
        made.stop(last="one")
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_server_that_lived_is_started_again_and_one_that_did_not_ends_all(processes, tmp_path):
    processes.start("one", ["sleep", "1000"], tmp_path / "one.log")
    processes.start("two", ["sleep", "1000"], tmp_path / "two.log")
    one, two = (int(text.split()[-1]) for text in str(processes).split(", "))
    time.sleep(1.1)
    os.kill(two, signal.SIGKILL)
    told = []

    def revived(sentence):
        told.append(sentence)
        again = int(str(processes).split()[-1])
        assert again != two and psutil.Process(again).cmdline() == ["sleep", "1000"]
        os.kill(again, signal.SIGKILL)  # at once: it did not live

    with pytest.raises(UserError, match=r"two ended by itself.*two\.log says why"):
        processes.watch(revived)
    assert len(told) == 1 and "was started again" in told[0]
    assert psutil.pid_exists(one)


HOLDS_A_PORT = """
import socket, subprocess, sys, time
code = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
code += "print(flush=True); time.sleep(1000)"
child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], stdout=subprocess.PIPE)
if not child.stdout.readline():
    sys.exit(1)
time.sleep(1000)
"""


@pytest.mark.parametrize("struck", ["parent", "child"])
def test_what_a_dead_server_left_gives_its_port_free(processes, tmp_path, struck):
    port = free_port()
    command = [sys.executable, "-c", HOLDS_A_PORT, str(port)]
    processes.start("one", command, tmp_path / "one.log", by_child=True)

    def taken():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    processes.wait_for("one", taken)
    time.sleep(1.1)
    first = psutil.Process(int(str(processes).split()[-1]))
    (child,) = first.children()
    processes.wait_for("one", lambda: not processes._is_over("one"))
    (first if struck == "parent" else child).kill()

    def revived(_sentence):
        processes.wait_for("one", taken)
        os.kill(os.getpid(), signal.SIGTERM)

    processes.watch(revived)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert taken()
    os.killpg(int(str(processes).split()[-1]), signal.SIGKILL)  # it would ignore a polite word


@pytest.fixture
def opened(tmp_path):
    """A real `aef dev` of an empty home: the process, its settings, its ports, what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AEF_")}
    # As on many a cluster: a proxy for the internet, which knows nothing of this machine.
    clean |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    clean = {name: value for name, value in clean.items() if name.lower() != "no_proxy"}
    ports = free_port(), free_port()
    command = [AEF, "dev", "--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(
        command, env=clean | {"AEF_HOME": str(tmp_path)}, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        told = ""
        try:
            while "Ctrl-C" not in told:
                line = process.stdout.readline()
                assert line, told
                told += line
            yield process, load_settings(home=tmp_path), ports
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.mark.server
@pytest.mark.timeout(200)
def test_aef_dev_is_guarded_quiet_and_found_and_ends_when_a_part_of_it_does(opened):
    process, settings, (dagster, mlflow) = opened
    family = psutil.Process(process.pid).children(recursive=True)
    assert [_status(dagster, host) for host in ("localhost", "evil.example.org")] == [200, 403]
    assert pages_of(settings) == f"http://127.0.0.1:{dagster} and http://127.0.0.1:{mlflow}"
    with dg.DagsterInstance.from_config(str(settings.home / "dagster")) as instance:
        deadline = time.monotonic() + 60
        while "SENSOR" not in instance.get_daemon_heartbeats():
            assert time.monotonic() < deadline
            time.sleep(0.2)
    # The daemon is at work, of which it would have told by now.
    log = (settings.home / "logs" / "dagster.log").read_text()
    assert "Serving dagster-webserver" in log and "dagster.daemon" not in log
    for limit_s in (20, 60):  # one that has lived a minute, on a slow machine, is revived first
        holders = (settings.home / "logs" / servers.LOCK).read_text()
        os.kill(int(re.search(r"daemon (\d+)", holders)[1]), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            told, _ = process.communicate(timeout=limit_s)
            break
    assert process.returncode == 2 and "Dagster's daemon ended by itself" in told
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert pages_of(settings).startswith("`make dev`")


def _status(port, host):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/server_info", headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    return status
