"""Published tables: what is read, what is refused and what the refusal says."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.sources import SourceSettings, open_source
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import DataFileError, UserError

IDS = ("01013500", "01022500", "14138900")


def table(ids=IDS, year: int | None = 2017, *, seed=0):
    """Vectors as a basin mean has them: a little shorter than 1."""
    vectors = np.random.default_rng([seed, year or 0]).normal(size=(len(ids), 64))
    vectors *= 0.9 / np.linalg.norm(vectors, axis=1, keepdims=True)
    frame = pd.DataFrame(vectors, columns=list(BANDS))
    frame.insert(0, "hru_id", [int(i) for i in ids])
    if year is not None:
        frame.insert(1, "year", year)
    return frame


@pytest.fixture
def folder(tmp_path):
    for year in (2019, 2017, 2018):
        table(year=year).to_csv(tmp_path / f"Basins_{year}.csv", index=False)
    return tmp_path


def test_folder_of_yearly_files(folder):
    source = TableSource(folder)
    assert source.years() == (2017, 2018, 2019)
    got = source.fetch(2018, [*IDS[::-1], "99999999"])
    assert got.missing == ("99999999",)
    assert got.frame["gauge_id"].tolist() == list(IDS[::-1])
    assert set(got.frame["year"]) == {2018}
    expected = table(year=2018)[list(BANDS)].to_numpy()[::-1]
    np.testing.assert_allclose(got.frame[list(BANDS)], expected, atol=1e-7)
    assert all(dtype == np.float32 for dtype in got.frame[list(BANDS)].dtypes)
    np.testing.assert_allclose(got.frame["norm"], 0.9, atol=1e-6)
    first = got.frame.iloc[0]
    assert (first["route"], first["dataset_version"]) == ("table", "unknown")
    assert np.isnan(first["valid_fraction"])
    assert not first["surrogate"]
    assert not first["sample"]


def test_provenance_is_the_hash_of_the_file_read(folder):
    got = TableSource(folder).fetch(2019, IDS)
    digest = hashlib.sha256((folder / "Basins_2019.csv").read_bytes()).hexdigest()
    assert got.provenance == {"route": "table", "files": {"Basins_2019.csv": digest}}
    assert set(got.frame["source_sha256"]) == {digest}
    assert set(got.frame["source_file"]) == {"Basins_2019.csv"}


def test_parquet_with_padded_prefixed_ids_and_extras(tmp_path):
    frame = pd.concat([table(year=year) for year in (2020, 2021)])
    frame["gauge_id"] = [f"camels_{i:08d}" for i in frame.pop("hru_id")]
    frame = frame.assign(valid_fraction=0.75, dataset_version="1.1", batch=3)
    path = tmp_path / "Surrogate_sample.parquet"
    frame.to_parquet(path)
    source = TableSource(path)
    assert source.years() == (2020, 2021)
    got = source.fetch(2021, IDS).frame
    assert got["gauge_id"].tolist() == list(IDS)
    assert set(got["valid_fraction"]) == {0.75}
    assert set(got["dataset_version"]) == {"1.1"}
    assert got["surrogate"].all()
    assert got["sample"].all()


def test_one_year_in_batches_of_basins(tmp_path):
    table(IDS[:2]).to_csv(tmp_path / "batch1.csv", index=False)
    table(IDS[2:]).to_csv(tmp_path / "batch2.csv", index=False)
    got = TableSource(tmp_path).fetch(2017, IDS)
    assert got.missing == ()
    assert got.frame["source_file"].tolist() == ["batch1.csv", "batch1.csv", "batch2.csv"]
    assert set(got.provenance["files"]) == {"batch1.csv", "batch2.csv"}


def test_table_without_year_is_a_finished_mean(tmp_path):
    table(year=None).to_csv(tmp_path / "mean.csv", index=False)
    source = TableSource(tmp_path)
    assert source.years() == ()
    got = source.fetch_mean(IDS)
    assert got.frame["year"].isna().all()
    assert len(got.frame) == 3
    with pytest.raises(UserError, match="no embeddings of 2017.*finished mean"):
        source.fetch(2017, IDS)


def test_a_year_laid_into_the_folder_later_is_seen(folder):
    source = TableSource(folder)
    assert source.years()[-1] == 2019
    table(year=2020).to_csv(folder / "Basins_2020.csv", index=False)
    assert source.years()[-1] == 2020


def test_a_file_that_changed_is_read_again(folder):
    source = TableSource(folder)
    before = source.fetch(2017, IDS).provenance["files"]
    path = folder / "Basins_2017.csv"
    table(year=2016).to_csv(path, index=False)
    os.utime(path, ns=(1, 1))
    assert source.years() == (2016, 2018, 2019)
    assert source.fetch(2016, IDS).provenance["files"] != before


def test_rows_of_other_basins_and_years_do_no_harm(tmp_path):
    frame = pd.concat([table(year=2017), table(("77777777",), year=2017), table(year=2018)])
    frame.loc[frame["hru_id"] == 77777777, "A05"] = np.nan
    frame.loc[frame["year"] == 2018, "A06"] = np.nan
    frame.to_csv(tmp_path / "all.csv", index=False)
    assert len(TableSource(tmp_path).fetch(2017, IDS).frame) == 3


def refused(path: Path, match: str, year: int | None = 2017) -> DataFileError:
    with pytest.raises(DataFileError, match=match) as caught:
        source = TableSource(path)
        source.fetch_mean(IDS) if year is None else source.fetch(year, IDS)
    return caught.value


def test_a_basin_twice_in_one_file(tmp_path):
    path = tmp_path / "twice.csv"
    pd.concat([table(), table(IDS[:1], seed=1)]).to_csv(path, index=False)
    error = refused(path, "occurs twice in twice.csv for 2017")
    assert error.gauge_id == "01013500"


def test_a_basin_in_two_files(folder):
    table(IDS[:1], year=2017).to_csv(folder / "again.csv", index=False)
    refused(folder, "occurs twice in Basins_2017.csv and again.csv for 2017")


def test_two_finished_means_are_one_too_many(tmp_path):
    for name in ("a.csv", "b.csv"):
        table(year=None).to_csv(tmp_path / name, index=False)
    refused(tmp_path, "a.csv and b.csv for the finished mean", year=None)


@pytest.mark.parametrize(("value", "shown"), [("", "nan"), ("cloudy", "'cloudy'"), ("inf", "inf")])
def test_a_band_that_is_no_number(tmp_path, value, shown):
    frame = table().astype({"A07": object})
    frame.loc[1, "A07"] = value
    path = tmp_path / "hole.csv"
    frame.to_csv(path, index=False)
    error = refused(path, f"A07 is .*{shown}.*not a number")
    assert (error.gauge_id, error.line) == ("01022500", 3)


@pytest.mark.parametrize("factor", [0.0, 127.5])
def test_vectors_that_are_no_embeddings(tmp_path, factor):
    frame = table()
    frame.loc[2, list(BANDS)] *= factor
    path = tmp_path / "raw.csv"
    frame.to_csv(path, index=False)
    error = refused(path, "length .* which no mean of AlphaEarth vectors has")
    assert (error.gauge_id, error.line) == ("14138900", 4)


def test_missing_bands(tmp_path):
    path = tmp_path / "short.csv"
    table().drop(columns=["A00", "A63"]).to_csv(path, index=False)
    refused(path, "lacks 2 of the 64 bands A00..A63: A00, A63")


def test_unknown_columns(tmp_path):
    path = tmp_path / "more.csv"
    table().assign(q_mean=1.0, runoff=2.0).to_csv(path, index=False)
    refused(path, "columns that no embedding table has: q_mean, runoff")


def test_no_column_of_ids(tmp_path):
    path = tmp_path / "anonymous.csv"
    table().drop(columns="hru_id").to_csv(path, index=False)
    refused(path, "no column of basin ids")


def test_no_known_basin(tmp_path):
    path = tmp_path / "elsewhere.csv"
    table(("20000001", "20000002")).to_csv(path, index=False)
    refused(path, "none of the 3 basins is in elsewhere.csv")


@pytest.mark.parametrize("year", ["", "2017.5", "later"])
def test_a_year_that_is_none(tmp_path, year):
    frame = table().astype({"year": object})
    frame.loc[0, "year"] = year
    path = tmp_path / "when.csv"
    frame.to_csv(path, index=False)
    assert refused(path, "the year is").line == 2


@pytest.mark.parametrize("name", ["text.csv", "text.parquet", "text.xlsx"])
def test_files_that_are_no_tables(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"" if name.endswith("csv") else b"this is no table")
    refused(path, "cannot be read as a table|neither .csv nor .parquet")


def test_a_row_with_too_many_fields(tmp_path):
    path = tmp_path / "ragged.csv"
    table().to_csv(path, index=False)
    with path.open("a") as stream:
        stream.write(",".join(["1"] * 80) + "\n")
    refused(path, "cannot be read as a table: .*line 5")


def test_table_without_rows(tmp_path):
    path = tmp_path / "empty.csv"
    table().head(0).to_csv(path, index=False)
    refused(path, "has no rows")


def test_all_years_where_a_mean_was_asked_for(folder):
    with pytest.raises(UserError, match="by year only"):
        TableSource(folder).fetch_mean(IDS)


def test_year_that_is_not_there(folder):
    with pytest.raises(UserError, match="no embeddings of 2025; it has: 2017, 2018, 2019"):
        TableSource(folder).fetch(2025, IDS)


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="AEF_EMBEDDINGS_DIR"):
        TableSource(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no .csv or .parquet"):
        TableSource(tmp_path)


def test_open_source(folder, tmp_path):
    settings = SourceSettings(
        kind="table", tables=folder, polygons=tmp_path / "polygons.parquet", scratch=tmp_path,
        cog_addresses=("http://127.0.0.1:1",), cog_connections=1, ee_project=None,
        ee_key_file=None, ee_scale=1000.0, ee_url=None,
    )  # fmt: skip
    assert open_source(settings).years() == (2017, 2018, 2019)
    with pytest.raises(UserError, match="set AEF_EMBEDDINGS_DIR"):
        open_source(replace(settings, tables=None))
    for kind in ("cog", "earth_engine"):
        assert open_source(replace(settings, kind=kind)).route == kind


def test_the_version_of_a_year_follows_its_files(folder):
    source = TableSource(folder)
    before = {year: source.version(year) for year in source.years()}
    assert before == {year: TableSource(folder).version(year) for year in source.years()}
    (changed,) = (file for file in folder.iterdir() if "2018" in file.name)
    changed.write_text(changed.read_text() + "\n")
    after = {year: source.version(year) for year in source.years()}
    assert {year for year in before if before[year] != after[year]} == {2018}


REAL = Path(
    os.environ.get("AEF_TEST_REAL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "aef_surrogate").is_dir(), reason=f"no tables below {REAL}")
def test_the_surrogate_tables():
    topo = REAL / "camels_us" / "camels_attributes_v2.0" / "camels_topo.txt"
    ids = pd.read_csv(topo, sep=";", dtype=str)["gauge_id"].tolist()
    source = TableSource(REAL / "aef_surrogate")
    assert source.years() == tuple(range(2017, 2026))
    years = [source.fetch(year, ids) for year in source.years()]
    for year in years:
        assert year.missing == ()
        assert year.frame["gauge_id"].tolist() == ids
        assert year.frame["surrogate"].all()
        assert year.frame["norm"].between(0.8, 1.0).all()
    vectors = [year.frame[list(BANDS)].to_numpy(dtype=float) for year in years]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    cosines = [np.median((a * b).sum(axis=1)) for a, b in zip(units, units[1:], strict=False)]
    assert all(0.97 < cosine < 0.99 for cosine in cosines)
