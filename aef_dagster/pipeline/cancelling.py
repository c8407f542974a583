"""Runs at work while the servers that carry them are closed.

A run of the pages is a child of the code server, which waits for it when told to end. Killed for
its patience, the run would count as started until somebody looks.

Here: cancelling such runs as their page does, so that each ends as one that a person stopped, with
what is finished kept. Not here: who closes the servers (servers.py), how a command stops its own
run (instance.py).
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg

from aef_dagster.pipeline.liveness import GRPC_INFO_TAG

logger = logging.getLogger("aef_dagster")

AT_WORK = [
    dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip
# A training ends in a few seconds; one that is just telling MLflow, in some more.
LIMIT_S = 25.0


def cancel_runs_of(
    instance: dg.DagsterInstance, code_socket: Path, page: str, hurried: Callable[[], bool]
) -> int:
    """Cancel what a code server works on, and wait for its end.

    Parameters
    ----------
    instance
        The home's.
    code_socket
        Socket of the code server.
    page
        Address of Dagster's page, which passes the word on; it must still answer.
    hurried
        Whether whoever waits wants to wait no longer.

    Returns
    -------
    int
        How many had not ended after 25 s, or when nobody wanted to wait any longer.
    """
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=AT_WORK))
            if _socket_of(run) == str(code_socket)]  # fmt: skip
    if not runs:
        return 0
    # Half a second that a home at rest does not need.
    from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

    ids = [run.run_id for run in runs]
    logger.info(
        "cancelling %s; what is finished is kept, and the same run goes on when it is launched "
        "again", ", ".join(f"run {run_id[:8]}" for run_id in ids),
    )  # fmt: skip
    at = urlsplit(page)
    deadline = time.monotonic() + LIMIT_S
    try:
        client = DagsterGraphQLClient(str(at.hostname), port_number=at.port, timeout=int(LIMIT_S))
        client.terminate_runs(ids)
    except DagsterGraphQLClientError:
        # Often one that ended by itself meanwhile; the others are waited for all the same. What the
        # error says is for programmers.
        logger.warning("Dagster's page did not cancel all of them; waiting for their end")
    left = len(ids)
    while left and time.monotonic() < deadline and not hurried():
        time.sleep(0.2)
        left = instance.get_runs_count(dg.RunsFilter(run_ids=ids, statuses=AT_WORK))
    return left


def _socket_of(run: dg.DagsterRun) -> str | None:
    """The socket of the code server that works on a run; None for a command's, or another's."""
    return json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")
