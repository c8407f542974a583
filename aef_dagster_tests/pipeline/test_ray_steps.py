"""Steps on Ray where the head stutters or hangs: a server on loopback that answers as told."""

import http.server
import json
import threading
from contextlib import contextmanager

import dagster as dg
import pytest
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import StepDelegatingExecutor

from aef_dagster.pipeline.executors.share import Share
from aef_dagster.settings import load_settings

pytestmark = pytest.mark.fault

PATIENCE_S = 3.0
DIED = {"status": "FAILED", "message": "its node went away"}


class Head:
    """What a head was asked for, and what it answers about a job: in turn, the last for ever."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []
        self.address = ""
        # Set at the end, so that no answer that is held back outlives the test.
        self.over = threading.Event()

    def answer(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def ray_head(*answers):
    """A running head. An answer is a status, a job's details, or "silence"."""
    head = Head(list(answers))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/api/version":
                self.say(200, {"ray_version": "2.60.0"})
                return
            found = head.answer()
            head.asked.append(found if isinstance(found, int | str) else found["status"])
            if found == "silence":
                head.over.wait(60)
            elif isinstance(found, int):
                self.say(found, {})
            else:
                self.say(200, {"type": "SUBMISSION", "entrypoint": "dagster"} | found)

        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            wanted = json.loads(self.rfile.read(length) or "{}")
            if self.path.endswith("/stop"):
                head.asked.append("stop")
                if head.answers == ["silence"]:
                    head.over.wait(60)
                    return
                self.say(200, {"stopped": True})
                return
            head.asked.append("submit")
            self.say(200, {"job_id": "1", "submission_id": wanted["submission_id"]})

        def say(self, status, body):
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        head.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield head
        finally:
            head.over.set()
            server.shutdown()
            thread.join()


@dg.executor(
    name="impatient", config_schema={"home": str, "address": str},
    requirements=[dg.ExecutorRequirement.RECONSTRUCTABLE_JOB],
)  # fmt: skip
def impatient(context):
    from aef_dagster.pipeline.executors.on_ray import StepsOnRay

    told = context.executor_config
    settings = load_settings(home=told["home"], ray_address=told["address"])
    return StepDelegatingExecutor(
        StepsOnRay(settings, Share(), [], patience_s=PATIENCE_S),
        retries=RetryMode.DISABLED,
        check_step_health_interval_seconds=0,
    )


@dg.op
def step():
    pass


@dg.job(executor_def=impatient)
def one_step():
    step()


@pytest.fixture
def failure(instance, tmp_path):
    """Runs a step on a head until it is given up; what is said of it, and all warnings."""
    pytest.importorskip("dagster_ray", reason="the extra ray is not installed")

    def run(head):
        config = {"home": str(tmp_path), "address": head.address}
        with dg.execute_job(
            dg.reconstructable(one_step), instance, run_config={"execution": {"config": config}}
        ) as result:
            entries = instance.all_logs(result.run_id)
            (failed,) = [event for event in result.all_events if event.is_step_failure]
        warnings = [entry.message for entry in entries if entry.level == 30]
        return failed.step_failure_data.error.message, warnings

    return run


def test_a_head_that_stutters_fails_no_step_and_a_death_is_told(failure):
    alive = {"status": "RUNNING"}
    with ray_head(503, 500, alive, 404, 401, alive, DIED) as head:
        said, _ = failure(head)
    assert "its Ray job died (its node went away); what was finished is kept" in said
    assert head.asked[:7] == ["submit", 503, 500, "RUNNING", 404, 401, "RUNNING"]
    assert set(head.asked[7:]) == {"FAILED", "stop"}


@pytest.mark.parametrize("status", [404, 503])
def test_a_job_that_is_not_found_for_long_is_stopped_and_given_up(failure, status):
    with ray_head(status) as head:
        said, _ = failure(head)
    assert f"has told nothing of its job for {PATIENCE_S:.0f} s (it answers with status" in said
    assert head.asked.count(status) >= 2 and "stop" in head.asked


def test_a_head_that_hangs_holds_no_run(failure, monkeypatch):
    from aef_dagster.pipeline.executors import on_ray

    monkeypatch.setattr(on_ray, "QUESTION_S", 0.5)
    monkeypatch.setattr(on_ray, "ORDER_S", 2.0)
    with ray_head("silence") as head:
        said, warnings = failure(head)
    assert "has told nothing of its job" in said and "timed out" in said
    assert "stop" in head.asked
    (warning,) = [each for each in warnings if "could not be stopped" in each]
    assert "timed out" in warning
