"""Fetching published tables from a server on this machine, with its faults."""

import functools
import hashlib
import io
import json
import re
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.download import (
    PIECE,
    ZENODO_RECORD,
    download_published,
    download_table,
    published_table_files,
)
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import DataFileError, UserError


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


@pytest.fixture
def server():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = Server(f"http://127.0.0.1:{http.server_port}")
    http.state.files = {"/t/BasinEmbeddings_2020.csv": table(2020)}
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield http.state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def fetch(server, tmp_path):
    def fetched(path: str = "/t/BasinEmbeddings_2020.csv", **arguments) -> list[Path]:
        return download_table(
            server.url + path, tmp_path / "tables", first_wait_s=0.001, **arguments
        )

    return fetched


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*")) + sorted(
        path.name for path in folder.glob("*.tmp")
    )


def test_a_table_comes_whole_with_a_note_and_is_read_by_its_route(server, fetch):
    told = []
    (path,) = fetch(told=lambda *numbers: told.append(numbers))
    content = table(2020)
    assert path.read_bytes() == content
    note = json.loads((path.parent / "BasinEmbeddings_2020.csv.json").read_text())
    assert note["size"] == len(content)
    assert note["sha256"] == hashlib.sha256(content).hexdigest()
    assert note["url"] == server.url + "/t/BasinEmbeddings_2020.csv"
    assert told[-1] == (len(content), len(content))
    assert leftovers(path.parent) == []
    assert TableSource(path.parent).years() == (2020,)


def test_what_is_there_is_not_fetched_again(server, fetch):
    fetch()
    (path,) = fetch()
    assert len(server.asked) == 1
    path.write_bytes(b"spoilt")
    fetch()
    assert len(server.asked) == 2 and path.read_bytes() == table(2020)
    server.files["/t/BasinEmbeddings_2020.csv"] = table(2021)
    fetch(sha256=hashlib.sha256(table(2021)).hexdigest())
    assert path.read_bytes() == table(2021)


def test_a_cut_connection_is_gone_on_from(server, fetch):
    server.faults = ["cut", "cut"]
    (path,) = fetch()
    assert path.read_bytes() == table(2020)
    first, second, third = (wanted for _, wanted in server.asked)
    starts = [int(wanted[6:-1]) for wanted in (second, third)]
    assert first is None
    # What was on its way is lost, a piece at most.
    half = len(table(2020)) // 2
    assert half - PIECE < starts[0] <= half
    more = starts[0] + (len(table(2020)) - starts[0]) // 2
    assert more - PIECE < starts[1] <= more


def test_a_later_call_goes_on_too(server, fetch, tmp_path):
    server.faults = ["cut"]
    with pytest.raises(UserError, match=r"in 1 attempts \(cut off after \d+ of \d+ bytes\)"):
        fetch(attempts=1)
    assert list((tmp_path / "tables").glob("*.csv")) == []
    (path,) = fetch()
    assert path.read_bytes() == table(2020)
    assert server.asked[-1][1] is not None


@pytest.mark.parametrize("unable", ["ranges", "tags"])
def test_without_ranges_or_tags_it_starts_over(server, fetch, unable):
    setattr(server, unable, False)
    server.faults = ["cut"]
    (path,) = fetch()
    assert path.read_bytes() == table(2020)


def test_a_file_that_changed_meanwhile_is_no_mixture(server, fetch):
    server.faults = ["cut"]
    with pytest.raises(UserError):
        fetch(attempts=1)
    server.files["/t/BasinEmbeddings_2020.csv"] = table(2021)
    (path,) = fetch()
    assert path.read_bytes() == table(2021)


def test_a_file_that_shrank_starts_over(server, fetch, tmp_path):
    server.faults = ["cut", 416]
    (path,) = fetch()
    assert path.read_bytes() == table(2020)
    assert [wanted is None for _, wanted in server.asked] == [True, False, True]


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([404], "answered 404 .*check the address"),
        ([403], "answered 403"),
        ([503] * 3, r"in 3 attempts \(the server answered 503"),
        (["longer"] * 3, r"in 3 attempts \(cut off after (\d+) of (?!\1)\d+ bytes"),
    ],
)
def test_faults_that_stay_are_told_and_leave_no_table(server, fetch, tmp_path, faults, told):
    server.faults = faults
    server.ranges = False
    with pytest.raises(UserError, match=told):
        fetch(attempts=3)
    assert [path.name for path in (tmp_path / "tables").glob("[!.]*")] == []


