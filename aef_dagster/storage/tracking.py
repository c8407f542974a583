"""MLflow as an outbox: results are written down first, told to MLflow second.

A trained basin leaves a JSON file in the outbox; `drain` sends it and moves it to the ledger
`outbox/sent/`, which remembers the MLflow run it became. A dead MLflow therefore costs seconds and
never a training, and nothing is sent twice: the ledger is asked first, then MLflow itself by tag
(for the case that we died between the two).

Here: the record, the outbox, the MLflow client calls. No fluent calls (`mlflow.start_run` and its
global state). Not here: what is worth telling (pipeline/assets/models.py).
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from aef_dagster.errors import UserError

EXPERIMENT = "aef_dagster"
CONNECT_TIMEOUT_S = 5
SILENCE_S = 60  # after a failure: a dead MLflow costs 5 s now and then, not 5 s a basin
# Without both, the MLflow pages open on an overview of language-model traces.
_KIND_TAG = "mlflow.experimentKind"
MODEL_PAGES = "workflowType=machine_learning"
BATCH = 1000  # MLflow's own limit of metrics a call

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow shall know of one trained basin.

    `key` names it for good (job hash, space and k); `parent_key` the study it belongs to. Quotes
    in them become primes: MLflow's search cannot escape them.
    """

    key: str
    parent_key: str
    parent_name: str
    name: str
    started: float
    ended: float
    tags: dict[str, str] = field(default_factory=dict)
    parent_tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[str, int, float]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    def __post_init__(self):
        for name in ("key", "parent_key"):
            object.__setattr__(self, name, _searchable(getattr(self, name)))


@dataclass(frozen=True)
class Drained:
    """How one attempt to empty the outbox ended."""

    sent: int
    waiting: int
    error: str | None = None


