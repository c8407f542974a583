"""The pages of one home: where the links lead that are written meanwhile; one `aef dev` a home."""

import socket
import subprocess
import sys

import pytest

from aef_dagster.errors import UserError
from aef_dagster.pipeline import servers
from aef_dagster.pipeline.servers import _links
from aef_dagster.settings import load_settings

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