def test_a_busy_server_is_asked_again(server, fetch):
    server.faults = [503, 429]
    (path,) = fetch()
    assert path.read_bytes() == table(2020)


def test_nobody_listens(tmp_path):
    with pytest.raises(UserError, match=r"in 2 attempts \(ConnectionError\)"):
        download_table("http://127.0.0.1:9/a.csv", tmp_path, attempts=2, first_wait_s=0.001)
    with pytest.raises(UserError, match="is no http or https address"):
        download_table("gs://bucket/a.csv", tmp_path)
    with pytest.raises(UserError, match="does not end in the name of a file"):
        download_table("http://127.0.0.1:9/", tmp_path)


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": 12}])
def test_another_file_than_expected_is_refused(server, fetch, tmp_path, wrong):
    with pytest.raises(UserError, match=rf"has {next(iter(wrong))} \w+, not .*changed or damaged"):
        fetch(**wrong)
    assert list((tmp_path / "tables").iterdir()) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain"])
def test_a_page_in_place_of_a_table(server, fetch, tmp_path, kind):
    server.files["/t/BasinEmbeddings_2020.csv"] = b"\n<!DOCTYPE html><p>Sign in"
    server.kinds["/t/BasinEmbeddings_2020.csv"] = kind
    with pytest.raises(UserError, match="is a web page, not a table"):
        fetch()
    assert [path.name for path in (tmp_path / "tables").glob("[!.]*")] == []


def test_an_empty_file(server, fetch):
    server.files["/t/BasinEmbeddings_2020.csv"] = b""
    with pytest.raises(UserError, match="is empty"):
        fetch()


def test_secrets_of_an_address_are_not_kept(server, fetch, tmp_path):
    (path,) = fetch("/t/BasinEmbeddings_2020.csv?X-Signature=hush-hush")
    assert path.name == "BasinEmbeddings_2020.csv"
    assert all(b"hush" not in file.read_bytes() for file in path.parent.iterdir())
    for fault in (404, "cut"):
        server.faults = [fault]
        with pytest.raises(UserError) as caught:
            fetch("/t/other.csv?X-Signature=hush-hush" if fault == 404 else
                  "/t/BasinEmbeddings_2020.csv?X-Signature=hush-hush",
                  attempts=1, sha256="0" * 64)  # fmt: skip
        assert "hush" not in str(caught.value)


# Zips


def test_a_zip_gives_its_tables_only(server, fetch):
    server.files["/all.zip"] = zipped(**{
        "out/BasinEmbeddings_2019.csv": table(2019), "out/BasinEmbeddings_2020.csv": table(2020),
        "README.md": b"read me", "__MACOSX/._B_2019.csv": b"x", "out/.hidden.csv": b"",
    })  # fmt: skip
    paths = fetch("/all.zip")
    assert [path.name for path in paths] == ["BasinEmbeddings_2019.csv", "BasinEmbeddings_2020.csv"]
    folder = paths[0].parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "BasinEmbeddings_2019.csv", "BasinEmbeddings_2020.csv", "all.zip.json",
    ]  # fmt: skip
    assert TableSource(folder).years() == (2019, 2020)
    assert fetch("/all.zip") == paths and len(server.asked) == 1


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"../evil.csv": b"x", "good.csv": b"y"}, r"outside itself, '../evil.csv'"),
        ({"a/../../evil.csv": b"x"}, "outside itself"),
        ({"/etc/evil.csv": b"x"}, "outside itself"),
        ({"..\\evil.csv": b"x"}, "outside itself"),
        ({"C:\\evil.csv": b"x"}, "outside itself"),
        ({"a/same.csv": b"x", "b/same.csv": b"y"}, "several files named same.csv"),
        ({"read.me": b"x"}, "holds no .csv or .parquet"),
    ],
)
def test_a_zip_that_cannot_be_taken(server, fetch, tmp_path, members, told):
    server.files["/all.zip"] = zipped(**members)
    with pytest.raises(DataFileError, match=re.escape(told) if "'" in told else told):
        fetch("/all.zip")
    assert not list(tmp_path.rglob("*evil*")) and not list(tmp_path.rglob("good.csv"))


