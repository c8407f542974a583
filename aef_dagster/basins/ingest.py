"""Raw files to Parquet: one file a basin for the forcings (PET added), one for the streamflow.

A basin whose file is bad is reported and left out; the others go on. A Parquet file that went bad
later can be rebuilt alone.
Not here: reading raw files (camels_us.py), the dense cube (cube.py).
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aef_dagster.basins.camels_us import CamelsUS
from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.basins.pet import PET_METHOD, oudin_pet
from aef_dagster.errors import DataFileError, UserError, writing

Columns = dict[str, np.ndarray]
# From a gauge id to its series, and to what the head of its file says.
Reader = Callable[[str], tuple[Columns, dict[str, float]]]

# Where a file's footer keeps the hash of its content: Parquet notices few of the bits that flip.
SEAL = b"aef_content_sha256"
# A file is written in less than a second: one unfinished for so long was left by a killed writer.
SECONDS_TO_WRITE = 3600


@dataclass(frozen=True)
class IngestReport:
    """What was written, and what could not be.

    Parameters
    ----------
    table
        A row a basin written: gauge_id, first_date, last_date, n_days, n_missing (days on which any
        variable is missing); of forcings also lat, elevation_m and area_km2 of the file's head.
    errors
        The reason, in a sentence, for each basin left out.
    pet_method
        How PET was computed; None for streamflow.
    fingerprint
        sha256 of the content (not of the files' bytes) of all basins written.
    """

    table: pd.DataFrame
    errors: dict[str, str]
    pet_method: str | None
    fingerprint: str


def ingest_forcings(
    dataset: CamelsUS,
    folder: Path,
    gauge_ids: Iterable[str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> IngestReport:
    """Write the forcings of each basin, with PET, to `<folder>/<gauge_id>.parquet`.

    Parameters
    ----------
    dataset
        Reader of the raw files.
    folder
        Where to write; made when absent.
    gauge_ids
        Basins to write; all by default.
    on_progress
        Called with the gauge id when a basin is done.

    Returns
    -------
    IngestReport
        With the basins left out and why.

    Raises
    ------
    UserError
        When the dataset has no such forcings at all, or its archive cannot be opened.
    """
    ids = dataset.gauge_ids() if gauge_ids is None else gauge_ids
    return _ingest(_forcing_reader(dataset), ids, Path(folder), on_progress, PET_METHOD)


def ingest_streamflow(
    dataset: CamelsUS,
    folder: Path,
    catalog: pd.DataFrame,
    gauge_ids: Iterable[str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> IngestReport:
    """Write the streamflow of each basin in mm/day to `<folder>/<gauge_id>.parquet`.

    A basin without a streamflow file is a river without a gauge: it is no error and gets no file.

    Parameters
    ----------
    dataset
        Reader of the raw files.
    folder
        Where to write; made when absent.
    catalog
        Has gauge_id and area_km2, what the flow is divided by.
    gauge_ids
        Basins to write; all of the catalog by default.
    on_progress
        Called with the gauge id when a basin is done.

    Returns
    -------
    IngestReport
        With the basins left out and why.

    Raises
    ------
    UserError
        When the dataset has no streamflow at all, or its archive cannot be opened.
    """
    read = _flow_reader(dataset, catalog)
    ids = list(catalog["gauge_id"] if gauge_ids is None else gauge_ids)
    gauged = dataset.gauged_ids()
    for gauge_id in set(ids) - gauged:  # what an earlier file left is not this dataset's
        (Path(folder) / f"{gauge_id}.parquet").unlink(missing_ok=True)
    return _ingest(read, [i for i in ids if i in gauged], Path(folder), on_progress, None)


def rebuild(dataset: CamelsUS, path: Path, kind: Literal["forcings", "streamflow"]) -> bool:
    """Write the damaged Parquet file of one basin again, from the raw data.

    The file is replaced whole, or stays as it is: two processes may do this at once.

    Parameters
    ----------
    dataset
        Reader of the raw files.
    path
        `<gauge_id>.parquet`.
    kind
        What the file holds.

    Returns
    -------
    bool
        Whether the checksum of the damaged file could still be read, and is that of the new one.

    Raises
    ------
    UserError
        The basin's raw data cannot be read, or are other data than the file was made of.
    """
    gauge_id = path.stem
    if kind == "forcings":
        columns, _ = _forcing_reader(dataset)(gauge_id)
    else:
        columns, _ = _flow_reader(dataset, dataset.catalog())(gauge_id)
    expected = _sealed(path)
    if expected not in (None, _seal(columns)):
        raise UserError(f"the raw data of basin {gauge_id} have changed since it was read")
    with writing(f"basin {gauge_id}: {path}"):
        _write(columns, gauge_id, path)
    return expected is not None


def read_series(path: Path, names: Iterable[str]) -> Columns:
    """Columns of one basin's Parquet file, as they were written.

    Parameters
    ----------
    path
        `<gauge_id>.parquet` of the forcings or of the streamflow.
    names
        All variables of the file, in the order written.

    Returns
    -------
    dict
        `date` (datetime64[D]) and each variable (float32, NaN = missing).

    Raises
    ------
    DataFileError
        The file is damaged, also where Parquet itself would not notice: a flipped bit is another
        number. Files of earlier versions carry no seal and are read without that check.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["date", *names], use_threads=False)
            seal = (file.schema_arrow.metadata or {}).get(SEAL)
        columns = {name: table[name].to_numpy() for name in ("date", *names)}
        columns["date"] = columns["date"].astype("datetime64[D]")
        if seal is not None and seal != _seal(columns):
            raise ValueError("its content is not what its checksum says")
        return columns
    # Arrow's own errors are of several families; a damaged length asks for terabytes of memory.
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise DataFileError(
            path,
            f"not a readable Parquet file ({str(error).partition(chr(10))[0]}): delete it and "
            "materialize it again (`aef prepare`)",
            gauge_id=path.stem,
        ) from None


