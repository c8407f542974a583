"""Steps as Ray jobs, through dagster-ray.

Here: what each step asks for, what of the settings reaches it, and sentences on a step or a cluster
that died. Not here: submission itself, which is dagster-ray's
(https://github.com/danielgafni/dagster-ray); steps whose run is no more (ended_on_ray.py). Loaded
only when chosen.
"""

import os
import sys
import time
from collections.abc import Collection, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

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
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient

from aef_dagster.errors import UserError
from aef_dagster.pipeline.executors.share import Share
from aef_dagster.settings import PREFIX, Settings, masked

# A check is a question of some milliseconds to the head; Dagster asks each 20 s.
SECONDS_BETWEEN_CHECKS = 5
# A head that stutters must not fail a step that trains on.
PATIENCE_S = 60.0
# Ray's client would wait for ever on a head that hangs, and the run, cancelled or not, with it.
# Submitting starts an agent on the node first, which takes longer than a question.
QUESTION_S, ORDER_S = 10.0, 60.0
# Tells a step which settings its node must have: without one, it would quietly use the default.
NEEDS = "RAY_STEP_NEEDS"
# Where Dagster's database is. Its password is not sent: what is sent, Ray shows on its page.
DATABASE = ("DAGSTER_PG_HOST", "DAGSTER_PG_PORT", "DAGSTER_PG_DB", "DAGSTER_PG_USER")


def ray_executor(
    settings: Settings, share: Share, training: Collection[str]
) -> dg.ExecutorDefinition:
    """Executor that runs each step as a job of the Ray cluster at `AEF_RAY_ADDRESS`.

    `training` names the steps that get the `share`, as in `choose_executor`.

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


def reach(address: str) -> JobSubmissionClient:
    """A client of the Ray head at an address.

    Raises
    ------
    UserError
        None answers there, or it wants a token.
    """
    try:
        return _Client(address)
    except AuthenticationError:
        raise UserError(
            f"the Ray head at {masked(address)} wants a token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN, as where it was started, for this process too"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"no Ray head answers at AEF_RAY_ADDRESS={masked(address)}: start one (`ray start "
            f"--head`), or mend the address ({first_line(error)})"
        ) from None


class StepsOnRay(StepHandler):
    """dagster-ray's way to run a step, once for steps that train and once for the others.

    Parameters
    ----------
    share, training
        As in `choose_executor`.
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
        self._patience_s = patience_s
        self._silent_since: dict[str, float] = {}
        client = reach(self._address)
        self._trains, self._others = (_handler(client, settings, s) for s in (share, Share()))

    @property
    def name(self) -> str:
        """What the events of a run call it."""
        return "Ray"

    def launch_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Submit the step."""
        yield from self._of(context).launch_step(context)

    def terminate_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Stop the step, with all processes that it started; a head that is gone is told."""
        try:
            yield from self._of(context).terminate_step(context)
        except (OSError, RuntimeError, RayError) as error:
            context.get_step_context(_step(context)).log.warning(
                "its Ray job could not be stopped (%s): if it still runs, stop it on Ray's page",
                first_line(error),
            )

    def check_step_health(self, context: StepHandlerContext) -> CheckStepHealthResult:
        """Whether the step's Ray job lives; if not, it is stopped, and a sentence says why."""
        step = _step(context)
        try:
            health = self._of(context).check_step_health(context)
        except (OSError, RayError) as error:  # no answer, none of use, or a token refused
            since = self._silent_since.setdefault(step, time.monotonic())
            silent_s = time.monotonic() - since
            if silent_s < self._patience_s:
                return CheckStepHealthResult.healthy()
            self._stop(context)
            return CheckStepHealthResult.unhealthy(
                f"the Ray head at {masked(self._address)} has told nothing of its job for "
                f"{silent_s:.0f} s ({first_line(error)}); what was finished is kept: mend or "
                "start Ray, and launch this again for the rest"
            )
        self._silent_since.pop(step, None)
        if health.is_healthy:
            return health
        self._stop(context)
        # Before `Message:` stand the names of job and step, which the page shows anyway.
        reason = str(health.unhealthy_reason).rpartition("Message: ")[2]
        return CheckStepHealthResult.unhealthy(
            f"its Ray job died ({first_line(reason)}); what was finished is kept: launch this "
            "again for the rest. Where nobody killed it, see the memory of its node on Ray's page"
        )

    def _stop(self, context: StepHandlerContext) -> None:
        """A step that is given up must not train on unseen. Its events log themselves."""
        for _event in self.terminate_step(context):
            pass

    def _of(self, context: StepHandlerContext) -> RayStepHandler:
        return self._trains if _step(context) in self._training else self._others


class _Client(JobSubmissionClient):
    """Ray's client, which waits for a time only, and for which no status means a dead job.

    dagster-ray takes the error that Ray's client makes of any status but 200 for a job that is not
    there, also where the head is only starting (503) or stumbles (500).
    """

    def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
        question = method == "GET"
        timeout_s = QUESTION_S if question else ORDER_S
        answer = super()._do_request(method, endpoint, timeout=timeout_s, **more)
        if question and answer.status_code != HTTPStatus.OK:
            raise ConnectionError(f"it answers with status {answer.status_code}")
        return answer


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


def _step(context: StepHandlerContext) -> str:
    (step,) = context.execute_step_args.step_keys_to_execute or ("",)
    return step


def first_line(told: object) -> str:
    """What an error says first, without passwords."""
    lines = masked(str(told)).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no reason given"
