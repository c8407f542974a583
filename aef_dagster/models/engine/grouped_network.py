"""The network of network.py for a stack of models at once: same parameters, same arithmetic.

Here: how a model's parameters lie in one row of numbers, and the forward pass of a stack of rows.
Not here: the recurrence (grouped_lstm.py), what it is trained on (grouped_batches.py).

Parameters of a stack are one matrix [model, parameter]. So optimiser, clipping and averaging are a
few operations on a matrix, and a model moves in and out of the stack as a row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.models.engine.averages import Weights
from aef_dagster.models.engine.grouped_lstm import GroupedLSTM, input_products, run_days
from aef_dagster.models.engine.network import BasinLSTM

Tensor = torch.Tensor
Parameters = dict[str, Tensor]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Layout:
    """Where each parameter of a model lies in its row.

    Parameters
    ----------
    shapes
        Shape of each parameter by its name in `BasinLSTM`, in the order of the row. Those of the
        LSTM come first: cuDNN takes them as they lie only from the start of the memory.
    names
        The names in the network's own order.
    first_static_weight
        The parameter that static inputs are multiplied with first. It is as wide as the most static
        inputs of any model; the columns that a model lacks are 0 and stay so, because what they
        are multiplied with is 0.
    """

    shapes: dict[str, tuple[int, ...]]
    names: tuple[str, ...]
    first_static_weight: str

    @classmethod
    def of(cls, network: BasinLSTM) -> "Layout":
        """The layout of networks of a group; `network` has the most static inputs of them."""
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        ordered = sorted(shapes, key=lambda name: not name.startswith("lstm."))
        first = "static_layers.0.weight" if len(network.static_layers) else "static_weight"
        return cls({name: shapes[name] for name in ordered}, tuple(shapes), first)

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def views(self, rows: Tensor) -> Parameters:
        """Parameters of a stack, [model, *shape] each, from their rows [model, size]."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = rows.split(sizes, dim=1)
        return {
            name: part.view(len(rows), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def row(self, weights: Weights) -> NDArray[np.float32]:
        """Parameters of one model, by name, as a row."""
        parts = []
        for name, shape in self.shapes.items():
            values = weights[name]
            if name == self.first_static_weight:
                values = np.pad(values, ((0, 0), (0, shape[1] - values.shape[1])))
            parts.append(values.ravel())
        return np.concatenate(parts)

    def weights(self, row: NDArray[np.float32], statics: int) -> Weights:
        """A row as parameters by name, those of a model with so many static inputs."""
        stack = self.views(torch.from_numpy(row)[None])
        found = {name: stack[name][0].numpy() for name in self.names}
        first = self.first_static_weight
        found[first] = found[first][:, :statics]
        return {name: values.copy() for name, values in found.items()}


def forward(
    parameters: Parameters,
    weather: Tensor,
    statics: Tensor,
    floor: Tensor | None,
    skip: int = 0,
    dropped: Tensor | None = None,
    share_kept: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Scaled flow of a batch of each model, from an empty memory.

    A stack of one model takes torch's own LSTM (cuDNN on a GPU), which is written for that.

    Parameters
    ----------
    parameters
        What `Layout.views` gave.
    weather
        Scaled forcings, shape [model, day, window, variable].
    statics
        Scaled static inputs, shape [model, window, static].
    floor
        Each model's floor of the flow, shape [model]: see `BasinLSTM`. None = no softplus.
    skip
        Days at the start whose output nobody needs.
    dropped
        Outputs of the LSTM that dropout sets to 0, bool [model, day - skip, window, hidden].
    share_kept
        Share of them that dropout keeps, shape [model].
    dtype
        Of the LSTM's products: see `GroupedLSTM`.

    Returns
    -------
    Tensor
        Shape [model, day - skip, window].
    """
    joined = _joined(parameters, weather, _of_basins(parameters, statics))
    bias_1, bias_2 = parameters["lstm.bias_ih_l0"], parameters["lstm.bias_hh_l0"]
    weight_1, weight_2 = parameters["lstm.weight_ih_l0"], parameters["lstm.weight_hh_l0"]
    if len(weather) == 1 and dtype == torch.float32:
        empty = joined.new_zeros(1, joined.shape[2], joined.shape[3])
        weights = [weight_1[0], weight_2[0], bias_1[0], bias_2[0]]
        states = torch.lstm(
            joined[0], (empty, empty), weights, True, 1, 0.0, True, False, False
        )[0][None, skip:]  # fmt: skip
    else:
        states = GroupedLSTM.apply(joined, weight_1, weight_2, bias_1 + bias_2, skip, dtype)
    if dropped is not None and share_kept is not None:
        states = states.masked_fill(dropped, 0.0) / share_kept[:, None, None, None]
    return _flow(parameters, states, floor)


def _of_basins(parameters: Parameters, statics: Tensor) -> Tensor:
    """What the static inputs give to the input layer of all days, [model, window, hidden]."""
    number = 0
    while f"static_layers.{number}.weight" in parameters:
        name = f"static_layers.{number}"
        statics = torch.tanh(_linear(parameters, statics, f"{name}.weight", f"{name}.bias"))
        number += 1
    return _linear(parameters, statics, "static_weight", "input_bias")


def _joined(parameters: Parameters, weather: Tensor, of_basins: Tensor) -> Tensor:
    """Weather and basin joined, what the LSTM reads: [model, day, window, hidden]."""
    products = torch.bmm(weather.flatten(1, 2), parameters["forcing_weight"].mT)
    products = products.view(*weather.shape[:3], -1)
    return torch.relu(products + of_basins[:, None])


def _flow(parameters: Parameters, states: Tensor, floor: Tensor | None) -> Tensor:
    """Scaled flow from the LSTM's states."""
    weight, bias = parameters["output.weight"], parameters["output.bias"]
    flow = torch.bmm(states.flatten(1, 2), weight.mT).view(states.shape[:3]) + bias[:, :, None]
    if floor is None:
        return flow
    return torch.nn.functional.softplus(flow) + floor[:, None, None]


def _linear(parameters: Parameters, inputs: Tensor, weight: str, bias: str) -> Tensor:
    return torch.baddbmm(parameters[bias][:, None], inputs, parameters[weight].mT)


class LongRun:
    """A pass over many days, a part of them at a time, that learns nothing.

    Its products are in the dtype of the parameters, whatever the training's were.

    Parameters
    ----------
    parameters, statics, floor
        As in `forward`; a window is a basin here.
    """

    def __init__(self, parameters: Parameters, statics: Tensor, floor: Tensor | None):
        self._bias = parameters["lstm.bias_ih_l0"] + parameters["lstm.bias_hh_l0"]
        self._parameters, self._floor = parameters, floor
        self._of_basins = _of_basins(parameters, statics)
        self._hidden = self._cell = torch.zeros_like(self._of_basins)

    def go_on(self, weather: Tensor) -> Tensor:
        """Scaled flow of the next days, shape [model, day, basin], from their scaled forcings."""
        joined = _joined(self._parameters, weather, self._of_basins)
        from_inputs = input_products(joined, self._parameters["lstm.weight_ih_l0"], self._bias)
        _, hidden, cells = run_days(
            from_inputs, self._parameters["lstm.weight_hh_l0"], self._hidden, self._cell
        )
        self._hidden, self._cell = hidden[-1], cells[-1]
        return _flow(self._parameters, torch.stack(hidden[1:], dim=1), self._floor)