class Tracking:
    """The MLflow side of one home.

    Parameters
    ----------
    uri
        MLflow tracking URI (SQLite file or server).
    outbox, artifacts
        Folders of the home.
    page
        Address of the MLflow pages, for links.
    """

    def __init__(self, uri: str, outbox: Path, artifacts: Path, page: str):
        self.uri, self.outbox, self.artifacts = uri, Path(outbox), Path(artifacts)
        self.page = page.rstrip("/")
        self._client: tuple[Any, str] | None = None
        self._silent_until = 0.0

    @property
    def ledger(self) -> Path:
        """Records that MLflow has, each with its run id."""
        return self.outbox / "sent"

    def experiment_url(self) -> str:
        """Page of all runs; connects."""
        _client, experiment_id = self._connect()
        return f"{self.page}/#/experiments/{experiment_id}/runs?{MODEL_PAGES}"

    def setup(self) -> None:
        """Make schema and experiment once: MLflow's first use is not safe in parallel.

        Raises
        ------
        UserError
            The store cannot be reached or read.
        """
        try:
            with self._alone():
                self._connect()
        except Exception as error:
            raise UserError(
                f"MLflow at {masked(self.uri)} cannot be used: {self._told(error)}. Start it, or "
                "move a damaged file away: `aef sync` and re-runs fill a new one"
            ) from None

    def enqueue(self, run: TrackedRun) -> None:
        """Write a record into the outbox, unless MLflow already has it."""
        if self.run_id(run.key) is None:
            self.outbox.mkdir(parents=True, exist_ok=True)
            _write_json(self.outbox / f"{run.key}.json", asdict(run))

    def run_id(self, key: str) -> str | None:
        """MLflow run of a record, None while it waits in the outbox."""
        entry = self._entry(key)
        return entry["run_id"] if entry else None

    def url(self, key: str) -> str | None:
        """Page of a record in the MLflow UI, None while it waits in the outbox."""
        sent = self._entry(key)
        if sent is None:
            return None
        place = f"experiments/{sent['experiment_id']}/runs/{sent['run_id']}"
        return f"{self.page}/#/{place}?{MODEL_PAGES}"

    def drain(self, on_sent: Callable[[str], None] | None = None) -> Drained:
        """Send what waits; stop at the first sign that MLflow cannot be reached.

        Never raises for MLflow's sake: the outcome says how many wait and why.
        """
        waiting = sorted(self.outbox.glob("*.json"))
        if not waiting:
            return Drained(0, 0)
        if time.monotonic() < self._silent_until:
            return Drained(0, len(waiting), "MLflow did not answer a moment ago")
        sent = 0
        try:
            with self._alone():
                client, experiment_id = self._connect()
                for path in waiting:
                    if not path.exists():  # another process sent it while we waited for the lock
                        continue
                    run = self._read(path)
                    if run is None:
                        continue
                    run_id = self._send(client, experiment_id, run)
                    entry = {
                        "run_id": run_id,
                        "experiment_id": experiment_id,
                        "uri": masked(self.uri),
                    }
                    _write_json(self.ledger / path.name, entry)
                    path.unlink()
                    sent += 1
                    if on_sent:
                        on_sent(run.key)
        except Exception as error:  # noqa: BLE001 - MLflow raises a dozen types; all mean "later"
            left = len(list(self.outbox.glob("*.json")))
            self._client, self._silent_until = None, time.monotonic() + SILENCE_S
            cause = self._told(error)
            logger.warning("MLflow at %s: %s. %d results wait in %s; `aef sync` sends them",
                           masked(self.uri), cause, left, self.outbox)  # fmt: skip
            return Drained(sent, left, cause)
        return Drained(sent, len(list(self.outbox.glob("*.json"))))

    def summarise_parent(
        self, parent_key: str, summarise: Callable[[list[dict[str, float]]], dict[str, float]],
        figures: Callable[[list[dict[str, float]]], dict[str, bytes]] | None = None,
    ) -> str | None:  # fmt: skip
        """Put figures over all nested runs on their parent; its run id, or None if unreachable.

        Parameters
        ----------
        parent_key
            The study, as its runs name it.
        summarise
            From the nested runs' metrics to the parent's.
        figures
            From the same to files, by name.
        """
        try:
            client, experiment_id = self._connect()
            parent = self._find(client, experiment_id, "parent_key", _searchable(parent_key))
            if parent is None:
                return None
            rows = [
                dict(run.data.metrics)
                for run in _search(client, experiment_id, "mlflow.parentRunId", parent.info.run_id)
            ]
            for name, value in summarise(rows).items():
                client.log_metric(parent.info.run_id, name, value)
            for name, content in (figures(rows) if figures else {}).items():
                self._attach(client, parent.info.run_id, name, content)
            return parent.info.run_id
        except Exception as error:  # noqa: BLE001 - a summary is never worth a training
            logger.warning("MLflow: the summary was not written: %s", type(error).__name__)
            return None

    def _told(self, error: Exception) -> str:
        """First line of an error, without a password."""
        line = str(error).replace(self.uri, masked(self.uri)).partition("\n")[0]
        return line or type(error).__name__

    def _read(self, path: Path) -> TrackedRun | None:
        """A waiting record; one that is no record is set aside, so that it blocks no other."""
        try:
            return TrackedRun(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            refused = self.outbox / "refused"
            refused.mkdir(exist_ok=True)
            path.replace(refused / path.name)
            logger.warning("%s is no record for MLflow (%s): set aside in %s",
                           path.name, error, refused)  # fmt: skip
            return None

    def _entry(self, key: str) -> dict | None:
        """What the ledger knows of a record; what another store was told counts for nothing."""
        try:
            entry = json.loads((self.ledger / f"{key}.json").read_text())
            return entry if entry["uri"] == masked(self.uri) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # MLflow itself is asked by tag before anything is sent again

    def _send(self, client, experiment_id: str, run: TrackedRun) -> str:
        from mlflow.entities import Metric, Param, RunTag

        parent = self._find(client, experiment_id, "parent_key", run.parent_key)
        if parent is None:
            tags = {"parent_key": run.parent_key, "mlflow.runName": run.parent_name}
            created = client.create_run(experiment_id, tags={**run.parent_tags, **tags})
            client.set_terminated(created.info.run_id)
            parent = created
        known = self._find(client, experiment_id, "record_key", run.key)
        if known is not None and known.info.status == "FINISHED":
            return known.info.run_id
        tags = {
            **run.tags,
            "record_key": run.key,
            "mlflow.runName": run.name,
            "mlflow.parentRunId": parent.info.run_id,
        }
        started, ended = int(run.started * 1000), int(run.ended * 1000)
        if known is None:
            known = client.create_run(experiment_id, start_time=started, tags=tags)
        run_id = known.info.run_id
        metrics = [Metric(name, value, ended, 0) for name, value in run.metrics.items()]
        metrics += [Metric(name, value, ended, step) for name, step, value in run.curve]
        params = [Param(name, value) for name, value in run.params.items()]
        client.log_batch(run_id, metrics[:BATCH], params, [RunTag(k, v) for k, v in tags.items()])
        for start in range(BATCH, len(metrics), BATCH):
            client.log_batch(run_id, metrics[start : start + BATCH])
        for artifact in run.artifacts:
            if Path(artifact).exists():
                client.log_artifact(run_id, artifact)
        client.set_terminated(run_id, end_time=ended)
        return run_id

    def _connect(self):
        if self._client is None:
            self._probe()
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
            # MLflow's own patience is minutes; the outbox is ours.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(CONNECT_TIMEOUT_S))
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            from mlflow import MlflowClient

            for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
                logging.getLogger(name).setLevel(logging.WARNING)

            self._make_store()
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                # A server keeps artifacts where it was told; only the SQLite store needs the place.
                place = self.artifacts.as_uri() if self.uri.startswith("sqlite") else None
                experiment_id = client.create_experiment(
                    EXPERIMENT,
                    artifact_location=place,
                    tags={_KIND_TAG: "custom_model_development"},
                )
            else:
                experiment_id = found.experiment_id
            self._client = (client, experiment_id)
        return self._client

    def _make_store(self) -> None:
        """A new SQLite store, whole or not at all.

        MLflow migrates a new file through dozens of steps, and one that was stopped half-way can
        never be opened again.
        """
        path = Path(self.uri.removeprefix("sqlite:///"))
        if not self.uri.startswith("sqlite:///") or path.exists():
            return
        from mlflow import MlflowClient

        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"sqlite:///{unfinished}").search_experiments()
        unfinished.replace(path)

    def _probe(self) -> None:
        address = urlparse(self.uri)
        if address.scheme == "sqlite":
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        elif address.scheme in ("http", "https"):
            port = address.port or (443 if address.scheme == "https" else 80)
            with socket.create_connection((address.hostname, port), timeout=CONNECT_TIMEOUT_S):
                pass
        elif address.scheme in ("", "file"):
            raise UserError(
                f"AEF_TRACKING_URI={masked(self.uri)}: MLflow no longer takes folders; use "
                "sqlite:///FILE or the address of a server"
            )

    def _find(self, client, experiment_id: str, tag: str, value: str):
        return next(iter(_search(client, experiment_id, tag, value, limit=1)), None)

    def _attach(self, client, run_id: str, name: str, content: bytes) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            client.log_artifact(run_id, str(path))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One sender at a time in this home, so that a parent run is created once."""
        self.outbox.mkdir(parents=True, exist_ok=True)
        self.ledger.mkdir(exist_ok=True)
        with (self.outbox / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _search(client, experiment_id: str, tag: str, value: str, limit: int | None = None) -> list:
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.`{tag}` = '{value}'",  # keys of ours hold no quote: see TrackedRun
            max_results=limit or BATCH,
            page_token=token,
        )
        runs.extend(page)
        token = page.token
        if not token or (limit and len(runs) >= limit):
            return runs


def _write_json(path: Path, content: dict) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def _searchable(key: str) -> str:
    return key.replace("'", "\u2032")


def masked(uri: str) -> str:
    """An address without the password that may stand in it."""
    address = urlparse(uri)
    if address.password is None:
        return uri
    return uri.replace(f":{address.password}@", ":***@")
