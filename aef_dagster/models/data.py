"""The arrays that training reads, and their folder, which worker processes share.

Here: forcings, flow and static inputs of many basins as dense arrays, saved as plain `.npy` so
that several processes map one copy into memory instead of each holding its own.
Not here: where the numbers come from (basins/, embeddings/, statics.py), scaling (scalers.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import DataFileError, UserError, writing


@dataclass(frozen=True, eq=False)
class StaticTable:
    """What the network is told about each basin, unscaled.

    Parameters
    ----------
    gauge_ids
        Basins, one per row.
    numeric
        float32, shape [basin, n]; NaN = missing.
    numeric_names
        Name of each column of `numeric`.
    categories
        Text, shape [basin, m]; "" = missing.
    category_names
        Name of each column of `categories`.
    """

    gauge_ids: tuple[str, ...]
    numeric: NDArray[np.float32]
    numeric_names: tuple[str, ...]
    categories: NDArray[np.str_]
    category_names: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = {
            "numeric": (len(self.gauge_ids), len(self.numeric_names)),
            "categories": (len(self.gauge_ids), len(self.category_names)),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The table of some rows only."""
        return type(self)(
            tuple(self.gauge_ids[row] for row in rows),
            self.numeric[rows],
            self.numeric_names,
            self.categories[rows],
            self.category_names,
        )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All that jobs read: daily series and static inputs of the same basins.

    Parameters
    ----------
    gauge_ids
        Basins, one per row of every array.
    dates
        datetime64[D], shape [date], every day once.
    forcing_names
        Names of the forcing variables.
    forcing
        float32, shape [basin, date, variable].
    streamflow
        float32, shape [basin, date], mm/day; NaN = missing.
    statics
        A table per representation, rows as `gauge_ids`.
    folder
        Where these arrays were opened from, or None while they live in memory only.
    """

    gauge_ids: tuple[str, ...]
    dates: NDArray[np.datetime64]
    forcing_names: tuple[str, ...]
    forcing: NDArray[np.float32]
    streamflow: NDArray[np.float32]
    statics: dict[str, StaticTable]
    folder: Path | None = None
    # Statistics of single basins, each found once: the jobs of a run share most donors. Never what
    # belongs to a job. `replace` begins anew.
    found: dict = field(init=False, repr=False, default_factory=dict)
    _row_of: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gauge_ids", tuple(self.gauge_ids))
        object.__setattr__(self, "_row_of", {g: i for i, g in enumerate(self.gauge_ids)})
        basins, days = len(self.gauge_ids), len(self.dates)
        if len(self._row_of) != basins:
            raise ValueError("a gauge_id occurs twice")
        if self.forcing.shape != (basins, days, len(self.forcing_names)):
            raise ValueError(f"forcing has shape {self.forcing.shape}")
        if self.streamflow.shape != (basins, days):
            raise ValueError(f"streamflow has shape {self.streamflow.shape}")
        if days > 1 and np.any(np.diff(self.dates.astype("datetime64[D]")).astype(int) != 1):
            raise ValueError("dates must be consecutive days")
        for name, table in self.statics.items():
            if table.gauge_ids != self.gauge_ids:
                raise ValueError(f"the rows of the static table {name!r} are other basins")

    def rows(self, gauge_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each basin.

        Raises
        ------
        UserError
            A basin is not among the data.
        """
        absent = [gauge_id for gauge_id in gauge_ids if gauge_id not in self._row_of]
        if absent:
            raise UserError(
                f"no forcing or static inputs for basin {', '.join(absent[:5])} "
                f"({len(absent)} absent): it is unknown or was excluded; see the basins report"
            )
        return np.array([self._row_of[gauge_id] for gauge_id in gauge_ids], dtype=np.int64)

    def span(self, start: str, end: str) -> slice:
        """Positions of the days from `start` to `end`, both included.

        Raises
        ------
        UserError
            The record does not cover these days.
        """
        first = int((np.datetime64(start, "D") - self.dates[0]).astype(int))
        last = int((np.datetime64(end, "D") - self.dates[0]).astype(int))
        if first < 0 or last >= len(self.dates) or last < first:
            raise UserError(
                f"days {start} to {end} are wanted, but the record runs from {self.dates[0]} to "
                f"{self.dates[-1]}: choose periods inside it"
            )
        return slice(first, last + 1)

    def representation(self, name: str) -> StaticTable:
        """The static table of a representation.

        Raises
        ------
        UserError
            It was not prepared.
        """
        if name not in self.statics:
            raise UserError(
                f"no static inputs were prepared for representation {name!r}; "
                f"there are: {', '.join(self.statics) or 'none'}"
            )
        return self.statics[name]

    def save(self, folder: Path, gauge_ids: Sequence[str] | None = None) -> None:
        """Write the arrays, for `open`.

        Parameters
        ----------
        folder
            Made if absent.
        gauge_ids
            Only these basins, in this order; all by default.
        """
        rows = self.rows(self.gauge_ids if gauge_ids is None else gauge_ids)
        with writing(f"the arrays of this training, {folder},"):
            self._write(folder, rows)

    def _write(self, folder: Path, rows: NDArray[np.int64]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("forcing", "streamflow"):
            source = getattr(self, name)
            shape = (len(rows), *source.shape[1:])
            # Not through a memory map: on a full disk that ends the process by SIGBUS.
            with (folder / f"{name}.npy").open("wb") as file:
                described = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, described)
                for row in rows:  # basin by basin: no second copy in memory
                    file.write(np.ascontiguousarray(source[row], "<f4").tobytes())
        np.save(folder / "dates.npy", self.dates.astype("datetime64[D]"))
        tables = {}
        for number, (name, table) in enumerate(self.statics.items()):
            np.save(folder / f"statics-{number}-numeric.npy", table.numeric[rows])
            np.save(folder / f"statics-{number}-categories.npy", table.categories[rows])
            tables[name] = [number, table.numeric_names, table.category_names]
        described = {
            "gauge_ids": [self.gauge_ids[row] for row in rows],
            "forcing_names": self.forcing_names,
            "statics": tables,
        }
        (folder / "data.json").write_text(json.dumps(described), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, mmap: bool = True) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            The folder given to `save`.
        mmap
            Map forcings and flow into memory, shared with other processes, instead of reading
            them.

        Raises
        ------
        DataFileError
            The folder is not one that `save` wrote.
        """
        try:
            described = json.loads((folder / "data.json").read_text(encoding="utf-8"))
            mode: Literal["r"] | None = "r" if mmap else None
            gauge_ids = tuple(described["gauge_ids"])
            statics = {
                name: StaticTable(
                    gauge_ids,
                    np.load(folder / f"statics-{number}-numeric.npy"),
                    tuple(numeric_names),
                    np.load(folder / f"statics-{number}-categories.npy"),
                    tuple(category_names),
                )
                for name, (number, numeric_names, category_names) in described["statics"].items()
            }
            return cls(
                gauge_ids=gauge_ids,
                dates=np.load(folder / "dates.npy"),
                forcing_names=tuple(described["forcing_names"]),
                forcing=np.load(folder / "forcing.npy", mmap_mode=mode),
                streamflow=np.load(folder / "streamflow.npy", mmap_mode=mode),
                statics=statics,
                folder=folder,
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataFileError(folder, f"training arrays cannot be read ({error})") from error