def test_a_zip_with_a_damaged_member(server, fetch, tmp_path):
    content = zipped(**{"a.csv": table(2019), "b.csv": table(2020)})
    spoilt = content.replace(b"2020,0.1", b"2029,0.1")
    assert spoilt != content
    server.files["/all.zip"] = spoilt
    with pytest.raises(DataFileError, match="cannot be unpacked: Bad CRC-32 for file 'b.csv'"):
        fetch("/all.zip")
    assert list(tmp_path.rglob("*.csv")) == []


# Zenodo


def record(server: Server, **files: bytes) -> None:
    """A record as Zenodo lists it, with these files behind it."""
    listed = []
    for name, content in files.items():
        path = f"/api/records/{ZENODO_RECORD}/files/{name}/content"
        server.files[path] = content
        listed.append({
            "key": name, "size": len(content), "links": {"self": server.url + path},
            "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
        })  # fmt: skip
    server.files[f"/api/records/{ZENODO_RECORD}"] = json.dumps({"files": listed}).encode()


def test_the_files_of_a_record(server, tmp_path):
    names = ["BasinEmbeddings_2019.csv", "more.zip", "README.md"]
    contents = [table(2019), zipped(**{"x/B_2020.csv": table(2020)}), b"read me"]
    record(server, **dict(zip(names, contents, strict=True)))
    listed = published_table_files(base=server.url)
    assert [file.name for file in listed] == names
    assert listed[0].size == len(table(2019))
    paths = download_published(tmp_path / "tables", base=server.url)
    assert [path.name for path in paths] == ["BasinEmbeddings_2019.csv", "B_2020.csv"]
    assert TableSource(tmp_path / "tables").years() == (2019, 2020)
    assert not any("README" in path for path, _ in server.asked)


def test_a_file_of_a_record_with_another_checksum(server, tmp_path):
    record(server, **{"B_2019.csv": table(2019)})
    path = f"/api/records/{ZENODO_RECORD}/files/B_2019.csv/content"
    server.files[path] = table(2019).replace(b"0.1", b"0.2", 1)
    with pytest.raises(UserError, match=r"has md5 \w{32}, not \w{32}"):
        download_published(tmp_path, base=server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_changed_is_fetched_anew(server, tmp_path):
    for content in (table(2019), table(2018)):  # of one size
        record(server, **{"B.csv": content})
        for _ in range(2):
            (path,) = download_published(tmp_path, base=server.url)
            assert path.read_bytes() == content
    assert len([path for path, _ in server.asked if path.endswith("/content")]) == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "answered 404 .*by hand.*AEF_EMBEDDINGS_DIR"),
        (b"<html>", "does not list files as Zenodo does"),
        (b"[]", "does not list files"),
        (b'{"metadata": {}}', "does not list files"),
        (b'{"files": [{"key": "a.csv"}]}', "does not list files"),
        (b'{"files": []}', "no open files"),
    ],
)
def test_a_record_of_another_form(server, answer, told):
    if answer is not None:
        server.files[f"/api/records/{ZENODO_RECORD}"] = answer
    with pytest.raises(UserError, match=told):
        published_table_files(base=server.url)


def test_a_record_without_tables(server, tmp_path):
    record(server, **{"README.md": b"read me"})
    with pytest.raises(UserError, match=r"no .csv, .parquet or .zip but: README.md"):
        download_published(tmp_path, base=server.url)
    with pytest.raises(UserError, match=r"is not reached \(ConnectionError\).*by hand"):
        published_table_files(base="http://127.0.0.1:9")
