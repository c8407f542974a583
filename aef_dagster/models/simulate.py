"""Running a trained model again: any basin, any span of days that the data cover.

Here: the networks of a checkpoint, their simulation as a table, and how large a network is.
Not here: training, and the stored simulation of the test period (checkpoints.py).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.committees import parted
from aef_dagster.models.data import TrainingData
from aef_dagster.models.inputs import flow_units, refuse_gaps
from aef_dagster.models.recipes import Recipe
from aef_dagster.models.scoring import simulation_table

if TYPE_CHECKING:
    import pandas as pd

    from aef_dagster.models.engine.network import BasinNetwork


def load_networks(checkpoint: Checkpoint) -> "list[BasinNetwork]":
    """The trained networks of a model's checkpoint (not of an ensemble's)."""
    from aef_dagster.models.engine.network import load_arrays
    from aef_dagster.models.engine.running import new_network

    job, scaler = checkpoint.job(), checkpoint.scaler()
    networks = []
    for weights in parted(checkpoint.weights()):
        network = new_network(scaler, job.recipe, job.budget.hidden)
        load_arrays(network, weights)
        networks.append(network)
    return networks


def parameter_count(recipe: Recipe, forcings: int, statics: int, hidden: int) -> int:
    """Weights that training adjusts in one network.

    Parameters
    ----------
    recipe
        Names the architecture and the static layers.
    forcings
        Number of forcing variables.
    statics
        Number of static inputs, classes of categories counted one by one (`Scaler.static_size`).
    hidden
        Size of the LSTM's state, as of `Budget`.

    Raises
    ------
    UserError
        The architecture needs static inputs, and there are none.
    """
    from aef_dagster.models.engine.variants import network_of

    network = network_of(recipe, forcings, statics, hidden)
    return sum(parameter.numel() for parameter in network.parameters())


def predict(
    checkpoint: Checkpoint, data: TrainingData, gauge_ids: Sequence[str], start: str, end: str
) -> "pd.DataFrame":
    """Simulate basins with a checkpoint.

    Parameters
    ----------
    checkpoint
        Of a model, or of an ensemble whose members lie in the same root.
    data
        Forcings and static inputs of these basins, in the units the model was trained in.
    gauge_ids
        Basins; none of them needs flow.
    start, end
        First and last day wanted. The recipe's spin-up days before them are simulated too, as
        far as the record has them.

    Returns
    -------
    DataFrame
        gauge_id, date, obs, sim, sim_std, as a checkpoint keeps them.

    Raises
    ------
    UserError
        A basin, a day or a forcing value is missing, or the forcings are others.
    """
    from aef_dagster.models.engine.running import simulate, simulate_windowed

    job = checkpoint.job()
    rows, wanted = data.rows(gauge_ids), data.span(start, end)
    windowed = job.recipe.evaluation == "windowed"
    before = job.budget.window - 1 if windowed else job.recipe.spinup_days
    days = slice(max(0, wanted.start - before), wanted.stop)
    refuse_gaps(data, rows, days)
    table = data.representation(job.representation).take(rows)
    units = flow_units(job, data, rows)
    simulations = []
    for member in checkpoint.members():
        model = Checkpoint.open(checkpoint.root, member)
        scaler = model.scaler()
        if scaler.forcing_names != data.forcing_names:
            raise UserError(
                f"checkpoint {member} was trained on {', '.join(scaler.forcing_names)}, "
                f"the data have {', '.join(data.forcing_names)}"
            )
        basins = data.forcing, rows, scaler.scale_statics(table), units
        flows = [
            simulate_windowed(network, scaler, *basins, days, wanted, job.budget.window)
            if windowed
            else simulate(network, scaler, *basins, days, wanted)
            for network in load_networks(model)
        ]
        simulations.append(np.mean(flows, axis=0, dtype=np.float64))
    members = np.stack(simulations)
    return simulation_table(
        tuple(gauge_ids),
        data.dates[wanted],
        data.streamflow[rows, wanted],
        members.mean(0, dtype=np.float64),
        members.std(0, dtype=np.float64) if len(members) > 1 else None,
    )
