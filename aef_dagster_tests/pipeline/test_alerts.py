"""Failures are told: real failed runs, a real webhook and mail server, the sensor as the daemon
evaluates it."""

import json
import logging
import socket
import threading
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import serializable_error_info_from_exc_info

from aef_dagster.errors import UserError
from aef_dagster.pipeline import alert_channels
from aef_dagster.pipeline.alert_channels import Email, NotSentError, Summary, Webhook, open_channels
from aef_dagster.pipeline.alerts import FORGET_AFTER_S, NAME, tell
from aef_dagster.pipeline.build import build_defs
from aef_dagster.settings import load_settings
from aef_dagster_tests.pipeline.listeners import mail_server, webhook, write_certificate

SECRETS = ("Brook7secret", "Eddy7secret")
SUMMARY = Summary("aef: run 1 failed", "00901001: its file is damaged", {"kind": "run"})


class Watch:
    """The sensor of a session with channels, tick by tick with its own cursor."""

    def __init__(self, session, **channels):
        self.settings = load_settings(home=session.settings.home, **channels)
        self.instance, self.cursor = session.instance, None
        repository = build_defs(self.settings).get_repository_def()
        self.sensor = repository.get_sensor_def(NAME)

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            done = self.sensor.evaluate_tick(context)
        self.cursor = done.cursor
        return done.skip_message


@pytest.fixture
def hook():
    with webhook() as found:
        yield found


def lose_weather_of(session, gauge_id):
    (session.home.forcings / f"{gauge_id}.parquet").unlink()


def test_a_failed_training_is_told_as_a_hydrologist_would_want_it(session, run, hook):
    with mail_server(password="Eddy7secret") as post:
        watch = Watch(
            session, alert_webhook=hook.address, alert_email_to="lea@catchment.org,ops@weir.org",
            alert_smtp=f"smtp://lea%40catchment.org@127.0.0.1:{post.port}",
            alert_smtp_password="Eddy7secret",
        )  # fmt: skip
        assert watch.tick() == "webhook: listens from now on; e-mail: listens from now on"
        lose_weather_of(session, "00901002")
        targets = ["00901001", "00901002"]
        done = run(
            "basin_models", config={"basin_models": {"basins": targets, "k": 6, "workers": 1}}
        )
        told = watch.tick()
        again = watch.tick()
    assert told == "webhook: told of 1 failure; e-mail: told of 1 failure"
    assert again == "nothing failed"

    (message,), (mail,) = hook.told, post.mails
    run_id = done.dagster_run.run_id
    link = f"http://127.0.0.1:3000/runs/{run_id}"
    title, _, text = message["text"].partition("\n")
    assert title == f"aef: run {run_id[:8]} failed: 1 of 2 basins of basin_models"
    for words in (
        "Basins: sample.", "k 6", "What failed:\n- basin_models: 1 of 2 basins failed",
        "00901002: basin 00901002 lacks forcings", "see the coverage check of aef_embeddings",
        "What is kept:\n- basin_models: 1 basin (00901001)",
        "What to do: mend what the sentences above name, then re-execute the run on its page. "
        "What is finished is not done twice.",
        f"The run: {link}",
    ):  # fmt: skip
        assert words in text
    assert mail["Subject"] == title
    assert mail.get_content().splitlines() == text.splitlines()
    assert mail["From"] == "lea@catchment.org" and mail["To"] == "lea@catchment.org, ops@weir.org"
    assert post.logins == ["lea@catchment.org"]
    details = message["failure"]
    assert details["link"] == link and details["kept"] == {"basin_models": [targets[0]]}
    assert details["failed"][0]["names"] == ["00901002"] and details["failed"][0]["mendable"]


