"""Requests: whole files and byte ranges by HTTP, with patience and without trust.

Here: `Remote`, which holds the connections, tries again what may pass, and makes sure that an
answer is what was asked for: its status, its range, its length, its ETag.
Not here: what the bytes mean (index.py, tiff.py).
"""

import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aef_dagster.errors import UserError

TRIES = 6
# Doubled with each try, half to one and a half of it at random: clients do not come back in step.
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
CONNECT_S, READ_S = 15.0, 60.0

# Bodies in memory at once, whatever the number of connections: a block of 80 m is some 40 MB.
ROOM_BYTES = 64 * 1024 * 1024


class RefusedError(UserError):
    """An address does not give what it should: another address may."""


class NotThereError(UserError):
    """There is no such file."""


class ChangedError(UserError):
    """A file is another one than the one that was begun with."""


class DamagedError(UserError):
    """A file is not what its name or its header says."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    `identity` tells one state of the file from another: its ETag, or what else the server tells.
    `data` is empty where the server said that nothing changed.
    """

    data: bytes
    identity: str
    etag: str | None
    last_modified: str | None
    unchanged: bool = False


class _TryAgainError(Exception):
    """What may pass: the reason, and how long the server asked to wait."""

    def __init__(self, reason: str, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s


class Remote:
    """Connections to servers, kept open; at most so many requests under way at once.

    Parameters
    ----------
    connections
        Requests under way at once.
    """

    def __init__(self, connections: int):
        self.bytes_read = self.requests = self.retries = 0
        self._lock = threading.Lock()
        self._gate = threading.BoundedSemaphore(connections)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="ranges")
        self._pool = _pool(connections)
        self._stopped = threading.Event()
        self._taken, self._left = 0, threading.Condition()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.clear()

    def stop(self) -> None:
        """Let those who wait for another try give up."""
        self._stopped.set()

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Wait until bodies of this size fit in memory beside those that are there.

        One that is larger than all the room goes alone.
        """
        with self._left:
            self._left.wait_for(lambda: not self._taken or self._taken + size <= ROOM_BYTES)
            self._taken += size
        try:
            yield
        finally:
            with self._left:
                self._taken -= size
                self._left.notify_all()

    def ranges(
        self, url: str, ranges: Sequence[tuple[int, int]], identity: str | None = None
    ) -> list[Answer]:
        """Several ranges of one file, at once.

        Parameters
        ----------
        url
            The file.
        ranges
            First byte and the one after the last.
        identity
            That of the file begun with, as the first answer told it.

        Raises
        ------
        ChangedError
            The file is another one by now.
        UserError
            As of `get`.
        """
        if len(ranges) == 1:
            return [self.get(url, ranges[0], identity=identity)]
        waiting = [self._threads.submit(self.get, url, r, identity=identity) for r in ranges]
        return [one.result() for one in waiting]

    def get(
        self,
        url: str,
        span: tuple[int, int] | None = None,
        *,
        identity: str | None = None,
        known: tuple[str | None, str | None] = (None, None),
        tries: int = TRIES,
    ) -> Answer:
        """One file, or a range of it.

        Parameters
        ----------
        url
            The file.
        span
            First byte and the one after the last; the end may lie beyond that of the file.
        identity
            That of the file begun with.
        known
            ETag and Last-Modified of the copy at hand, if any.
        tries
            How often, before it is given up.

        Raises
        ------
        RefusedError
            401 or 403, or the server knows no ranges.
        NotThereError
            404 or 410.
        ChangedError
            The file is another one than `identity`.
        DamagedError
            The file ends before the range begins.
        UserError
            Still no whole answer after so many tries.
        """
        for number in range(1, tries + 1):
            try:
                with self._gate:
                    return self._once(url, span, identity, known)
            except _TryAgainError as trouble:
                reason, wait = str(trouble), trouble.wait_s
            if number == tries:
                break
            with self._lock:
                self.retries += 1
            backed_off = FIRST_WAIT_S * 2 ** (number - 1) * random.uniform(0.5, 1.5)
            if self._stopped.wait(min(max(wait, backed_off), LONGEST_WAIT_S)):
                break
        raise UserError(
            f"{url} gave no whole answer in {number} tries ({reason}); what is finished is kept, "
            "run again later for the rest"
        )

    def _once(
        self,
        url: str,
        span: tuple[int, int] | None,
        identity: str | None,
        known: tuple[str | None, str | None],
    ) -> Answer:
        import urllib3

        # Packed in transit, ranges would be those of the packed file.
        headers = {"Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        if identity is not None and identity.startswith('"'):
            headers["If-Match"] = identity
        for name, value in zip(("If-None-Match", "If-Modified-Since"), known, strict=True):
            if value:
                headers[name] = value
        try:
            # With a length announced, urllib3 raises IncompleteRead on a body that is cut.
            answer = self._pool.request("GET", url, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise _TryAgainError(_cause(error)) from None
        with self._lock:
            self.requests += 1
            self.bytes_read += len(answer.data)
        _check_status(url, answer.status, answer.headers, span)
        told = answer.headers
        etag, modified = told.get("ETag"), told.get("Last-Modified")
        if answer.status == 304:
            return Answer(b"", "", etag, modified, unchanged=True)
        if span is not None:
            total = _check_range(url, span, told.get("Content-Range", ""), len(answer.data))
        else:
            total = len(answer.data)
            if told.get("Content-Length", str(total)) != str(total):
                raise _TryAgainError(f"{total} bytes of {told['Content-Length']}")
        now = etag or f"{modified} {total}"
        if identity is not None and now != identity:
            raise ChangedError(f"{url} was replaced while it was read")
        return Answer(answer.data, now, etag, modified)


def _pool(connections: int) -> Any:
    """A pool that obeys HTTPS_PROXY and the like, as curl does."""
    import urllib.request

    import urllib3

    options: dict[str, Any] = {
        "maxsize": connections,
        "block": True,
        # Our own tries count all troubles alike; urllib3 follows redirects only.
        "retries": urllib3.Retry(
            total=None,
            connect=0,
            read=0,
            status=0,
            other=0,
            redirect=5,
            respect_retry_after_header=False,
        ),  # fmt: skip
        "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
    }
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("http")
    if proxy:
        return _Proxied(urllib3.ProxyManager(proxy, **options), urllib3.PoolManager(**options))
    return urllib3.PoolManager(**options)


class _Proxied:
    """Through the proxy, except to hosts that NO_PROXY names."""

    def __init__(self, proxied: Any, direct: Any):
        self._proxied, self._direct = proxied, direct

    def request(self, method: str, url: str, **options: Any) -> Any:
        import urllib.parse
        import urllib.request

        host = urllib.parse.urlsplit(url).hostname or ""
        pool = self._direct if urllib.request.proxy_bypass(host) else self._proxied
        return pool.request(method, url, **options)

    def clear(self) -> None:
        self._proxied.clear()
        self._direct.clear()


def _check_status(url: str, status: int, headers: Any, span: tuple[int, int] | None) -> None:
    if status in (200, 206, 304):
        if span is not None and status == 200:
            raise RefusedError(f"{url}: the server does not give ranges of files")
        return
    if status == 429 or status == 408 or status >= 500:
        raise _TryAgainError(f"HTTP {status}", _retry_after(headers.get("Retry-After", "")))
    if status in (401, 403):
        raise RefusedError(f"{url}: HTTP {status}, the server does not let us read it")
    if status in (404, 410):
        raise NotThereError(f"{url}: HTTP {status}, there is no such file")
    if status == 412:
        raise ChangedError(f"{url} was replaced while it was read")
    if status == 416:
        raise DamagedError(f"{url} ends before a block that its header names (HTTP 416)")
    raise RefusedError(f"{url}: HTTP {status}")


def _check_range(url: str, span: tuple[int, int], told: str, length: int) -> int:
    """Length of the whole file, once the answer is the range asked for."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", told)
    if not found:
        raise _TryAgainError(f"Content-Range is {told!r}")
    first, last, total = (int(number) for number in found.groups())
    if (first, last + 1) != (span[0], min(span[1], total)):
        raise _TryAgainError(f"asked for {span[0]}-{span[1] - 1}, got {told}")
    if length != last + 1 - first:
        raise _TryAgainError(f"{length} bytes of {last + 1 - first}")
    return total


def _retry_after(text: str) -> float:
    """Seconds that a server asks to wait; it may name a date instead."""
    if not text:
        return 0.0
    if text.strip().isdigit():
        return float(text)
    import email.utils

    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _cause(error: Exception) -> str:
    """The innermost reason, in a word or two: urllib3 wraps them."""
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"
