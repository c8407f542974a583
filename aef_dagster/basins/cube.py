"""The dense cube: Parquet files of the basins to one labelled array of all basins and days.

Not here: writing the Parquet files (ingest.py).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from aef_dagster.basins.dataset import FORCINGS, UNITS
from aef_dagster.basins.ingest import read_series
from aef_dagster.errors import UserError


def load_cube(
    forcings_dir: Path, streamflow_dir: Path | None, gauge_ids: Iterable[str] | None = None
) -> xr.Dataset:
    """Forcings and streamflow of the basins on a common run of days.

    Parameters
    ----------
    forcings_dir, streamflow_dir
        Folders of `<gauge_id>.parquet`; without the second there is no flow: all NaN.
    gauge_ids
        Basins to load, in the order wanted; by default all that have forcings, sorted.

    Returns
    -------
    Dataset
        Dims (basin, date), float32, NaN where missing, the unit of each variable in its attrs.
        The days run from the first to the last of any basin's forcings; flow outside is left out. A
        basin with forcings and without a streamflow file has no flow: all NaN.

    Raises
    ------
    UserError
        When a basin asked for has no forcings, or there is none at all.
    """
    forcings_dir = Path(forcings_dir)
    if gauge_ids is None:
        gauge_ids = sorted(path.stem for path in forcings_dir.glob("*.parquet"))
    basins = list(gauge_ids)
    absent = [basin for basin in basins if not (forcings_dir / f"{basin}.parquet").is_file()]
    if absent or not basins:
        which = f"for {_some(absent)}" if absent else "at all"
        raise UserError(
            f"there are no forcings {which} in {forcings_dir}: materialize the asset `forcings` "
            "(`aef prepare`); a basin that stays absent is in its report, with the reason"
        )
    tables = [_read(forcings_dir / f"{basin}.parquet", FORCINGS) for basin in basins]
    first = min(days[0] for days, _ in tables)
    last = max(days[-1] for days, _ in tables)
    date = np.arange(first, last + 1)
    cube = {
        name: np.full((len(basins), len(date)), np.nan, np.float32)
        for name in (*FORCINGS, "streamflow")
    }
    for i, (days, values) in enumerate(tables):
        for name, column in values.items():
            cube[name][i, (days - first).astype(int)] = column
    if streamflow_dir is not None:
        for i, basin in enumerate(basins):
            path = Path(streamflow_dir) / f"{basin}.parquet"
            if path.is_file():
                days, values = _read(path, ("streamflow",))
                inside = (days >= first) & (days <= last)
                where = (days[inside] - first).astype(int)
                cube["streamflow"][i, where] = values["streamflow"][inside]
    return xr.Dataset(
        {
            name: (("basin", "date"), values, {"units": UNITS[name]})
            for name, values in cube.items()
        },
        coords={"basin": np.array(basins), "date": date.astype("datetime64[ns]")},
    )


def _read(path: Path, names: Iterable[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    columns = read_series(path, names)
    return columns.pop("date"), columns


def _some(basins: list[str]) -> str:
    shown = ", ".join(basins[:5])
    return shown if len(basins) <= 5 else f"{shown} and {len(basins) - 5} more"
