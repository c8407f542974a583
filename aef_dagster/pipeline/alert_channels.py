"""Ways to tell a person: a webhook, e-mail, or, where neither is set, the log of the tick.

Here: sending one summary, in bounded time, with errors that give away no address that is a secret.
Not here: what is told (failures.py), and when (alerts.py).
"""

import http.client
import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from aef_dagster.settings import LOOPBACK, Settings

TIME_LIMIT_S = 10.0
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
        request = urllib.request.Request(
            self.address, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
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
        message = EmailMessage()
        message["Subject"] = summary.title
        # Servers take mail from the account that logs in, or from an address they know.
        message["From"] = user if user and "@" in user else self.receivers[0]
        message["To"] = ", ".join(self.receivers)
        message.set_content(summary.text)
        host, port = str(parts.hostname), parts.port or SMTP_PORTS[parts.scheme]
        try:
            server = self._connect(parts.scheme, host, port)
            # Not `with`: it also raises when a mail was taken and only the farewell went wrong.
            with closing(server):
                if user and self.password:
                    server.login(user, self.password)
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            cause = _told(error)
            if self.password:
                cause = cause.replace(self.password, "***")
            raise NotSentError(f"the mail server {host}:{port} did not take it: {cause}") from None

    def _connect(self, scheme: str, host: str, port: int) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=TIME_LIMIT_S, context=context)
        server = smtplib.SMTP(host, port, timeout=TIME_LIMIT_S)
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


def _told(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return f"{error.smtp_code} {text}"
    return str(error) or type(error).__name__
