"""Representations: what the network is told about a basin besides its weather.

Here: one table of static inputs per representation, unscaled, made of attributes, climate indices
and embeddings; the two controls `random` and `shuffled`.
Not here: scaling and one-hot codes (scalers.py: fitted on each job's donors only); the lists of
attributes (similarity/representations.py).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError
from aef_dagster.models.data import StaticTable
from aef_dagster.similarity.representations import (
    CATEGORIES,
    CLIMATE,
    KRATZERT_STATIC,
    STUDY_ATTRIBUTES,
)

REPRESENTATIONS: tuple[str, ...] = (
    "none",
    "attributes17",
    "attributes27",
    "aef",
    "aef+climate",
    "attributes+aef",
    "aef+subsurface",
    "random",
    "shuffled",
    "aef_first_year",
)

# They describe no basin: what is not due to knowing it.
CONTROLS: tuple[str, ...] = ("none", "random", "shuffled")

# The embedding of the first year alone: for networks that are then told another year's.
FIRST_YEAR = "aef_first_year"

# What no satellite sees from above.
SUBSURFACE: tuple[str, ...] = (
    "soil_depth_pelletier",
    "soil_depth_statsgo",
    "soil_porosity",
    "soil_conductivity",
    "max_water_content",
    "sand_frac",
    "silt_frac",
    "clay_frac",
    "carbonate_rocks_frac",
    "geol_permeability",
)

# representation -> table -> its columns. `none` has no columns, `random` makes its own.
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "attributes17": {"attributes": STUDY_ATTRIBUTES},
    "attributes27": {"attributes": KRATZERT_STATIC, "climate": CLIMATE},
    "aef": {"embedding": BANDS},
    "aef+climate": {"embedding": BANDS, "climate": CLIMATE},
    "attributes+aef": {"attributes": KRATZERT_STATIC, "climate": CLIMATE, "embedding": BANDS},
    "aef+subsurface": {"embedding": BANDS, "attributes": SUBSURFACE},
    "shuffled": {"embedding": BANDS},
    FIRST_YEAR: {"first_year": BANDS},
}


def static_table(
    representation: str,
    gauge_ids: Sequence[str],
    *,
    attributes: pd.DataFrame | None = None,
    climate: pd.DataFrame | None = None,
    embedding: pd.DataFrame | None = None,
    first_year: pd.DataFrame | None = None,
    seed: int = 0,
) -> StaticTable:
    """Static inputs of one representation.

    Parameters
    ----------
    representation
        A name of `REPRESENTATIONS`.
    gauge_ids
        Basins wanted, in the order wanted.
    attributes, climate, embedding, first_year
        One row per basin, gauge_id as the index or as a column: published attributes, the nine
        climate indices, A00..A63, A00..A63 of one year. Only those that the representation needs
        are looked at.
    seed
        Of the controls. `random` gives every basin numbers of its own, whichever others are asked
        for; `shuffled` hands each basin the embedding of another one of `embedding`.

    Raises
    ------
    UserError
        Unknown representation, or a table lacks a basin or a column.
    """
    if representation not in REPRESENTATIONS:
        raise UserError(
            f"unknown representation {representation!r}; choose one of {', '.join(REPRESENTATIONS)}"
        )
    gauge_ids = tuple(gauge_ids)
    given = {
        "attributes": attributes, "climate": climate, "embedding": embedding,
        "first_year": first_year,
    }  # fmt: skip
    tables = {kind: pd.DataFrame() if table is None else table for kind, table in given.items()}
    if representation == "shuffled":
        tables["embedding"] = _shuffled(_by_gauge_id(tables["embedding"]), seed)
    parts = [
        _columns(tables[kind], columns, gauge_ids, representation, kind)
        for kind, columns in COLUMNS.get(representation, {}).items()
    ]
    if representation == "random":
        parts = [_random_numbers(gauge_ids, seed)]
    both = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=list(gauge_ids))
    numeric = [name for name in both.columns if name not in CATEGORIES]
    categories = [name for name in both.columns if name in CATEGORIES]
    return StaticTable(
        gauge_ids,
        _numbers(both, numeric),
        tuple(numeric),
        both[categories].fillna("").astype(str).to_numpy().astype(np.str_),
        tuple(categories),
    )


def _by_gauge_id(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("gauge_id") if "gauge_id" in table.columns else table


def _columns(
    table: pd.DataFrame,
    columns: Sequence[str],
    gauge_ids: tuple[str, ...],
    representation: str,
    kind: str,
) -> pd.DataFrame:
    table = _by_gauge_id(table)
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise UserError(
            f"representation {representation!r} needs {len(columns)} columns of the {kind} table, "
            f"which lacks {', '.join(absent[:5])}: choose another representation or complete it"
        )
    unknown = [gauge_id for gauge_id in gauge_ids if gauge_id not in table.index]
    if unknown:
        raise UserError(
            f"representation {representation!r}: the {kind} table has no row for basin "
            f"{', '.join(unknown[:5])} ({len(unknown)} absent): complete it or leave them out"
        )
    empty = [name for name in columns if table[name].isna().all()]
    if empty:
        raise UserError(
            f"representation {representation!r}: {', '.join(empty[:5])} is missing for every basin "
            f"of the {kind} table ({len(empty)} such columns): complete it"
        )
    return table.loc[list(gauge_ids), list(columns)]


def _numbers(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    try:
        return table[columns].to_numpy(dtype=np.float32, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"static inputs must be numbers: {error}") from error


def _random_numbers(gauge_ids: tuple[str, ...], seed: int) -> pd.DataFrame:
    """64 normal numbers per basin, which depend on the seed and the basin alone."""

    def numbers(gauge_id: str) -> np.ndarray:
        digest = hashlib.sha256(f"{seed}/{gauge_id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(len(BANDS))

    names = [f"random{i:02d}" for i in range(len(BANDS))]
    return pd.DataFrame([numbers(g) for g in gauge_ids], index=list(gauge_ids), columns=names)


def _shuffled(embedding: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every basin with another basin's embedding: a random cycle, so that none keeps its own."""
    order = np.random.default_rng(seed).permutation(len(embedding))
    ordered = embedding.sort_index().iloc[order]
    return ordered.set_axis(np.roll(ordered.index.to_numpy(), 1), axis=0)