def test_a_bug_a_killed_run_and_a_cancelled_one_are_told_apart(session, run, hook):
    watch = Watch(session, alert_webhook=hook.address)
    watch.tick()
    instance = session.instance
    # DuckDB, not the platform, says that this table is no table: nobody thought of it.
    with session.warehouse.write() as connection:
        connection.execute("DROP TABLE donors; CREATE VIEW donors AS SELECT 1 AS nothing")
    assert not run("donors/aef").success
    killed = instance.create_run_for_job(
        session.definitions.resolve_implicit_global_asset_job_def(),
        tags={"dagster/backfill": "yearly"},
    )
    instance.report_run_failed(killed, "the process that ran it is gone")
    cancelled = instance.create_run_for_job(
        session.definitions.resolve_implicit_global_asset_job_def()
    )
    instance.report_run_failed(cancelled)
    instance.report_run_canceled(cancelled)
    watch.tick()
    bug, ended = (message["text"] for message in hook.told)
    assert "unexpected error" in bug and "no fault of your data or settings" in bug
    assert "ended from outside: the process that ran it is gone" in ended
    assert "Started by the backfill yearly" in ended
    assert "look at the memory and the disk" in ended


def test_a_dead_webhook_holds_up_no_mail_and_misses_nothing(session, run, hook):
    with mail_server() as post:
        watch = Watch(
            session, alert_webhook=hook.address, alert_email_to="lea@catchment.org",
            alert_smtp=f"smtp://127.0.0.1:{post.port}",
        )  # fmt: skip
        watch.tick()
        hook.status = 503
        assert not run("basin_models", partition_key="00901001",
                       config={"basin_models": {"basins": ["00901002"]}}).success  # fmt: skip
        first = watch.tick()
        assert not run("basin_models").success
        second = watch.tick()
        hook.status = 200
        third = watch.tick()
    for told in (first, second):
        assert told == (
            "the webhook answered 503 Service Unavailable; tried again at the next tick; "
            "e-mail: told of 1 failure"
        )
    assert third == "webhook: told of 2 failures"
    texts = [message["text"] for message in hook.told]
    assert "its config names 00901002" in texts[0] and "nothing was asked for" in texts[1]
    assert [mail["Subject"] for mail in post.mails] == [text.split("\n")[0] for text in texts]


class NewYears:
    """The schedule that asks for new years, whose ticks a test writes down as the daemon does."""

    def __init__(self, instance, error):
        self.instance, self.error = instance, error
        location = ManagedGrpcPythonEnvCodeLocationOrigin(
            LoadableTargetOrigin(module_name="aef_dagster.definitions")
        )
        origin = RemoteInstigatorOrigin(
            RemoteRepositoryOrigin(location, "__repository__"), "new_aef_years"
        )
        self.origin, self.selector = origin.get_id(), origin.get_selector().get_id()
        instance.add_instigator_state(
            InstigatorState(
                origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING,
                ScheduleInstigatorData("0 6 * * 1"),
            )
        )  # fmt: skip

    def tick(self, moment, in_a_row):
        """A tick that failed, with its number in the row; 0: one that had nothing to do."""
        self.instance.create_tick(
            TickData(
                self.origin, "new_aef_years", InstigatorType.SCHEDULE,
                TickStatus.FAILURE if in_a_row else TickStatus.SKIPPED, moment,
                error=self.error if in_a_row else None, selector_id=self.selector,
                consecutive_failure_count=in_a_row,
            )
        )  # fmt: skip


@pytest.fixture
def new_years(instance):
    try:
        raise UserError("the tables are away")
    except UserError as error:
        told = serializable_error_info_from_exc_info((type(error), error, error.__traceback__))
    return NewYears(instance, told)


class Telling:
    """Ticks of the sensor, with channels of the test's own making."""

    def __init__(self, instance, *channels):
        self.instance, self.channels, self.cursor = instance, channels, None
        self.tick()

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            told, self.cursor = tell(context, self.channels, load_settings())
        return told


def failed_run(instance, config=None) -> str:
    run = instance.add_run(dg.DagsterRun("training", run_config=config or {}))
    instance.report_run_failed(run, "the process that ran it is gone")
    return run.run_id


