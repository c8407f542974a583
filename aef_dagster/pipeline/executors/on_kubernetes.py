"""Steps as Kubernetes jobs, through dagster-k8s.

Here: what each step asks for, and on which nodes it trains. Image, volumes, secrets and settings
come from the run's own pod (deploy/values.yaml). Not here: the jobs themselves, which are
dagster-k8s's (https://docs.dagster.io/deployment/oss/deployment-options/kubernetes). Loaded only
when chosen.
"""

import json
from collections.abc import Collection
from typing import Any

import dagster as dg
from dagster_k8s import k8s_job_executor

from aef_dagster.errors import UserError
from aef_dagster.pipeline.executors.share import Share
from aef_dagster.settings import PREFIX, Settings

GPU = "nvidia.com/gpu"


def kubernetes_executor(
    settings: Settings, share: Share, training: Collection[str]
) -> dg.ExecutorDefinition:
    """Executor that runs each step as a Kubernetes job.

    `training` names the steps that get the `share`, as in `choose_executor`.

    Raises
    ------
    UserError
        Node selector or tolerations are not what Kubernetes takes.
    """
    of_training: dict[str, Any] = {"container_config": _container(share) | _told(share)}
    pod = {
        "node_selector": _node_selector(settings.k8s_node_selector),
        "tolerations": _tolerations(settings.k8s_tolerations),
    }
    of_training["pod_spec_config"] = {name: value for name, value in pod.items() if value}
    return k8s_job_executor.configured(
        {
            # Without variables: dagster-k8s joins lists, and a step that trains would get both.
            "step_k8s_config": {"container_config": _container(Share())},
            "per_step_k8s_config": {name: of_training for name in sorted(training)},
        },
        name="k8s",
    )


def _container(share: Share) -> dict[str, Any]:
    """Resources of a step's container; a GPU is asked for as a limit."""
    resources: dict[str, Any] = {"requests": {"cpu": str(share.cpus)}}
    if share.gpus:
        resources["limits"] = {GPU: str(share.gpus)}
    return {"resources": resources}


def _told(share: Share) -> dict[str, Any]:
    return {"env": [{"name": name, "value": value} for name, value in share.environment.items()]}


def _node_selector(text: str) -> dict[str, str]:
    found = _json("k8s_node_selector", text)
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise _refused("k8s_node_selector", text, 'labels, such as {"gpu": "true"}')
    return found


def _tolerations(text: str) -> list[dict[str, Any]]:
    found = _json("k8s_tolerations", text)
    keys = {"key", "operator", "value", "effect", "tolerationSeconds"}
    if not isinstance(found, list) or not all(
        isinstance(each, dict) and each and set(each) <= keys for each in found
    ):
        example = f'[{{"key": "{GPU}", "operator": "Exists", "effect": "NoSchedule"}}]'
        raise _refused("k8s_tolerations", text, f"a list of tolerations, such as {example}")
    return found


def _json(setting: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _refused(setting, text, "JSON") from None


def _refused(setting: str, text: str, wanted: str) -> UserError:
    return UserError(f"{PREFIX}{setting.upper()}={text!r} is not {wanted}")
