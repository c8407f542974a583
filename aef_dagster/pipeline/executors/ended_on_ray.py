"""Ray jobs that outlived their run: found, and stopped.

What Ray still runs is compared with what Dagster says of its runs. That holds for every way a run
may end, and an order that Ray did not hear is given again.

Not here: when that is done (pipeline/leftovers.py), steps of a living run (on_ray.py). Loaded only
when chosen.
"""

import dagster as dg
from ray.exceptions import RayError
from ray.job_submission import JobDetails

from aef_dagster.errors import UserError
from aef_dagster.pipeline.executors.on_ray import first_line, reach
from aef_dagster.settings import masked

UNREACHED = (OSError, RuntimeError, RayError)
# What dagster-ray writes on each job.
RUN_ID = "dagster/run-id"
# A step of a run that succeeded is over as well, and may be putting its things away.
ENDED_EARLY = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def stop_jobs_of_ended_runs(instance: dg.DagsterInstance, address: str) -> list[str]:
    """Stop what a Ray cluster still runs for failed and cancelled runs.

    A run that this instance does not know may be another's on the same cluster: it is left alone.

    Returns
    -------
    list of str
        Ids of the runs whose jobs were told to stop; the log of each run says so too.

    Raises
    ------
    UserError
        The cluster cannot be reached, or does not obey.
    """
    client = reach(address)
    refused: list[Exception] = []
    try:
        jobs = _by_run(client.list_jobs())
    except UNREACHED as error:
        raise _disobeyed(address, error) from None
    if not jobs:
        return []
    ended = instance.get_runs(dg.RunsFilter(run_ids=sorted(jobs), statuses=ENDED_EARLY))
    for run in ended:
        for job in jobs[run.run_id]:
            try:
                client.stop_job(job)
            except UNREACHED as error:  # one that cannot be stopped must not shield the others
                refused.append(error)
                continue
            instance.report_engine_event(f"The run has ended: Ray job {job} was told to stop", run)
    if refused:
        raise _disobeyed(address, refused[0])
    return [run.run_id for run in ended]


def _disobeyed(address: str, error: Exception) -> UserError:
    return UserError(
        f"the Ray head at {masked(address)} did not stop what ended runs left on it "
        f"({first_line(error)}): stop it on Ray's page"
    )


def _by_run(jobs: list[JobDetails]) -> dict[str, list[str]]:
    """From each run to its jobs that are not over; jobs of others have no run."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        run_id = (job.metadata or {}).get(RUN_ID)
        if run_id and job.submission_id and not job.status.is_terminal():
            found.setdefault(run_id, []).append(job.submission_id)
    return found