def test_a_schedule_that_fails_is_told_once_in_a_row(session, hook):
    watch = Watch(session, alert_webhook=hook.address)
    watch.tick()
    instance, since = session.instance, json.loads(watch.cursor)["webhook"][1]
    definitions = build_defs(session.settings)
    tables = Path(definitions.resources["embeddings"].tables)
    tables.rename(session.home.root / "away")
    schedule = definitions.get_repository_def().get_schedule_def("new_aef_years")
    with (
        dg.build_schedule_context(
            instance=instance,
            resources={"embeddings": definitions.resources["embeddings"]},
            repository_def=definitions.get_repository_def(),
        ) as context,
        pytest.raises(dg.DagsterError) as raised,
    ):
        schedule.evaluate_tick(context)
    error = serializable_error_info_from_exc_info((raised.type, raised.value, raised.tb))
    ticks = NewYears(instance, error)
    ticks.tick(since + 60, 1)
    ticks.tick(since + 120, 2)
    assert watch.tick() == "webhook: told of 1 failure"
    assert watch.tick() == "nothing failed"
    (message,) = hook.told
    assert message["text"].startswith("aef: the schedule new_aef_years failed\n")
    assert str(tables) in message["text"] and "no run was started" in message["text"]


def test_a_channel_dead_for_many_ticks_is_told_of_the_schedule_and_only_once(
    instance, new_years, hook
):
    telling = Telling(instance, Webhook(hook.address))
    since = time.time()
    hook.status = 503
    for number in range(1, 31):
        new_years.tick(since + number, number)
        if number % 10 == 0:
            telling.tick()
    hook.status = 200
    assert telling.tick() == "webhook: told of 1 failure"
    new_years.tick(since + 31, 31)
    assert telling.tick() == "nothing failed"
    # It worked, then failed for longer than is read at once, with nobody looking.
    new_years.tick(since + 40, 0)
    for number in range(1, 31):
        new_years.tick(since + 40 + number, number)
    assert telling.tick() == "webhook: told of 1 failure"
    assert telling.tick() == "nothing failed"


def test_a_failure_too_old_to_be_told_does_not_hide_that_it_goes_on(instance, new_years, hook):
    telling = Telling(instance, Webhook(hook.address))
    run, _since, ticks, told = json.loads(telling.cursor)["webhook"]
    now = time.time()
    telling.cursor = json.dumps({"webhook": [run, now - 2 * FORGET_AFTER_S, ticks, told]})
    new_years.tick(now - 1.5 * FORGET_AFTER_S, 1)
    assert telling.tick() == "nothing failed"
    new_years.tick(now - 0.5 * FORGET_AFTER_S, 2)
    assert telling.tick() == "webhook: told of 1 failure"


def test_what_goes_wrong_at_one_channel_stays_there(instance, hook):
    """Of a kind that nobody thought of: this server's scheme, which the settings refuse."""
    odd = Email("gopher://mail.example.org", ("a@b.org",), "Eddy7secret")
    telling = Telling(instance, odd, Webhook(hook.address))
    places = json.loads(telling.cursor)
    failed_run(instance)
    assert telling.tick() == (
        "e-mail: unexpected KeyError; tried again at the next tick; webhook: told of 1 failure"
    )
    after = json.loads(telling.cursor)
    assert after["e-mail"] == places["e-mail"] and after["webhook"] != places["webhook"]
    assert telling.tick() == "e-mail: unexpected KeyError; tried again at the next tick"
    assert len(hook.told) == 1


def test_a_run_whose_records_make_no_sense_is_told_all_the_same(instance, hook):
    telling = Telling(instance, Webhook(hook.address))
    # A Launchpad page with the name of an asset and nothing below it.
    run_id = failed_run(instance, {"ops": {"basin_models": None}})
    assert telling.tick() == "webhook: told of 1 failure"
    (message,) = hook.told
    assert message["text"].startswith(f"aef: the run {run_id} failed\n")
    assert message["failure"]["link"].endswith(f"/runs/{run_id}")


