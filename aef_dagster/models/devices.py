"""Which device trains: what was asked for, and what this machine has.

Not here: the engines (engine/cpu.py, engine/gpu.py), worker processes (workers.py), who has which
GPU (gpu_claims.py). No torch: it is asked in a process of its own, and only where there may be a
GPU or one is insisted on.
"""

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from aef_dagster.errors import UserError

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
VISIBLE = "CUDA_VISIBLE_DEVICES"

# The uuid tells a GPU from others wherever it is numbered anew: SLURM shows each job a GPU 0.
LIST_GPUS = (
    "import torch; n = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
    "print(torch.version.cuda, *(torch.cuda.get_device_properties(i).uuid for i in range(n)))"
)
INSTALL = "install a PyTorch for this machine's GPU (`make setup TORCH_BACKEND=auto`)"


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name in `CUDA_VISIBLE_DEVICES`, and the one that no other GPU has."""

    visible: str
    uuid: str


@dataclass(frozen=True)
class Device:
    """What trains: "cpu", or "cuda" with the GPUs that this process may see."""

    name: str
    gpus: tuple[Gpu, ...] = ()


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
    if asked == "cpu" or (asked == "auto" and not count_devices()):
        return Device("cpu")
    built_for, gpus = _list_gpus()
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


def count_devices(devices: Path = Path("/dev"), environment: dict[str, str] | None = None) -> int:
    """GPUs that the system shows this process, without asking PyTorch.

    Parameters
    ----------
    devices
        Folder of the system's devices: NVIDIA's are `nvidia0`, `nvidia1`; Windows' Linux shows
        one `dxg` for all.
    environment
        Variables; by default this process's. `CUDA_VISIBLE_DEVICES` may name fewer, or parts of
        one.
    """
    here = len(list(devices.glob("nvidia[0-9]*"))) or int((devices / "dxg").exists())
    named = visible_names(os.environ if environment is None else environment)
    return here if named is None or not here else len(named)


def visible_names(environment) -> list[str] | None:
    """What `CUDA_VISIBLE_DEVICES` names; None where it is not set. It ends at the first -1."""
    if VISIBLE not in environment:
        return None
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def _list_gpus() -> tuple[str, tuple[Gpu, ...]]:
    """The CUDA that torch is built for ("None" = none), and the GPUs that it can use."""
    asked = subprocess.run(
        [sys.executable, "-P", "-c", LIST_GPUS], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        said = asked.stderr.strip().splitlines()
        raise UserError(f"PyTorch cannot be asked for GPUs: {said[-1] if said else 'no reason'}")
    built_for, *uuids = asked.stdout.split()
    names = visible_names(os.environ) or [str(number) for number in range(len(uuids))]
    return built_for, tuple(Gpu(*pair) for pair in zip(names, uuids, strict=False))
