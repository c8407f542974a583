"""Embeddings from published tables: files with one row per basin and year.

Here: `TableSource`, which reads a CSV or Parquet file, or a folder of them, and refuses what is
not a table of basin embeddings, saying which file, basin and column.
Not here: what a row holds (yearly.py), other routes (sources.py), means over years (pooling.py).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.yearly import MAX_NORM, EmbeddingYear, Report, yearly_frame
from aef_dagster.errors import DataFileError, UserError

ID_COLUMNS = ("gauge_id", "hru_id")

# What an export may carry besides the id, the year and the bands. `norm` is computed anew.
OPTIONAL_COLUMNS = (
    *("norm", "valid_fraction", "valid_pixels", "pixel_count", "dataset_version", "resolution_m"),
    *("system:index", ".geo", "batch"),  # Earth Engine table exports
    *("ann_P", "lon_cen", "lat_cen", "AREA", "elev_mean"),  # the official CAMELS-US polygons
    *("gauge_name", "gauge_lat", "gauge_lon", "huc_02"),
    *("Unnamed: 0", "__index_level_0__"),  # a pandas index, written along
)


class TableSource:
    """Published tables of basin embeddings.

    Parameters
    ----------
    path
        A CSV or Parquet file, or a folder of them. Columns: `hru_id` or `gauge_id`, `year`,
        A00..A63. A table without `year` is a finished multi-year mean.

    Raises
    ------
    UserError
        The path does not exist, or holds no table.
    """

    route = "table"

    def __init__(self, path: Path):
        self.path = Path(path)
        self._cache: dict[tuple[Path, int, str], object] = {}
        self._files()

    def years(self) -> tuple[int, ...]:
        """Years that the tables have, ascending; empty if they hold a finished mean only.

        Raises
        ------
        DataFileError
            A file is not a table of basin embeddings.
        """
        found = {year for file in self._files() for year in self._years_of(file)}
        return tuple(sorted(found))

    def version(self, year: int) -> str:
        """Edition of a year: a hash of the files that hold it."""
        files = [file for file in self._files() if year in self._years_of(file)]
        digests = " ".join(self._sha256_of(file) for file in files)
        return hashlib.sha256(digests.encode()).hexdigest()[:16]

    def fetch(
        self,
        year: int,
        gauge_ids: Sequence[str],
        report: Report = lambda done, total, bytes_read: None,
    ) -> EmbeddingYear:
        """As `EmbeddingSource.fetch`; a table is read too fast for reports.

        Raises
        ------
        UserError
            The tables do not have this year.
        DataFileError
            A table is damaged, holds a basin twice, or has none of the basins.
        """
        files = [file for file in self._files() if year in self._years_of(file)]
        if not files:
            have = ", ".join(map(str, self.years())) or "a finished mean without years"
            raise UserError(f"{self.path} has no embeddings of {year}; it has: {have}")
        return self._read(files, year, gauge_ids)

    def fetch_mean(self, gauge_ids: Sequence[str]) -> EmbeddingYear:
        """As `EmbeddingSource.fetch_mean`: of the tables without a column `year`.

        Raises
        ------
        UserError
            All tables have years.
        DataFileError
            A table is damaged, holds a basin twice, or has none of the basins.
        """
        files = [file for file in self._files() if not self._years_of(file)]
        if not files:
            raise UserError(f"{self.path} has tables by year only, no finished mean: fetch years")
        return self._read(files, None, gauge_ids)

    def _files(self) -> list[Path]:
        """The tables, listed anew each time: a new year may have been laid into the folder."""
        if not self.path.exists():
            raise UserError(
                f"{self.path} does not exist; set AEF_EMBEDDINGS_DIR to the file or folder with "
                "the tables of basin embeddings"
            )
        if self.path.is_file():
            return [self.path]
        tables = [file for file in sorted(self.path.iterdir()) if _kind(file) is not None]
        if not tables:
            raise UserError(f"{self.path} holds no .csv or .parquet file of basin embeddings")
        return tables

    def _read(self, files: list[Path], year: int | None, gauge_ids: Sequence[str]) -> EmbeddingYear:
        wanted = pd.Index(gauge_ids)
        parts = [self._read_file(file, year, wanted) for file in files]
        frame = pd.concat(parts, ignore_index=True)
        names = ", ".join(file.name for file in files)
        if frame.empty:
            raise DataFileError(
                files[0],
                f"none of the {len(wanted)} basins is in {names}; ids look like "
                f"{wanted[0] if len(wanted) else '01013500'}",
            )
        twice = frame.loc[frame.duplicated("gauge_id"), "gauge_id"]
        if len(twice):
            basin = twice.iloc[0]
            holders = frame.loc[frame["gauge_id"] == basin, "source_file"].unique()
            raise DataFileError(
                self.path,
                f"occurs twice in {' and '.join(holders)} for {_label(year)}; keep one row",
                gauge_id=basin,
            )
        missing = tuple(wanted[~wanted.isin(frame["gauge_id"])])
        order = pd.Series(range(len(wanted)), index=wanted)
        frame = frame.sort_values("gauge_id", key=lambda ids: ids.map(order), ignore_index=True)
        hashes = {file.name: self._sha256_of(file) for file in files}
        provenance: dict[str, object] = {"route": self.route, "files": hashes}
        return EmbeddingYear(frame, provenance, missing)

    def _read_file(self, file: Path, year: int | None, wanted: pd.Index) -> pd.DataFrame:
        table = _read_table(file)
        id_column = next(name for name in ID_COLUMNS if name in table)
        ids = table[id_column].map(_gauge_id)
        rows = ids.isin(wanted)
        if year is not None:
            rows &= _whole_years(file, table["year"]) == year
        table, ids = table[rows], ids[rows]
        vectors = _checked_vectors(file, table, ids)
        return yearly_frame(
            ids.tolist(),
            year,
            vectors,
            route=self.route,
            dataset_version=table.get("dataset_version", "unknown"),
            # A published table says how its means were taken elsewhere, if at all.
            reducer="mean",
            resolution_m=table.get("resolution_m", np.nan),
            valid_fraction=table.get("valid_fraction", np.nan),
            pixel_count=table.get("pixel_count", pd.NA),
            source_file=file.name,
            source_sha256=self._sha256_of(file),
            surrogate="surrogate" in file.name.lower(),
            sample="sample" in file.name.lower(),
        )

    def _years_of(self, file: Path) -> frozenset[int]:
        return self._cached(file, "years", _years_in)

    def _sha256_of(self, file: Path) -> str:
        return self._cached(file, "sha256", _sha256)

    def _cached(self, file: Path, what: str, read):
        """A fact of a file, read again only after the file has changed."""
        key = (file, file.stat().st_mtime_ns, what)
        if key not in self._cache:
            self._cache[key] = read(file)
        return self._cache[key]


def _kind(file: Path) -> str | None:
    return {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}.get(file.suffix.lower())


def _label(year: int | None) -> str:
    return "the finished mean" if year is None else str(year)


def _column_names(file: Path) -> list[str]:
    """Names of the columns, once they are known to be those of an embedding table."""
    try:
        if _kind(file) == "parquet":
            import pyarrow.parquet

            names = list(pyarrow.parquet.read_schema(file).names)
        elif _kind(file) == "csv":
            names = list(pd.read_csv(file, nrows=0, encoding="utf-8-sig").columns)
        else:
            raise DataFileError(file, "is neither .csv nor .parquet; convert it to one of them")
    except (ValueError, OSError) as error:  # pandas and pyarrow raise subclasses of these
        raise DataFileError(file, f"cannot be read as a table: {error}") from error
    if not any(name in names for name in ID_COLUMNS):
        raise DataFileError(file, "has no column of basin ids: name it gauge_id or hru_id")
    missing = [band for band in BANDS if band not in names]
    if missing:
        raise DataFileError(
            file, f"lacks {len(missing)} of the 64 bands A00..A63: {', '.join(missing[:8])}"
        )
    known = {*ID_COLUMNS, "year", *BANDS, *OPTIONAL_COLUMNS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataFileError(
            file,
            f"has columns that no embedding table has: {', '.join(unknown)}; remove them, or move "
            "the file out of the folder if it is something else",
        )
    return names


def _read_table(file: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The table, with basin ids left as text so that no leading zero is lost."""
    _column_names(file)
    try:
        if _kind(file) == "parquet":
            return pd.read_parquet(file, columns=columns).reset_index()
        as_text = dict.fromkeys(ID_COLUMNS, str)
        # With `usecols`, pandas passes over rows that have too many fields: only for a first look.
        return pd.read_csv(
            file, usecols=columns, dtype=as_text, encoding="utf-8-sig", low_memory=False
        )
    except (ValueError, OSError) as error:
        raise DataFileError(file, f"cannot be read as a table: {error}") from error


