"""Ways to tell a person: a webhook, e-mail, or, where neither is set, the log of the tick.

Here: sending one summary, in bounded time, with errors that give away no address that is a secret.
Not here: what is told (failures.py), and when (alerts.py).
"""

import http.client
import json
import logging
import smtplib
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from aef_dagster.settings import LOOPBACK, Settings

TIME_LIMIT_S = 10.0
# Of a whole mail: a server that says a letter every 9 s keeps to the limit above for ever.
MAIL_LIMIT_S = 15.0
SMTP_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class Summary:
    """What a person is told of one failure.

    Attributes
    ----------
    title
        One line.
    text
        The whole in plain words, the title not repeated.
    details
        The same for programs: plain values only.
    """

    title: str
    text: str
    details: Mapping[str, Any]


class NotSentError(Exception):
    """A channel could not be used now: one sentence, without secrets."""


class Channel(Protocol):
    """One way to tell a person."""

    @property
    def name(self) -> str:
        """What it is called in ticks, and in the sensor's memory."""

    def send(self, summary: Summary) -> None:
        """Tell it; raises `NotSentError`."""


@dataclass(frozen=True)
class Webhook:
    """POST of JSON to an address that is itself a secret.

    `text` is what Slack and Mattermost show; `failure` holds the details.
    """

    address: str = field(repr=False)
    name: str = "webhook"

    def send(self, summary: Summary) -> None:
        """Tell it; raises `NotSentError`."""
        body = {"text": f"{summary.title}\n{summary.text}", "failure": dict(summary.details)}
        content = json.dumps(body).encode()
        try:
            request = urllib.request.Request(
                self.address, content, {"Content-Type": "application/json"}
            )
            # A redirection would send the summary to somebody else.
            with urllib.request.build_opener(_Straight).open(request, timeout=TIME_LIMIT_S):
                return
        except urllib.error.HTTPError as error:
            error.close()
            cause = f"answered {error.code} {error.reason}"
        except urllib.error.URLError as error:
            cause = f"could not be reached: {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            cause = f"did not answer: {type(error).__name__}"
        except ValueError:
            # Its words may name letters of the address.
            cause = "has an address that cannot be used: copy it anew to AEF_ALERT_WEBHOOK"
        raise NotSentError(f"the webhook {cause.replace(self.address, '***')}") from None


class _Straight(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@dataclass(frozen=True)
class Email:
    """Mail by SMTP, encrypted unless the server is on this machine."""

    server: str
    receivers: tuple[str, ...]
    password: str | None = field(repr=False)
    name: str = "e-mail"

    def send(self, summary: Summary) -> None:
        """Tell it; raises `NotSentError`."""
        parts = urlsplit(self.server)
        user = unquote(parts.username) if parts.username else None
        host, port = str(parts.hostname), parts.port or SMTP_PORTS[parts.scheme]
        began = time.monotonic()
        try:
            message = self._message(summary, user)
            server = self._connect(parts.scheme, host, port)
            # Not `with`: it also raises when a mail was taken and only the farewell went wrong.
            with closing(server):
                if user and self.password:
                    server.login(user, self.password)
                server.send_message(message)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            late = time.monotonic() - began >= MAIL_LIMIT_S
            cause = f"it was not done in {MAIL_LIMIT_S:g} s" if late else _told(error)
            if self.password:
                cause = cause.replace(self.password, "***")
            raise NotSentError(f"the mail server {host}:{port} did not take it: {cause}") from None

    def _message(self, summary: Summary, user: str | None) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = _sendable(summary.title)
        # Servers take mail from the account that logs in, or from an address they know.
        message["From"] = user if user and "@" in user else self.receivers[0]
        message["To"] = ", ".join(self.receivers)
        message.set_content(_sendable(summary.text))
        return message

    def _connect(self, scheme: str, host: str, port: int) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if scheme == "smtps":
            return _BoundedTls(host, port, timeout=TIME_LIMIT_S, context=context)
        server = _Bounded(host, port, timeout=TIME_LIMIT_S)
        try:
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            elif host not in LOOPBACK:
                raise smtplib.SMTPNotSupportedError("it offers no STARTTLS; nothing was said to it")
        except (OSError, smtplib.SMTPException):
            server.close()
            raise
        return server


class _Bounded(smtplib.SMTP):
    """A conversation that is hung up `MAIL_LIMIT_S` after it began.

    Finding the server's address by its name is not in the limit: nothing can end that.
    """

    def __init__(self, *args, **options):
        self._ended = threading.Event()
        threading.Thread(target=self._hang_up, daemon=True).start()
        try:
            super().__init__(*args, **options)
        except BaseException:
            self._ended.set()
            raise

    def close(self):
        self._ended.set()
        super().close()

    def _hang_up(self) -> None:
        wait_s = MAIL_LIMIT_S
        # More than once: while TLS begins, the connection is for a moment no attribute.
        while not self._ended.wait(wait_s):
            connection = self.sock
            if connection is not None:
                with suppress(OSError):
                    # The plain socket's own: that of TLS may not be called beside a read.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            wait_s = 0.5


class _BoundedTls(_Bounded, smtplib.SMTP_SSL):
    """The same, with TLS from the first word."""


@dataclass(frozen=True)
class Log:
    """The log of the tick, where nothing else is set."""

    logger: logging.Logger
    name: str = "log"

    def send(self, summary: Summary) -> None:
        """Write it down."""
        self.logger.warning("%s\n%s", summary.title, summary.text)


def open_channels(settings: Settings) -> list[Channel]:
    """The channels that are set; nothing is connected yet."""
    channels: list[Channel] = []
    if settings.alert_webhook:
        channels.append(Webhook(settings.alert_webhook.get_secret_value()))
    if settings.alert_smtp and settings.alert_email_to:
        password = settings.alert_smtp_password
        channels.append(
            Email(
                settings.alert_smtp,
                tuple(settings.alert_email_to.split(",")),
                password.get_secret_value() if password else None,
            )
        )
    return channels


def _sendable(text: str) -> str:
    """Without halves of letters, such as Python makes of a file's name that is not UTF-8."""
    return text.encode(errors="replace").decode()


def _told(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        # Its own words name letters of the password.
        return "user, password and addresses may have ASCII letters only"
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return f"{error.smtp_code} {text}"
    return str(error) or type(error).__name__
