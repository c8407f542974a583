"""A Zenodo record, listed and fetched from a server on this machine."""

import hashlib
import json

import pytest

from aef_dagster.embeddings.table import TableSource
from aef_dagster.embeddings.zenodo import ZENODO_RECORD, download_published, published_table_files
from aef_dagster.errors import UserError
from aef_dagster_tests.embeddings.file_server import Server, serving_files, table, zipped


@pytest.fixture
def server():
    with serving_files() as state:
        yield state


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
