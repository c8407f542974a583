"""Tables of the warehouse in the shapes that the rooms work with.

Here: long tables made wide, with clear errors where nothing was written yet.
Not here: SQL that only one asset needs.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import STD_BANDS
from aef_dagster.errors import UserError

if TYPE_CHECKING:
    from aef_dagster.storage.warehouse import Warehouse


# An earlier route may have left rows of its own.
_OF_ROUTE = "WHERE route IN (SELECT route FROM basin_embedding)"
# Assets that `aef prepare` leaves to `aef study`.
_OF_STUDY = ("basin_clusters", "similarity/fusion", "donors/fusion")
# Spaces that are made of embeddings.
_MADE_OF_AEF = ("aef", "fusion", "soft_aef")


def attribute_frame(store: "Warehouse", origin: str) -> pd.DataFrame:
    """Attributes of one origin ('published' or 'training_period'), one row a basin.

    Returns
    -------
    pandas.DataFrame
        Index gauge_id, sorted; one column an attribute, numbers as float, categories as text.
    """
    long = store.frame(
        "SELECT gauge_id, attribute, value, category FROM attributes WHERE origin = ?", [origin]
    )
    require_rows(long, "attributes", "attributes")
    numeric = long.pivot(index="gauge_id", columns="attribute", values="value")
    text = long.pivot(index="gauge_id", columns="attribute", values="category")
    is_text = text.notna().any()
    wide = numeric.astype(object).where(~is_text, text, axis=1)
    for name in wide.columns[~is_text]:
        wide[name] = wide[name].astype(float)
    return wide.sort_index()


def embedding_frame(store: "Warehouse", *, with_spread: bool = False) -> pd.DataFrame:
    """The vector of each basin: index gauge_id, sorted; columns A00..A63.

    Parameters
    ----------
    with_spread
        S00..S63 as well, NaN where years were pooled without them.
    """
    columns = [*BANDS, *(STD_BANDS if with_spread else ())]
    frame = store.frame(f"SELECT gauge_id, {', '.join(columns)} FROM basin_embedding")
    require_rows(frame, "basin_embedding", "basin_embedding")
    return frame.set_index("gauge_id").sort_index()


def embedding_years(store: "Warehouse") -> list[int]:
    """Years of AlphaEarth by the route that `basin_embedding` was pooled from, ascending."""
    years = store.frame(f"SELECT DISTINCT year FROM aef_embeddings {_OF_ROUTE} ORDER BY year")
    require_rows(years, "aef_embeddings", "aef_embeddings")
    return [int(year) for year in years["year"]]


def embeddings_by_year(store: "Warehouse") -> pd.DataFrame:
    """AlphaEarth of all years of the same route: gauge_id, year, A00..A63."""
    return store.frame(f"SELECT gauge_id, year, {', '.join(BANDS)} FROM aef_embeddings {_OF_ROUTE}")


def year_frame(store: "Warehouse", year: int) -> pd.DataFrame:
    """AlphaEarth of one year: index gauge_id, sorted; columns A00..A63."""
    frame = store.frame(
        f"SELECT gauge_id, {', '.join(BANDS)} FROM aef_embeddings {_OF_ROUTE} AND year = ?", [year]
    )
    require_rows(frame, "aef_embeddings", "aef_embeddings")
    return frame.set_index("gauge_id").sort_index()


def similarity_matrix(store: "Warehouse", space: str) -> tuple[np.ndarray, list[str]]:
    """Similarity of one space as a square matrix, with its gauge ids."""
    long = store.frame("SELECT gauge_id, other_id, cosine FROM similarity WHERE space = ?", [space])
    require_rows(long, "similarity", f"similarity/{space}")
    square = long.pivot(index="gauge_id", columns="other_id", values="cosine").sort_index()
    square = square[square.index]
    return square.to_numpy(), square.index.tolist()


def donor_frame(store: "Warehouse", space: str) -> pd.DataFrame:
    """Ranked donors of one space: gauge_id, rank, donor_id, cosine."""
    frame = store.frame(
        "SELECT gauge_id, rank, donor_id, cosine FROM donors WHERE space = ? "
        "ORDER BY gauge_id, rank",
        [space],
    )
    require_rows(frame, "donors", f"donors/{space}")
    return frame


def marks(store: "Warehouse", space: str, *, told_embedding: bool = False) -> dict[str, bool]:
    """Whether sample data, and whether stand-in embeddings, are behind what a space leads to.

    Parameters
    ----------
    space
        Where donors are picked.
    told_embedding
        Whether the network is told the embedding as well.
    """
    sample = store.frame("SELECT bool_or(sample) AS mark FROM basins")["mark"][0]
    if space not in _MADE_OF_AEF and not told_embedding:
        return {"sample": bool(sample), "surrogate": False}
    surrogate = store.frame("SELECT bool_or(surrogate) AS mark FROM basin_embedding")["mark"][0]
    return {"sample": bool(sample), "surrogate": bool(surrogate)}


def require_rows(frame: pd.DataFrame, table: str, asset: str) -> None:
    """Refuse an empty answer, naming the asset that fills the table."""
    if frame.empty:
        # What only a study makes, `aef prepare` would not.
        command = "study" if asset in _OF_STUDY else "prepare"
        what = f"`{table}` has nothing of it" if asset in _OF_STUDY else f"`{table}` is empty"
        raise UserError(f"the table {what}; materialize `{asset}` first (or run `aef {command}`)")
