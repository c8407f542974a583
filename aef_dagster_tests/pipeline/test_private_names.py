"""Names of Dagster that are not its public ones: which are used, and why there is no other way.

`pyproject.toml` holds Dagster below the next minor version; before that bound is raised, this list
says what to look at.
"""

import ast
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "aef_dagster"

WHY = {
    "_core.launcher.LaunchRunContext": "type of the public launcher's argument",
    "_core.launcher.CheckRunHealthResult": "what run monitoring takes from a launcher",
    "_core.launcher.WorkerStatus": "its field",
    "_grpc.client.DagsterGrpcClient": "only a code server knows whether its run lives",
    "_grpc.types.CanCancelExecutionRequest": "the question to it",
    "_core.scheduler.instigation.InstigatorState": "a schedule or sensor, to ask for its ticks",
    "_core.scheduler.instigation.InstigatorTick": "the failure of one; only sensors of runs exist",
    "_core.scheduler.instigation.InstigatorType": "which of the two it is",
    "_core.scheduler.instigation.TickStatus": "whether it failed",
    "_utils.error.SerializableErrorInfo": "type of the error in a public event",
    "_core.storage.asset_check_execution_record.AssetCheckExecutionRecordStatus":
        "whether a check passed, before a training in another run",
    "_core.storage.partition_status_cache.AssetPartitionStatus":
        "which partitions failed; the public call knows of those made only",
    "_core.execution.retries.RetryMode": "the Ray executor: Dagster has no public one to extend",
    "_core.executor.base.Executor": "the same",
    "_core.executor.step_delegating.CheckStepHealthResult": "the same",
    "_core.executor.step_delegating.StepDelegatingExecutor": "the same",
    "_core.executor.step_delegating.StepHandler": "the same",
    "_core.executor.step_delegating.StepHandlerContext": "the same",
}  # fmt: skip


def test_each_private_name_is_listed_and_is_there():
    used = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster._"):
                used |= {f"{node.module}.{name.name}" for name in node.names}
            if isinstance(node, ast.Import):
                used |= {name.name for name in node.names if name.name.startswith("dagster._")}
    assert used == {f"dagster.{name}" for name in WHY}
    for name in used:
        module, _, last = name.rpartition(".")
        assert hasattr(import_module(module), last), name


def test_what_the_wall_replaces_in_dagsters_webserver_is_there_and_in_use():
    """No name of it is documented, and it has no way to put anything in front of what it serves."""
    from dagster_webserver import cli

    replaced = "create_app_from_workspace_process_context"
    assert f"cli.{replaced} = " in (PACKAGE / "pipeline" / "webserver.py").read_text()
    assert callable(getattr(cli, replaced))
    assert replaced in cli.host_dagster_ui_with_workspace_process_context.__code__.co_names
