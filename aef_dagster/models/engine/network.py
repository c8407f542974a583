"""The network: an input layer that joins weather and basin, one LSTM, one linear output.

Here: its layers, their initial values, its forward pass over any number of days.
Not here: how it is trained (cpu.py), scaling (scalers.py).
"""

from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aef_dagster.models.engine.draws import Draws


class BasinLSTM(nn.Module):
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
        super().__init__()
        sizes = (statics, *static_layers) if statics else (0,)
        self.static_layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.forcing_weight = nn.Parameter(torch.zeros(hidden, forcings))
        self.static_weight = nn.Parameter(torch.zeros(hidden, sizes[-1]))
        self.input_bias = nn.Parameter(torch.zeros(hidden))
        self.lstm = nn.LSTM(hidden, hidden)
        self.output = nn.Linear(hidden, 1)
        self.floor = floor
        # Products of the LSTM while it learns: see TrainingJob.precision.
        self.bf16 = False

    def initialise(self, forget_bias: float | None, draws: Draws) -> None:
        """Draw initial weights uniformly, within 1 / sqrt(number of inputs) of 0.

        Parameters
        ----------
        forget_bias
            Bias of the forget gate; None = drawn like the others.
        draws
            Where the numbers come from; the same ones on every device.
        """
        hidden = self.input_bias.numel()
        joined = self.forcing_weight.shape[1] + self.static_weight.shape[1]
        with torch.no_grad():
            for number, (name, parameter) in enumerate(self.named_parameters()):
                if name.startswith("static_layers"):
                    layer = self.static_layers[int(name.split(".")[1])]
                    inputs = cast(nn.Linear, layer).in_features
                else:
                    inputs = hidden if name.startswith(("lstm", "output")) else joined
                uniform = draws.uniform("weights", number, parameter.numel())
                values = torch.from_numpy((2.0 * uniform - 1.0) * inputs**-0.5)
                parameter.copy_(values.reshape(parameter.shape))
            if forget_bias is not None:
                # The LSTM adds two biases; gates are ordered input, forget, cell, output.
                biases = dict(self.lstm.named_parameters())
                biases["bias_ih_l0"][hidden : 2 * hidden] = 0.0
                biases["bias_hh_l0"][hidden : 2 * hidden] = forget_bias

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
            Shape [basin, static].
        skip
            Days at the start whose output nobody needs.
        keep
            Dropout mask, shape [day - skip, basin, hidden], already divided by the share kept;
            None = no dropout.

        Returns
        -------
        Tensor
            Shape [day - skip, basin].
        """
        for layer in self.static_layers:
            statics = torch.tanh(layer(statics))
        basin = nn.functional.linear(statics, self.static_weight, self.input_bias)
        joined = nn.functional.linear(forcing, self.forcing_weight).add_(basin).relu_()
        bf16 = self.bf16 and torch.is_grad_enabled()
        with torch.autocast(joined.device.type, dtype=torch.bfloat16, enabled=bf16):
            states, _ = self.lstm(joined)
        states = states.float()
        states = states[skip:]
        if keep is not None:
            states = states * keep
        scaled = self.output(states).squeeze(-1)
        return scaled if self.floor is None else nn.functional.softplus(scaled) + self.floor


def arrays_of(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A network's weights by name, as arrays of their own."""
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def load_arrays(network: nn.Module, weights: dict[str, NDArray[np.float32]]) -> None:
    """Give a network weights, by name."""
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
