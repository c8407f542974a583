"""A basin as a row of numbers: lists of attributes, and the matrix in which they are compared.

Here: the attribute sets of the literature by name, and `attribute_matrix`, which puts numbers and
categories on one scale.
Not here: scaling of what a network is told (models/): that is fitted on training basins only,
this on all candidates, because similarity compares candidates and never sees flow.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.basins.climate import CLIMATE_INDICES
from aef_dagster.errors import UserError

# arXiv:2601.01558: no climate among them. `geol_porostiy` is how CAMELS-US spells it.
STUDY_ATTRIBUTES: tuple[str, ...] = (
    "elev_mean",
    "slope_mean",
    "area_gages2",
    "frac_forest",
    "lai_max",
    "lai_diff",
    "dom_land_cover_frac",
    "dom_land_cover",
    "root_depth_50",
    "soil_depth_statsgo",
    "soil_porosity",
    "soil_conductivity",
    "max_water_content",
    "geol_1st_class",
    "geol_2nd_class",
    "geol_porostiy",
    "geol_permeability",
)

# The 27 of Kratzert et al. 2019 (doi:10.5194/hess-23-5089-2019) are these 18 and CLIMATE.
KRATZERT_STATIC: tuple[str, ...] = (
    "elev_mean",
    "slope_mean",
    "area_gages2",
    "frac_forest",
    "lai_max",
    "lai_diff",
    "gvf_max",
    "gvf_diff",
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

CLIMATE: tuple[str, ...] = CLIMATE_INDICES

CATEGORIES: tuple[str, ...] = ("dom_land_cover", "geol_1st_class", "geol_2nd_class")


def attribute_matrix(attributes: pd.DataFrame) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Attributes of all candidate basins as one matrix on one scale.

    Numbers are z-scored over the candidates. A category becomes one column per class, centred and
    divided by one factor, so that all its columns together have variance 1: a category weighs as
    much as a number. What is missing takes the mean of the candidates, 0. Constants are 0.

    Parameters
    ----------
    attributes
        One row per basin, one column per attribute; gauge_id as the index or as a column. Text
        columns and those of `CATEGORIES` are categories.

    Returns
    -------
    matrix
        Shape [basin, n], in the order of the rows given.
    names
        Name of each column; `attribute=class` for categories.

    Raises
    ------
    UserError
        A basin has no attribute at all, so nothing can be like it.
    """
    if "gauge_id" in attributes.columns:
        attributes = attributes.set_index("gauge_id")
    blank = attributes.index[attributes.isna().all(axis=1)]
    if len(blank):
        raise UserError(
            f"no attribute is known for {', '.join(map(str, blank[:5]))} "
            f"({len(blank)} of {len(attributes)} basins): complete the attribute tables or leave "
            "these basins out"
        )
    empty = [str(name) for name in attributes.columns[attributes.isna().all()]]
    if empty:
        raise UserError(
            f"the attribute {', '.join(empty[:5])} is missing for every basin: it would silently "
            "count for nothing. Complete the attribute tables"
        )
    blocks, names = [], []
    for name, column in attributes.items():
        if name in CATEGORIES or not pd.api.types.is_numeric_dtype(column):
            block, classes = _category_block(column)
            names += [f"{name}={value}" for value in classes]
        else:
            block = _z_score(column.to_numpy(dtype=np.float64, na_value=np.nan))[:, None]
            names.append(str(name))
        blocks.append(block)
    return np.concatenate(blocks, axis=1), tuple(names)


def _z_score(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    # By range: the standard deviation of a constant column is a rounding error, not 0.
    if known.size == 0 or known.min() == known.max():
        return np.zeros_like(values)
    return np.nan_to_num((values - known.mean()) / known.std(), nan=0.0)


def _category_block(column: pd.Series) -> tuple[NDArray[np.float64], list[str]]:
    known = column.notna().to_numpy()
    classes = sorted(column[known].astype(str).unique())
    member = column.astype(str).to_numpy()[:, None] == np.array(classes, dtype=object)[None, :]
    block = np.zeros(member.shape)
    if len(classes) > 1:
        block[known] = member[known] - member[known].mean(axis=0)
        block /= np.sqrt(np.sum(member[known].var(axis=0)))
    return block, classes
