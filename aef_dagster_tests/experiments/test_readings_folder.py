"""Readings on disk: the same when read again, whole or not there."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import DataFileError
from aef_dagster.experiments.estimates import Estimates
from aef_dagster.experiments.reading import Check, Picture, Reading, Table
from aef_dagster.experiments.readings_folder import load_reading, save_reading

PNG = b"\x89PNG\r\n\x1a\n\x00\xff made up"


@pytest.fixture
def reading():
    found = Estimates()
    found.add("median NSE", "aef", 0.612, design="folds", n_basins=3, low=0.5, high=0.7)
    found.add("chi-square", "aef", np.nan, k=5)
    ids = ["01013500", "02056900", "14325000"]
    return Reading(
        name="controls",
        title="Controls",
        question="Is °C kept?",
        findings=("First, with ± and “quotes”.", "Second."),
        numbers={"gap": -0.125, "unknown": float("nan")},
        estimates=found.frame(),
        tables=(
            Table("By basin", pd.DataFrame({"nse": [0.5, np.nan, -1.0]},
                                           pd.Index(ids, name="gauge_id")), "Ids first."),
            Table("Ids in a column", pd.DataFrame({"gauge_id": ids, "donors": [1, 2, 3]})),
            Table("Without ids", pd.DataFrame({"told": ["aef", "none"], "p": [0.1, 1e-12]})),
        ),
        pictures=(Picture("A map", PNG, "Where."), Picture("Curves", "<svg>°</svg>")),
        checks=(Check("holds", True, "It held."), Check("fell", False, "It fell.", blocking=True)),
    )  # fmt: skip


def test_what_is_read_is_what_was_written(reading, tmp_path):
    files = save_reading(reading, tmp_path / "small" / "controls")
    again = load_reading(tmp_path / "small" / "controls")
    assert (again.name, again.title, again.question) == ("controls", "Controls", "Is °C kept?")
    assert again.findings == reading.findings
    assert again.checks == reading.checks
    assert again.pictures == reading.pictures
    assert again.numbers["gap"] == -0.125
    assert np.isnan(again.numbers["unknown"])
    for table, other in zip(again.tables, reading.tables, strict=True):
        assert (table.title, table.note) == (other.title, other.note)
        pd.testing.assert_frame_equal(table.frame, other.frame)
    assert again.tables[0].frame.index.name == "gauge_id"
    assert again.tables[0].frame.index[0] == again.tables[1].frame["gauge_id"][0] == "01013500"
    for column in reading.estimates:
        mine, theirs = (found.estimates[column] for found in (reading, again))
        known = mine.notna()
        assert theirs.notna().tolist() == known.tolist()
        assert theirs[known].tolist() == mine[known].tolist()
    assert sorted(files) == [
        "a-map.png", "by-basin.csv", "curves.svg", "estimates.csv", "ids-in-a-column.csv",
        "reading.json", "without-ids.csv",
    ]  # fmt: skip
    assert all(path.is_file() for path in files.values())
    assert files["a-map.png"].read_bytes() == PNG
    record = json.loads(files["reading.json"].read_text(encoding="utf-8"))
    assert record["numbers"]["unknown"] is None


def test_a_newer_reading_replaces_the_older_with_all_its_files(reading, tmp_path):
    folder = tmp_path / "controls"
    save_reading(reading, folder)
    fewer = replace(reading, findings=("Now.",), tables=(), pictures=reading.pictures[1:])
    files = save_reading(fewer, folder)
    assert sorted(files) == ["curves.svg", "estimates.csv", "reading.json"]
    assert load_reading(folder).findings == ("Now.",)
    assert [path.name for path in tmp_path.iterdir()] == ["controls"]


def test_a_reading_that_cannot_be_written_leaves_the_older_one(reading, tmp_path):
    class Unreadable(str):
        """A picture that cannot be encoded, as if the disk were full half-way."""

        def encode(self, *_):
            raise OSError("no space left on device")

    folder = tmp_path / "controls"
    save_reading(reading, folder)
    newer = replace(
        reading, findings=("Half.",), pictures=(reading.pictures[0], Picture("B", Unreadable("x")))
    )
    with pytest.raises(OSError, match="no space left"):
        save_reading(newer, folder)
    again = load_reading(folder)
    assert again.findings == reading.findings
    assert again.pictures == reading.pictures
    # What it left unfinished is in the way of nothing.
    save_reading(fixed := replace(newer, pictures=()), folder)
    assert load_reading(folder).findings == fixed.findings
    assert [path.name for path in tmp_path.iterdir()] == ["controls"]


def damage_record(folder):
    (folder / "reading.json").write_text("{", encoding="utf-8")


def empty_record(folder):
    (folder / "reading.json").write_text("{}", encoding="utf-8")


def other_kind_of_record(folder):
    (folder / "reading.json").write_text("[]", encoding="utf-8")


def lose_a_table(folder):
    (folder / "by-basin.csv").unlink()


def empty_a_table(folder):
    (folder / "without-ids.csv").write_bytes(b"")


def lose_a_picture(folder):
    (folder / "a-map.png").unlink()


def break_a_drawing(folder):
    (folder / "curves.svg").write_bytes(b"\xff\xfe\xff")


def lose_the_estimates(folder):
    (folder / "estimates.csv").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_record, empty_record, other_kind_of_record, lose_a_table, empty_a_table,
        lose_a_picture, break_a_drawing, lose_the_estimates,
    ],
)  # fmt: skip
def test_a_damaged_folder_is_told_with_its_place(reading, tmp_path, damage):
    folder = tmp_path / "controls"
    save_reading(reading, folder)
    damage(folder)
    with pytest.raises(DataFileError, match="materialize it again") as error:
        load_reading(folder)
    assert error.value.path == str(folder)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataFileError, match="materialize it again"):
        load_reading(tmp_path / "nowhere")
