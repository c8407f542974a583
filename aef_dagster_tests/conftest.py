"""What all tests share: an environment without the developer's settings, and the real data."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# `dagster` and `mlflow` read these at import.
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

REAL_DATA = Path(
    os.environ.get("AEF_TEST_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """A developer's AEF_* variables must not reach a test."""
    for name in list(os.environ):
        if name.startswith("AEF_") and not name.startswith("AEF_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def real_data() -> Path:
    """Folder of the real CAMELS-US files and the surrogate embeddings."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; set AEF_TEST_REAL_DATA")
    return REAL_DATA


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all processes of this test run; whoever comes second waits for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made
