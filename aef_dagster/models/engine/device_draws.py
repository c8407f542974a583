"""The random numbers of draws.py for many models at once, counted on the device that uses them.

Here: uniform, normal and dropout numbers of a stack of models, each with its own key and its own
update. They are those of `Draws`: uniform numbers and masks exactly, normal ones but for rounding.
Not here: what they are used for (grouped_batches.py).

Torch has no unsigned 64-bit arithmetic on a GPU. Signed products and sums wrap to the same bits; a
shift to the right drags the sign along, so the bits that it drags in are masked away.
"""

import torch

from aef_dagster.models.engine.draws import (
    BLOCK,
    GOLDEN,
    LEVELS,
    MASK_64,
    MIX_1,
    MIX_2,
    Purpose,
    start_of,
    threshold,
)
from aef_dagster.models.engine.kernels import one_kernel

# Two bytes compared as signed numbers, after their highest bit is flipped, are in the order that
# they have as unsigned ones.
HIGHEST_OF_EACH_TWO_BYTES = 0x8000_8000_8000_8000
VALUES_PER_WORD = 4


class DeviceDraws:
    """Random numbers of a stack of models.

    Parameters
    ----------
    size
        Models in the stack.
    device
        Where the numbers are made.
    """

    def __init__(self, size: int, device: torch.device):
        purposes: tuple[Purpose, ...] = ("windows", "statics", "dropout")
        self._device = device
        self._starts = {
            purpose: torch.zeros(size, dtype=torch.int64, device=device) for purpose in purposes
        }

    def load(self, place: int, key: int) -> None:
        """Let the model at a place of the stack draw from a stream: `JobInputs.random_key`."""
        for purpose, starts in self._starts.items():
            starts[place] = _signed(start_of(key, purpose))

    def uniform(self, purpose: Purpose, update: torch.Tensor, count: int) -> torch.Tensor:
        """Numbers in [0, 1).

        Parameters
        ----------
        purpose
            What they are for.
        update
            Each model's update, int64 [model].
        count
            Numbers per model.

        Returns
        -------
        Tensor
            float64 [model, count].
        """
        return _uniform(self._bits(purpose, update, self._count(count)))

    def normal(
        self,
        purpose: Purpose,
        update: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        """Standard normal numbers of tables whose size differs from model to model.

        Parameters
        ----------
        purpose, update
            As in `uniform`.
        rows, columns
            Size of each model's table, int64 [model].
        shape
            Rows and columns of the largest table.

        Returns
        -------
        Tensor
            float32 [model, *shape]; 0 outside a model's own table.
        """
        rows, columns = rows[:, None, None], columns[:, None, None]
        row, column = self._count(shape[0])[:, None], self._count(shape[1])
        position = row * columns + column
        # The first half of the positions takes the cosine of a pair, the second the sine.
        half = (rows * columns + 1) // 2
        first = position < half
        position = torch.where(first, position, position - half)
        radius = torch.sqrt(-2.0 * torch.log1p(-_uniform(self._bits(purpose, update, position))))
        angle = 2.0 * torch.pi * _uniform(self._bits(purpose, update, position + half))
        values = radius * torch.where(first, torch.cos(angle), torch.sin(angle))
        return values.masked_fill((row >= rows) | (column >= columns), 0.0).float()

    def dropped(
        self,
        purpose: Purpose,
        update: torch.Tensor,
        rows: torch.Tensor,
        shape: tuple[int, int, int],
        limit: torch.Tensor,
    ) -> torch.Tensor:
        """Where dropout sets outputs to 0: the opposite of `Draws.dropout`.

        Parameters
        ----------
        purpose, update
            As in `uniform`.
        rows
            Windows in each model's batch, int64 [model]; of the others the result means nothing.
        shape
            Days, windows in the largest batch, and hidden size, a multiple of 4.
        limit
            `limit_of` each model's share of outputs kept, int16 [model].

        Returns
        -------
        Tensor
            bool [model, *shape].
        """
        days, windows, hidden = shape
        words = hidden // VALUES_PER_WORD
        day, window = self._count(days)[:, None, None], self._count(windows)[:, None]
        rows, start = (each[:, None, None, None] for each in (rows, self._start(purpose, update)))
        bits = one_kernel(_of_outputs, self._device.type)(
            day, window, self._count(words), rows, words, start
        )
        return bits.view(torch.int16) >= limit[:, None, None, None]

    def _count(self, count: int) -> torch.Tensor:
        return torch.arange(count, dtype=torch.int64, device=self._device)

    def _start(self, purpose: Purpose, update: torch.Tensor) -> torch.Tensor:
        return self._starts[purpose] + update * _signed(BLOCK * GOLDEN)

    def _bits(self, purpose: Purpose, update: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """64 random bits of each position, int64 [model, ...]; one row of them may serve all."""
        start = self._start(purpose, update).view(-1, *[1] * max(1, position.dim() - 1))
        return one_kernel(mixed, self._device.type)(position, start)


def mixed(position: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """SplitMix64 at positions after a start."""
    bits = (position + 1) * _signed(GOLDEN) + start
    bits = (bits ^ _shifted(bits, 30)) * _signed(MIX_1)
    bits = (bits ^ _shifted(bits, 27)) * _signed(MIX_2)
    return bits ^ _shifted(bits, 31)


def _of_outputs(
    day: torch.Tensor,
    window: torch.Tensor,
    word: torch.Tensor,
    rows: torch.Tensor,
    words: int,
    start: torch.Tensor,
) -> torch.Tensor:
    """The bits of four outputs each, as signed numbers in the order of unsigned ones."""
    bits = mixed((day * rows + window) * words + word, start)
    return bits ^ _signed(HIGHEST_OF_EACH_TWO_BYTES)


def limit_of(share: float) -> int:
    """What `DeviceDraws.dropped` compares with, so that this share of outputs is kept."""
    return threshold(share) - LEVELS // 2


def _uniform(bits: torch.Tensor) -> torch.Tensor:
    return _shifted(bits, 11).double() * 2.0**-53


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Bits moved to the right, zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    """The signed number that has the same 64 bits."""
    bits &= MASK_64
    return bits - (1 << 64) if bits >> 63 else bits
