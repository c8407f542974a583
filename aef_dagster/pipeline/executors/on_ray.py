"""Steps as Ray jobs, through dagster-ray.

Here: what each step asks for, what of the settings reaches it, and sentences on a step or a cluster
that died. Not here: submission itself, which is dagster-ray's
(https://github.com/danielgafni/dagster-ray). Loaded only when chosen.
"""

import os
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import dagster as dg
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster_ray.core.executor import RayStepHandler
from pydantic import SecretStr
from ray.job_submission import JobSubmissionClient

from aef_dagster.errors import UserError
from aef_dagster.pipeline.executors.share import Share
from aef_dagster.settings import PREFIX, Settings, masked

# A check is a question of some milliseconds to the head; Dagster asks each 20 s.
SECONDS_BETWEEN_CHECKS = 5
# A head that stutters must not fail a step that trains on.
PATIENCE_S = 60.0
# Tells a step which settings its node must have: without one, it would quietly use the default.
NEEDS = "RAY_STEP_NEEDS"
# Where Dagster's database is. Its password is not sent: what is sent, Ray shows on its page.
DATABASE = ("DAGSTER_PG_HOST", "DAGSTER_PG_PORT", "DAGSTER_PG_DB", "DAGSTER_PG_USER")


def ray_executor(
    settings: Settings, share: Share, training: Collection[str]
) -> dg.ExecutorDefinition:
    """Executor that runs each step as a job of the Ray cluster at `AEF_RAY_ADDRESS`.

    Parameters
    ----------
    share
        What each step that trains asks for; the others ask for one CPU.
    training
        Names of the steps that train.

    Raises
    ------
    UserError
        This is a step on Ray, and its node lacks a setting that is not sent.
    """
    needed = filter(None, os.environ.get(NEEDS, "").split(","))
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"this Ray node has no {', '.join(missing)}, which is not sent because it holds a "
            "password: set it where `ray start` is called on the node, and start Ray again"
        )

    @dg.executor(
        name="ray",
        requirements=[
            dg.ExecutorRequirement.RECONSTRUCTABLE_JOB,
            dg.ExecutorRequirement.NON_EPHEMERAL_INSTANCE,
            dg.ExecutorRequirement.PERSISTENT_OUTPUTS,
        ],
    )
    def on_ray(_context: dg.InitExecutorContext) -> Executor:
        return StepDelegatingExecutor(
            StepsOnRay(settings, share, training),
            # Nothing asks for retries; a failed training is asked for again by a person.
            retries=RetryMode.ENABLED,
            check_step_health_interval_seconds=SECONDS_BETWEEN_CHECKS,
            should_verify_step=True,
        )

    return on_ray


class StepsOnRay(StepHandler):
    """dagster-ray's way to run a step, once for steps that train and once for the others.

    Parameters
    ----------
    share, training
        As in `ray_executor`.
    patience_s
        How long the head may be silent before the step is given up.

    Raises
    ------
    UserError
        No Ray head answers at the address.
    """

    def __init__(
        self,
        settings: Settings,
        share: Share,
        training: Collection[str],
        patience_s: float = PATIENCE_S,
    ):
        super().__init__()
        self._address, self._training = settings.ray_address, frozenset(training)
        self._patience_s, self._silent_since = patience_s, 0.0
        try:
            client = JobSubmissionClient(self._address)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"no Ray head answers at AEF_RAY_ADDRESS={masked(self._address)}: start one "
                f"(`ray start --head`), or mend the address ({_first_line(error)})"
            ) from None
        self._trains, self._others = (_handler(client, settings, s) for s in (share, Share()))

    @property
    def name(self) -> str:
        """What the events of a run call it."""
        return "Ray"

    def launch_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Submit the step."""
        yield from self._of(context).launch_step(context)

    def terminate_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Stop the step, with all processes that it started."""
        yield from self._of(context).terminate_step(context)

    def check_step_health(self, context: StepHandlerContext) -> CheckStepHealthResult:
        """Whether the step's Ray job lives; if not, why in a sentence."""
        try:
            health = self._of(context).check_step_health(context)
        except OSError:  # of the system, or of the library that asks
            self._silent_since = self._silent_since or time.monotonic()
            silent_s = time.monotonic() - self._silent_since
            if silent_s < self._patience_s:
                return CheckStepHealthResult.healthy()
            return CheckStepHealthResult.unhealthy(
                f"the Ray head at {masked(self._address)} has not answered for {silent_s:.0f} s; "
                "what was finished is kept: start Ray, and launch this again for the rest"
            )
        self._silent_since = 0.0
        if health.is_healthy:
            return health
        # Before `Message:` stand the names of job and step, which the page shows anyway.
        reason = str(health.unhealthy_reason).rpartition("Message: ")[2]
        return CheckStepHealthResult.unhealthy(
            f"its Ray job died ({_first_line(reason)}); what was finished is kept: launch this "
            "again for the rest. Where nobody killed it, see the memory of its node on Ray's page"
        )

    def _of(self, context: StepHandlerContext) -> RayStepHandler:
        (step,) = context.execute_step_args.step_keys_to_execute or ("",)
        return self._trains if step in self._training else self._others


def environment(settings: Settings, share: Share) -> dict[str, str]:
    """Variables that a step is given; everybody who reaches Ray's page can read them.

    The settings in force, paths absolute, less those that hold a password: these a step takes from
    the environment in which Ray was started on its node. Code and environment of Python lie at the
    same place on every node.
    """
    given = {
        PREFIX + name.upper(): str(value)
        for name, value in settings.model_dump().items()
        # Secrets by type are of alerts, which no step sends.
        if value is not None and not isinstance(value, SecretStr)
    }
    told = {name: value for name, value in given.items() if masked(value) == value}
    told |= {NEEDS: ",".join(sorted(set(given) - set(told)))}
    told |= {name: os.environ[name] for name in DATABASE if name in os.environ}
    home = os.environ.get("DAGSTER_HOME") or str(settings.home / "dagster")
    # Dagster's command line is `dagster`, which Ray may not have in its path.
    path = f"{Path(sys.executable).parent}{os.pathsep}${{PATH}}"
    return told | {"DAGSTER_HOME": home, "PATH": path} | share.environment


def _handler(client: JobSubmissionClient, settings: Settings, share: Share) -> RayStepHandler:
    return RayStepHandler(
        client=client,
        env_vars=None,
        runtime_env={"env_vars": environment(settings, share)},
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        memory=None,
        resources=None,
    )


def _first_line(told: object) -> str:
    lines = str(told).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no reason given"
