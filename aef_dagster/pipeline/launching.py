"""The run launcher of a home: Dagster's own, which also says whether a run still has a process.

Dagster's launcher leaves that to the code server, which tells of a run that died before it. If both
are gone (a power cut, a machine out of memory), the run would stay "started" for ever and hold its
slot of the pool. With this launcher the daemon's run monitoring marks it as failed.

Here: the launcher, named by dagster.yaml. Not here: how a dead run is told from a live one
(liveness.py).
"""

from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._serdes import ConfigurableClassData

from aef_dagster.pipeline.liveness import cause_of_death


class WatchedRunLauncher(DefaultRunLauncher):
    """Starts runs as processes of the code server, and looks after them."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """As Dagster makes it from dagster.yaml."""
        return cls(inst_data=inst_data)

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
