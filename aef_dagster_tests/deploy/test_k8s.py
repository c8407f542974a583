"""What Kubernetes would be given: the job of a training step, and MLflow's objects, by its schemas.

No cluster is at hand. The job is rendered by dagster-k8s's own functions from the executor of the
definitions and from what deploy/values.yaml says of the code location and of a run.
"""

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml

from aef_dagster.pipeline.executors import choose_executor
from aef_dagster.settings import load_settings

# A cluster that nobody is asked about: dagster-k8s wants to know one before it renders anything.
KUBECONFIG = {
    "apiVersion": "v1", "kind": "Config", "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:9"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
}  # fmt: skip

DEPLOY = Path(__file__).parents[2] / "deploy"
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
VERSIONS = ("1.28", "1.34")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Renders the job of a step, as the object that is sent."""
    pytest.importorskip("dagster_k8s", reason="the extra k8s is not installed")
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
    from kubernetes.client import ApiClient

    values = yaml.safe_load((DEPLOY / "values.yaml").read_text())
    code = values["dagster-user-deployments"]["deployments"][0]
    of_runs = values["runLauncher"]["config"]["k8sRunLauncher"]
    kubeconfig = tmp_path_factory.mktemp("kube") / "config"
    kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
    launcher = K8sRunLauncher(
        dagster_home="/opt/dagster/dagster_home", instance_config_map="rivers-dagster-instance",
        postgres_password_secret=values["global"]["postgresqlSecretName"],
        service_account_name="aef-dagster", job_namespace="default", load_incluster_config=False,
        kubeconfig_file=str(kubeconfig), image_pull_policy=of_runs["imagePullPolicy"],
        resources=of_runs["resources"],
    )  # fmt: skip
    # As the chart puts it into the container context of the code location.
    of_code = K8sContainerContext.create_from_config({"k8s": {
        "env": code["env"], "volumes": code["volumes"], "volume_mounts": code["volumeMounts"],
        "security_context": code["securityContext"], "resources": code["resources"],
        "run_k8s_config": {"pod_spec_config": {
            "node_selector": code["nodeSelector"], "security_context": code["podSecurityContext"],
        }},
    }})  # fmt: skip
    run = K8sContainerContext.create_for_run(
        dg.DagsterRun("job"), launcher, include_run_tags=False
    ).merge(of_code)

    def render(step, **settings):
        executor = choose_executor(load_settings(executor="k8s", **settings), ["basin_models"])
        config = executor.apply_config_mapping({"config": {}}).value["config"]
        context = run
        for chosen in (config["step_k8s_config"], config["per_step_k8s_config"].get(step, {})):
            of_step = UserDefinedDagsterK8sConfig.from_dict(chosen)
            context = context.merge(K8sContainerContext(run_k8s_config=of_step))
        image = "{repository}:{tag}".format(**code["image"])
        made = construct_dagster_k8s_job(
            context.get_k8s_job_config(image, launcher),
            ["dagster", "api", "execute_step"],
            "dagster-step-1",
            user_defined_k8s_config=context.run_k8s_config,
            pod_name="dagster-step-1",
            component="step_worker",
            labels={"dagster/op": step},
        )
        return ApiClient().sanitize_for_serialization(made)

    return render


@pytest.fixture
def valid():
    """Checks an object against Kubernetes' own schemas; unknown fields are errors."""
    library = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate, for Kubernetes' schemas"
    )

    def check(thing):
        for version in VERSIONS:
            library.validate(thing, version, strict=True)

    return check


def parts(job):
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container, {each["name"]: each.get("value") for each in container["env"]}


def test_a_training_step_asks_for_its_share_where_it_may_run(job, valid):
    made = job(
        "basin_models", step_cpus=8, step_gpus=2, device="cuda",
        k8s_node_selector='{"gpu": "h100"}', k8s_tolerations=json.dumps([TOLERATION]),
    )  # fmt: skip
    valid(made)
    pod, container, env = parts(made)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["resources"]["requests"]["cpu"] == "8"
    assert pod["nodeSelector"] == {"gpu": "h100", "aef.example.org/home": "true"}
    assert pod["tolerations"] == [TOLERATION]
    assert env["PYTHON_CPU_COUNT"] == "8" and "CUDA_VISIBLE_DEVICES" not in env
    assert len(env) == len(container["env"]), "no variable twice"
    assert env["AEF_HOME"] == "/srv/aef", "the settings of the code location reach it"
    assert container["volumeMounts"][0]["mountPath"] == "/srv/aef"


def test_other_steps_ask_for_a_cpu_and_no_gpu(job, valid):
    made = job("basin_scores", step_cpus=8, step_gpus=2, k8s_node_selector='{"gpu": "h100"}')
    valid(made)
    pod, container, env = parts(made)
    assert container["resources"]["requests"]["cpu"] == "1"
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})
    assert pod["nodeSelector"] == {"aef.example.org/home": "true"}
    assert "tolerations" not in pod
    assert env["AEF_HOME"] == "/srv/aef"


def test_a_training_without_a_gpu_sees_none(job, valid):
    made = job("basin_models")
    valid(made)
    _pod, container, env = parts(made)
    assert (env["PYTHON_CPU_COUNT"], env["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})


def test_the_schemas_refuse_what_is_misspelt(job, valid):
    made = job("basin_models")
    made["spec"]["template"]["spec"]["nodeSelectors"] = {}
    with pytest.raises(Exception, match="nodeSelectors"):
        valid(made)


def test_the_objects_of_mlflow_are_what_kubernetes_takes(valid):
    things = list(yaml.safe_load_all((DEPLOY / "mlflow.yaml").read_text()))
    assert len(things) == 4
    for thing in things:
        valid(thing)
