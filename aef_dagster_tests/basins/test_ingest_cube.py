"""Raw files to Parquet to the cube: nothing is lost, and one bad basin stops no other."""

import os
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from aef_dagster.basins.camels_us import CamelsUS
from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import FORCINGS, UNITS
from aef_dagster.basins.ingest import SECONDS_TO_WRITE, ingest_forcings, ingest_streamflow
from aef_dagster.errors import DataFileError, UserError
from aef_dagster_tests.basins.tiny_camels import (
    ARCHIVE,
    BASINS,
    DATES,
    flow_text,
    forcing_text,
    members,
    write_tiny,
)

FORCING_15 = "basin_mean_forcing/daymet/15/09430500_lump_cida_forcing_leap.txt"
FLOW_17 = "usgs_streamflow/17/14400000_streamflow_qc.txt"


def ingest(root, out, files=None):
    dataset = CamelsUS(write_tiny(root, files=files), "daymet")
    forcings = ingest_forcings(dataset, out / "forcings")
    streamflow = ingest_streamflow(dataset, out / "streamflow", dataset.catalog())
    return forcings, streamflow


def load(out, ids=None):
    return load_cube(out / "forcings", out / "streamflow", ids)


def test_parquet_schema_and_report(tmp_path):
    forcings, streamflow = ingest(tmp_path / "raw", tmp_path)
    table = pq.read_table(tmp_path / "forcings" / "09430500.parquet")
    assert table.column_names == ["gauge_id", "date", *FORCINGS]
    assert str(table.schema.field("date").type) == "date32[day]"
    assert str(table.schema.field("gauge_id").type).startswith("dictionary")
    assert {str(table.schema.field(name).type) for name in FORCINGS} == {"float"}
    assert set(table["gauge_id"].to_pylist()) == {"09430500"}
    assert forcings.errors == streamflow.errors == {}
    assert forcings.pet_method == "oudin_2005"
    assert forcings.table["gauge_id"].tolist() == list(BASINS)
    row = forcings.table.iloc[0]
    assert (row["n_days"], row["n_missing"]) == (40, 0)
    assert (str(row["first_date"].date()), str(row["last_date"].date())) == (
        str(DATES[0]),
        str(DATES[-1]),
    )
    assert row["area_km2"] == pytest.approx(2260.093113)
    assert not list(tmp_path.rglob("*.tmp"))


def test_cube_shape_units_and_values(tmp_path):
    files = members() | {FLOW_17: flow_text("14400000", DATES[10:], cfs=100.0)}
    ingest(tmp_path / "raw", tmp_path, files)
    cube = load(tmp_path)
    assert dict(cube.sizes) == {"basin": 3, "date": 40}
    assert {name: cube[name].attrs["units"] for name in cube} == UNITS
    assert {cube[name].dtype for name in cube} == {np.dtype("float32")}
    flow = cube["streamflow"].sel(basin="14400000").values
    assert np.isnan(flow[:10]).all()
    assert flow[10:] == pytest.approx(100 * 2.4465755 / 500)
    assert cube["prcp"].sel(basin="01013500", date="1990-02-12").item() == 2.0
    assert np.isfinite(cube["pet"].values).all()
    without = load_cube(tmp_path / "forcings", None)
    assert without["streamflow"].isnull().all()
    assert without["prcp"].equals(cube["prcp"])


def test_cube_of_unequal_records_spans_the_forcings(tmp_path):
    late = np.arange("1990-03-01", "1990-04-11", dtype="datetime64[D]")
    files = members() | {FORCING_15: forcing_text(late), FLOW_17: flow_text("14400000", late + 30)}
    ingest(tmp_path / "raw", tmp_path, files)
    cube = load(tmp_path, ["14400000", "09430500"])
    assert cube["basin"].values.tolist() == ["14400000", "09430500"]
    assert str(cube["date"].values[0])[:10] == str(DATES[0])
    assert str(cube["date"].values[-1])[:10] == "1990-04-10"
    assert np.isnan(cube["tmax"].sel(basin="09430500", date="1990-02-28"))
    assert np.isnan(cube["tmax"].sel(basin="14400000", date="1990-04-10"))
    # The flow begins on 31 March; what goes beyond the forcings is left out.
    assert int(np.isfinite(cube["streamflow"].sel(basin="14400000")).sum()) == 11