def test_no_half_of_a_password_is_told_where_a_sentence_is_cut(instance, hook):
    telling = Telling(instance, Webhook(hook.address))
    address = "postgresql://dagster:Brook7secret@history.example.org/dagster"
    # The 600 letters of a sentence end within the password.
    sentence = "x" * (600 - address.index("7secret") - 1) + " " + address
    run = instance.add_run(dg.DagsterRun("training"))
    instance.report_run_failed(run, sentence)
    telling.tick()
    (message,) = hook.told
    assert "postgresql://dagster:***" in message["text"]
    assert "Brook" not in json.dumps(message)


def test_letters_that_a_channel_cannot_carry_are_one_sentence():
    password = "Bäche7secret"
    with mail_server(password=password) as post:
        mail = Email(f"smtp://lea@127.0.0.1:{post.port}", ("a@b.org",), password)
        with pytest.raises(NotSentError, match="may have ASCII letters only") as refused:
            mail.send(SUMMARY)
    assert "ä" not in str(refused.value) and "secret" not in str(refused.value)
    hook = Webhook(f"http://127.0.0.1:9/services/{password}")
    with pytest.raises(NotSentError, match="copy it anew to AEF_ALERT_WEBHOOK") as refused:
        hook.send(SUMMARY)
    assert "ä" not in str(refused.value) and "secret" not in str(refused.value)


def test_a_name_of_a_file_that_is_no_text_keeps_no_mail_back():
    with mail_server() as post:
        Email(f"smtp://127.0.0.1:{post.port}", ("a@b.org",), None).send(
            Summary("aef: run 1 failed: \udce9", "caf\udce9.csv is damaged", {})
        )
    assert post.mails[0].get_content().strip() == "caf?.csv is damaged"


def test_it_is_on_only_where_somebody_is_to_be_told_and_else_logs(session, run, caplog):
    silent = Watch(session)
    assert silent.sensor.default_status == dg.DefaultSensorStatus.STOPPED
    told = Watch(session, alert_webhook="https://hooks.example.org/x")
    assert told.sensor.default_status == dg.DefaultSensorStatus.RUNNING
    silent.tick()
    run("basin_models")
    assert silent.tick() == "log: told of 1 failure"


def test_secrets_are_shown_nowhere(session, run, hook, monkeypatch, capsys, caplog):
    from aef_dagster.cli import doctor

    caplog.set_level(logging.DEBUG)
    hook.status = 302
    monkeypatch.setenv("AEF_HOME", str(session.settings.home))
    monkeypatch.setenv("AEF_ALERT_WEBHOOK", hook.address)
    monkeypatch.setenv("AEF_ALERT_EMAIL_TO", "lea@catchment.org")
    monkeypatch.setenv("AEF_ALERT_SMTP_PASSWORD", "Eddy7secret")
    # A server that says the password it was given back.
    with mail_server(password="another") as post:
        monkeypatch.setenv("AEF_ALERT_SMTP", f"smtp://lea@127.0.0.1:{post.port}")
        settings = load_settings()
        watch = Watch(session)
        watch.tick()
        run("basin_models")
        told = watch.tick()
    assert "the webhook answered 302" in told and hook.paths == ["/services/T0/Brook7secret"]
    assert "535 *** is not your password" in told
    doctor()
    shown = capsys.readouterr()
    events = [entry.to_json() for run in session.instance.get_runs()
              for entry in session.instance.all_logs(run.run_id)]  # fmt: skip
    places = {
        "settings": repr(settings) + settings.model_dump_json(),
        "channels": repr(open_channels(settings)),
        "tick": told + str(watch.cursor), "doctor": shown.out + shown.err, "log": caplog.text,
        "events": "".join(events),
    }  # fmt: skip
    assert "AEF_ALERT_WEBHOOK" in places["doctor"]
    assert [name for name, text in places.items() for word in SECRETS if word in text] == []
    settings.export()  # a child process must be able to tell
    assert load_settings().alert_webhook.get_secret_value() == hook.address


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"alert_webhook": "http://hooks.example.org/Brook7secret"}, "use the whole https address"),
        ({"alert_smtp": "smtp://lea:Eddy7secret@host"}, "set AEF_ALERT_SMTP_PASSWORD"),
        ({"alert_smtp": "host:25"}, "write it as smtp://USER@HOST:587"),
        ({"alert_email_to": "lea"}, "e-mail addresses with a comma between"),
        ({"alert_email_to": "lea@a.org\nBcc: all@b.org"}, "e-mail addresses"),
        ({"alert_email_to": "lea@a.org"}, "go together"),
    ],
)
def test_a_wrong_setting_is_refused_without_showing_it(values, told):
    with pytest.raises(UserError, match=told) as refused:
        load_settings(**values)
    assert not any(word in str(refused.value) for word in SECRETS)


