"""The processes of the benchmark partition_overhead, each a function called by itself.

Here: basins are made up, a home is prepared, models are trained and watched, a page is asked for.
Not here: what the figures mean, and their order (partition_overhead.py).
"""

import json
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg

from aef_dagster.basins.periods import default_periods
from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.recipes import BUDGETS
from aef_dagster.models.workers import WorkerPool
from aef_dagster.pipeline.config import DEFAULT_K
from aef_dagster.pipeline.inputs import static_frames, training_data
from aef_dagster.pipeline.instance import materialize
from aef_dagster.pipeline.scores import trained_hashes
from aef_dagster.pipeline.session import Session
from aef_dagster.settings import load_settings
from benchmarks.measuring import in_fresh_process

HERE = "benchmarks.partition_work"
ASSET = dg.AssetKey("basin_models")
# Of the budget `toy`: what these models are worth concerns nobody.
UPDATES, HIDDEN = 20, 8
QUARTERS = 4
# The first year is the warm-up of the first window, as in the published files.
FIRST_DAY = "1980-01-01"
ROUNDS = 5
RETRAINED = 12
START_LIMIT_S, STOP_LIMIT_S, ANSWER_LIMIT_S = 180, 60, 120
# What the partitions page of an asset sends (PartitionHealthQuery), and the counts beside it.
PAGE_QUERY = """query ($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      partitionStats { numMaterialized numPartitions numFailed numMaterializing }
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions
        }
      }
    }
  }
}"""


