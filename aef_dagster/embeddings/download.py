"""Fetching a table of embeddings by its address, over however many connections it takes.

Here: `download_table`, which leaves a whole and checked table or nothing, with a note of its size
and sha256 beside it; the unpacking of a zip of tables.
Not here: which files a Zenodo record has (zenodo.py), reading tables (table.py).
"""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from aef_dagster.errors import DataFileError, UserError

if TYPE_CHECKING:
    import requests

TABLES = (".csv", ".parquet")
# Seconds to connect, and between two pieces of an answer.
TIMEOUT = (30.0, 60.0)
# A cut costs the piece that was on its way.
PIECE = 1 << 16
# A table of 64 numbers by 16,000 basins and 10 years is 0.1 GB; this is far above any.
MAX_UNPACKED = 4 << 30

# Told while a file is read: bytes so far, bytes in all where the server says so.
Told = Callable[[int, int | None], None]


class _CutError(Exception):
    """The connection ended before the file did; what came is kept."""


def download_table(
    url: str,
    folder: Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    attempts: int = 5,
    first_wait_s: float = 1.0,
    told: Told = lambda done, total: None,
) -> list[Path]:
    """Fetch a table, or a zip of tables, into a folder.

    The file is written under another name and renamed when it is whole and checked; a later call
    goes on where an earlier one was cut off, if the server can and its file is the same. Of a zip,
    only the .csv and .parquet files are kept, without their folders. `<name>.json` tells address,
    size, sha256 and the files; a call that finds them as noted asks for nothing.

    Parameters
    ----------
    url
        http or https address.
    folder
        Where to; made if needed.
    name
        Name of the file; the last part of the address if not given.
    sha256, md5, size
        What the file must have, hexadecimal and bytes, where it is known.
    attempts
        Times to try when the connection is cut or the server is busy.
    first_wait_s
        Seconds before the second attempt; each next wait is twice as long.
    told
        Called after each piece.

    Returns
    -------
    list of Path
        The tables.

    Raises
    ------
    UserError
        The address does not answer with a file, or it is not what was expected.
    DataFileError
        A zip that is damaged, unsafe, or without tables.
    """
    shown = _without_query(url)
    name = _safe_name(name or unquote(PurePosixPath(urlsplit(url).path).name), shown)
    note = folder / f"{name}.json"
    there = _noted(note, folder, shown, {"sha256": sha256, "md5": md5, "size": size})
    if there is not None:
        return there
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    _read_whole(url, part, attempts, first_wait_s, told)
    facts = {"size": part.stat().st_size, **{k: _digest(part, k) for k in ("sha256", "md5")}}
    _check(part, shown, facts, {"sha256": sha256, "md5": md5, "size": size})
    if zipfile.is_zipfile(part) and not name.lower().endswith(TABLES):
        files = _unpack(part, folder, name)
        part.unlink()
    else:
        files = [folder / name]
        part.replace(files[0])
    _mark(part).unlink(missing_ok=True)
    told_files = {f.name: {"size": f.stat().st_size, "sha256": _digest(f, "sha256")} for f in files}
    fetched = datetime.now(UTC).isoformat(timespec="seconds")
    _write_json(note, {"url": shown, **facts, "fetched_at": fetched, "files": told_files})
    return files


def _read_whole(url: str, part: Path, attempts: int, first_wait_s: float, told: Told) -> None:
    """The file of an address in `part`, over several connections if need be."""
    import requests

    for attempt in range(1, attempts + 1):
        try:
            _read(url, part, told)
            return
        except (_CutError, requests.exceptions.RequestException) as error:
            if isinstance(
                error, requests.exceptions.InvalidSchema | requests.exceptions.MissingSchema
            ):
                raise UserError(f"{_without_query(url)} is no http or https address") from None
            if attempt == attempts:
                # The library's own text would repeat the address with its query.
                cause = str(error) if isinstance(error, _CutError) else type(error).__name__
                raise UserError(
                    f"{_without_query(url)} could not be read in {attempts} attempts ({cause}); "
                    "call again to go on from where it stopped"
                ) from None
        time.sleep(first_wait_s * 2 ** (attempt - 1))


def _read(url: str, part: Path, told: Told) -> None:
    """One connection: from the start, or from where `part` ends."""
    import requests

    # As it lies there, not packed for the way: lengths and ranges are then those of the file.
    headers = {"Accept-Encoding": "identity"}
    had, tag = _resumable(part)
    if had:
        headers |= {"Range": f"bytes={had}-", "If-Range": tag}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        had = _begins_at(answer, had, part, url)
        length = answer.headers.get("Content-Length")
        total = had + int(length) if length and length.isdigit() else None
        _write_json(_mark(part), {"tag": _strong_tag(answer)})
        done = had
        with part.open("ab" if had else "wb") as file:
            try:
                for piece in answer.iter_content(PIECE):
                    if not done:
                        _refuse_page(piece, answer, url)
                    file.write(piece)
                    done += len(piece)
                    told(done, total)
            except (
                requests.exceptions.ChunkedEncodingError,
                requests.exceptions.ConnectionError,
            ) as error:
                raise _CutError(f"cut off after {done} of {total or '?'} bytes") from error
    if total is not None and done != total:
        raise _CutError(f"cut off after {done} of {total} bytes")