def test_one_bad_basin_is_reported_and_its_old_parquet_removed(tmp_path):
    ingest(tmp_path / "raw", tmp_path)
    bad = members() | {FORCING_15: forcing_text().replace("400.00", "4oo", 1)}
    bad[FLOW_17] = flow_text("01022500")
    seen = []
    dataset = CamelsUS(write_tiny(tmp_path / "bad", files=bad), "daymet")
    forcings = ingest_forcings(dataset, tmp_path / "forcings", on_progress=seen.append)
    assert seen == list(BASINS)
    assert list(forcings.errors) == ["09430500"]
    for part in (ARCHIVE + "!", FORCING_15, "line 5", "'4oo' is not a number for vp"):
        assert part in forcings.errors["09430500"]
    assert forcings.table["gauge_id"].tolist() == ["01013500", "14400000"]
    left = sorted(path.stem for path in (tmp_path / "forcings").iterdir())
    assert left == ["01013500", "14400000"]
    streamflow = ingest_streamflow(dataset, tmp_path / "streamflow", dataset.catalog())
    assert "line 1: the row is of basin 01022500" in streamflow.errors["14400000"]
    with pytest.raises(UserError, match=r"no forcings for 09430500 .*materialize"):
        load(tmp_path, ["09430500"])
    cube = load(tmp_path)
    assert cube["basin"].values.tolist() == left
    assert np.isnan(cube["streamflow"].sel(basin="14400000")).all()


def test_what_a_killed_writer_left_is_swept_and_a_living_ones_is_not(tmp_path):
    folder = tmp_path / "forcings"
    folder.mkdir()
    old, young = folder / "01013500.parquet.4711.tmp", folder / "01013500.parquet.4712.tmp"
    for left in (old, young):
        left.write_bytes(b"half")
    before = time.time() - 2 * SECONDS_TO_WRITE
    os.utime(old, (before, before))
    ingest(tmp_path / "raw", tmp_path)
    assert [path.name for path in folder.glob("*.tmp")] == [young.name]


def test_fingerprint_follows_the_content_only(tmp_path):
    first, flow = ingest(tmp_path / "a", tmp_path / "out_a")
    again, _ = ingest(tmp_path / "b", tmp_path / "out_b")
    assert first.fingerprint == again.fingerprint != flow.fingerprint
    dataset = CamelsUS(tmp_path / "a", "daymet")
    turned = ingest_forcings(dataset, tmp_path / "out_c", list(BASINS)[::-1])
    assert turned.fingerprint == first.fingerprint
    changed = members() | {FORCING_15: forcing_text(tmax=4.01)}
    other, _ = ingest(tmp_path / "d", tmp_path / "out_d", changed)
    assert other.fingerprint != first.fingerprint


def test_damaged_archive_fails_as_a_whole_and_keeps_what_is_there(tmp_path):
    ingest(tmp_path / "raw", tmp_path)
    (tmp_path / "raw" / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(DataFileError, match="not a whole zip archive"):
        ingest_forcings(CamelsUS(tmp_path / "raw", "daymet"), tmp_path / "forcings")
    assert len(list((tmp_path / "forcings").glob("*.parquet"))) == 3


def test_basin_without_an_area_is_an_error_of_that_basin(tmp_path):
    dataset = CamelsUS(write_tiny(tmp_path / "raw"), "daymet")
    catalog = dataset.catalog()
    catalog.loc[1, "area_km2"] = np.nan
    report = ingest_streamflow(dataset, tmp_path / "streamflow", catalog)
    assert "with an area of nan km2" in report.errors["09430500"]
    assert len(report.table) == 2


def test_no_basin_left_still_gives_a_report(tmp_path):
    files = {name: "" for name in members()}
    forcings, streamflow = ingest(tmp_path / "raw", tmp_path, files)
    assert len(forcings.errors) == len(streamflow.errors) == 3
    assert len(forcings.table) == 0
    assert "gauge_id" in forcings.table
    with pytest.raises(UserError, match="there are no forcings at all"):
        load(tmp_path)


def test_broken_parquet_is_named(tmp_path):
    ingest(tmp_path / "raw", tmp_path)
    (tmp_path / "streamflow" / "01013500.parquet").write_bytes(b"junk")
    with pytest.raises(DataFileError, match=r"01013500.parquet: not a readable Parquet file"):
        load(tmp_path)
