"""Passwords in addresses are never shown, and what is opened to others is warned of."""

import logging
import socket

import pytest

from aef_dagster.errors import UserError
from aef_dagster.pipeline.resources import build_resources
from aef_dagster.pipeline.servers import (
    MLFLOW,
    WEB,
    _commands,
    exposure,
    is_loopback,
    serve,
    warn_of_open_passwords,
)
from aef_dagster.settings import load_settings, masked
from aef_dagster.storage.mlflow_store import told

SECRET = "Spillway"


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{SECRET}@host:5000",
        f"postgresql+psycopg2://user:{SECRET}@host/db",
        f"postgresql://user:a/{SECRET}#b@host/db",  # SQLAlchemy takes it, parsers of URLs do not
        f"postgresql://user:a@{SECRET}@host/db",
        f"postgresql://host/db?user=u&password={SECRET}",
        f"https://one.org/a,https://user:{SECRET}@two.org/b",
        f"https://host/x?a=1&token={SECRET}&b=2",
        f"http://:{SECRET}@host",
        f"connection to http://user:{SECRET}@host:1/api failed, see https://page.org/x",
    ],
)
def test_no_form_of_a_password_is_shown(address):
    assert SECRET not in masked(address)
    assert "***" in masked(address)
    assert SECRET not in told(ValueError(f"cannot reach {address}\nmore"), "http://other")


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:5000", "sqlite:////srv/a b/mlflow.db", "postgresql://user@host:5432/db",
     "https://host:8080/x?partition=1", "/srv/camels", "-"],
)  # fmt: skip
def test_an_address_without_one_is_shown_as_it_is(address):
    assert masked(address) == address


@pytest.mark.parametrize("form", ["http://u:{}@h", "postgresql://u:x/{}@h/db", "user:{}@h/db"])
@pytest.mark.parametrize("name", ["AEF_MLFLOW_URL", "AEF_DAGSTER_URL", "AEF_TRACKING_URI"])
def test_a_password_is_not_in_a_refusal_nor_in_what_the_pages_show(name, form, monkeypatch):
    monkeypatch.setenv(name, form.format(SECRET))
    try:
        settings = load_settings()
    except UserError as error:
        assert SECRET not in str(error)
        return
    assert name == "AEF_TRACKING_URI" or "://" not in form  # links with a password are refused
    shown = {key: getattr(r, "model_dump", dict)() for key, r in build_resources(settings).items()}
    if "://" in form:
        assert SECRET not in str(shown)


@pytest.mark.parametrize(
    ("uri", "warned"),
    [
        (f"http://user:{SECRET}@mlflow.example.org", True),
        (f"http://user:{SECRET}@10.0.0.7:5000", True),
        (f"https://user:{SECRET}@mlflow.example.org", False),
        (f"http://user:{SECRET}@127.0.0.1:5000", False),
        (f"http://user:{SECRET}@localhost:5000", False),
        ("http://mlflow.example.org", False),
    ],
)
def test_a_password_over_an_open_network_is_warned_of(uri, warned, monkeypatch, caplog):
    monkeypatch.setenv("AEF_TRACKING_URI", uri)
    with caplog.at_level(logging.WARNING):
        warn_of_open_passwords(load_settings())
    assert ("unencrypted" in caplog.text) == warned
    assert SECRET not in caplog.text


def test_mlflows_own_password_counts_too(monkeypatch, caplog):
    monkeypatch.setenv("AEF_TRACKING_URI", "http://mlflow.example.org")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    warn_of_open_passwords(load_settings())
    assert "unencrypted" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.org", False),
     ("127.0.0.1.example.org", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host, inside):
    assert is_loopback(host) is inside


def test_the_warning_names_what_to_do(monkeypatch):
    told_of = exposure("0.0.0.0")
    for word in (
        "WARNING",
        "0.0.0.0",
        "password",
        "reverse proxy",
        "deploy/README.md",
        "MLFLOW_SERVER_ALLOWED_HOSTS",
        "AEF_DAGSTER_URL",
    ):
        assert word in told_of
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example.org")
    assert "is mlflow.example.org" in exposure("0.0.0.0")


@pytest.mark.parametrize(
    ("host", "cause"),
    [("example.org", "give an IPv4 address"), ("$(touch owned)", "give an IPv4 address"),
     ("192.0.2.1", "this machine has no such address")],
)  # fmt: skip
def test_an_address_that_is_not_ours_is_one_sentence(host, cause, tmp_path):
    settings = load_settings(home=tmp_path)
    with pytest.raises(UserError, match=cause):
        serve(settings, f"sqlite:///{tmp_path}/m.db", 13999, 15999, "/", host)


def test_another_address_is_warned_of_and_given_to_both_servers(tmp_path, capsys):
    settings = load_settings(home=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="is taken by another program"):
            serve(settings, f"sqlite:///{tmp_path}/m.db", port, port + 1, "/", "0.0.0.0")
        assert "WARNING: at 0.0.0.0" in capsys.readouterr().err
        with pytest.raises(UserError, match="is taken by another program"):
            serve(settings, f"sqlite:///{tmp_path}/m.db", port, port + 1, "/")
        assert capsys.readouterr().err == ""
    commands = _commands(settings, "10.1.2.3", 1, 2, tmp_path / "code", tmp_path / "workspace")
    for name in (WEB, MLFLOW):
        assert commands[name][commands[name].index("--host") + 1] == "10.1.2.3"
    others = [command for name, command in commands.items() if name not in (WEB, MLFLOW)]
    assert others and not any("--host" in command or "--port" in command for command in others)
