"""The study's table of embeddings on Zenodo, or any other record there.

Here: which files a record lists, and fetching those that are tables.
Not here: how one file is fetched and checked (download.py), reading tables (table.py).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aef_dagster.embeddings.download import TABLES, TIMEOUT, Told, download_table
from aef_dagster.errors import UserError

ZENODO_RECORD = "19159031"
ZENODO = "https://zenodo.org"


@dataclass(frozen=True)
class PublishedFile:
    """One file of a Zenodo record: name, size in bytes, md5 as hexadecimal, address."""

    name: str
    size: int
    md5: str
    url: str


def published_table_files(
    record: str = ZENODO_RECORD, *, base: str = ZENODO
) -> list[PublishedFile]:
    """Files of a Zenodo record, as its public interface lists them.

    Untried on the study's record: it could not be reached when this was written, so neither its
    files nor their form are known. What is read here is Zenodo's documented answer (`files` with
    `key`, `size`, `checksum`, `links.self`); anything else is refused with what was found instead.

    Parameters
    ----------
    record
        Number of the record.
    base
        Address of Zenodo.

    Raises
    ------
    UserError
        No such record, no open files, or an answer of another form.
    """
    import requests

    url = f"{base}/api/records/{record}"
    by_hand = (
        f"; download its tables by hand from {base}/records/{record} and set AEF_EMBEDDINGS_DIR to "
        "their folder"
    )
    try:
        answer = requests.get(url, timeout=TIMEOUT, headers={"Accept": "application/json"})
    except requests.exceptions.RequestException as error:
        raise UserError(f"{url} is not reached ({type(error).__name__}){by_hand}") from None
    if answer.status_code != 200:
        raise UserError(f"{url} answered {answer.status_code} {answer.reason}{by_hand}")
    try:
        listed = answer.json()["files"]
        files = [_published(entry) for entry in listed]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{url} does not list files as Zenodo does{by_hand}") from None
    if not files:
        raise UserError(f"the record {record} has no open files{by_hand}")
    return files


def download_published(
    folder: Path,
    record: str = ZENODO_RECORD,
    *,
    base: str = ZENODO,
    told: Told = lambda done, total: None,
) -> list[Path]:
    """Fetch the tables of a Zenodo record, each checked against its size and md5.

    Untried on the study's record, see `published_table_files`. CSV, Parquet and zip files are
    fetched, others passed over.

    Parameters
    ----------
    folder
        Where to; afterwards a folder for AEF_EMBEDDINGS_DIR.
    record, base
        As in `published_table_files`.
    told
        As in `download_table`, for each file.

    Raises
    ------
    UserError
        The record holds no such file, or one is not what the record says.
    """
    listed = published_table_files(record, base=base)
    tables = [file for file in listed if file.name.lower().endswith((*TABLES, ".zip"))]
    if not tables:
        names = ", ".join(file.name for file in listed[:8])
        raise UserError(f"the record {record} holds no .csv, .parquet or .zip but: {names}")
    found: list[Path] = []
    for file in tables:
        found += download_table(
            file.url, folder, name=file.name, md5=file.md5, size=file.size, told=told
        )
    return found


def _published(entry: dict[str, Any]) -> PublishedFile:
    kind, _, digest = entry["checksum"].partition(":")
    if kind != "md5" or not digest:
        raise ValueError("Zenodo gives checksums as md5:<digits>")
    return PublishedFile(entry["key"], int(entry["size"]), digest, entry["links"]["self"])
