"""A run whose code server is on another machine: only that server knows whether it lives.

127.0.0.2 stands for the other machine: it is none of the names of this one.
"""

import json
import subprocess
import time

import dagster as dg
import pytest

from aef_dagster.pipeline.liveness import GRPC_INFO_TAG, cause_of_death
from aef_dagster_tests.deploy.postgres import free_port
from aef_dagster_tests.deploy.processes import program

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(300)]

OTHER = "127.0.0.2"


def test_a_server_that_lost_a_run_is_believed_and_a_silent_one_is_not(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    port = free_port()
    server = subprocess.Popen(
        [program("dagster"), "api", "grpc", "--host", OTHER, "--port", str(port),
         "--python-file", str(code)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with dg.DagsterInstance.ephemeral() as instance:

            def asked(port):
                where = {GRPC_INFO_TAG: json.dumps({"host": OTHER, "port": port})}
                run = dg.DagsterRun(job_name="job", status=dg.DagsterRunStatus.STARTED, tags=where)
                return cause_of_death(instance, run)

            deadline = time.monotonic() + 120
            while asked(port) is None:  # until it answers
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert asked(port) == f"the code server on {OTHER} lost it"
            assert asked(free_port()) is None
    finally:
        server.kill()
        server.wait()
