"""A model of several networks: what training gave for each, put together.

Here: one result out of several, the mean as its simulation; the networks' weights under one roof.
Not here: ensembles, which are several models that differ in their seeds (ensembles.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from aef_dagster.models.engine.course import Trained

Weights = dict[str, NDArray[np.float32]]


def united(networks: Sequence["Trained"], *, side_by_side: bool = False) -> "Trained":
    """What training a job gave, from what it gave for each of its networks.

    Parameters
    ----------
    networks
        In their order.
    side_by_side
        They were trained at the same time, so that their seconds are not to be added up.

    Returns
    -------
    Trained
        Weights as `parted` takes them. Updates, best update and seconds are sums, and the curves
        follow one another: network, counted from 0, is one more column, and valid_nse is that of
        one network, not of their mean. The simulation is the mean. A single network stays as it is.
    """
    if len(networks) == 1:
        return networks[0]
    weights: Weights = {}
    curve: list[dict[str, Any]] = []
    update, basin_days, seconds = 0, 0, 0.0
    for number, network in enumerate(networks):
        weights |= {f"{number}/{name}": array for name, array in network.weights.items()}
        curve += [
            row
            | {
                "update": row["update"] + update,
                "basin_days": row["basin_days"] + basin_days,
                "seconds": round(row["seconds"] + seconds, 2),
                "network": number,
            }
            for row in network.curve
        ]
        update, basin_days = curve[-1]["update"], curve[-1]["basin_days"]
        seconds += 0.0 if side_by_side else network.seconds
    simulations = np.stack([network.simulation for network in networks])
    return replace(
        networks[0],
        weights=weights,
        curve=curve,
        updates=sum(network.updates for network in networks),
        best_update=sum(network.best_update for network in networks),
        seconds=max(network.seconds for network in networks) if side_by_side else seconds,
        simulation=simulations.mean(axis=0, dtype=np.float64).astype(np.float32),
    )


def parted(weights: Weights) -> list[Weights]:
    """The weights of each network, by name of the parameter, from those of a model."""
    if not all("/" in name for name in weights):
        return [weights]
    networks: dict[int, Weights] = {}
    for name, array in weights.items():
        number, parameter = name.split("/", 1)
        networks.setdefault(int(number), {})[parameter] = array
    return [networks[number] for number in sorted(networks)]
