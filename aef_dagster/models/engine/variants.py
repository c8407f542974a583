"""Other architectures: other ways in which a network may use what it is told about a basin.

Here: their layers, and which network a recipe asks for.
Not here: the default network and the forward pass that all have in common (network.py), training
(cpu.py). The GPU engine's groups do not know these networks.

No network loops over days by itself: each is one or more of torch's own LSTMs, which on a CPU are
some 50 times faster.
"""

from collections.abc import Callable

import torch
from torch import nn

from aef_dagster.errors import UserError
from aef_dagster.models.engine.network import BasinLSTM, BasinNetwork, set_forget_bias
from aef_dagster.models.recipes import Recipe

EXPERTS = 4


class ConcatenationLSTM(BasinNetwork):
    """y = Linear(dropout(LSTM([x_t, s]))): static inputs beside the weather of every day.

    Parameters
    ----------
    forcings, statics, hidden, static_layers, floor
        As of `BasinLSTM`.

    References
    ----------
    Kratzert et al. 2019, doi:10.5194/hess-23-5089-2019, where it is the LSTM "with static inputs".
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
        self.lstm = nn.LSTM(forcings + self.told, hidden)
        self.output = nn.Linear(hidden, 1)

    def inputs_of(self, name: str) -> int:
        """See `BasinNetwork`."""
        return self.outputs  # as nn.LSTM draws: by its state, whatever comes in

    def set_forget_bias(self, forget_bias: float) -> None:
        """See `BasinNetwork`."""
        set_forget_bias(self.lstm, forget_bias)

    def joined(self, forcing: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        return _every_day(forcing, told)

    def states(self, joined: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        return self.lstm(joined)[0]


class EntityAwareLSTM(BasinNetwork):
    """An LSTM whose input gate is the basin's, constant in time: the EA-LSTM.

    i = sigmoid(Ws s + bs); f, g, o = gates of the weather and of h, as in any LSTM;
    c = f c + i g; h = o tanh(c); y = Linear(dropout(h)).

    It is computed by torch's LSTM, exactly: the gate's Ws s + bs comes in as further inputs, which
    an identity hands to the input gate and zeros keep from the others, and zeros keep the weather
    and h from the input gate.

    Parameters
    ----------
    forcings, statics, hidden, static_layers, floor
        As of `BasinLSTM`; without static inputs there is no such network.

    Raises
    ------
    UserError
        There are no static inputs.

    References
    ----------
    Kratzert et al. 2019, doi:10.5194/hess-23-5089-2019, eqs. 7 to 12.
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
        _refuse_without_statics(statics, "ea_lstm")
        self.gate = nn.Linear(self.told, hidden)
        # Of the gates forget, cell and output, in this order.
        self.weather_weight = nn.Parameter(torch.zeros(3 * hidden, forcings))
        self.state_weight = nn.Parameter(torch.zeros(3 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(3 * hidden))
        self.output = nn.Linear(hidden, 1)

    def inputs_of(self, name: str) -> int:
        """See `BasinNetwork`."""
        return self.told if name.startswith("gate") else self.outputs

    def set_forget_bias(self, forget_bias: float) -> None:
        """See `BasinNetwork`."""
        self.bias[: self.outputs] = forget_bias

    def joined(self, forcing: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        return _every_day(forcing, self.gate(told))

    def states(self, joined: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        start = joined.new_zeros(1, joined.shape[1], self.outputs)
        states, _, _ = torch.lstm(
            joined, (start, start), self._lstm_weights(), has_biases=True, num_layers=1,
            dropout=0.0, train=self.training, bidirectional=False, batch_first=False,
        )  # fmt: skip
        return states

    def _lstm_weights(self) -> list[torch.Tensor]:
        """The weights of an LSTM on [weather, gate]; gates are input, forget, cell, output."""
        hidden, weather, bias = self.outputs, self.weather_weight, self.bias
        handed_on = torch.eye(hidden, device=weather.device)
        to_input_gate = nn.functional.pad(handed_on, (weather.shape[1], 0))
        to_others = nn.functional.pad(weather, (0, hidden))
        return [
            torch.cat([to_input_gate, to_others]),
            nn.functional.pad(self.state_weight, (0, 0, hidden, 0)),
            nn.functional.pad(bias, (hidden, 0)),
            bias.new_zeros(4 * hidden),
        ]


class MixtureOfExperts(BasinNetwork):
    """Several LSTMs behind one input layer, mixed by what the network is told about the basin.

    h = ReLU(Wx x_t + Ws s + b); y = sum over e of softmax(Wg s + bg)_e Linear_e(dropout(LSTM_e(h)))

    Every expert learns from every basin, by the weight that the basin's static inputs give it; the
    weights are constant in time.

    Parameters
    ----------
    forcings, statics, static_layers, floor
        As of `BasinLSTM`; without static inputs there is no such network.
    hidden
        Size of the input layer; each expert's state is half of it.

    Raises
    ------
    UserError
        There are no static inputs, or `hidden` is below 2.

    References
    ----------
    Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79.
    """

    def __init__(
        self,
        forcings: int,
        statics: int,
        hidden: int,
        static_layers: tuple[int, ...] = (),
        floor: float | None = None,
    ):
        super().__init__(statics, EXPERTS * (hidden // 2), static_layers, floor)
        _refuse_without_statics(statics, "experts")
        if hidden < 2:
            raise UserError(
                f"architecture experts: an expert has half of the hidden size, and {hidden} has no "
                "half: choose a larger one"
            )
        self.size = hidden // 2
        self.forcing_weight = nn.Parameter(torch.zeros(hidden, forcings))
        self.static_weight = nn.Parameter(torch.zeros(hidden, self.told))
        self.input_bias = nn.Parameter(torch.zeros(hidden))
        self.experts = nn.ModuleList(nn.LSTM(hidden, self.size) for _ in range(EXPERTS))
        self.output_weight = nn.Parameter(torch.zeros(EXPERTS, self.size))
        self.output_bias = nn.Parameter(torch.zeros(EXPERTS))
        self.gate = nn.Linear(self.told, EXPERTS)

    def inputs_of(self, name: str) -> int:
        """See `BasinNetwork`."""
        if name.startswith("gate"):
            return self.told
        if name.startswith(("experts", "output")):
            return self.size
        return self.forcing_weight.shape[1] + self.told

    def set_forget_bias(self, forget_bias: float) -> None:
        """See `BasinNetwork`."""
        for expert in self.experts:
            assert isinstance(expert, nn.LSTM)
            set_forget_bias(expert, forget_bias)

    def shares(self, statics: torch.Tensor) -> torch.Tensor:
        """Weight of each expert in the flow of basins.

        Parameters
        ----------
        statics
            Scaled, shape [basin, static].

        Returns
        -------
        Tensor
            Shape [basin, expert]; each row sums to 1.
        """
        return torch.softmax(self.gate(self.through_static_layers(statics)), dim=-1)

    def joined(self, forcing: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        basin = nn.functional.linear(told, self.static_weight, self.input_bias)
        return nn.functional.linear(forcing, self.forcing_weight).add_(basin).relu_()

    def states(self, joined: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`."""
        return torch.cat([expert(joined)[0] for expert in self.experts], dim=-1)

    def flow(self, states: torch.Tensor, statics: torch.Tensor) -> torch.Tensor:
        """See `BasinNetwork`; each expert has an output of its own."""
        each = (states.unflatten(-1, (EXPERTS, -1)) * self.output_weight).sum(-1) + self.output_bias
        return (each * self.shares(statics)).sum(-1)


NETWORKS: dict[str, Callable[..., BasinNetwork]] = {
    "one_layer": BasinLSTM,
    "concatenation": ConcatenationLSTM,
    "ea_lstm": EntityAwareLSTM,
    "experts": MixtureOfExperts,
}


def network_of(
    recipe: Recipe, forcings: int, statics: int, hidden: int, floor: float | None = None
) -> BasinNetwork:
    """A network of a recipe's architecture, its weights not yet drawn.

    Parameters
    ----------
    recipe
        Names the architecture and the static layers.
    forcings, statics, hidden, floor
        As of `BasinLSTM`.

    Raises
    ------
    UserError
        The architecture needs static inputs, and there are none.
    """
    return NETWORKS[recipe.architecture](forcings, statics, hidden, recipe.static_layers, floor)


def _every_day(forcing: torch.Tensor, basin: torch.Tensor) -> torch.Tensor:
    """Numbers of the basins beside the weather of each day; one basin's may serve all."""
    return torch.cat([forcing, basin.expand(*forcing.shape[:2], -1)], dim=-1)


def _refuse_without_statics(statics: int, architecture: str) -> None:
    if statics == 0:
        raise UserError(
            f"architecture {architecture!r} is steered by static inputs and is given none: choose "
            "a representation that has some, or another architecture"
        )
