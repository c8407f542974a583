"""Who has which GPU: real locks of real processes, over names of GPUs that need not exist."""

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from aef_dagster.models import gpu_claims
from aef_dagster.models.devices import Gpu, count_devices, visible_names
from aef_dagster.models.gpu_claims import claimed

GPUS = [Gpu(str(number), f"GPU-{number}{number}") for number in range(3)]
# Claims GPUs as a training does, hands its first claim to a child, and tells both.
CLAIM = """
import subprocess, sys, time
from pathlib import Path
from aef_dagster.models.devices import Gpu
from aef_dagster.models.gpu_claims import claimed
folder, most = Path(sys.argv[1]), int(sys.argv[2]) or None
with claimed([Gpu(str(n), f"GPU-{n}{n}") for n in range(3)], most, folder) as claims:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"],
                             stdin=subprocess.PIPE, pass_fds=[claims[0].file])
    print(child.pid, *(claim.gpu.visible for claim in claims), flush=True)
    sys.stdin.read()
"""


class Other:
    """Another process that trains, and its worker."""

    def __init__(self, folder, most):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(folder), str(most)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        worker, *self.has = self.process.stdout.readline().split()
        self.worker = psutil.Process(int(worker))

    def end(self):
        for process in (self.process, self.worker):
            with suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class EndsWhenHeard(logging.Handler):
    """Ends another process as soon as somebody is said to wait."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def emit(self, record):
        if "waiting for a GPU" in record.getMessage():
            self.other.end()


@pytest.fixture
def others(tmp_path):
    started = []

    def start(most):
        started.append(Other(tmp_path, most))
        return started[-1]

    yield start
    for other in started:
        other.end()


def names(claims):
    return [claim.gpu.visible for claim in claims]


def test_runs_beside_each_other_share_no_gpu_and_a_command_takes_the_rest(others, tmp_path):
    first, second = others(1), others(1)
    assert (first.has, second.has) == (["0"], ["1"])
    with claimed(GPUS, None, tmp_path) as rest:
        assert names(rest) == ["2"]
    first.end()
    with claimed(GPUS, None, tmp_path) as rest:
        assert names(rest) == ["0", "2"]


def test_a_killed_training_keeps_its_gpu_until_its_worker_is_gone(others, tmp_path):
    killed = others(1)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    with claimed(GPUS, 1, tmp_path) as claims:
        assert names(claims) == ["1"]
    killed.worker.kill()
    # No child of this process: its end is seen by its lock only.
    psutil.wait_procs([killed.worker], timeout=10)
    with claimed(GPUS, 1, tmp_path) as claims:
        assert names(claims) == ["0"]


def test_where_all_are_taken_it_says_so_and_waits(others, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(gpu_claims, "SECONDS_BETWEEN_TRIES", 0.05)
    all_of_them = others(0)
    assert all_of_them.has == ["0", "1", "2"]
    heard = EndsWhenHeard(all_of_them)
    gpu_claims.logger.addHandler(heard)
    try:
        with (
            caplog.at_level(logging.WARNING, "aef_dagster"),
            claimed(GPUS, 1, tmp_path) as claims,
        ):
            assert names(claims) == ["0"]
    finally:
        gpu_claims.logger.removeHandler(heard)
    assert [record.message for record in caplog.records] == [
        "waiting for a GPU: other trainings on this machine have all 3",
        "training on GPU 0",
    ]


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "aef-gpu-GPU-00.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), claimed(GPUS[:1], 1, tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("visible", "named", "count"),
    [(None, None, 2), ("1", ["1"], 1), ("", [], 0), ("-1", [], 0), ("0,-1,1", ["0"], 1),
     ("MIG-a,MIG-b,MIG-c", ["MIG-a", "MIG-b", "MIG-c"], 3)],
)  # fmt: skip
def test_gpus_are_counted_as_cuda_would_show_them(tmp_path, visible, named, count):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert visible_names(environment) == named
    assert count_devices(tmp_path, environment) == count


def test_no_variable_makes_a_gpu(tmp_path):
    assert count_devices(tmp_path, {"CUDA_VISIBLE_DEVICES": "0,1"}) == 0
    (tmp_path / "dxg").touch()
    assert count_devices(tmp_path, {}) == 1
