"""The bench of what a partition costs, at a small size: that it counts what it says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASINS = 4
SPACES = ("aef", "random")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def benches():
    """Benchmarks are imported from the checkout, for they are no part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from benchmarks import partition_overhead, partition_work
        from benchmarks.measuring import in_fresh_process

        yield partition_overhead, partition_work, in_fresh_process


@pytest.fixture(scope="module")
def world(benches, tmp_path_factory):
    """Made-up basins, and a prepared home: what is made where the real files are not."""
    folder = tmp_path_factory.mktemp("world")
    overhead, _work, in_fresh_process = benches
    settings = overhead.make_world(folder / "files", BASINS)
    in_fresh_process(overhead.WORK, "prepare", world=settings, home=str(folder / "var"))
    return settings, folder / "var"


def test_every_model_is_trained_told_and_timed(benches, world):
    overhead, work, in_fresh_process = benches
    settings, home = world
    asked = {"world": settings, "home": str(home), "basins": BASINS, "spaces": SPACES}
    told = in_fresh_process(overhead.WORK, "train", **asked).answer
    assert told["models"] == (BASINS) * len(SPACES)
    assert len(list((home / "checkpoints").glob("*/weights.safetensors"))) == told["models"]
    assert len(list((home / "outbox" / "sent").glob("*.json"))) == told["models"]
    parts = told["parts"]
    assert parts["training"][1] > 0
    assert parts["the run's process"][1] > 0
    assert parts["overhead"][1] == pytest.approx(
        parts["the run's process"][1] + parts["the worker, beyond training"][1]
    )
    assert len(told["quarters_mb"]) == work.QUARTERS
    assert min(told["quarters_mb"]) > 50


def test_models_that_are_there_already_are_no_measurement(benches, world):
    from aef_dagster.errors import UserError

    overhead, _work, in_fresh_process = benches
    settings, home = world
    asked = {"world": settings, "home": str(home), "spaces": SPACES}
    with pytest.raises(UserError, match="ended with code"):
        in_fresh_process(overhead.WORK, "train", basins=BASINS - 1, **asked)


def test_the_page_tells_of_every_partition(benches, tmp_path):
    overhead, work, in_fresh_process = benches
    waits = in_fresh_process(overhead.WORK, "page", folder=str(tmp_path), partitions=30).answer
    assert len(waits["warm"]) == work.ROUNDS
    assert 0 < min(waits["warm"]) <= max(waits["warm"]) < 30
    assert re.search("Serving dagster-webserver", (tmp_path / "webserver.log").read_text())
