"""The text of one time series: what is read, and how each kind of damage is named."""

import numpy as np
import pytest

from aef_dagster.basins.records import parse_forcing, parse_streamflow
from aef_dagster.errors import DataFileError
from aef_dagster_tests.basins.tiny_camels import DATES, HEAD, NAMES, flow_text, forcing_text

GAUGE = "01013500"


def read_forcing(text: str):
    return parse_forcing(text.encode(), "a.zip!f.txt", GAUGE)


def read_flow(text: str, area: float = 2252.7):
    return parse_streamflow(text.encode(), "a.zip!q.txt", GAUGE, area)


def test_forcing_columns_head_and_dates():
    record = read_forcing(forcing_text())
    assert (record.lat, record.elevation_m) == (46.84, 353.0)
    assert record.area_km2 == pytest.approx(2260.093113)
    assert list(record.frame) == ["date", "prcp", "dayl", "srad", "tmax", "tmin", "vp"]
    assert (record.frame["date"].to_numpy().astype("datetime64[D]") == DATES).all()
    assert record.frame["prcp"].tolist()[:6] == [0, 1, 2, 3, 4, 0]
    assert record.frame["vp"].dtype == np.float32
    first = record.frame.iloc[0]
    assert (first["tmax"], first["tmin"], first["srad"], first["dayl"]) == (4, -2, 200, 30000)


def test_forcing_header_of_maurer_in_capitals_and_windows_line_ends():
    capitals = NAMES.replace("dayl", "Dayl").replace("prcp", "PRCP").replace("tmax", "Tmax")
    record = read_forcing(forcing_text(names=capitals).replace("\n", "\r\n"))
    assert record.frame["prcp"].tolist()[:3] == [0, 1, 2]


def test_equal_tmax_and_tmin_are_read():
    frame = read_forcing(forcing_text(tmax=3.0, tmin=3.0)).frame
    assert (frame["tmax"] == frame["tmin"]).all()


def test_missing_forcings_are_nan_but_frost_is_not():
    text = forcing_text().replace("\t1.00\t", "\t-999.00\t").replace("\t2.00\t", "\t-0.10\t")
    frame = read_forcing(text.replace("-2.00", "-42.50")).frame
    assert frame["prcp"].isna().tolist()[:5] == [False, True, True, False, False]
    assert frame["tmin"].tolist()[0] == -42.5
    cold = read_forcing(forcing_text(tmin=-999.0)).frame
    assert cold["tmin"].isna().all()


def test_flow_in_mm_per_day_by_the_given_area():
    frame = read_flow(flow_text(GAUGE))
    # 655 cfs = 655 * 0.0283168466 m3/s over 2252.7 km2.
    assert frame["streamflow"].iloc[0] == pytest.approx(0.7114, abs=5e-5)
    expected = 655 * 0.0283168466 * 86_400 / 2252.7e6 * 1_000
    assert frame["streamflow"].iloc[-1] == pytest.approx(expected, rel=1e-6)


def test_negative_flow_is_missing_and_zero_is_not():
    rows = flow_text(GAUGE).splitlines()
    rows[1] = rows[1].replace("655.00 A", "-999.00 M")
    rows[2] = rows[2].replace("655.00 A", "-3.00 A:e")
    rows[3] = rows[3].replace("655.00 A", "0.00 A")
    flow = read_flow("\n".join(rows))["streamflow"]
    assert flow.isna().tolist()[:5] == [False, True, True, False, False]
    assert flow.iloc[3] == 0


def replace_line(text: str, number: int, change) -> str:
    lines = text.splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    return "".join(lines)


