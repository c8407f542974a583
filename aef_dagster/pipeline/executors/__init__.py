"""Executors of the code location, chosen once by `AEF_EXECUTOR`.

A run is already a process of its own and training spreads over the cores by itself, so steps run
inside it by default; a step of the multiprocess executor costs 2.7 s more (measured). Ray and
Kubernetes are extras, imported only when chosen.

Here: the door to each. Not here: what a step becomes on Ray (on_ray.py) or on Kubernetes
(on_kubernetes.py), how many runs at once (instance.py, dagster.yaml). Concept:
https://docs.dagster.io/guides/operate/run-executors
"""

from collections.abc import Collection

import dagster as dg

from aef_dagster.errors import UserError
from aef_dagster.pipeline.executors.share import Share
from aef_dagster.settings import Settings


def choose_executor(settings: Settings, training: Collection[str]) -> dg.ExecutorDefinition:
    """The executor that the settings name.

    Parameters
    ----------
    training
        Names of the steps that train. These ask for their share, `AEF_STEP_CPUS` and
        `AEF_STEP_GPUS`, the others for one CPU.

    Raises
    ------
    UserError
        The extra that the executor needs is not installed, or settings do not fit each other.
    """
    if settings.executor == "in_process":
        return dg.in_process_executor
    if settings.executor == "multiprocess":
        return dg.multiprocess_executor
    share = Share.of_training(settings)
    try:
        if settings.executor == "ray":
            from aef_dagster.pipeline.executors.on_ray import ray_executor

            return ray_executor(settings, share, training)
        from aef_dagster.pipeline.executors.on_kubernetes import kubernetes_executor

        return kubernetes_executor(settings, share, training)
    except ImportError:
        raise _without_extra(settings.executor) from None


def stop_steps_of_ended_runs(instance: dg.DagsterInstance, settings: Settings) -> list[str]:
    """Stop steps on Ray whose run failed or was cancelled; ids of these runs.

    Raises
    ------
    UserError
        The cluster cannot be reached, or does not obey; or the extra is not installed here.
    """
    if settings.executor != "ray":
        return []
    try:
        from aef_dagster.pipeline.executors.ended_on_ray import stop_jobs_of_ended_runs
    except ImportError:
        raise _without_extra("ray") from None
    return stop_jobs_of_ended_runs(instance, settings.ray_address)


def _without_extra(name: str) -> UserError:
    return UserError(
        f"AEF_EXECUTOR={name} needs the extra of that name: pip install 'aef-dagster[{name}]'"
    )
