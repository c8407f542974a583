"""Dagster's own webserver with a wall in front: other web sites cannot command it.

Here: which requests are refused, and the command `python -m aef_dagster.pipeline.webserver`, which
takes the options of `dagster-webserver`. Dagster asks no request where it comes from, so a site
that is open in a browser beside the page could start and delete runs.
Not here: who may reach the server at all (servers.py, deploy/). A program that is no browser sends
what it likes: the wall is against web sites, not against people.
"""

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aef_dagster.errors import UserError
from aef_dagster.pipeline.servers import is_loopback
from aef_dagster.settings import load_settings

Application = Callable[[dict, Callable, Callable], Awaitable[None]]

logger = logging.getLogger("dagster-webserver")

SETTING = "AEF_DAGSTER_URL"
PLAIN = {"ws": "http", "wss": "https"}
DEFAULT_PORTS = {"http": 80, "https": 443}
POLICY_VIOLATION = 1008


class Wall:
    """An ASGI application that passes on to another one what may be from the page itself.

    Parameters
    ----------
    inner
        The application behind.
    page
        Address that readers' browsers take, such as `https://dagster.example.org`: besides
        loopback and the address that a connection comes to, only its name is answered to.
    """

    def __init__(self, inner: Application, page: str):
        self._inner = inner
        self._name = urlsplit(page).hostname
        self._origin = origin_of(page)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer one request or websocket."""
        cause = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if cause is None:
            await self._inner(scope, receive, self._unframed(send))
            return
        logger.warning("refused a request for %s: %s", scope["path"], cause)
        if scope["type"] == "websocket":
            # Before it is accepted, this is status 403.
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"),
                   (b"x-content-type-options", b"nosniff")]  # fmt: skip
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": f"{cause}\n".encode()})

    def refusal(self, scope: dict) -> str | None:
        """Why a request is refused, in a sentence; None if it is not.

        Parameters
        ----------
        scope
            ASGI's description of a request or websocket.
        """
        asked = _Asked(scope)
        name = _hostname(asked.host)
        if name is None or not self._is_ours(name, scope.get("server")):
            # With DNS rebinding, a foreign name leads here, and its site is the page's own.
            return (
                f"This server does not answer to the name {asked.host!r}: if it is meant to, set "
                f"{SETTING} to the whole address, such as http://NAME:3000, and start it again."
            )
        told = f"if that is where this page is read, set {SETTING} to its address."
        own = f"{PLAIN.get(scope['scheme'], scope['scheme'])}://{asked.host}".lower()
        if asked.origin and asked.origin.lower() not in (own, self._origin):
            return f"This request comes from another web site, {asked.origin!r}: {told}"
        if asked.site in ("cross-site", "same-site") and not asked.follows_a_link:
            return f"This request comes from another web site: {told}"
        if scope["path"].endswith("/graphql") and asked.method == "GET" and not asked.wants_a_page:
            # Browsers tell the origin of a GET on loopback and by https only, and Dagster would
            # start runs for it.
            return "Questions are put to /graphql by POST."
        return None

    def _is_ours(self, name: str, server: tuple | None) -> bool:
        # An address that a connection came to is ours, and no site can own it.
        return is_loopback(name) or name == self._name or bool(server and name == server[0])

    @staticmethod
    def _unframed(send: Callable) -> Callable:
        async def answer(message: dict) -> None:
            if message["type"] == "http.response.start":
                # In a frame of another site, a click could be lured onto a button of ours.
                headers = [*message.get("headers", ()), (b"x-frame-options", b"SAMEORIGIN")]
                message = message | {"headers": headers}
            await send(message)

        return answer


class _Asked:
    """What the headers of a request say of where it comes from."""

    def __init__(self, scope: dict):
        headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            text = value.decode("latin-1")
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
        self.method = scope.get("method")  # a websocket has none
        self.host = headers.get(b"host", "")
        self.origin = headers.get(b"origin")
        self.site = headers.get(b"sec-fetch-site")
        self.wants_a_page = "text/html" in headers.get(b"accept", "")
        # A link in an e-mail or on MLflow's page opens a page; it cannot read it, nor post to it.
        self.follows_a_link = (
            self.method == "GET"
            and headers.get(b"sec-fetch-mode") == "navigate"
            and headers.get(b"sec-fetch-dest") == "document"
        )


def origin_of(page: str) -> str:
    """Scheme, name and port of an address, as a browser writes them.

    Parameters
    ----------
    page
        An address; its path is left out, and a port that its scheme has anyway.
    """
    parts = urlsplit(page)
    name = parts.hostname or ""
    shown = f"[{name}]" if ":" in name else name
    port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{shown}{port}"


def _hostname(host: str) -> str | None:
    """Name or address of a `Host`, without its port; None of what no browser sends."""
    try:
        parts = urlsplit(f"//{host}")
    except ValueError:
        return None
    whole = parts.netloc == host and "@" not in host and "," not in host
    return parts.hostname if whole else None


def main() -> None:
    """Start Dagster's webserver, with the options of `dagster-webserver`, behind the wall."""
    from dagster_webserver import cli

    try:
        page = load_settings().dagster_url
    except UserError as error:
        sys.exit(f"error: {error}")
    unguarded = cli.create_app_from_workspace_process_context

    def guarded(*arguments: Any, **options: Any) -> Wall:
        return Wall(unguarded(*arguments, **options), page)

    # The command's own options and start stay Dagster's; only what it serves is replaced.
    cli.create_app_from_workspace_process_context = guarded  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()