BAD_FORCINGS = {
    "bad number": (10, lambda row: row.replace("400.00", "4x0.00"), "'4x0.00' is not a number"),
    "infinite": (11, lambda row: row.replace("400.00", "inf"), "'inf' is not a number for vp"),
    "not available": (12, lambda row: row.replace("400.00", "NA"), "'NA' is not a number for vp"),
    "underscore": (12, lambda row: row.replace("400.00", "4_0"), "'4_0' is not a number for vp"),
    "field lost": (13, lambda row: row.replace("\t400.00", ""), "expected 11 fields, found 10"),
    "field more": (14, lambda row: row.replace("\n", " 7\n"), "expected 11 fields, found 12"),
    "huge month": (18, lambda row: row.replace("02 23", "1e300 23"), "no date 1990-1e+300-23"),
    "row blank": (15, lambda row: "\n", "expected 11 fields, found 0"),
    "row lost": (16, lambda row: "", "days are missing between 1990-02-20 and 1990-02-22"),
    "row twice": (17, lambda row: row + row, "the date 1990-02-22 comes twice"),
    "no such day": (18, lambda row: row.replace("02 23", "02 30"), "no date 1990-2-30"),
    "month 13": (18, lambda row: row.replace("02 23", "13 23"), "no date 1990-13-23"),
    "half a day": (18, lambda row: row.replace("02 23", "02 23.5"), "no date 1990-2-23.5"),
    "out of order": (19, lambda row: row.replace("02 24", "02 11"), "11 comes out of order"),
    "no latitude": (1, lambda row: "north\n", "expected the latitude, found 'north'"),
    "no area": (3, lambda row: "\n", "expected the area in m2, found ''"),
    "wrong latitude": (1, lambda row: "146.84\n", "latitude 146.84 lies outside"),
    "column lost": (4, lambda row: row.replace("vp(Pa)", "vpd"), "the line of names lacks vp"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FORCINGS)
def test_bad_forcing_names_file_line_and_cause(case):
    line, change, cause = BAD_FORCINGS[case]
    with pytest.raises(DataFileError) as caught:
        read_forcing(replace_line(forcing_text(), line, change))
    assert cause in caught.value.cause
    # The second of two rows is the wrong one.
    assert caught.value.line == (line + 1 if case == "row twice" else line)
    assert str(caught.value).startswith("basin 01013500: a.zip!f.txt, line ")


@pytest.mark.parametrize("text", ["", "\n\n", "  46.84\n 353.00\n", HEAD + NAMES])
def test_empty_and_cut_forcings(text):
    with pytest.raises(DataFileError, match="empty|ends within its head"):
        read_forcing(text)


def test_first_row_short_is_found_too():
    text = replace_line(forcing_text(), 5, lambda row: row.replace("\t400.00", ""))
    with pytest.raises(DataFileError, match="line 5: expected 11 fields, found 10"):
        read_forcing(text)


BAD_FLOWS = {
    "other basin": (7, lambda row: row.replace(GAUGE, "01022500"), "the row is of basin 01022500"),
    "bad number": (8, lambda row: row.replace("655.00", "655,00"), "'655,00' is not a number for"),
    "flag lost": (9, lambda row: row.replace(" A", ""), "expected 6 fields, found 5"),
    "row lost": (10, lambda row: "", "days are missing between 1990-02-18 and 1990-02-20"),
    "id broken": (11, lambda row: "x" + row, "'x01013500' is not a number for gauge_id"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FLOWS)
def test_bad_flow_names_line_and_cause(case):
    line, change, cause = BAD_FLOWS[case]
    with pytest.raises(DataFileError) as caught:
        read_flow(replace_line(flow_text(GAUGE), line, change))
    assert (caught.value.line, cause in caught.value.cause) == (line, True), caught.value


def test_empty_flow_and_impossible_area():
    with pytest.raises(DataFileError, match="the file is empty"):
        read_flow("")
    for area in (0.0, -1.0, float("nan")):
        with pytest.raises(DataFileError, match="with an area of"):
            read_flow(flow_text(GAUGE), area)


def test_one_changed_byte_is_refused_or_read_as_it_stands():
    """The fast parse takes nothing that a plain reading by fields would not, and no other value."""
    rng = np.random.default_rng(0)
    good = forcing_text().encode()
    start = len((HEAD + NAMES).encode())
    refused = 0
    for _ in range(1500):
        text = bytearray(good)
        at = int(rng.integers(start, len(text)))
        text[at] = rng.choice(list(b"0123456789.-+eEnaxXif_,;\"'#\t \n\r\x00\xff"))
        try:
            frame = parse_forcing(bytes(text), "f", GAUGE).frame
        except DataFileError as error:
            refused += error.line is not None
            continue
        rows = [row.split() for row in bytes(text[start:]).decode().splitlines() if row.strip()]
        plain = np.array([[float(field) for field in row] for row in rows], np.float32)
        for name, column in {"prcp": 5, "tmax": 8, "vp": 10}.items():
            values = plain[:, column]
            lowest = -273.15 if name == "tmax" else 0
            kept = values >= lowest
            np.testing.assert_allclose(frame[name][kept], values[kept], rtol=1e-6)
            assert frame[name][~kept].isna().all()
    assert refused > 400
