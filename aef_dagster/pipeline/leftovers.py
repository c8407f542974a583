"""Steps on a cluster that outlive their run.

A run stops its own steps when it is cancelled. One whose process was killed cannot, and those that
mark it as failed (its code server, run monitoring, the next command) leave its steps alone: they
would train on beside a repeat. Dagster lets nobody be called at each marking, so a sensor looks.

Here: the sensor. Not here: what is asked of the cluster (executors/), how a dead run is told
(liveness.py). Steps on Kubernetes are not looked after.
"""

import dagster as dg

from aef_dagster.errors import UserError
from aef_dagster.pipeline.executors import stop_steps_of_ended_runs
from aef_dagster.settings import Settings

NAME = "stop_steps_of_ended_runs"
# As often as run monitoring looks for dead runs.
SECONDS_BETWEEN_LOOKS = 15


def leftover_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensor, on by default, where steps run on Ray; else none."""
    if settings.executor != "ray":
        return []

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops on Ray the steps of runs that failed or were cancelled, so that none "
        "whose run was killed trains on unseen. Starts no run.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            stopped = stop_steps_of_ended_runs(context.instance, settings)
        except UserError as error:
            # Not a failed tick, which people are told of: its steps tell of a head that is down.
            return dg.SkipReason(f"{error}; asked again at the next tick")
        told = ", ".join(run_id[:8] for run_id in stopped)
        return dg.SkipReason(f"stopped steps of {told}" if told else "no step outlived its run")

    return [watch]
