"""Arithmetic that runs through large arrays once instead of a dozen times: compiled, on a GPU.

Here: whether functions are compiled. Not here: the functions (grouped_lstm.py, device_draws.py).
"""

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)


@cache
def one_kernel(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """A function of tensors, as a single kernel where a GPU will run it.

    On a CPU, and on a machine without a compiler, it stays as it is: the same numbers, later.
    """
    if device_type == "cuda" and _can_compile():
        return torch.compile(function)
    return function


@cache
def _can_compile() -> bool:
    """Whether this machine compiles for its GPU; where not, that is told once."""
    if importlib.util.find_spec("triton") is None:
        logger.warning("triton is not installed: a GPU trains more slowly than it could")
        return False
    try:
        torch.compile(_tried)(torch.zeros(2, device="cuda"))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning("kernels cannot be compiled, a GPU trains more slowly: %s", reason)
        return False
    return True


def _tried(values: torch.Tensor) -> torch.Tensor:
    return torch.tanh(values) + 1.0
