"""The files that neuralhydrology's reader of CAMELS-US wants, in a folder of its own.

The reader takes unpacked files only. Here: unpacking what it needs of the published archive, links
to what is unpacked already. Not here: how it reads them.
"""

import zipfile
from pathlib import Path

from aef_dagster.basins import places
from aef_dagster.errors import UserError

TIME_SERIES = ("basin_mean_forcing", "usgs_streamflow")


def lay_out(root: Path, forcing: str, folder: Path) -> None:
    """Fill an empty folder so that it can be neuralhydrology's `data_dir`.

    Parameters
    ----------
    root
        CAMELS-US as downloaded or unpacked.
    forcing
        Product to unpack, `maurer_extended`: some 460 MB of text with the streamflow.
    folder
        Where to.

    Raises
    ------
    UserError
        There are no time series or no attributes below `root`.
    """
    source = places.timeseries_folder(root)
    if source is None:
        source = _unpacked(root, forcing, folder / "unpacked")
    for name in TIME_SERIES:
        (folder / name).symlink_to(source.resolve() / name)
    attributes = folder / places.ATTRIBUTE_FOLDER
    attributes.mkdir()
    for table in places.ATTRIBUTE_TABLES:
        path = places.attribute_table(root, table)
        if path is None:
            raise UserError(f"camels_{table}.txt is not below {root}: download it")
        (attributes / path.name).symlink_to(path.resolve())


def _unpacked(root: Path, forcing: str, folder: Path) -> Path:
    archive = places.timeseries_archive(root)
    if archive is None:
        raise UserError(f"{places.ARCHIVE} is not in {root}: download it, as for `aef prepare`")
    wanted = (f"/{TIME_SERIES[0]}/{forcing}/", f"/{TIME_SERIES[1]}/")
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if any(part in f"/{name}" for part in wanted)]
        opened.extractall(folder, names)
    source = places.timeseries_folder(folder)
    if source is None:
        raise UserError(f"{archive} has no {forcing}: download the archive again")
    return source
