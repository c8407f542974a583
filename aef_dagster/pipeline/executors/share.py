"""What a step asks a cluster for, and how its processes are told what they got.

Not here: the words in which Ray or Kubernetes are asked.
"""

from dataclasses import dataclass

from aef_dagster.errors import UserError
from aef_dagster.settings import Settings


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of a step."""

    cpus: int = 1
    gpus: int = 0

    @classmethod
    def of_training(cls, settings: Settings) -> "Share":
        """The share of a step that trains.

        Raises
        ------
        UserError
            A GPU is insisted on, and none asked for.
        """
        asked = settings.step_gpus
        gpus = int(settings.device == "cuda") if asked is None else asked
        if settings.device == "cuda" and gpus == 0:
            raise UserError(
                "AEF_DEVICE=cuda cannot train with AEF_STEP_GPUS=0: ask for a GPU, or set "
                "AEF_DEVICE=auto or cpu"
            )
        return cls(settings.step_cpus, gpus)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the step's process.

        `PYTHON_CPU_COUNT` is Python's own word for the CPUs to count on (3.13): neither Ray nor a
        CPU request of Kubernetes keeps a process from seeing all cores of its node. Both leave a
        step that asks for no GPU free to see all of them, hence the empty list of devices.
        """
        told = {"PYTHON_CPU_COUNT": str(self.cpus)}
        return told if self.gpus else told | {"CUDA_VISIBLE_DEVICES": ""}
