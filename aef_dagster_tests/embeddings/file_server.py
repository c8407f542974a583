"""A server of files on this machine, with faults that go off one a request, and tables for it."""

import functools
import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pandas as pd

from aef_dagster.embeddings.bands import BANDS


@functools.cache
def table(year: int) -> bytes:
    """A table of 0.6 MB: of a shorter one, nothing would be kept of half of it."""
    ids = [f"{1_000_000 + i:08d}" for i in range(2000)]
    rows = {"hru_id": ids, "year": [year] * len(ids), **dict.fromkeys(BANDS, 0.1)}
    return pd.DataFrame(rows).to_csv(index=False).encode()


def zipped(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


@dataclass
class Server:
    """Files by path, what was asked, and faults that go off one a request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    faults: list[object] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else header and body leave as two packets, and the second waits 40 ms for an answer.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self):
        state: Server = self.server.state
        path, wanted = urlsplit(self.path).path, self.headers.get("Range")
        state.asked.append((path, wanted))
        fault = state.faults.pop(0) if state.faults else None
        if isinstance(fault, int):
            return self.reply(fault, b"refused")
        if path not in state.files:
            return self.reply(404, b"no such file")
        content = state.files[path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"Content-Type": state.kinds.get(path, "application/octet-stream")}
        headers |= {"ETag": tag} if state.tags else {}
        same = self.headers.get("If-Range") in (None, tag)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if wanted and same and state.ranges:
            if start >= len(content):
                return self.reply(416, b"")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.reply(206, content[start:], headers, fault)
        return self.reply(200, content, headers, fault)

    def reply(self, status, content, headers=None, fault=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + (7 if fault == "longer" else 0)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = fault in ("cut", "longer")

    def log_message(self, *args):
        pass


@contextmanager
def serving_files() -> Iterator[Server]:
    """A server on this machine until the block ends."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield http.state
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
