"""The reader: the layouts it takes, the quirks of the published files, what it says is missing."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.basins.camels_us import CamelsUS
from aef_dagster.basins.dataset import FORCING_PRODUCTS, basin_ids, open_dataset
from aef_dagster.errors import DataFileError, UserError
from aef_dagster_tests.basins.tiny_camels import (
    ARCHIVE,
    AREAS,
    BASINS,
    INNER,
    forcing_text,
    members,
    write_archive,
    write_attributes,
    write_tiny,
    write_unpacked,
)

OUTSIDE = "09430500"  # lies in HUC 15, not 09


def read_one(root, product="daymet"):
    dataset = CamelsUS(root, product)
    record = dataset.read_forcing(OUTSIDE)
    flow = dataset.read_streamflow(OUTSIDE, AREAS[OUTSIDE])
    assert len(record.frame) == len(flow) == 40
    assert all(item.found for item in dataset.layout() if item.what != "polygons")
    return record, flow


@pytest.mark.parametrize("product", FORCING_PRODUCTS)
def test_archive_unopened_with_each_product(tmp_path, product):
    record, flow = read_one(write_tiny(tmp_path, product), product)
    assert record.lat == 46.84
    assert flow["streamflow"].iloc[0] == pytest.approx(655 * 2.4465755 / 100)


@pytest.mark.parametrize("below", [INNER, ".", f"{ARCHIVE[:-4]}/{INNER}", ARCHIVE[:-4]])
def test_unpacked_with_and_without_the_inner_folder(tmp_path, below):
    write_unpacked(tmp_path / below, members())
    write_attributes(tmp_path)  # directly in the folder
    read_one(tmp_path)


def test_second_download_and_unpacked_half(tmp_path):
    """An archive named by the browser serves what the unpacked folder does not have."""
    write_tiny(tmp_path).rename(tmp_path)
    (tmp_path / ARCHIVE).rename(tmp_path / f"{ARCHIVE[:-4]} (1).zip")
    only_flow = {name: text for name, text in members().items() if "usgs" in name}
    write_unpacked(tmp_path / INNER, only_flow)
    read_one(tmp_path)


def test_catalog_areas_and_flags(tmp_path):
    catalog = CamelsUS(write_tiny(tmp_path), "daymet").catalog()
    assert catalog["gauge_id"].tolist() == list(BASINS)
    assert catalog["huc_02"].tolist() == ["01", "15", "17"]
    assert catalog["area_km2"].tolist() == list(AREAS.values())
    assert catalog["area_mismatch"].tolist() == pytest.approx([0.01, 0.2, 0.01])
    assert catalog["area_flag"].tolist() == [False, True, False]
    assert catalog["name"].iloc[0] == "River 01, Somewhere"


def test_attributes_stripped_missing_and_without_signatures(tmp_path):
    dataset = CamelsUS(write_tiny(tmp_path), "daymet")
    table = dataset.attributes()
    assert table.index.tolist() == list(BASINS)
    assert set(table["dom_land_cover"]) == {"Mixed Forests"}
    assert table["geol_2nd_class"].isna().tolist() == [True, False, True]
    assert table["root_depth_50"].isna().all()
    assert np.isnan(table.loc[OUTSIDE, "soil_porosity"])
    assert table["geol_porostiy"].dtype == float
    assert table["high_prec_timing"].tolist() == ["son", "jja", "djf"]
    assert "q_mean" not in table
    assert dataset.signatures()["q_mean"].isna().tolist() == [False, False, True]


def test_bad_attribute_names_its_line(tmp_path):
    path = write_tiny(tmp_path) / "camels_attributes_v2.0" / "camels_soil.txt"
    path.write_text(path.read_text().replace("1.4;NA", "1,4;NA"))
    with pytest.raises(DataFileError, match=r"camels_soil.txt, line 3: '1,4' is not a number"):
        CamelsUS(tmp_path, "daymet").attributes()
    path.write_text("id;x\n01013500;1\n")
    with pytest.raises(DataFileError, match="lacks the column gauge_id"):
        CamelsUS(tmp_path, "daymet").attributes()


def test_basin_twice_in_a_table(tmp_path):
    path = write_tiny(tmp_path) / "camels_attributes_v2.0" / "camels_name.txt"
    path.write_text(path.read_text() + "1013500;01;again\n")
    with pytest.raises(DataFileError, match="line 5: the basin 01013500 comes twice"):
        CamelsUS(tmp_path, "daymet").gauge_ids()


def test_missing_column_of_the_catalog(tmp_path):
    path = write_tiny(tmp_path) / "camels_attributes_v2.0" / "camels_topo.txt"
    path.write_text(path.read_text().replace("area_gages2", "area"))
    with pytest.raises(DataFileError, match="the first line lacks area_gages2"):
        CamelsUS(tmp_path, "daymet").catalog()


def write_polygons(path, column, ids, crs="EPSG:4326"):
    import geopandas as gpd
    from shapely.geometry import box

    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = [box(-70 - i, 40, -69 - i, 41) for i in range(len(ids))]
    frame = gpd.GeoDataFrame({column: ids}, geometry=shapes, crs="EPSG:4326")
    frame.to_crs(crs).to_file(path)


@pytest.mark.parametrize(
    ("file", "column", "ids"),
    [
        ("basin_set_full_res/HCDN_nhru_final_671.shp", "hru_id", [14400000, 1013500, 9430500]),
        ("HCDN_nhru_final_671.shp", "hru_id", [14400000.0, 1013500.0, 9430500.0]),
        (
            "basin_set_full_res/camels_basin_shapes.shp",
            "gauge_id",
            ["camels_14400000", "camels_01013500", "camels_09430500"],
        ),
        ("camels_basin_shapes.shp", "gauge_id", ["14400000", "1013500", "09430500"]),
    ],
)
def test_polygons_official_and_caravan(tmp_path, file, column, ids):
    write_polygons(write_tiny(tmp_path) / file, column, ids, crs="EPSG:5070")
    polygons = CamelsUS(tmp_path, "daymet").polygons()
    assert polygons["gauge_id"].tolist() == list(BASINS)
    assert polygons.crs.to_epsg() == 4326
    # The first row of the file is the last basin.
    assert polygons.geometry.iloc[2].centroid.x == pytest.approx(-69.5, abs=0.05)


def test_polygons_missing_or_broken(tmp_path):
    dataset = CamelsUS(write_tiny(tmp_path), "daymet")
    with pytest.raises(UserError, match=r"HCDN_nhru_final_671.shp: download and unpack"):
        dataset.polygons()
    (tmp_path / "HCDN_nhru_final_671.shp").write_bytes(b"nothing")
    with pytest.raises(DataFileError, match="the polygons cannot be read"):
        dataset.polygons()


def test_no_forcings_of_this_product_says_which_there_are(tmp_path):
    dataset = CamelsUS(write_tiny(tmp_path, "maurer"), "nldas")
    with pytest.raises(UserError, match="found: maurer .choose with AEF_FORCING"):
        dataset.read_forcing(OUTSIDE)
    forcing = dataset.layout()[0]
    assert (forcing.found, forcing.what) == (False, "forcings (nldas)")
    assert "maurer" in forcing.hint


def test_no_file_of_one_basin(tmp_path):
    dataset = CamelsUS(write_tiny(tmp_path), "daymet")
    with pytest.raises(DataFileError, match="there is no streamflow file of this basin"):
        dataset.read_streamflow("01022500", 1.0)


def test_empty_folder_says_all_that_is_missing_and_where(tmp_path):
    layout = CamelsUS(tmp_path, "daymet").layout()
    assert len(layout) == 9
    assert not any(item.found for item in layout)
    assert all(item.hint and item.path.is_relative_to(tmp_path) for item in layout)
    with pytest.raises(UserError, match="camels_attributes_v2.0/camels_name.txt"):
        CamelsUS(tmp_path, "daymet").gauge_ids()


def test_archive_that_is_none_and_one_cut_short(tmp_path):
    path = write_tiny(tmp_path) / ARCHIVE
    whole = path.read_bytes()
    for content in (b"<html>404</html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        dataset = CamelsUS(tmp_path, "daymet")
        with pytest.raises(DataFileError, match="not a whole zip archive .*download it again"):
            dataset.read_forcing(OUTSIDE)
        assert not dataset.layout()[0].found


def test_damage_inside_the_archive_hits_one_basin(tmp_path):
    path = write_tiny(tmp_path) / ARCHIVE
    content = bytearray(path.read_bytes())
    at = content.index(b"09430500_lump_cida") + 80
    content[at : at + 20] = bytes(20)
    path.write_bytes(bytes(content))
    dataset = CamelsUS(tmp_path, "daymet")
    with pytest.raises(DataFileError, match=r"\.zip!.*09430500.*damaged here") as caught:
        dataset.read_forcing(OUTSIDE)
    assert caught.value.gauge_id == OUTSIDE
    assert len(dataset.read_forcing("01013500").frame) == 40


def test_folder_file_error_names_the_file(tmp_path):
    files = members()
    name = next(name for name in files if name.endswith("15/09430500_lump_cida_forcing_leap.txt"))
    write_unpacked(tmp_path, files | {name: forcing_text().replace("400.00", "?", 1)})
    with pytest.raises(DataFileError, match=r"09430500_lump_cida_forcing_leap.txt, line 5: '\?'"):
        CamelsUS(tmp_path, "daymet").read_forcing(OUTSIDE)


def test_basin_ids_without_opening(tmp_path):
    assert basin_ids("camels_us", None) == ()
    assert basin_ids("camels_us", tmp_path) == ()
    write_attributes(tmp_path)
    assert basin_ids("camels_us", tmp_path) == tuple(BASINS)
    assert len(basin_ids("sample", None)) == 24


def test_open_dataset_refuses_what_it_cannot_use(tmp_path):
    for name, data_dir, forcing, cause in [
        ("camels_uk", tmp_path, "daymet", "there is no dataset 'camels_uk'"),
        ("camels_us", tmp_path, "era5", "there is no forcing product 'era5'"),
        ("camels_us", None, "daymet", "set AEF_DATA_DIR"),
        ("camels_us", tmp_path / "absent", "daymet", "is not a folder: set AEF_DATA_DIR"),
        ("sample", None, "nldas", "the sample dataset has the forcing daymet only"),
    ]:
        with pytest.raises(UserError, match=cause):
            open_dataset(name, data_dir=data_dir, forcing=forcing, sample_dir=tmp_path)


def test_member_names_cannot_lead_outside(tmp_path):
    """Nothing is unpacked: a hostile name is a name that matches or does not."""
    hostile = "../../basin_mean_forcing/daymet/15/09430500_lump_cida_forcing_leap.txt"
    root = tmp_path / "in" / "here"
    write_archive(root, {hostile: forcing_text()})
    assert len(CamelsUS(root, "daymet").read_forcing(OUTSIDE).frame) == 40
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [ARCHIVE]


def test_attribute_table_order_is_that_of_the_names(tmp_path):
    path = write_tiny(tmp_path) / "camels_attributes_v2.0" / "camels_clim.txt"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *rows[::-1]]))
    table = CamelsUS(tmp_path, "daymet").attributes()
    pd.testing.assert_index_equal(table.index, pd.Index(list(BASINS), name="gauge_id"))
    assert table["p_mean"].tolist() == [3.1, 2.0, 1.0]