def write_basins(folder: str, basins: int) -> None:
    """Basins of the sample's world, over the years of the published files, in their formats."""
    from aef_dagster.basins import sample_world
    from aef_dagster.basins.sample import SAMPLE_IDS, SAMPLE_SEED
    from aef_dagster.basins.sample_files import write_files

    sample_world.FIRST_DAY = FIRST_DAY
    sample_world.LAST_DAY = default_periods("camels_us").test_end
    # The world has its gaps in certain basins, so it cannot be smaller than the sample.
    ids = tuple(f"{number:08d}" for number in range(1, max(basins, len(SAMPLE_IDS)) + 1))
    unfinished = Path(f"{folder}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_files(sample_world.make_world(ids, planted=True, seed=SAMPLE_SEED), unfinished, "planted")
    unfinished.rename(folder)


def prepare(world: dict[str, str], home: str) -> None:
    """What `aef prepare` does."""
    _session(world, Path(home)).prepare()


def train(world: dict[str, str], home: str, basins: int, spaces: Sequence[str]) -> dict:
    """Train so many basins in some spaces; what that took, in ms a model, and the memory.

    Raises
    ------
    UserError
        A model, its event or its MLflow run is missing.
    """
    # In a process of its own: nobody else sees this budget.
    BUDGETS["toy"] = replace(BUDGETS["toy"], updates=UPDATES, hidden=HIDDEN)
    session = _session(world, Path(home))
    session.tracking.setup()
    with session.warehouse.write():
        pass  # its views name the place where the home was prepared: a write mends them
    targets, k = session.basins[:basins], min(DEFAULT_K["camels_us"], len(session.basins) // 2)
    # As a backfill asks, so that Dagster's own rows for each partition are part of it.
    tags = {
        "dagster/asset_partition_range_start": targets[0],
        "dagster/asset_partition_range_end": targets[-1],
    }
    session.definitions.resolve_implicit_global_asset_job_def()
    watch, before = _Watch(), _cpu_of_children()
    wall, cpu = time.monotonic(), time.process_time()
    for space in spaces:
        values = {"space": space, "k": k, "budget": "toy", "workers": 1}
        materialize(
            session.definitions, session.instance, [ASSET],
            config={"basin_models": values}, tags=tags,
        )  # fmt: skip
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    worker = _cpu_of_children() - before
    models = len(targets) * len(spaces)
    _refuse_unless_told(session, targets, models)
    learning = in_fresh_process(HERE, "learn", world=world, home=home).answer
    training = sum(_training_seconds(session))
    busy, beyond = wall - watch.waited, worker - learning * models
    parts = {
        "training": (training, learning * models),
        "the run's process": (busy, cpu),
        "the worker, beyond training": (beyond, beyond),
        "overhead": (busy + beyond, cpu + beyond),
    }
    return {
        "models": models,
        "parts": {name: [1000 * s / models for s in pair] for name, pair in parts.items()},
        "clock_ms": 1000 * (wall - training) / models,
        "quarters_mb": watch.quarters_mb(),
    }


def learn(world: dict[str, str], home: str) -> float:
    """CPU seconds of the training of one of the models there: what `seconds` in run.json spans.

    Those are seconds on the clock, which other processes stretch; these nobody does. The median of
    some models, each trained again after the first, which loads torch.
    """
    from aef_dagster.models.engine.cpu import Training
    from aef_dagster.models.inputs import prepare as prepare_job

    session = _session(world, Path(home))
    names = sorted(trained_hashes(session.home.checkpoints))
    found = [Checkpoint.open(session.home.checkpoints, name).job() for name in names]
    jobs = found[:: max(1, len(found) // RETRAINED)][:RETRAINED]
    representation = jobs[0].representation
    needed = sorted({gauge_id for job in jobs for gauge_id in (*job.donors, *job.targets)})
    data = training_data(
        session.home, needed, [representation], static_frames(session.warehouse, [representation])
    )
    seconds = []
    for job in (jobs[0], *jobs):
        inputs = prepare_job(job, data)
        started = time.process_time()
        training = Training(inputs)
        while not training.course.finished:
            training.step()
            if training.course.validation_is_due:
                training.validate()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def page(folder: str, partitions: int) -> dict:
    """Materialize so many partitions, and ask for their page; seconds, the first apart.

    Raises
    ------
    UserError
        The webserver does not answer, or tells of fewer partitions.
    """
    ids = [f"{number:08d}" for number in range(1, partitions + 1)]
    names = Path(folder) / "data" / "camels_attributes_v2.0" / "camels_name.txt"
    names.parent.mkdir(parents=True)
    rows = [f"{gauge_id};01;River {gauge_id}" for gauge_id in ids]
    names.write_text("\n".join(["gauge_id;huc_02;gauge_name", *rows, ""]))
    world = {"data_dir": f"{folder}/data", "forcing": "daymet", "embeddings_dir": f"{folder}/none"}
    session = _session(world, Path(folder) / "home")
    _without_waiting_for_the_disk()
    for gauge_id in ids:
        session.instance.report_runless_asset_event(
            dg.AssetMaterialization(ASSET, partition=gauge_id, metadata={"nse": 0.5})
        )
    with _webserver(Path(folder)) as ask:
        seconds = []
        for _ in range(1 + ROUNDS):
            started = time.monotonic()
            node = ask(PAGE_QUERY, assetKey={"path": ASSET.path})["assetNodeOrError"]
            seconds.append(time.monotonic() - started)
            there = len(node["assetPartitionStatuses"]["materializedPartitions"])
            if there != partitions or node["partitionStats"]["numMaterialized"] != partitions:
                raise UserError(f"the page tells of {there} partitions, not {partitions}")
    return {"cold": seconds[0], "warm": seconds[1:]}


class _Watch:
    """Waiting and memory of the run's process, seen where it asks its workers for news."""

    def __init__(self) -> None:
        self.waited = 0.0
        self._resident_mb: list[float] = []
        ask = WorkerPool.next_message

        def watched(pool):
            started = time.monotonic()
            worker, message = ask(pool)
            self.waited += time.monotonic() - started
            if message["event"] == "done":
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                self._resident_mb.append(pages * resource.getpagesize() / 1024**2)
            return worker, message

        WorkerPool.next_message = watched

    def quarters_mb(self) -> list[float]:
        """Median resident memory, MiB, in each quarter of the models."""
        count = len(self._resident_mb)
        edges = [number * count // QUARTERS for number in range(QUARTERS + 1)]
        return [
            statistics.median(self._resident_mb[start:end])
            for start, end in zip(edges[:-1], edges[1:], strict=True)
        ]


def _session(world: dict[str, str], home: Path) -> Session:
    return Session(
        load_settings(
            dataset="camels_us", source="table", home=home, dagster_storage="sqlite",
            tracking_uri=f"sqlite:///{home / 'mlflow.db'}", device="cpu", executor="in_process",
            **world,
        )
    )  # fmt: skip


def _cpu_of_children() -> float:
    """CPU seconds of the workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _training_seconds(session: Session) -> list[float]:
    """Of each model, on the clock."""
    folder = session.home.checkpoints
    return [Checkpoint.open(folder, name).run()["seconds"] for name in trained_hashes(folder)]


def _refuse_unless_told(session: Session, targets: Sequence[str], models: int) -> None:
    """Nothing is cheap that leaves something out: every event and every MLflow run is there."""
    there = len(trained_hashes(session.home.checkpoints))
    if there != models:
        raise UserError(f"{there} models were trained, not {models}")
    events = session.instance.get_materialized_partitions(ASSET)
    if set(targets) - events:
        raise UserError(f"{len(events)} partitions are materialized, not {len(targets)}")
    waiting = list(session.home.outbox.glob("*.json"))
    sent = len(list(session.tracking.ledger.glob("*.json")))
    if waiting or sent != models:
        raise UserError(f"MLflow was told of {sent} models, not {models}; {len(waiting)} wait")


def _without_waiting_for_the_disk() -> None:
    """20,000 events are the setting of the measurement, not part of it: 3 minutes, not 10."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def off(connection, _record) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", off)


@contextmanager
def _webserver(folder: Path) -> Iterator[Callable[..., dict]]:
    """The webserver of the home in force, and a function that asks its GraphQL."""
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-m", "aef_dagster.definitions",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip

    def ask(query: str, **variables) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as response:
            return json.load(response)["data"]

    with (folder / "webserver.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait_for(ask, server, folder / "webserver.log")
        yield ask
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        server.terminate()
        for process in psutil.wait_procs(family, timeout=STOP_LIMIT_S)[1]:
            process.kill()
        server.wait()


def _wait_for(ask: Callable[..., dict], server: subprocess.Popen, log: Path) -> None:
    """Until the asset is known, which asks for nothing about its partitions."""
    deadline = time.monotonic() + START_LIMIT_S
    query = "query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { __typename } }"
    while time.monotonic() < deadline and server.poll() is None:
        try:
            found = ask(query, key={"path": ASSET.path})["assetNodeOrError"]["__typename"]
        except OSError:
            found = ""
        if found == "AssetNode":
            return
        time.sleep(0.5)
    raise UserError(f"the webserver did not start; it said: {log.read_text()[-2000:]}")
