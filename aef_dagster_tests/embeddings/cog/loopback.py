"""A server on loopback that serves a folder by byte ranges, and can be told to misbehave.

Here: `Loopback`, a threaded HTTP/1.1 server with ETags, If-Match, If-None-Match and Range, a log of
what was asked, and faults that are switched on one by one.
Not here: what it serves (tile_world.py).

`python -m aef_dagster_tests.embeddings.cog.loopback FOLDER SECONDS` serves a folder from a process
of its own, each answer so many seconds late, until its standard input closes; it prints its address
first.
"""

import hashlib
import re
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Kind = Literal[
    "400", "403", "404", "416", "429", "500", "503",  # answered so
    "slow",  # the body comes late
    "cut",  # the connection ends in the middle of the body
    "short",  # a body shorter than asked for, with a length that fits it
    "corrupt",  # some bytes are other ones
    "changed",  # the file is another one: other bytes, other ETag
    "whole",  # the range is ignored
]  # fmt: skip


@dataclass
class Fault:
    """What goes wrong with files whose path holds `path`: after `after` answers, `times` times."""

    kind: Kind
    path: str
    times: float
    after: int
    seconds: float


@dataclass(frozen=True)
class Asked:
    """One request: path, first byte and the one after the last (None: all), status answered."""

    path: str
    start: int | None
    stop: int | None
    status: int


class Loopback:
    """Serves a folder while the `with` block runs."""

    def __init__(self, folder: Path, delay_s: float = 0.0):
        self.folder, self.delay_s = folder, delay_s
        self.faults: list[Fault] = []
        self.log: list[Asked] = []
        self.lock = threading.Lock()
        self.busy = self.busiest = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.loopback = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Loopback":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(
        self,
        kind: Kind,
        path: str = ".tiff",
        *,
        times: float = float("inf"),
        after: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Switch a fault on: for `slow`, `seconds` late; for 429, Retry-After so many."""
        self.faults.append(Fault(kind, path, times, after, seconds))

    def asked(self, path: str = "", status: int | None = None) -> list[Asked]:
        """Requests so far for paths that hold `path`."""
        with self.lock:
            return [a for a in self.log if path in a.path and status in (None, a.status)]

    def fault_of(self, path: str) -> Fault | None:
        """The fault of this request, counted down."""
        with self.lock:
            for fault in self.faults:
                if fault.path not in path or fault.times <= 0:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else header and body leave as two packets, and the second waits 40 ms for an answer.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:  # noqa: N802 - the name that the library calls
        """Length only: GDAL asks before it opens."""
        server: Loopback = self.server.loopback  # type: ignore[attr-defined]
        time.sleep(server.delay_s)
        file = server.folder / self.path.lstrip("/")
        self.send_response(200 if file.is_file() else 404)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(file.stat().st_size if file.is_file() else 0))
        self.end_headers()
        self.wfile.flush()

    def do_GET(self) -> None:  # noqa: N802
        server: Loopback = self.server.loopback  # type: ignore[attr-defined]
        with server.lock:
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            self._answer(server)
        except (BrokenPipeError, ConnectionResetError):  # the client went away, as it may
            self.close_connection = True
        finally:
            with server.lock:
                server.busy -= 1

    def _answer(self, server: Loopback) -> None:
        time.sleep(server.delay_s)
        file = server.folder / self.path.lstrip("/")
        fault = server.fault_of(self.path)
        kind = fault.kind if fault else None
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        if fault and fault.kind.isdigit():
            later = {"Retry-After": f"{fault.seconds:g}"} if kind == "429" else {}
            self._plain(server, int(fault.kind), later)
        elif not file.is_file():
            self._plain(server, 404)
        else:
            self._file(server, file, kind)

    def _file(self, server: Loopback, file: Path, kind: Kind | None) -> None:
        size = file.stat().st_size
        etag = f'"{hashlib.md5(f"{self.path} {file.stat().st_mtime_ns}".encode()).hexdigest()}"'
        if kind == "changed":
            etag = '"another"'
        if self.headers.get("If-None-Match") == etag:
            self._plain(server, 304, {"ETag": etag})
            return
        if self.headers.get("If-Match", etag) != etag:
            self._plain(server, 412)
            return
        start, stop = self._range(size)
        if start is not None and start >= size:
            self._plain(server, 416)
            return
        status = 200 if start is None or kind == "whole" else 206
        start, stop = (0, size) if status == 200 else (start or 0, stop)
        with file.open("rb") as stream:
            stream.seek(start)
            body = _spoiled(stream.read(stop - start), kind)
        self._log(server, start, stop, status)
        self.send_response(status)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "cut" else body)
        self.wfile.flush()
        if kind == "cut":
            self.close_connection = True

    def _range(self, size: int) -> tuple[int | None, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(found[1]), min(int(found[2]) + 1, size)) if found else (None, size)

    def _plain(self, server: Loopback, status: int, headers: dict[str, str] | None = None) -> None:
        self._log(server, *self._range(0), status)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.flush()

    def _log(self, server: Loopback, start: int | None, stop: int, status: int) -> None:
        with server.lock:
            server.log.append(Asked(self.path, start, stop, status))

    def log_message(self, *words: object) -> None:
        """Say nothing: a test's output is not a server's log."""


def _spoiled(body: bytes, kind: Kind | None) -> bytes:
    """A body as some faults have it."""
    if kind in ("corrupt", "changed"):
        return body.translate(bytes(range(255, -1, -1)))
    return body[: len(body) // 2] if kind == "short" else body


if __name__ == "__main__":
    with Loopback(Path(sys.argv[1]), float(sys.argv[2])) as running:
        print(running.address, flush=True)
        sys.stdin.read()
