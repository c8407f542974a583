"""Signing in to Earth Engine, and sending with patience.

Here: credentials (a service account's key file, or those of this machine), and the transport that
every call of the client library goes through: it waits and tries again, and counts bytes.
Not here: what is asked (request.py), how refusals are told (refusals.py).
"""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aef_dagster.embeddings.earth_engine.refusals import (
    KEPT,
    SIGN_IN,
    explained,
    without_secrets,
)
from aef_dagster.errors import UserError

if TYPE_CHECKING:
    import httplib2

ADDRESS = "https://earthengine.googleapis.com"
# Marks our computations in the project's cost report.
WORKLOAD_TAG = "aef-dagster-basin-means"
# 429: too many requests; 5xx: theirs to mend. Others are answers, and asking again changes nothing.
PASSING = frozenset({429, 500, 502, 503, 504})
# Seconds to connect, and to wait for an answer: an interactive computation may take 5 minutes.
TIMEOUT = (30.0, 330.0)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class BackOff:
    """How often to try, and how long to wait in between.

    Parameters
    ----------
    attempts
        Times that a request is sent in all.
    first_s
        The first wait, seconds; each next one is twice as long.
    longest_s
        No wait is longer, seconds.
    """

    attempts: int = 7
    first_s: float = 1.0
    longest_s: float = 60.0

    def wait(self, attempt: int, told: str | None) -> float:
        """Seconds to wait after an attempt, counted from 1.

        Half of it is drawn by chance, so that requests refused together do not return together.
        `told` is the server's Retry-After, in seconds; it is kept to, up to `longest_s`.
        """
        longest = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        seconds = longest * random.uniform(0.5, 1.0)
        if told and told.isdigit():
            seconds = max(seconds, float(told))
        return min(seconds, self.longest_s)


class Transport:
    """What the client library sends through.

    It has the two methods of `httplib2.Http` that the library calls. Trying again is done here and
    not by the library, which knows neither Retry-After nor an answer cut short. Only Earth Engine
    is asked again: those who hand out tokens are asked through here too, by another library that
    has its own patience.

    Parameters
    ----------
    url
        Address of Earth Engine.
    back_off
        How often to try.
    """

    def __init__(self, url: str, back_off: BackOff):
        import requests

        self.bytes_read = 0
        self._host, self._back_off = _host(url), back_off
        self._session = requests.Session()

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        **_: object,
    ) -> tuple["httplib2.Response", bytes]:
        """Send a request until it is answered; the last answer where it is refused for good."""
        import httplib2
        import requests

        ours = _host(uri) == self._host
        told: str | None
        fault: str | None = None
        for attempt in range(1, self._back_off.attempts + 1):
            last = attempt == self._back_off.attempts or not ours
            try:
                answer = self._session.request(
                    method, uri, data=body, headers=headers, timeout=TIMEOUT
                )
            except requests.exceptions.RequestException as error:
                if not ours:
                    raise
                # Not reached, cut short, or silent.
                told, fault = None, type(error).__name__
            else:
                self.bytes_read += _bytes_of(answer)
                told, fault = answer.headers.get("Retry-After"), _no_json(answer)
                if fault is None and (last or not _is_passing(answer)):
                    facts = {**answer.headers, "status": str(answer.status_code)}
                    return httplib2.Response(facts), _told(answer)
            if not last:
                time.sleep(self._back_off.wait(attempt, told))
        raise UserError(
            f"Earth Engine at {self._host} gave no usable answer {attempt} times in a row "
            f"({fault}); look at the network and run again, {KEPT}"
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()


@contextmanager
def connected(
    project: str | None, key_file: Path | None, url: str | None, back_off: BackOff
) -> Iterator[Transport]:
    """The client library, signed in; what it refuses within becomes a `UserError`.

    The library keeps one connection per process, so it is signed in anew each time.

    Parameters
    ----------
    project
        The Cloud project that is charged; a service account's own if not given.
    key_file
        JSON key of a service account; the credentials of this machine if not given.
    url
        Another address than Earth Engine's own.
    back_off
        How often to try.

    Raises
    ------
    UserError
        Not signed in, no project, or a refusal.
    """
    import ee

    key = None if key_file is None else _read_key(key_file)
    project = project or (key or {}).get("project_id")
    if not project:
        raise UserError(
            "Earth Engine needs a Cloud project with its API enabled: set AEF_EE_PROJECT to its id"
        )
    with explained():
        credentials = _credentials(key_file, key, url)
        transport = Transport(url or ADDRESS, back_off)
        try:
            ee.data.setMaxRetries(0)  # the transport does it
            ee.Initialize(credentials, url=url, project=project, http_transport=transport)
            ee.data.setDefaultWorkloadTag(WORKLOAD_TAG)
            transport.bytes_read = 0  # the library's list of functions, 0.7 MB, is no data
            yield transport
        finally:
            transport.close()
            ee.Reset()  # drops the credentials, too


def _credentials(key_file: Path | None, key: dict[str, Any] | None, url: str | None) -> Any:
    import ee
    from google.auth import exceptions
    from google.auth.credentials import AnonymousCredentials

    address = urlsplit(url or "https:")
    if address.scheme != "https" and address.hostname not in LOOPBACK:
        raise UserError(
            f"the Earth Engine address {_host(url or '')} is not https: credentials are not sent "
            "over an open line; use https"
        )
    if key is not None:
        try:
            return ee.ServiceAccountCredentials(key_data=json.dumps(key))
        except (ValueError, exceptions.GoogleAuthError):
            # The library's own message may quote the key.
            raise _bad_key(key_file) from None
    if address.scheme != "https":
        return AnonymousCredentials()
    try:
        return ee.data.get_persistent_credentials()
    except (ee.EEException, exceptions.GoogleAuthError):
        raise UserError(f"not signed in to Earth Engine: {SIGN_IN}") from None


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"AEF_EE_KEY_FILE={path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise _bad_key(path) from None
    if not isinstance(key, dict) or not {"client_email", "private_key", "token_uri"} <= set(key):
        raise _bad_key(path)
    return key


def _bad_key(path: Path | None) -> UserError:
    return UserError(
        f"AEF_EE_KEY_FILE={path} is no key of a service account; create a JSON key for it in the "
        "Cloud console and name that file"
    )


def _is_passing(answer: Any) -> bool:
    """Whether the same request may be answered a little later."""
    # Some limits on the rate come as "forbidden", told apart by their reason only.
    rate = b"rateLimitExceeded" in answer.content or b"RATE_LIMIT_EXCEEDED" in answer.content
    return answer.status_code in PASSING or (answer.status_code == 403 and rate)


def _no_json(answer: Any) -> str | None:
    """What is wrong with a body that should be JSON; refusals may be anything."""
    if answer.status_code >= 400:
        return None
    try:
        json.loads(answer.content)
    except ValueError:
        return "no JSON, as from the login page of a proxy"
    return None


def _told(answer: Any) -> bytes:
    """Body of an answer; of a refusal without secrets, for the library logs what it says."""
    if answer.status_code < 400:
        return answer.content
    try:
        clean = _without_secrets(json.loads(answer.content))
    except ValueError:
        return without_secrets(answer.text).encode()
    return json.dumps(clean).encode()


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return without_secrets(value) if isinstance(value, str) else value


def _bytes_of(answer: Any) -> int:
    """Bytes of a body as they came, packed or not."""
    return max(int(answer.raw.tell()), 0)


def _host(uri: str) -> str:
    return urlsplit(uri).netloc or uri