def _ingest(
    read: Reader,
    gauge_ids: Iterable[str],
    folder: Path,
    on_progress: Callable[[str], None] | None,
    pet_method: str | None,
) -> IngestReport:
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    rows, errors, hashes = [], {}, {}
    for gauge_id in gauge_ids:
        path = folder / f"{gauge_id}.parquet"
        try:
            columns, head = read(gauge_id)
        except DataFileError as error:
            if error.gauge_id is None:  # the archive itself, not one basin in it
                raise
            errors[gauge_id] = str(error)
            # What an earlier, good file left must not pass for the content of the bad one.
            path.unlink(missing_ok=True)
        else:
            hashes[gauge_id] = _content_hash(columns)
            with writing(f"basin {gauge_id}: {path}"):
                _write(columns, gauge_id, path)
            rows.append({"gauge_id": gauge_id, **_summary(columns), **head})
        if on_progress is not None:
            on_progress(gauge_id)
    empty = ["gauge_id", "first_date", "last_date", "n_days", "n_missing"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=empty)
    total = hashlib.sha256()
    for gauge_id in sorted(hashes):
        total.update(f"{gauge_id}:{hashes[gauge_id]}\n".encode())
    return IngestReport(table, errors, pet_method, total.hexdigest())


def _forcing_reader(dataset: CamelsUS) -> Reader:
    def read(gauge_id: str) -> tuple[Columns, dict[str, float]]:
        record = dataset.read_forcing(gauge_id)
        columns = _columns(record.frame)
        tmean = (columns["tmin"] + columns["tmax"]) / 2
        columns["pet"] = oudin_pet(tmean, columns["date"], record.lat).astype(np.float32)
        head = {
            "lat": record.lat,
            "elevation_m": record.elevation_m,
            "area_km2": record.area_km2,
        }
        return {name: columns[name] for name in ("date", *FORCINGS)}, head

    return read


def _flow_reader(dataset: CamelsUS, catalog: pd.DataFrame) -> Reader:
    area = dict(zip(catalog["gauge_id"], catalog["area_km2"], strict=True))

    def read(gauge_id: str) -> tuple[Columns, dict[str, float]]:
        return _columns(dataset.read_streamflow(gauge_id, area.get(gauge_id, np.nan))), {}

    return read


def _columns(frame: pd.DataFrame) -> Columns:
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    return columns | {"date": columns["date"].astype("datetime64[D]")}


def _summary(columns: Columns) -> dict[str, object]:
    date = columns["date"]
    missing = np.zeros(len(date), bool)
    for name, values in columns.items():
        if name != "date":
            missing |= np.isnan(values)
    return {
        "first_date": pd.Timestamp(date[0]),
        "last_date": pd.Timestamp(date[-1]),
        "n_days": len(date),
        "n_missing": int(missing.sum()),
    }


def _content_hash(columns: Columns) -> str:
    content = hashlib.sha256()
    for name, values in columns.items():
        content.update(name.encode() + values.tobytes())
    return content.hexdigest()


def _seal(columns: Columns) -> bytes:
    """Hash of the content as it comes back: NULL has one NaN, arithmetic has several."""
    plain = {
        name: values if name == "date" else np.where(np.isnan(values), np.float32(np.nan), values)
        for name, values in columns.items()
    }
    return _content_hash(plain).encode()


def _sealed(path: Path) -> bytes | None:
    """The checksum that a file carries; None where its footer cannot be read either."""
    try:
        return (pq.read_schema(path).metadata or {}).get(SEAL)
    except OSError as error:
        if error.errno:  # a disk that does not answer says nothing of the file
            raise UserError(f"{path} cannot be read just now: {error.strerror}") from None
        return None
    except (pa.ArrowException, ValueError):
        return None


def _write(columns: Columns, gauge_id: str, path: Path) -> None:
    zeros = np.zeros(len(columns["date"]), np.int32)
    one_id = pa.DictionaryArray.from_arrays(zeros, [gauge_id])
    seal = {SEAL: _seal(columns)}
    unfinished = path.with_suffix(f".parquet.{os.getpid()}.tmp")
    try:
        pq.write_table(
            pa.table({"gauge_id": one_id, **_with_nulls(columns)}).replace_schema_metadata(seal),
            unfinished,
            # Daily weather does not repeat: a dictionary of its values would only cost time.
            use_dictionary=["gauge_id"],
            compression="lz4",
        )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished."""
    for left in folder.glob("*.parquet.*.tmp"):
        with suppress(FileNotFoundError):  # its writer renamed it just now
            if time.time() - left.stat().st_mtime > SECONDS_TO_WRITE:
                left.unlink()


def _with_nulls(columns: Columns) -> dict[str, pa.Array]:
    """Missing as NULL: in SQL a single NaN would make every mean of the column NaN."""
    return {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