def _years_in(file: Path) -> frozenset[int]:
    """The years of one file; empty for a finished mean."""
    if "year" not in _column_names(file):
        return frozenset()
    years = _whole_years(file, _read_table(file, ["year"])["year"])
    if years.empty:
        raise DataFileError(file, "has no rows")
    return frozenset(int(year) for year in years.unique())


def _whole_years(file: Path, column: pd.Series) -> pd.Series:
    years = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero(years.isna() | (years % 1 != 0))
    if len(wrong):
        raise DataFileError(
            file, f"the year is {column.iloc[wrong[0]]!r}", line=_line(file, wrong[0])
        )
    return years


def _line(file: Path, row: int) -> int | None:
    """Line of a CSV file that holds a row: the header is line 1. Parquet has no lines."""
    return int(row) + 2 if _kind(file) == "csv" else None


def _gauge_id(value: object) -> str:
    """Ids as the platform writes them: `1013500` and `camels_01013500` are `01013500`."""
    text = str(value).strip().removeprefix("camels_")
    return text.zfill(8) if text.isdigit() else text


def _checked_vectors(file: Path, table: pd.DataFrame, ids: pd.Series) -> np.ndarray:
    """The 64 bands as float64 [row, band], or the first row that cannot be an embedding."""
    bands = table[list(BANDS)]
    vectors = bands.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(vectors))
    if len(wrong):
        row, band = wrong[0]
        raise DataFileError(
            file,
            f"{BANDS[band]} is {bands.iat[row, band]!r}, not a number; complete the table or "
            "remove this row",
            line=_line(file, table.index[row]),
            gauge_id=str(ids.iat[row]),
        )
    norm = np.linalg.norm(vectors, axis=1)
    impossible = np.flatnonzero((norm == 0) | (norm > MAX_NORM))
    if len(impossible):
        row = impossible[0]
        raise DataFileError(
            file,
            f"the vector has length {norm[row]:.3g}, which no mean of AlphaEarth vectors has (more "
            "than 0, at most 1): raw int8 values must be dequantised, standardised ones undone",
            line=_line(file, table.index[row]),
            gauge_id=str(ids.iat[row]),
        )
    return vectors


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
