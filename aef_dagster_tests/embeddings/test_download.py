"""Fetching tables by their address from a server on this machine, with its faults."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from aef_dagster.embeddings.download import PIECE, download_table
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import DataFileError, UserError
from aef_dagster_tests.embeddings.file_server import serving_files, table, zipped


@pytest.fixture
def server():
    with serving_files() as state:
        state.files = {"/t/BasinEmbeddings_2020.csv": table(2020)}
        yield state


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
