"""What every route gives: one row per basin and year, with where it came from.

Here: the columns of that row, and the one function that makes them from vectors.
Not here: how a route comes by its vectors (table.py, cog/, earth_engine/), storing.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError

# A mean of unit vectors is never longer than 1; this much is left for rounding.
MAX_NORM = 1.01

# Told while a year is fetched: basins done, basins in all, bytes read so far.
Report = Callable[[int, int, int], None]

# Besides gauge_id, year and the bands.
PROVENANCE: tuple[str, ...] = (
    "norm",
    "valid_fraction",
    "pixel_count",
    "dataset_version",
    "route",
    "resolution_m",
    "reducer",
    "bytes_read",
    "source_file",
    "source_sha256",
    "content_hash",
    "surrogate",
    "sample",
)


@dataclass(frozen=True)
class EmbeddingYear:
    """The embeddings of one year, or of a finished multi-year mean.

    Parameters
    ----------
    frame
        What `yearly_frame` made.
    provenance
        `route`, and what else is worth telling of the whole year: files read with their sha256,
        bytes, seconds, addresses.
    missing
        Basins asked for that have no vector: absent from the table, or without a valid pixel.
    """

    frame: pd.DataFrame
    provenance: dict[str, object]
    missing: tuple[str, ...]


def yearly_frame(
    gauge_ids: Sequence[str],
    year: int | None,
    vectors: ArrayLike,
    *,
    route: str,
    dataset_version: Any,
    reducer: Any,
    resolution_m: Any = np.nan,
    valid_fraction: Any = np.nan,
    pixel_count: Any = pd.NA,
    bytes_read: Any = pd.NA,
    source_file: Any = "",
    source_sha256: Any = "",
    surrogate: Any = False,
    sample: Any = False,
) -> pd.DataFrame:
    """One row per basin.

    Parameters
    ----------
    gauge_ids
        Basins.
    year
        The year; None for a finished multi-year mean.
    vectors
        Means over the pixels of each basin, of whatever length, shape [basin, 64].
    route
        "table", "cog" or "earth_engine".
    dataset_version, reducer, resolution_m, valid_fraction, pixel_count, bytes_read, source_file, \
source_sha256, surrogate, sample
        One value for all basins, or one each. `dataset_version`: AlphaEarth's, "unknown" where it
        is not told. `reducer`: how pixels became one vector. `resolution_m`: side of the pixels
        that were averaged, metres. `valid_fraction`: share of the basin's area whose pixels have a
        value. `pixel_count`: pixels that had a part in the mean. `bytes_read`: what fetching it
        took. `source_file`, `source_sha256`: where it was read.

    Returns
    -------
    DataFrame
        gauge_id, year (Int64), A00..A63 (float32), then `PROVENANCE`. `norm` is the length of the
        vector: 1 = all pixels alike. `content_hash` depends on the basin, the year, the dataset
        version and the 64 numbers, not on how they were fetched.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    bands = vectors.astype(np.float32)
    columns: dict[str, Any] = {
        "gauge_id": list(gauge_ids),
        "year": pd.array([year] * len(bands), dtype="Int64"),
        **dict(zip(BANDS, bands.T, strict=True)),
        "norm": np.linalg.norm(vectors, axis=1).astype(np.float32),
        "valid_fraction": valid_fraction,
        "pixel_count": pixel_count,
        "dataset_version": dataset_version,
        "route": route,
        "resolution_m": resolution_m,
        "reducer": reducer,
        "bytes_read": bytes_read,
        "source_file": source_file,
        "source_sha256": source_sha256,
        "content_hash": "",
        "surrogate": surrogate,
        "sample": sample,
    }
    columns = {
        name: value.to_numpy() if isinstance(value, pd.Series) else value
        for name, value in columns.items()
    }
    frame = pd.DataFrame(columns).astype(
        {
            "valid_fraction": np.float32,
            "resolution_m": np.float32,
            "pixel_count": "Int64",
            "bytes_read": "Int64",
            "dataset_version": str,
            "reducer": str,
            "source_file": str,
            "source_sha256": str,
            "surrogate": bool,
            "sample": bool,
        }
    )
    rows = zip(frame["gauge_id"], frame["dataset_version"], bands, strict=True)
    frame["content_hash"] = [_content_hash(gauge_id, year, *rest) for gauge_id, *rest in rows]
    return frame


def refuse_unusable(year: int, fetched: EmbeddingYear) -> None:
    """Raise a UserError where a year cannot be what it should: nothing of it may be stored.

    A mean of unit vectors is finite, longer than 0, and at most 1 long.
    """
    frame = fetched.frame
    if frame.empty:
        raise UserError(
            f"{year}: none of the {len(fetched.missing)} basins has an embedding by the route "
            "asked; the year may be published in part only: nothing was stored, try again later"
        )
    finite = np.isfinite(frame[list(BANDS)].to_numpy()).all(axis=1)
    norm = frame["norm"].to_numpy()
    wrong = ~finite | ~(norm > 0) | ~(norm <= MAX_NORM)
    if wrong.any():
        names = frame.loc[wrong, "gauge_id"].tolist()
        raise UserError(
            f"{year}: the vectors of {', '.join(names[:5])} ({len(names)} basins) are not finite, "
            "or of a length that no mean of AlphaEarth vectors has: nothing of the year was "
            "stored; fetch it again, or by another route"
        )


def _content_hash(gauge_id: str, year: int | None, version: str, vector: np.ndarray) -> str:
    told = f"{gauge_id} {year} {version} ".encode() + vector.astype("<f4").tobytes()
    return hashlib.sha256(told).hexdigest()[:16]
