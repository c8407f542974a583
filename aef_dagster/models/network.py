"""The network: an input layer that joins weather and basin, one LSTM, one linear output.

Here: its layers, their initial values, its forward pass over any number of days.
Not here: how it is trained (engine_cpu.py), scaling (scalers.py).
"""

import numpy as np
import torch
from torch import nn


class BasinLSTM(nn.Module):
    """h = ReLU(Wx x_t + Ws s + b); LSTM(h); y = Linear(dropout(LSTM)).

    The static inputs are constant in time, so `Ws s + b` is computed once per basin and added to
    every day, which equals a linear layer on [x_t, s] without carrying s through all days. The
    LSTM is `nn.LSTM`: on a CPU that is oneDNN's, which a loop of one's own cannot come near.

    Parameters
    ----------
    forcings
        Number of forcing variables.
    statics
        Number of static inputs; 0 = the network is told nothing about the basin.
    hidden
        Size of the input layer and of the LSTM's state.
    """

    def __init__(self, forcings: int, statics: int, hidden: int):
        super().__init__()
        self.forcing_weight = nn.Parameter(torch.zeros(hidden, forcings))
        self.static_weight = nn.Parameter(torch.zeros(hidden, statics))
        self.input_bias = nn.Parameter(torch.zeros(hidden))
        self.lstm = nn.LSTM(hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    def initialise(self, forget_bias: float, rng: np.random.Generator) -> None:
        """Draw initial weights uniformly, within 1 / sqrt(number of inputs) of 0.

        Parameters
        ----------
        forget_bias
            Bias of the forget gate.
        rng
            Where the draws come from; the same one gives the same weights on every device.
        """
        hidden = self.input_bias.numel()
        inputs = self.forcing_weight.shape[1] + self.static_weight.shape[1]
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                own = name.startswith(("lstm", "output"))
                bound = (hidden if own else inputs) ** -0.5
                values = rng.uniform(-bound, bound, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values))
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
        basin = nn.functional.linear(statics, self.static_weight, self.input_bias)
        joined = torch.relu(nn.functional.linear(forcing, self.forcing_weight) + basin)
        states, _ = self.lstm(joined)
        states = states[skip:]
        if keep is not None:
            states = states * keep
        return self.output(states).squeeze(-1)
