"""The executor of the code location, chosen once.

A run is already a process of its own and training spreads over the cores by itself, so steps run
inside it by default; a step of the multiprocess executor costs 2.7 s more (measured). Ray and
Kubernetes are extras, imported only when chosen.

Not here: how many runs at once (dagster.yaml). Concept:
https://docs.dagster.io/guides/operate/run-executors
"""

import dagster as dg

from aef_dagster.errors import UserError


def choose_executor(name: str) -> dg.ExecutorDefinition:
    """Executor by the name that `AEF_EXECUTOR` takes.

    Raises
    ------
    UserError
        The extra that the executor needs is not installed.
    """
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    try:
        if name == "ray":
            from dagster_ray import ray_executor

            return ray_executor
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    except ImportError:
        raise UserError(
            f"AEF_EXECUTOR={name} needs the extra of that name: pip install 'aef-dagster[{name}]'"
        ) from None
