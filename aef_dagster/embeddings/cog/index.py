"""Which tiles there are: the published index of an address.

Here: download, revalidation and reading of `aef_index.parquet` (or `.csv`).
Not here: requests (remote.py), which tiles a basin needs (outlines.py).
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.embeddings.cog.remote import NotThereError, RefusedError, Remote
from aef_dagster.errors import DataFileError, UserError

NAMES = ("aef_index.parquet", "aef_index.csv")
# A schedule has a minute, and a silent address takes 15 s a try.
INDEX_TRIES = 3
# The outlines are not read: they are cut at the meridians of the zones, the tiles are not.
SIDES = ("utm_west", "utm_south", "utm_east", "utm_north")
COLUMNS = ("path", "year", "crs", *SIDES)
VERSION_COLUMN = "dataset_version"


@dataclass(frozen=True)
class TileIndex:
    """The index of one address, as it lies on this machine.

    `sha256` is that of the file.
    """

    address: str
    file: Path
    sha256: str

    def years(self) -> tuple[int, ...]:
        """Years that have tiles, ascending."""
        return tuple(sorted(int(year) for year in self._table(["year"])["year"].unique()))

    def tiles(self, year: int) -> pd.DataFrame:
        """The tiles of one year.

        Returns
        -------
        DataFrame
            name ("2020/14N/x.tiff", the path below the address), epsg, west, south, east, north
            (metres in that CRS), dataset_version ("" where the index does not tell); by name.
        """
        table = self._table([*COLUMNS])
        table = table[table["year"] == year]
        # The two publishers write their own bucket ahead of the same name.
        name = table["path"].str.split("/").str[-3:].str.join("/")
        x = np.sort(table[["utm_west", "utm_east"]].to_numpy(dtype=float), axis=1)
        y = np.sort(table[["utm_south", "utm_north"]].to_numpy(dtype=float), axis=1)
        version = table[VERSION_COLUMN].fillna("").astype(str) if VERSION_COLUMN in table else ""
        tiles = pd.DataFrame(
            {
                "name": name.to_numpy(),
                "epsg": table["crs"].str.removeprefix("EPSG:").astype(int).to_numpy(),
                "west": x[:, 0], "south": y[:, 0], "east": x[:, 1], "north": y[:, 1],
                "dataset_version": np.asarray(version),
            }
        )  # fmt: skip
        return tiles.drop_duplicates("name").sort_values("name", ignore_index=True)

    def version(self, year: int) -> str:
        """A hash of what the index says of a year: other years may come and go."""
        told = self.tiles(year).to_csv(index=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _table(self, columns: list[str]) -> pd.DataFrame:
        try:
            if self.file.suffix == ".parquet":
                import pyarrow.parquet

                have = pyarrow.parquet.read_schema(self.file).names
            else:
                have = list(pd.read_csv(self.file, nrows=0).columns)
            missing = [name for name in columns if name not in have]
            if missing:
                raise DataFileError(
                    self.file,
                    f"the index of {self.address} has no column {', '.join(missing)}; it is not "
                    "the index of AlphaEarth tiles that this version knows",
                )
            if len(columns) > 1 and VERSION_COLUMN in have:
                columns = [*columns, VERSION_COLUMN]
            if self.file.suffix == ".parquet":
                return pd.read_parquet(self.file, columns=columns)
            return pd.read_csv(self.file, usecols=columns)
        except (ValueError, OSError) as error:
            raise DataFileError(
                self.file, f"the index of {self.address} cannot be read: {error}; delete the file"
            ) from None


def open_index(remote: Remote, address: str, folder: Path) -> TileIndex:
    """The index of an address, downloaded if there is none here or another one there.

    Parameters
    ----------
    remote
        Asks.
    address
        Base address, as `https://host/path`.
    folder
        Where indexes are kept.

    Raises
    ------
    RefusedError
        The address has no index, does not let us read it, or does not answer.
    """
    folder = folder / hashlib.sha256(address.encode()).hexdigest()[:12]
    for name in NAMES:
        file, note = folder / name, folder / f"{name}.json"
        told = json.loads(note.read_text()) if file.exists() and note.exists() else {}
        try:
            answer = remote.get(
                f"{address}/{name}",
                known=(told.get("etag"), told.get("last_modified")),
                # Another address may have it: waiting long for this one would hold that up.
                tries=INDEX_TRIES,
            )
        except NotThereError:
            continue
        except RefusedError:
            raise
        except UserError as error:
            raise RefusedError(str(error)) from None
        if answer.unchanged:
            return TileIndex(address, file, told["sha256"])
        told = {
            "address": address,
            "etag": answer.etag,
            "last_modified": answer.last_modified,
            "sha256": hashlib.sha256(answer.data).hexdigest(),
        }
        # The note goes first and comes last: it never speaks of another file.
        note.unlink(missing_ok=True)
        write_whole(file, answer.data)
        write_whole(note, json.dumps(told).encode())
        return TileIndex(address, file, str(told["sha256"]))
    raise RefusedError(f"{address} has neither {' nor '.join(NAMES)}")


def write_whole(file: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
