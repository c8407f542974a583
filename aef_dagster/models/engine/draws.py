"""The random numbers of training, counted instead of drawn one after another.

Here: uniform, normal and 0/1 numbers that depend on a key, a purpose and a position alone.
Not here: what they are used for (batches.py, windows.py).

A generator that is drawn from has a state, which must be saved with a half-trained model, and gives
other numbers on another device or in another order. These are a hash of their position (SplitMix64,
Steele et al. 2014, doi:10.1145/2714064.2660195), so update 500 of a job draws the same numbers
alone or beside others, on a CPU or a GPU (device_draws.py), resumed or not.
"""

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Purpose = Literal["weights", "windows", "statics", "dropout", "validation", "epoch"]

GOLDEN = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK_64 = (1 << 64) - 1
# The positions of one update lie in a block of this size, far apart from those of the next.
BLOCK = 1 << 32
# Dropout needs two bytes an output: one would round a share of 0.4 to 0.398.
LEVELS = 1 << 16
# Words of a mask made at once: they stay in the processor's cache, which saves half of the time.
STEPS = np.arange(1, (1 << 15) + 1, dtype=np.uint64) * np.uint64(GOLDEN)


class Draws:
    """Random numbers of one job.

    Parameters
    ----------
    key
        64 bits that name the job's stream: `JobInputs.random_key`.
    """

    def __init__(self, key: int):
        self._key = key

    def bits(self, purpose: Purpose, update: int, count: int) -> NDArray[np.uint64]:
        """64 random bits each, shape [count]."""
        start = np.uint64((start_of(self._key, purpose) + update * BLOCK * GOLDEN) & MASK_64)
        words = np.arange(1, count + 1, dtype=np.uint64)
        words *= np.uint64(GOLDEN)
        words += start
        _mix(words, np.empty_like(words))
        return words

    def uniform(self, purpose: Purpose, update: int, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), multiples of 2**-53, shape [count]."""
        words = self.bits(purpose, update, count) >> np.uint64(11)
        return words.astype(np.float64) * 2.0**-53

    def normal(self, purpose: Purpose, update: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Standard normal numbers (Box and Muller 1958)."""
        count = int(np.prod(shape))
        half = (count + 1) // 2
        uniform = self.uniform(purpose, update, 2 * half)
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:half]))
        angle = 2.0 * np.pi * uniform[half:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count].astype(np.float32).reshape(shape)

    def dropout(
        self, purpose: Purpose, update: int, shape: tuple[int, ...], share: float
    ) -> NDArray[np.float32]:
        """1 / share with probability `share`, to the nearest 1 / 65536; else 0."""
        count, level, kept = int(np.prod(shape)), threshold(share), np.float32(1.0 / share)
        mask = np.empty(count, dtype=np.float32)
        start = start_of(self._key, purpose) + update * BLOCK * GOLDEN
        mixed, shifted = np.empty_like(STEPS), np.empty_like(STEPS)
        for at in range(0, count, 4 * STEPS.size):
            np.add(STEPS, np.uint64((start + at // 4 * GOLDEN) & MASK_64), out=mixed)
            _mix(mixed, shifted)
            part = mask[at : at + 4 * STEPS.size]
            np.multiply(mixed.view(np.uint16)[: part.size] < level, kept, out=part)
        return mask.reshape(shape)


def _mix(words: NDArray[np.uint64], shifted: NDArray[np.uint64]) -> None:
    """SplitMix64's finish, in place; `shifted` is room to work in."""
    for shift, factor in ((30, MIX_1), (27, MIX_2), (31, 1)):
        np.right_shift(words, np.uint64(shift), out=shifted)
        words ^= shifted
        if factor != 1:
            words *= np.uint64(factor)


def start_of(key: int, purpose: Purpose) -> int:
    """Where the positions of a purpose begin: 64 bits from key and purpose."""
    digest = hashlib.sha256(f"{key}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def threshold(share: float) -> int:
    """How many of the 65536 values of two bytes are kept."""
    return min(LEVELS - 1, round(share * LEVELS))
