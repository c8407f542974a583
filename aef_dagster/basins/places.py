"""Where the published CAMELS-US files lie below a folder: as downloaded, or unpacked.

Here: names and places only; nothing is opened, and None means not found.
Not here: reading them (camels_us.py).
"""

from pathlib import Path

ARCHIVE = "basin_timeseries_v1p2_metForcing_obsFlow.zip"
ARCHIVE_FOLDER = "basin_dataset_public_v1p2"
ATTRIBUTE_FOLDER = "camels_attributes_v2.0"
ATTRIBUTE_TABLES = ("name", "topo", "soil", "geol", "vege", "clim", "hydro")
POLYGON_FOLDER = "basin_set_full_res"
# The official file first: the other one is Caravan's copy of the same basins.
POLYGON_FILES = ("HCDN_nhru_final_671.shp", "camels_basin_shapes.shp")


def attribute_table(root: Path, table: str) -> Path | None:
    """Path of `camels_<table>.txt`, in its published folder or directly in `root`."""
    places = (root / ATTRIBUTE_FOLDER, root)
    return _first_file(folder / f"camels_{table}.txt" for folder in places)


def polygons_file(root: Path) -> Path | None:
    """Path of the basin polygons, official or Caravan's, in their folder or directly in `root`."""
    folders = (root / POLYGON_FOLDER, root)
    return _first_file(folder / name for name in POLYGON_FILES for folder in folders)


def timeseries_archive(root: Path) -> Path | None:
    """Path of the unopened time-series archive, directly in `root`."""
    # A browser that downloads twice adds " (1)" to the name.
    return _first_file([root / ARCHIVE, *sorted(root.glob(f"{Path(ARCHIVE).stem}*.zip"))])


def timeseries_folder(root: Path) -> Path | None:
    """Folder that holds `basin_mean_forcing/` or `usgs_streamflow/` of the unpacked archive."""
    unpacked = root / Path(ARCHIVE).stem
    for folder in (root / ARCHIVE_FOLDER, root, unpacked / ARCHIVE_FOLDER, unpacked):
        if (folder / "basin_mean_forcing").is_dir() or (folder / "usgs_streamflow").is_dir():
            return folder
    return None


def _first_file(candidates) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)
