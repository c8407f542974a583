"""The network: an input layer that joins weather and basin, one LSTM, one linear output.

Here: its layers and their initial values; and what every network has, of whatever architecture: its
forward pass over any number of days.
Not here: other architectures (variants.py), how a network is trained (cpu.py), scaling
(scalers.py).
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aef_dagster.models.engine.draws import Draws


class BasinNetwork(nn.Module, ABC):
    """What every network has: layers that static inputs pass first, initial values, a floor.

    Parameters
    ----------
    statics
        Number of static inputs; 0 = the network is told nothing about the basin.
    outputs
        Numbers a day that dropout acts on.
    static_layers
        Sizes of tanh layers that the static inputs pass first.
    floor
        The output is this plus a softplus; None = the output as it comes.

    Attributes
    ----------
    told
        Numbers that the rest of the network is told about a basin.
    output
        Layer from states to flow; made by each network in its place among the parameters, for
        their order is that of the draws.
    """

    output: nn.Linear

    def __init__(
        self, statics: int, outputs: int, static_layers: tuple[int, ...], floor: float | None
    ):
        super().__init__()
        sizes = (statics, *static_layers) if statics else (0,)
        self.static_layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.told, self.outputs, self.floor = sizes[-1], outputs, floor
        # Products of the LSTM while it learns: see TrainingJob.precision.
        self.bf16 = False

    @abstractmethod
    def inputs_of(self, name: str) -> int:
        """How many inputs the layer of a parameter has, but for the static layers."""

    @abstractmethod
    def set_forget_bias(self, forget_bias: float) -> None:
        """Set what the forget gate adds, so that a new network remembers."""

    @abstractmethod
    def joined(self, forcing: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """What the LSTM is given each day, from the weather and what is told of the basins.

        Shapes [day, basin, variable] and [basin, told] in, [day, basin, any] out.
        """

    @abstractmethod
    def states(self, joined: torch.Tensor) -> torch.Tensor:
        """States of the LSTM from an empty memory, shape [day, basin, outputs]."""

    def flow(self, states: torch.Tensor, statics: torch.Tensor) -> torch.Tensor:
        """Scaled flow, shape [day, basin], from states and the static inputs of the basins."""
        return self.output(states).squeeze(-1)

    def forward(
        self,
        forcing: torch.Tensor,
        statics: torch.Tensor,
        skip: int = 0,
        keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scaled flow from scaled inputs, starting from an empty memory.

        Parameters
        ----------
        forcing
            Shape [day, basin, variable].
        statics
            Shape [basin, static]; one row serves all basins.
        skip
            Days at the start whose output nobody needs.
        keep
            Dropout mask, shape [day - skip, basin, outputs], already divided by the share kept;
            None = no dropout.

        Returns
        -------
        Tensor
            Shape [day - skip, basin].
        """
        joined = self.joined(forcing, self.through_static_layers(statics))
        with self.products(joined.device):
            states = self.states(joined)
        states = states.float()[skip:]
        if keep is not None:
            states = states * keep
        return self.above_floor(self.flow(states, statics))

    def initialise(self, forget_bias: float | None, draws: Draws) -> None:
        """Draw initial weights uniformly, within 1 / sqrt(number of inputs) of 0.

        Parameters
        ----------
        forget_bias
            Bias of the forget gate; None = drawn like the others.
        draws
            Where the numbers come from; the same ones on every device.
        """
        with torch.no_grad():
            for number, (name, parameter) in enumerate(self.named_parameters()):
                if name.startswith("static_layers"):
                    layer = self.static_layers[int(name.split(".")[1])]
                    inputs = cast(nn.Linear, layer).in_features
                else:
                    inputs = self.inputs_of(name)
                uniform = draws.uniform("weights", number, parameter.numel())
                values = torch.from_numpy((2.0 * uniform - 1.0) * inputs**-0.5)
                parameter.copy_(values.reshape(parameter.shape))
            if forget_bias is not None:
                self.set_forget_bias(forget_bias)

    def through_static_layers(self, statics: torch.Tensor) -> torch.Tensor:
        """What the rest of the network is told about the basins, shape [basin, told]."""
        for layer in self.static_layers:
            statics = torch.tanh(layer(statics))
        return statics

    def products(self, device: torch.device) -> torch.autocast:
        """The precision of the LSTM's products: bfloat16 only while it learns."""
        bf16 = self.bf16 and torch.is_grad_enabled()
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)

    def above_floor(self, scaled: torch.Tensor) -> torch.Tensor:
        """The output, above the floor where there is one."""
        return scaled if self.floor is None else nn.functional.softplus(scaled) + self.floor


class BasinLSTM(BasinNetwork):
    """h = ReLU(Wx x_t + Ws s + b); LSTM(h); y = Linear(dropout(LSTM)).

    The static inputs are constant in time, so `Ws s + b` is computed once per basin and added to
    every day, which equals a linear layer on [x_t, s] without carrying s through all days. The
    LSTM is `nn.LSTM`: on a CPU that is oneDNN's, on a GPU cuDNN's, which a loop of one's own cannot
    come near.

    Parameters
    ----------
    forcings
        Number of forcing variables.
    statics
        Number of static inputs; 0 = the network is told nothing about the basin.
    hidden
        Size of the input layer and of the LSTM's state.
    static_layers
        Sizes of tanh layers that the static inputs pass first.
    floor
        The output is this plus a softplus; None = the output as it comes.
    """

    def __init__(
        self,
        forcings: int,
        statics: int,
        hidden: int,
        static_layers: tuple[int, ...] = (),
        floor: float | None = None,
    ):
        super().__init__(statics, hidden, static_layers, floor)
        self.forcing_weight = nn.Parameter(torch.zeros(hidden, forcings))
        self.static_weight = nn.Parameter(torch.zeros(hidden, self.told))
        self.input_bias = nn.Parameter(torch.zeros(hidden))
        self.lstm = nn.LSTM(hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    def inputs_of(self, name: str) -> int:
        """See `BasinNetwork`."""
        if name.startswith(("lstm", "output")):
            return self.outputs
        return self.forcing_weight.shape[1] + self.told

    def set_forget_bias(self, forget_bias: float) -> None:
        """See `BasinNetwork`."""
        set_forget_bias(self.lstm, forget_bias)

    def joined(self, forcing: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        basin = nn.functional.linear(told, self.static_weight, self.input_bias)
        return nn.functional.linear(forcing, self.forcing_weight).add_(basin).relu_()

    def states(self, joined: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        return self.lstm(joined)[0]


def set_forget_bias(lstm: nn.LSTM, forget_bias: float) -> None:
    """Set the forget gate's bias of torch's LSTM."""
    # The LSTM adds two biases; gates are ordered input, forget, cell, output.
    biases, hidden = dict(lstm.named_parameters()), lstm.hidden_size
    biases["bias_ih_l0"][hidden : 2 * hidden] = 0.0
    biases["bias_hh_l0"][hidden : 2 * hidden] = forget_bias


def arrays_of(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A network's weights by name, as arrays of their own."""
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def load_arrays(network: nn.Module, weights: dict[str, NDArray[np.float32]]) -> None:
    """Give a network weights, by name."""
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