def test_mail_is_encrypted_and_only_for_a_server_that_is_what_it_says(tmp_path, monkeypatch):
    certificate = tmp_path / "server.pem"
    write_certificate(certificate)
    for scheme, at_once in (("smtp", False), ("smtps", True)):
        with mail_server(certificate, ssl_at_once=at_once, password="Eddy7secret") as post:
            mail = Email(f"{scheme}://lea@localhost:{post.port}", ("a@b.org",), "Eddy7secret")
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            with pytest.raises(NotSentError, match="certificate verify failed"):
                mail.send(SUMMARY)
            assert post.logins == []
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            mail.send(SUMMARY)
            assert post.mails[0]["Subject"] == SUMMARY.title and post.logins == ["lea"]


def test_a_channel_that_is_not_there_says_so_in_a_sentence(free_port):
    with pytest.raises(NotSentError, match="the webhook could not be reached: .*refused"):
        Webhook(f"http://127.0.0.1:{free_port}/Brook7secret").send(SUMMARY)
    with pytest.raises(NotSentError, match="did not take it: .*refused"):
        Email(f"smtp://127.0.0.1:{free_port}", ("a@b.org",), None).send(SUMMARY)


def test_a_channel_that_never_answers_costs_a_bounded_time(monkeypatch):
    monkeypatch.setattr(alert_channels, "TIME_LIMIT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(NotSentError, match="the webhook .*Timeout|timed out"):
            Webhook(f"http://{where}/Brook7secret").send(SUMMARY)
        with pytest.raises(NotSentError, match="did not take it: .*timed out"):
            Email(f"smtp://{where}", ("a@b.org",), None).send(SUMMARY)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("way", ["plain", "STARTTLS", "TLS at once"])
@pytest.mark.parametrize("answer", ["220", "235"])
def test_a_mail_server_that_never_ends_an_answer_costs_a_bounded_time(
    way, answer, tmp_path, monkeypatch
):
    """A letter now and then keeps to the limit of each read, for ever."""
    monkeypatch.setattr(alert_channels, "MAIL_LIMIT_S", 0.8)
    certificate = None
    if way != "plain":
        certificate = tmp_path / "server.pem"
        write_certificate(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    at_once, scheme = way == "TLS at once", "smtps" if way == "TLS at once" else "smtp"
    with mail_server(certificate, ssl_at_once=at_once, password="Eddy7secret") as post:
        post.dawdles_at = answer
        mail = Email(f"{scheme}://lea@localhost:{post.port}", ("a@b.org",), "Eddy7secret")
        threads, began = threading.active_count(), time.monotonic()
        with pytest.raises(NotSentError, match=r"it was not done in 0\.8 s"):
            mail.send(SUMMARY)
        assert time.monotonic() - began < 5
        assert post.mails == []
        deadline = time.monotonic() + 5
        while threading.active_count() > threads and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= threads


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
