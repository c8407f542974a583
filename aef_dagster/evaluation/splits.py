"""Splits of the basins: who is held out together.

Here: spatial folds by chance.
Not here: periods (basins/periods.py), published fold lists (basins/subsets/).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from aef_dagster.errors import UserError


def spatial_folds(gauge_ids: Sequence[str], n_folds: int, seed: int) -> pd.Series:
    """Folds of basins, drawn at random, of equal size give or take one.

    Parameters
    ----------
    gauge_ids
        The basins; their order does not matter.
    n_folds
        Number of folds.
    seed
        Another seed, another draw.

    Returns
    -------
    Series
        Fold 0..n_folds-1, indexed by gauge_id, sorted.

    Raises
    ------
    UserError
        Fewer than two folds, or more folds than basins.
    """
    ids = sorted(set(gauge_ids))
    if len(ids) != len(gauge_ids):
        raise ValueError("a basin occurs twice among the gauge ids")
    if not 2 <= n_folds <= len(ids):
        raise UserError(f"{n_folds} folds of {len(ids)} basins: choose from 2 to {len(ids)}")
    folds = np.arange(len(ids)) % n_folds
    shuffled = np.random.default_rng(seed).permutation(folds)
    return pd.Series(shuffled, index=pd.Index(ids, name="gauge_id"), name="fold")
