"""The text of one published CAMELS-US time series, made into arrays.

Here: the forcing file and the streamflow file: bytes in, checked frames out. A fast parse serves
good files; a file it refuses is read again line by line, to name the line and the cause.
Not here: where the bytes come from (stores.py), which basins there are (camels_us.py).
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aef_dagster.errors import DataFileError

PUBLISHED = ("prcp", "dayl", "srad", "tmax", "tmin", "vp")
NEVER_NEGATIVE = ("prcp", "dayl", "srad", "vp")
ABSOLUTE_ZERO = -273.15  # degC
DATE_COLUMNS = ("year", "mnth", "day")
TEXT = "flag"  # the one column that holds no number
FLOW_COLUMNS = ["gauge_id", *DATE_COLUMNS, "cfs", TEXT]
# 1 cubic foot = 0.0283168466 m3; x 86,400 s/day / 1e6 m2/km2 x 1,000 mm/m.
CFS_KM2_TO_MM_PER_DAY = 2.4465755


@dataclass(frozen=True)
class ForcingRecord:
    """Forcings of one basin with what the head of its file says of the basin.

    `frame` has a row a day without gaps: date and the six published variables, float32.
    `area_km2` is the area of the file's head, not the one that discharge is divided by.
    """

    frame: pd.DataFrame
    lat: float
    elevation_m: float
    area_km2: float


def parse_forcing(text: bytes, label: str, gauge_id: str) -> ForcingRecord:
    """Read a `*_forcing_leap.txt` file: three lines of numbers, a line of names, a row a day.

    Parameters
    ----------
    text
        Content of the file.
    label
        What to call the file in an error.
    gauge_id
        Basin that the file belongs to.

    Returns
    -------
    ForcingRecord
        -999, and negative values of what cannot be negative, are NaN.

    Raises
    ------
    DataFileError
        With the line, when the head, a number or the run of dates is broken.
    """
    fail = _failure(label, gauge_id)
    head = text.split(b"\n", 4)
    if not text.strip():
        raise fail("the file is empty")
    if len(head) < 5 or not head[4].strip():
        raise fail("the file ends within its head: 3 lines of numbers, a line of names, then data")
    what = ("latitude", "elevation in m", "area in m2")
    lat, elevation, area = (_head_number(head[i], what[i], i + 1, fail) for i in range(3))
    if not -90 <= lat <= 90:
        raise fail(f"the latitude {lat:g} lies outside -90..90", line=1)
    names = [name.split("(")[0].lower() for name in head[3].decode("utf-8", "replace").split()]
    absent = [name for name in (*DATE_COLUMNS, *PUBLISHED) if name not in names]
    if absent:
        raise fail(f"the line of names lacks {', '.join(absent)}", line=4)
    columns = _parse_rows(head[4], names, first_line=5, fail=fail)
    date = _dates(columns, first_line=5, fail=fail)
    _check_consecutive(date, first_line=5, fail=fail)
    out = {"date": date}
    for name in PUBLISHED:
        values = columns[name].astype(np.float32)
        # Whatever lies below is -999 or another sign of a missing value.
        values[values < (0.0 if name in NEVER_NEGATIVE else ABSOLUTE_ZERO)] = np.nan
        out[name] = values
    return ForcingRecord(pd.DataFrame(out), lat, elevation, area / 1e6)


def parse_streamflow(text: bytes, label: str, gauge_id: str, area_km2: float) -> pd.DataFrame:
    """Read a `*_streamflow_qc.txt` file: gauge, year, month, day, cubic feet per second, flag.

    Parameters
    ----------
    text
        Content of the file.
    label
        What to call the file in an error.
    gauge_id
        Basin that the file belongs to; the file must say the same on each row.
    area_km2
        Area that the flow is spread over, km2 (`area_gages2`).

    Returns
    -------
    DataFrame
        date and streamflow in mm/day, float32, a row a day without gaps; any negative value is NaN.

    Raises
    ------
    DataFileError
        With the line, when a number, an id or the order of the dates is broken.
    """
    fail = _failure(label, gauge_id)
    if not text.strip():
        raise fail("the file is empty")
    if not (np.isfinite(area_km2) and area_km2 > 0):
        raise fail(f"cannot turn cfs into mm/day with an area of {area_km2} km2: see camels_topo")
    columns = _parse_rows(text, FLOW_COLUMNS, first_line=1, fail=fail)
    ids = columns["gauge_id"]
    wrong = np.flatnonzero(ids != int(gauge_id))
    if wrong.size:
        i = int(wrong[0])
        raise fail(f"the row is of basin {ids[i]:08.0f}", line=1 + i)
    date = _dates(columns, first_line=1, fail=fail)
    # A day without flow has a row with -999: a day without a row is damage.
    _check_consecutive(date, first_line=1, fail=fail)
    cfs = np.where(columns["cfs"] < 0, np.nan, columns["cfs"])
    flow = (cfs * (CFS_KM2_TO_MM_PER_DAY / area_km2)).astype(np.float32)
    return pd.DataFrame({"date": date, "streamflow": flow})


def _failure(label: str, gauge_id: str) -> Callable[..., DataFileError]:
    def fail(cause: str, *, line: int | None = None) -> DataFileError:
        return DataFileError(label, cause, line=line, gauge_id=gauge_id)

    return fail


def _head_number(line: bytes, what: str, number: int, fail) -> float:
    try:
        value = float(line)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        found = line.decode("utf-8", "replace").strip()
        raise fail(f"expected the {what}, found {found!r}", line=number)
    return value


def _parse_rows(text: bytes, names: list[str], first_line: int, fail) -> dict[str, np.ndarray]:
    """Columns of blank- or tab-separated rows: every field there, every number finite."""
    text = text.rstrip()
    try:
        frame = pd.read_csv(
            io.BytesIO(text),
            sep=r"\s+",
            header=None,
            # Dates too: asked for integers, pandas casts what is not finite to some number.
            dtype={i: "category" if name == TEXT else float for i, name in enumerate(names)},
            keep_default_na=False,
            na_values=[],
            quoting=csv.QUOTE_NONE,
            skip_blank_lines=False,
        )
    except ValueError:
        raise _first_bad_line(text, names, first_line, fail) from None
    columns = {name: frame[i] for i, name in enumerate(names) if i in frame}
    # What a short row lacks, pandas fills with NaN or with empty text.
    whole = frame.shape[1] == len(names) and all(
        "" not in column.cat.categories if name == TEXT else np.isfinite(column.to_numpy()).all()
        for name, column in columns.items()
    )
    if not whole:
        raise _first_bad_line(text, names, first_line, fail)
    return {name: column.to_numpy() for name, column in columns.items() if name != TEXT}


def _first_bad_line(text: bytes, names: list[str], first_line: int, fail) -> DataFileError:
    """Read a refused file slowly, for the line and the cause."""
    for number, row in enumerate(text.decode("utf-8", "replace").splitlines(), start=first_line):
        fields = row.split()
        if len(fields) != len(names):
            return fail(f"expected {len(names)} fields, found {len(fields)}", line=number)
        for field, name in zip(fields, names, strict=True):
            try:
                # Python reads "1_000" as a number, no data file means it.
                finite = name == TEXT or ("_" not in field and np.isfinite(float(field)))
            except ValueError:
                finite = False
            if not finite:
                return fail(f"{field!r} is not a number for {name}", line=number)
    return fail("the rows cannot be read")


def _dates(columns: dict[str, np.ndarray], first_line: int, fail) -> np.ndarray:
    """Days from year, month and day, each checked against the calendar."""
    parts = np.stack([columns[name] for name in DATE_COLUMNS])
    year, month, day = parts
    possible = (year > 1800) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    possible &= (parts == np.rint(parts)).all(axis=0) & (day <= 31)
    whole = np.where(possible, parts, [[1970], [1], [1]]).astype(np.int64)
    months = ((whole[0] - 1970) * 12 + whole[1] - 1).astype("datetime64[M]")
    date = months.astype("datetime64[D]") + (whole[2] - 1)
    # A day past the end of its month falls into the next one.
    bad = np.flatnonzero(~possible | (date.astype("datetime64[M]") != months))
    if bad.size:
        i = int(bad[0])
        raise fail(f"there is no date {year[i]:g}-{month[i]:g}-{day[i]:g}", line=first_line + i)
    return date


def _check_consecutive(date: np.ndarray, first_line: int, fail) -> None:
    steps = np.diff(date).astype(int)
    bad = np.flatnonzero(steps != 1)
    if not bad.size:
        return
    i = int(bad[0]) + 1
    if steps[i - 1] > 1:
        cause = f"days are missing between {date[i - 1]} and {date[i]}"
    elif steps[i - 1] == 0:
        cause = f"the date {date[i]} comes twice"
    else:
        cause = f"the date {date[i]} comes out of order, after {date[i - 1]}"
    raise fail(cause, line=first_line + i)
