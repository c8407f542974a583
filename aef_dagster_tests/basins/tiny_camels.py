"""A CAMELS-US of three basins and forty days, written by hand for the tests of this folder.

The numbers are simple on purpose, so that a test can say what must come out.
"""

import zipfile
from pathlib import Path

import numpy as np

BASINS = {"01013500": "01", "09430500": "15", "14400000": "17"}
AREAS = {"01013500": 2252.7, "09430500": 100.0, "14400000": 500.0}
DATES = np.arange("1990-02-10", "1990-03-22", dtype="datetime64[D]")
ARCHIVE = "basin_timeseries_v1p2_metForcing_obsFlow.zip"
INNER = "basin_dataset_public_v1p2"
HEAD = "  46.84\n 353.00\n2260093113\n"
NAMES = "Year Mnth Day Hr\tdayl(s)\tprcp(mm/day)\tsrad(W/m2)\tswe(mm)\ttmax(C)\ttmin(C)\tvp(Pa)\n"
INFIX = {"daymet": "cida", "maurer": "maurer", "maurer_extended": "maurer", "nldas": "nldas"}


def parts(date: np.datetime64) -> str:
    return str(date).replace("-", " ")


def forcing_text(dates=DATES, tmax: float = 4.0, tmin: float = -2.0, names: str = NAMES) -> str:
    rows = [
        f"{parts(d)} 12\t30000.00\t{i % 5:.2f}\t 200.00\t0.00\t{tmax:.2f}\t{tmin:.2f}\t400.00\n"
        for i, d in enumerate(dates)
    ]
    return HEAD + names + "".join(rows)


def flow_text(gauge_id: str, dates=DATES, cfs: float = 655.0) -> str:
    return "".join(f"{gauge_id} {parts(d)}   {cfs:.2f} A\n" for d in dates)


def members(product: str = "daymet") -> dict[str, str]:
    """Paths inside the archive and their text, with the clutter that published archives have."""
    files = {f"basin_mean_forcing/{product}/.DS_Store": "\x00junk"}
    for gauge_id, huc in BASINS.items():
        name = f"{gauge_id}_lump_{INFIX[product]}_forcing_leap.txt"
        files[f"basin_mean_forcing/{product}/{huc}/{name}"] = forcing_text()
        files[f"basin_mean_forcing/{product}/{huc}/._{name}"] = "junk"
        files[f"usgs_streamflow/{huc}/{gauge_id}_streamflow_qc.txt"] = flow_text(gauge_id)
    # Published without attributes.
    files["usgs_streamflow/10/06775500_streamflow_qc.txt"] = flow_text("06775500")
    return files


def write_archive(root: Path, files: dict[str, str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{INNER}/{name}", text)
    return root / ARCHIVE


def write_unpacked(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_attributes(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    huc, area = list(BASINS.values()), list(AREAS.values())
    tables = {
        "name": ("huc_02;gauge_name", [f"{h};River {h}, Somewhere" for h in huc]),
        "topo": (
            "gauge_lat;gauge_lon;elev_mean;slope_mean;area_gages2;area_geospa_fabric",
            [f"{40 + i};{-90 - i};250.3;21.6;{a};{a * (1.2 if i == 1 else 1.01)}" for i, a in
             enumerate(area)],
        ),
        "soil": ("soil_depth_statsgo;soil_porosity", ["1.2;0.46", "1.4;NA", "1.0;0.44"]),
        "geol": (
            "geol_1st_class;geol_2nd_class;geol_porostiy",
            ["Metamorphics;NA;0.17", "Evaporites;Metamorphics;0.07", "Metamorphics;NA;0.1"],
        ),
        "vege": ("dom_land_cover;root_depth_50", ["    Mixed Forests;NA"] * 3),
        "clim": ("p_mean;high_prec_timing", ["3.1;son", "2.0;jja", "1.0;djf"]),
        "hydro": ("q_mean", ["1.7", "2.2", "NA"]),
    }  # fmt: skip
    for table, (columns, rows) in tables.items():
        lines = [f"{gauge_id};{row}" for gauge_id, row in zip(BASINS, rows, strict=True)]
        text = "\n".join([f"gauge_id;{columns}", *lines, ""])
        (folder / f"camels_{table}.txt").write_text(text)


def write_tiny(root: Path, product: str = "daymet", files: dict[str, str] | None = None) -> Path:
    """As downloaded: the archive unopened, the attribute tables in their folder."""
    write_archive(root, members(product) if files is None else files)
    write_attributes(root / "camels_attributes_v2.0")
    return root
