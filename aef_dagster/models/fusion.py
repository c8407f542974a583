"""What a network has learned to make of a basin's descriptors.

Here: the static part of the first layer, as a vector per basin. Not here: how alike these make two
basins (similarity/spaces.py).
"""

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.committees import parted
from aef_dagster.models.data import StaticTable


def learned_vectors(checkpoint: Checkpoint, table: StaticTable) -> NDArray[np.float64]:
    """Ws s of each basin, the share of the descriptors s in the network's first layer.

    Parameters
    ----------
    checkpoint
        Of a model whose recipe has the one layer and no static layers before it.
    table
        Static inputs of any basins, unscaled, of the model's representation.

    Returns
    -------
    ndarray
        Shape [basin, networks * hidden]: those of several networks side by side.

    Raises
    ------
    UserError
        The network has no such layer.
    """
    recipe = checkpoint.job().recipe
    if recipe.architecture != "one_layer" or recipe.static_layers:
        raise UserError(
            f"checkpoint {checkpoint.hash} has no single layer that joins descriptors with "
            "weather: take a model of the recipe `strong`"
        )
    statics = checkpoint.scaler().scale_statics(table).astype(np.float64)
    parts = [
        statics @ weights["static_weight"].T.astype(np.float64)
        for weights in parted(checkpoint.weights())
    ]
    return np.concatenate(parts, axis=1)
