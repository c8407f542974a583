"""The reader, the climate indices and the speed on the real files."""

import resource
import time

import numpy as np
import pytest

from aef_dagster.basins.climate import CLIMATE_INDICES, climate_from_cube
from aef_dagster.basins.cube import load_cube
from aef_dagster.basins.dataset import basin_ids, open_dataset
from aef_dagster.basins.ingest import ingest_forcings, ingest_streamflow
from aef_dagster.basins.subsets import camels_531

pytestmark = pytest.mark.real_data


@pytest.fixture
def dataset(real_data):
    return open_dataset("camels_us", data_dir=real_data / "camels_us", forcing="maurer_extended")


def test_catalog_attributes_polygons(dataset):
    catalog = dataset.catalog()
    assert len(catalog) == 671
    assert tuple(catalog["gauge_id"]) == basin_ids("camels_us", dataset.root)
    assert (catalog["huc_02"] != catalog["gauge_id"].str[:2]).sum() == 599
    assert catalog["area_flag"].sum() == 62
    assert set(camels_531()) <= set(catalog["gauge_id"])
    missing = dataset.attributes().isna().sum()
    assert missing[missing > 0].to_dict() == {
        "geol_2nd_class": 138,
        "geol_porostiy": 3,
        "root_depth_50": 24,
        "root_depth_99": 24,
    }
    assert dataset.attributes()["dom_land_cover"].nunique() == 12
    assert len(dataset.signatures()) == 671
    assert dataset.polygons()["gauge_id"].tolist() == catalog["gauge_id"].tolist()
    assert all(item.found for item in dataset.layout())


def test_one_day_of_one_basin(dataset):
    record = dataset.read_forcing("01013500")
    first = record.frame.iloc[0]
    assert (len(record.frame), record.lat) == (10_593, 46.84)
    assert (first["tmax"], first["tmin"]) == (np.float32(-7.33), np.float32(-17.41))
    flow = dataset.read_streamflow("01013500", 2252.7)
    assert flow["streamflow"].iloc[0] == pytest.approx(0.7114, abs=1e-4)
    assert flow["streamflow"].isna().iloc[-1]


@pytest.mark.slow
def test_all_basins_within_memory(dataset, tmp_path):
    start = time.process_time()
    catalog = dataset.catalog()
    forcings = ingest_forcings(dataset, tmp_path / "f")
    streamflow = ingest_streamflow(dataset, tmp_path / "q", catalog)
    ingested = time.process_time() - start
    start = time.process_time()
    cube = load_cube(tmp_path / "f", tmp_path / "q")
    loaded = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ingest {ingested:.1f} s CPU, cube {loaded:.1f} s CPU, peak {peak:.0f} MiB")
    assert forcings.errors == streamflow.errors == {}
    assert len(forcings.table) == len(streamflow.table) == 671
    assert dict(cube.sizes) == {"basin": 671, "date": 10_593}
    assert peak <= 1536
    complete = cube["streamflow"].sel(date=slice("1980-10-01", "2008-09-30")).notnull().all("date")
    # Counted in the text of the files: 598 have a row for each day, 24 of them some -999.
    assert int(complete.sum()) == 574

    ours = climate_from_cube(cube, "1989-10-01", "2008-09-30")
    published = dataset.attributes().loc[ours.index]
    agreement = {
        name: ours[name].corr(published[name], method="spearman") for name in CLIMATE_INDICES
    }
    print({name: round(value, 3) for name, value in agreement.items()})
    # The published ones come from Daymet and a calibrated PET, ours here from Maurer and Oudin.
    floors = {"pet_mean": 0.5, "aridity": 0.7, "high_prec_freq": 0.85, "high_prec_dur": 0.85}
    low = {k: v for k, v in agreement.items() if v < floors.get(k, 0.9)}
    assert not low
