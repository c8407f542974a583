"""The built-in sample: read by the real reader, deterministic, honest in its null twin."""

import filecmp
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import open_dataset
from aef_dagster.basins.ingest import ingest_forcings, ingest_streamflow
from aef_dagster.basins.periods import default_periods
from aef_dagster.basins.sample import N_PER_TYPE, N_TYPES, SAMPLE_IDS, write_sample
from aef_dagster.errors import UserError

LANDSCAPE = np.repeat(np.arange(N_TYPES), N_PER_TYPE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module", params=["planted", "null"])
def world(request, folder):
    return open_sample(folder, request.param)


@pytest.fixture(scope="module")
def planted(folder):
    return open_sample(folder, "planted")


def open_sample(folder, world):
    return open_dataset(
        "sample", data_dir=None, forcing="daymet", sample_dir=folder, sample_world=world
    )


def embeddings(dataset):
    files = sorted((dataset.root / "aef_embeddings").glob("*.csv"))
    years = [pd.read_csv(path) for path in files]
    assert [table["year"].unique().tolist() for table in years] == [[y] for y in range(2017, 2025)]
    assert all((table["hru_id"] == [int(i) for i in SAMPLE_IDS]).all() for table in years)
    bands = [f"A{i:02d}" for i in range(64)]
    return np.stack([table[bands].to_numpy() for table in years], axis=1)


def share_of_like_donors(dataset, k=5):
    """Share of the k nearest basins, by centred cosine, that have the target's landscape."""
    vectors = embeddings(dataset).mean(axis=1)
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T - 2 * np.eye(len(vectors))
    nearest = np.argsort(-cosine, axis=1)[:, :k]
    return (LANDSCAPE[nearest] == LANDSCAPE[:, None]).mean()


def test_reader_takes_the_sample_whole(planted):
    assert planted.is_sample
    assert planted.name == "sample"
    assert planted.gauge_ids() == list(SAMPLE_IDS)
    assert all(item.found for item in planted.layout())
    catalog = planted.catalog()
    assert catalog["area_flag"].sum() == 2
    assert not (catalog["huc_02"] == catalog["gauge_id"].str[:2]).any()
    polygons = planted.polygons()
    assert polygons["gauge_id"].tolist() == list(SAMPLE_IDS)
    area = polygons.to_crs("EPSG:5070").area / 1e6
    np.testing.assert_allclose(area, catalog["area_geospa_km2"], rtol=0.01)
    attributes = planted.attributes()
    assert not attributes["dom_land_cover"].str.startswith(" ").any()
    assert attributes["geol_2nd_class"].isna().sum() == 2
    assert "made-up" in (planted.root / "readme.txt").read_text()


def test_series_are_physical_and_cover_the_periods(planted, tmp_path):
    forcings = ingest_forcings(planted, tmp_path / "f")
    streamflow = ingest_streamflow(planted, tmp_path / "q", planted.catalog())
    assert forcings.errors == streamflow.errors == {}
    assert streamflow.table["n_missing"].sum() > 0
    cube = load_cube(tmp_path / "f", tmp_path / "q")
    assert str(cube["date"].values[0])[:10] == "1990-01-01"
    assert str(cube["date"].values[-1])[:10] == "2003-12-31"
    assert not any(cube[name].isnull().any() for name in cube if name != "streamflow")
    assert (cube["tmax"] >= cube["tmin"]).all()
    assert 27_000 < cube["dayl"].min() < cube["dayl"].max() < 60_000
    assert 20 < cube["srad"].min() < cube["srad"].max() < 600
    balance = cube["streamflow"].mean("date") / cube["prcp"].mean("date")
    assert ((balance > 0.15) & (balance < 0.85)).all()
    periods = default_periods("sample")
    for start, end in [
        (periods.train_start, periods.train_end),
        (periods.valid_start, periods.valid_end),
        (periods.test_start, periods.test_end),
    ]:
        known = cube["streamflow"].sel(date=slice(start, end)).notnull().mean("date")
        assert known.min() > 0.8


def test_landscape_makes_the_hydrograph(planted):
    """Basins of one landscape flow alike, whatever their climate: the ground of the donors."""
    catalog = planted.catalog()
    quickness = []
    for gauge_id, area in zip(catalog["gauge_id"], catalog["area_km2"], strict=True):
        flow = planted.read_streamflow(gauge_id, area)["streamflow"]
        quickness.append(flow.diff().abs().mean() / flow.mean())
    quickness = np.array(quickness).reshape(N_TYPES, N_PER_TYPE)
    sand, clay, mountain, lakes = quickness.mean(axis=1)
    assert mountain > 1.5 * clay > 3 * max(sand, lakes)


def test_embeddings_have_the_statistics_of_the_real_table(world):
    vectors = embeddings(world)
    norm = np.linalg.norm(vectors, axis=-1)
    assert 0.85 < norm.min() < norm.max() < 1
    unit = vectors / norm[..., None]
    neighbours = (unit[:, 1:] * unit[:, :-1]).sum(axis=-1).mean()
    assert neighbours == pytest.approx(0.98, abs=0.005)


def test_planted_embeddings_know_the_landscape_and_null_ones_do_not(folder):
    assert share_of_like_donors(open_sample(folder, "planted")) > 0.9
    # By chance: 5 of 23.
    assert share_of_like_donors(open_sample(folder, "null")) < 0.35


def test_worlds_differ_in_their_embeddings_only(folder):
    planted, null = (open_sample(folder, world).root for world in ("planted", "null"))
    files = sorted(path.relative_to(planted) for path in planted.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(null) for path in null.rglob("*") if path.is_file())
    differ = {str(f) for f in files if not filecmp.cmp(planted / f, null / f, shallow=False)}
    expected = {str(f) for f in files if f.parts[0] == "aef_embeddings"} | {"readme.txt"}
    assert differ == expected


def test_same_seed_same_files_and_other_seed_other_weather(planted, tmp_path):
    write_sample(tmp_path / "again", "planted")
    write_sample(tmp_path / "other", "planted", seed=1)
    name = "basin_dataset_public_v1p2/basin_mean_forcing/daymet/01"
    name += "/00901001_lump_cida_forcing_leap.txt"
    first = (planted.root / name).read_bytes()
    assert (tmp_path / "again" / name).read_bytes() == first
    assert (tmp_path / "other" / name).read_bytes() != first


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    from aef_dagster.basins import sample_files

    def breaks(world, folder):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(sample_files, "_write_embeddings", breaks)
        with pytest.raises(OSError, match="disk full"):
            write_sample(tmp_path / "s", "planted")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="there is no sample world 'other'"):
        write_sample(tmp_path / "s", "other")


def test_two_at_once_make_one_sample(tmp_path, planted):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(write_sample, tmp_path / "s", "planted") for _ in range(2)]
        assert [job.result() for job in both] == [None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    files = [path for path in planted.root.rglob("*") if path.is_file()]
    assert len(files) == sum(path.is_file() for path in (tmp_path / "s").rglob("*"))


def test_existing_sample_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    write_sample(tmp_path / "s", "planted")
    assert list((tmp_path / "s").iterdir()) == []


def test_ids_load_without_heavy_modules():
    code = (
        "import sys; from aef_dagster.basins.dataset import basin_ids; "
        "assert len(basin_ids('sample', None)) == 24; "
        "bad = {'numpy', 'pandas', 'pyarrow', 'xarray', 'geopandas'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
