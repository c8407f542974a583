"""A running average of a network's weights while it trains."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aef_dagster.models.engine.course import Weights
from aef_dagster.models.engine.network import BasinNetwork


class WeightAverage:
    """An exponential moving average of weights, or nothing at all where none is wanted.

    Parameters
    ----------
    network
        Whose weights.
    updates
        How many updates it remembers; 0 = no average.
    """

    def __init__(self, network: BasinNetwork, updates: float):
        self._wanted = updates > 0
        self._decay = 1.0 - 1.0 / max(1.0, updates)
        self._tensors = copy_of_weights(network) if self._wanted else {}

    def add(self, network: BasinNetwork) -> None:
        """Take the weights after an update into the average."""
        if self._wanted:
            current = [parameter.detach() for parameter in network.parameters()]
            torch._foreach_lerp_(list(self._tensors.values()), current, 1.0 - self._decay)

    @contextmanager
    def in_place_of(self, network: BasinNetwork) -> Iterator[None]:
        """Let the network compute with the average meanwhile."""
        if not self._wanted:
            yield
            return
        own = copy_of_weights(network)
        network.load_state_dict(self._tensors)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def arrays(self) -> Weights:
        """The average by name; nothing where none is wanted."""
        return {name: tensor.numpy().copy() for name, tensor in self._tensors.items()}

    def load(self, arrays: Weights) -> None:
        """The average as `arrays` gave it."""
        for name, tensor in self._tensors.items():  # by name: files keep an order of their own
            tensor.copy_(torch.from_numpy(arrays[name]))


def copy_of_weights(network: BasinNetwork) -> dict[str, torch.Tensor]:
    """Tensors of a network's own, by name."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
