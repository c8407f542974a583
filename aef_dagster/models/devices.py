"""Which device trains: what was asked for, and what this machine has.

Not here: the engines (engine/cpu.py, engine/gpu.py), worker processes (workers.py). No torch: it is
asked in a process of its own, and only where there may be a GPU or one is insisted on.
"""

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from aef_dagster.errors import UserError

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")

COUNT_GPUS = (
    "import torch; "
    "print(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.version.cuda)"
)
INSTALL = "install a PyTorch for this machine's GPU (`make setup TORCH_BACKEND=auto`)"


@dataclass(frozen=True)
class Device:
    """What trains: "cpu", or "cuda" with so many GPUs."""

    name: str
    gpus: int = 0


def choose_device(asked: str) -> Device:
    """The device to train on.

    Parameters
    ----------
    asked
        "cpu"; "cuda", which is never replaced by anything else; "auto": a GPU where there is one.

    Raises
    ------
    UserError
        The name is unknown, or "cuda" is asked for and there is none to be had.
    """
    if asked not in DEVICES:
        raise UserError(f"unknown device {asked!r}: choose one of {', '.join(DEVICES)}")
    if asked == "cpu" or (asked == "auto" and not _may_have_gpu()):
        return Device("cpu")
    gpus, built_for = _count_gpus()
    if gpus:
        return Device("cuda", gpus)
    if built_for == "None":
        reason = f"this PyTorch is built without CUDA: {INSTALL}"
    else:
        reason = "PyTorch finds no GPU here: see what `nvidia-smi` says"
    if asked == "cuda":
        raise UserError(f"device cuda: {reason}, or set AEF_DEVICE=auto or cpu")
    logger.warning("this machine seems to have a GPU, but %s; training on the CPU", reason)
    return Device("cpu")


def _may_have_gpu() -> bool:
    """Whether the system shows a GPU of NVIDIA, to Linux or to Windows' Linux."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _count_gpus() -> tuple[int, str]:
    """GPUs that torch can use, and the CUDA it is built for ("None" = none)."""
    asked = subprocess.run(
        [sys.executable, "-P", "-c", COUNT_GPUS], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        said = asked.stderr.strip().splitlines()
        raise UserError(f"PyTorch cannot be asked for GPUs: {said[-1] if said else 'no reason'}")
    count, built_for = asked.stdout.split()
    return int(count), built_for