def _begins_at(answer: "requests.Response", had: int, part: Path, url: str) -> int:
    """Byte of the file that an answer begins at: `had`, or 0 if it is the whole file."""
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _CutError(f"the server answered {answer.status_code} {answer.reason}")
    if answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(
        f"bytes {had}-"
    ):
        return had
    if answer.status_code in (206, 416):  # what was kept is no beginning of this file
        part.unlink(missing_ok=True)
        raise _CutError("the server has not the rest of what was kept")
    if answer.status_code != 200:
        raise UserError(
            f"{_without_query(url)} answered {answer.status_code} {answer.reason}; check the "
            "address"
        )
    return 0


def _refuse_page(beginning: bytes, answer: "requests.Response", url: str) -> None:
    kind = answer.headers.get("Content-Type", "")
    opening = beginning[:200].lstrip().lower()
    if "text/html" in kind or opening.startswith((b"<!doctype html", b"<html")):
        raise UserError(
            f"{_without_query(url)} is a web page, not a table; give the address of the file "
            "itself, as behind the page's download link"
        )


def _resumable(part: Path) -> tuple[int, str]:
    """Bytes kept of an earlier attempt, and the tag of the server's file that they are of."""
    try:
        tag = json.loads(_mark(part).read_text())["tag"]
        return (part.stat().st_size, tag) if tag else (0, "")
    except (OSError, ValueError, KeyError):
        return 0, ""


def _strong_tag(answer: "requests.Response") -> str | None:
    """What tells the server's file from a later one; a weak tag does not."""
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return answer.headers.get("Last-Modified")


def _check(part: Path, shown: str, facts: dict[str, Any], expected: dict[str, Any]) -> None:
    """The file is the one expected; else it is removed, for going on from it cannot mend it."""
    cause = "is empty; check the address" if facts["size"] == 0 else None
    for what in _unlike(facts, expected):
        cause = (
            f"has {what} {facts[what]}, not {expected[what]}: it was changed or damaged on the "
            "way; call again, and if it stays so, ask its publisher"
        )
    if cause is not None:
        part.unlink()
        _mark(part).unlink(missing_ok=True)
        raise UserError(f"{shown} {cause}")


def _unlike(facts: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of what is expected and otherwise."""
    known = {what: value for what, value in expected.items() if value is not None}
    return [w for w, value in known.items() if str(facts.get(w)) != str(value).lower()]


def _unpack(archive: Path, folder: Path, name: str) -> list[Path]:
    """The tables of a zip, laid into the folder; none of them if one is not to be had."""
    label = folder / name
    stage = folder / f".{name}.unpacking"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = _tables_of(zipped, label)
            for short, member in members.items():
                with zipped.open(member) as source, (stage / short).open("wb") as target:
                    shutil.copyfileobj(source, target, PIECE)  # a wrong checksum raises
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataFileError(label, f"the zip cannot be unpacked: {error}") from None
    else:
        return [(stage / short).replace(folder / short) for short in sorted(members)]
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _tables_of(zipped: zipfile.ZipFile, label: Path) -> dict[str, zipfile.ZipInfo]:
    """Members that are tables, by the name they get."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in zipped.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise DataFileError(label, f"the zip has a member outside itself, {member.filename!r}")
        hidden = path.name.startswith(".") or path.parts[0] == "__MACOSX"
        if member.is_dir() or hidden or path.suffix.lower() not in TABLES:
            continue
        if path.name in members:
            raise DataFileError(label, f"the zip has several files named {path.name}")
        members[path.name] = member
    if not members:
        raise DataFileError(label, "the zip holds no .csv or .parquet file")
    unpacked = sum(member.file_size for member in members.values())
    if unpacked > MAX_UNPACKED:
        raise DataFileError(label, f"the zip would unpack to {unpacked / 2**30:.0f} GiB: no table")
    return members


def _noted(note: Path, folder: Path, shown: str, expected: dict[str, Any]) -> list[Path] | None:
    """The tables that an earlier call fetched, if they are as its note says."""
    try:
        facts = json.loads(note.read_text())
        files = facts["files"]
        same = facts["url"] == shown and not _unlike(facts, expected)
        whole = same and all(
            _digest(folder / name, "sha256") == told["sha256"] for name, told in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return [folder / name for name in files] if whole else None


def _safe_name(name: str, shown: str) -> str:
    short = PurePosixPath(name.replace("\\", "/")).name
    if not short or short.startswith("."):
        raise UserError(f"{shown} does not end in the name of a file")
    return short


def _without_query(url: str) -> str:
    """An address that may be shown: signatures and passwords stand in the parts left out."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _mark(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
