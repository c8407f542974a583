"""Readings on disk: what an experiment found, kept for the report and for whoever wants the tables.

Here: one folder a reading: `reading.json`, a CSV a table, a PNG or SVG a picture. Not here: the
page (report/).
"""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from aef_dagster.errors import DataFileError
from aef_dagster.experiments.reading import Check, Picture, Reading, Table

RECORD = "reading.json"


def save_reading(reading: Reading, folder: Path) -> dict[str, Path]:
    """Write a reading, whole or not at all; what was there before is replaced.

    Returns
    -------
    dict
        Name and place of each file.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tables, pictures = [], []
    for table in reading.tables:
        name = f"{_slug(table.title)}.csv"
        named = table.frame.index.name is not None
        table.frame.to_csv(unfinished / name, index=named)
        tables.append({"title": table.title, "note": table.note, "file": name, "index": named})
    for picture in reading.pictures:
        svg = isinstance(picture.content, str)
        name = f"{_slug(picture.title)}.{'svg' if svg else 'png'}"
        content = picture.content.encode() if isinstance(picture.content, str) else picture.content
        (unfinished / name).write_bytes(content)
        pictures.append({"title": picture.title, "caption": picture.caption, "file": name})
    reading.estimates.to_csv(unfinished / "estimates.csv", index=False)
    record = {
        "name": reading.name, "title": reading.title, "question": reading.question,
        "findings": reading.findings,
        "numbers": {n: v if v == v else None for n, v in reading.numbers.items()},
        "checks": [asdict(check) for check in reading.checks],
        "tables": tables, "pictures": pictures,
    }  # fmt: skip
    (unfinished / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    # A crash between the two leaves the old one beside, never half of a new one.
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    unfinished.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
    return {path.name: path for path in sorted(folder.iterdir())}


def load_reading(folder: Path) -> Reading:
    """Read what `save_reading` wrote.

    Raises
    ------
    DataFileError
        The folder is not whole.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Reading(
            name=record["name"],
            title=record["title"],
            question=record["question"],
            findings=tuple(record["findings"]),
            numbers={n: float("nan") if v is None else v for n, v in record["numbers"].items()},
            estimates=pd.read_csv(folder / "estimates.csv"),
            tables=tuple(
                Table(
                    table["title"],
                    # Ids keep their zeros in front.
                    pd.read_csv(folder / table["file"], dtype={"gauge_id": str},
                                index_col=0 if table["index"] else None),
                    table["note"],
                )
                for table in record["tables"]
            ),
            pictures=tuple(
                Picture(picture["title"], _content(folder / picture["file"]), picture["caption"])
                for picture in record["pictures"]
            ),
            checks=tuple(Check(**check) for check in record["checks"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(
            folder, f"what an experiment found cannot be read ({error}): materialize it again"
        ) from error


def _content(path: Path) -> bytes | str:
    return path.read_text(encoding="utf-8") if path.suffix == ".svg" else path.read_bytes()


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
