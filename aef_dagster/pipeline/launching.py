"""The run launcher of a home: Dagster's own, which also says whether a run still has a process.

Dagster's launcher leaves that to the code server, which tells of a run that died before it. If both
are gone (a power cut, a machine out of memory), the run would stay "started" for ever and hold its
slot of the pool. With this launcher the daemon's run monitoring marks it as failed.

Here: the launcher, named by dagster.yaml. Not here: how a dead run is told from a live one
(liveness.py).
"""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus

from aef_dagster.pipeline.liveness import cause_of_death, launcher_tags


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Starts runs as processes of the code server, and looks after them."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run, with this machine in its tags."""
        # Before it starts: afterwards it may be asked for at once.
        self._instance.add_run_tags(context.dagster_run.run_id, launcher_tags())
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: run monitoring asks."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether a started run has a process; one that cannot be asked counts as alive."""
        cause = cause_of_death(self._instance, run)
        if cause is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, cause)
