"""The datasets by name: their variables and units, which basins they hold, how to open one.

Light on purpose: Dagster reads `basin_ids` each time it loads the definitions, so nothing here
imports pandas until a dataset is opened.
Not here: reading files (camels_us.py), making the sample (sample.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from aef_dagster.basins import places
from aef_dagster.basins.sample import SAMPLE_IDS, SAMPLE_VERSION, write_sample
from aef_dagster.errors import UserError

if TYPE_CHECKING:
    from aef_dagster.basins.camels_us import CamelsUS

DATASETS = ("sample", "camels_us")
# They become names of files and partitions. Not \d, which takes digits of every script.
GAUGE_ID = re.compile("[0-9]{8}")
FORCINGS = ("prcp", "dayl", "srad", "tmax", "tmin", "vp", "pet")
FORCING_PRODUCTS = ("daymet", "maurer", "maurer_extended", "nldas")
UNITS = {
    "prcp": "mm/day",
    "dayl": "s",
    "srad": "W/m2",
    "tmax": "degC",
    "tmin": "degC",
    "vp": "Pa",
    "pet": "mm/day",
    "streamflow": "mm/day",
}
SAMPLE_FORCING = "daymet"


def open_dataset(
    name: str,
    *,
    data_dir: Path | None,
    forcing: str,
    sample_dir: Path | None = None,
    sample_world: str = "planted",
) -> CamelsUS:
    """Open a dataset for reading; the sample is made first where it is not there yet.

    Parameters
    ----------
    name
        `sample` or `camels_us`.
    data_dir
        Folder with the downloaded CAMELS-US files; not used for the sample.
    forcing
        Forcing product, one of `FORCING_PRODUCTS`; the sample has `daymet` only.
    sample_dir
        Folder to keep the sample in; each world and version has its own folder in it.
    sample_world
        `planted` (embeddings know the landscape) or `null` (they know nothing).

    Returns
    -------
    CamelsUS
        The reader, with `name`, `is_sample`, `forcing` and `root`.

    Raises
    ------
    UserError
        When the name, the product or the folder cannot be used.
    """
    from aef_dagster.basins.camels_us import CamelsUS

    if name not in DATASETS:
        raise UserError(f"there is no dataset {name!r}: choose one of {', '.join(DATASETS)}")
    if forcing not in FORCING_PRODUCTS:
        raise UserError(
            f"there is no forcing product {forcing!r}: choose one of {', '.join(FORCING_PRODUCTS)}"
        )
    if name == "sample":
        if sample_dir is None:
            raise UserError("the sample dataset needs a folder to be written to")
        if forcing != SAMPLE_FORCING:
            raise UserError(
                f"the sample dataset has the forcing {SAMPLE_FORCING} only, not {forcing}: "
                f"set AEF_FORCING={SAMPLE_FORCING}"
            )
        root = sample_folder(sample_dir, sample_world)
        if not root.is_dir():
            write_sample(root, sample_world)
        return CamelsUS(root, forcing, name=name)
    if data_dir is None:
        raise UserError(
            "the dataset camels_us needs the folder with the downloaded files: set AEF_DATA_DIR"
        )
    if not Path(data_dir).is_dir():
        raise UserError(
            f"{data_dir} is not a folder: set AEF_DATA_DIR to where the CAMELS-US files are"
        )
    return CamelsUS(Path(data_dir), forcing, name=name)


def sample_folder(sample_dir: Path, world: str) -> Path:
    """Where a world of the sample lies: one folder a world and version, never mixed."""
    return Path(sample_dir) / f"{world}-v{SAMPLE_VERSION}"


def basin_ids(name: str, data_dir: Path | None) -> tuple[str, ...]:
    """Gauge ids of a dataset without opening it: the partition keys.

    Parameters
    ----------
    name
        `sample` or `camels_us`.
    data_dir
        Folder with the downloaded CAMELS-US files; not used for the sample.

    Returns
    -------
    tuple of str
        Ids of 8 digits in the dataset's order; empty where camels_name.txt is not found.
    """
    if name == "sample":
        return SAMPLE_IDS
    table = places.attribute_table(Path(data_dir), "name") if data_dir is not None else None
    if table is None:
        return ()
    rows = table.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    ids = (row.split(";", 1)[0].strip() for row in rows)
    # What stands twice or is no id is refused by the reader, with the line; the page must open
    # first.
    padded = (gauge_id.zfill(8) for gauge_id in ids if gauge_id)
    return tuple(dict.fromkeys(filter(GAUGE_ID.fullmatch, padded)))
