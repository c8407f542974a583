"""A home that was lived in: no secret is anywhere, no name became a command, all is on loopback."""

import hashlib
import json
import os
import pickle
import stat

import dagster as dg
import duckdb
import pytest

from aef_dagster.storage.home import Home
from aef_dagster_tests.security.lived import NAMES, SECRETS, TARGET, forms, live
from aef_dagster_tests.security.plants import Planted

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
        return live(tmp_path_factory.mktemp("lived"))


def test_the_commands_did_what_they_should(lived):
    """Else what follows would look at nothing."""
    codes = {label: answer.returncode for label, answer in lived.answers.items()}
    assert codes == {
        "prepare": 0, "doctor": 2, "train": 0, "refused": 2, "sync": 0,
    }, lived.printed  # fmt: skip
    assert "1 sent, 0 waiting" in lived.answers["sync"].stdout
    told = "".join(lived.answers["doctor"].stdout.split())  # tables fold long words
    assert "nokeyofaserviceaccount" in told
    assert lived.asked  # the password did travel: there was one to hide
    assert "Traceback" not in lived.printed


def test_every_server_listens_on_loopback_only(lived):
    assert {ip for ip, _port in lived.sockets} <= {"127.0.0.1", "::1"}
    assert len(lived.sockets) >= 2


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_printed_nowhere(name, lived):
    lines = "\n".join([lived.printed, lived.commands, lived.pages]).encode().splitlines()
    assert [line for line in lines if any(form in line for form in forms(SECRETS[name]))] == []


def test_no_file_holds_a_secret(lived):
    """Of the home, where logs, events, MLflow's store and files, checkpoints and tables are."""
    holders, seen = [], 0
    for path in lived.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            seen += 1
            holders += [
                (str(path.relative_to(lived.home)), name)
                for name, secret in SECRETS.items()
                if any(form in content for form in forms(secret))
            ]
    assert seen > 50
    assert holders == []


def test_no_name_became_a_command(lived):
    assert [str(path) for path in lived.folder.rglob("owned*")] == []
    assert "$(touch owned)" in lived.answers["refused"].stderr


def test_names_are_kept_letter_by_letter(lived):
    with duckdb.connect(str(Home(lived.home).warehouse), read_only=True) as connection:
        rows = connection.execute("SELECT gauge_id, name FROM basins").fetchall()
        assert connection.execute("SELECT count(*) FROM scores").fetchone()[0] == 1
    found = dict(rows)
    assert {gauge_id: found[gauge_id] for gauge_id in NAMES} == NAMES


def test_no_name_is_markup_on_a_page(lived):
    """Markdown of Dagster's events holds names only with their marks taken away."""
    with dg.DagsterInstance.from_config(str(Home(lived.home).dagster)) as instance:
        shown = []
        for key in instance.all_asset_keys():
            event = instance.get_latest_materialization_event(key)
            metadata = event.asset_materialization.metadata if event else {}
            shown += [v.value for v in metadata.values() if isinstance(v, dg.MarkdownMetadataValue)]
    text = "\n".join(shown)
    assert "alert(1)" in text  # a name is shown
    for mark in ("<script", "<img", "![x]", "[click]"):
        assert mark not in text.replace("\\" + mark, "")


def test_what_is_kept_is_writable_by_its_owner_only(lived):
    loose = [
        str(path) for path in lived.home.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & stat.S_IWOTH
    ]  # fmt: skip
    assert loose == []
    assert lived.home.stat().st_uid == os.getuid()


def test_a_planted_checkpoint_is_refused_by_the_command(lived, tmp_path):
    """Last: it alters the home."""
    mark = tmp_path / "ran"
    (folder,) = [p.parent for p in Home(lived.home).checkpoints.glob("*/job.json")]
    files = [
        p for p in folder.iterdir() if p.is_file() and p.name not in ("job.json", "manifest.json")
    ]
    for path in files:
        path.write_bytes(pickle.dumps(Planted(mark)))
    manifest = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (*files, folder / "job.json")
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lived.aef("planted", "simulate", TARGET)
    answer = lived.answers.pop("planted")
    assert answer.returncode == 2, answer.stderr
    assert "part of a checkpoint is unreadable" in " ".join(answer.stderr.split())
    assert not mark.exists()
