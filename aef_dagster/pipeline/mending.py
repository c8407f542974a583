"""Damaged files of single basins, rebuilt in passing.

A training reads many basins, and none may be left out: other donors are another model. So where a
Parquet file of a basin is damaged, it is made again from the raw data, as `aef prepare` would, and
the reading is begun anew. Jobs are named by a hash of what they read: were it other data than
before, no old model would pass for one of these.

Not here: how a file is found out and rebuilt (basins/ingest.py), damaged tables (the warehouse says
what to do), damaged raw files.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.pipeline.resources import DatasetResource
from aef_dagster.storage.home import Home

Read = TypeVar("Read")
# The log of an asset is shown on its page, this one on the terminal.
terminal = logging.getLogger("aef_dagster")


def read_mended(
    read: Callable[[], Read], home: Home, dataset: DatasetResource, log: logging.Logger
) -> Read:
    """What `read` gives, once damaged Parquet files that it meets are rebuilt.

    Parameters
    ----------
    read
        Reads series of basins; called again after each file.
    log
        Told of each file in a warning.

    Raises
    ------
    DataFileError
        A file is damaged, and its basin's raw data are not there, unreadable, or others than it was
        made of.
    """
    mended: set[str] = set()
    while True:
        try:
            return read()
        except DataFileError as error:
            if error.path in mended or not _mend(error, home, dataset, log):
                raise
            mended.add(error.path)


def _mend(error: DataFileError, home: Home, dataset: DatasetResource, log: logging.Logger) -> bool:
    """Rebuild the file of an error, if it is one of a basin and can be rebuilt."""
    from aef_dagster.basins.ingest import rebuild

    path = Path(error.path)
    if path.parent not in (home.forcings, home.streamflow) or not path.is_file():
        return False  # one that is missing was never prepared
    kind: Literal["forcings", "streamflow"] = (
        "forcings" if path.parent == home.forcings else "streamflow"
    )
    try:
        same = rebuild(dataset.open(), path, kind)
    except UserError as cause:
        told = f"{path} was not rebuilt: {cause}"
        done = False
    else:
        proof = "and has its old checksum" if same else "its old checksum was lost with it"
        told = f"{path} was damaged: rebuilt from the raw data, {proof}"
        done = True
    for each in {log, terminal}:
        each.warning(told)
    return done
