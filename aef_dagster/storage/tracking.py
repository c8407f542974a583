"""MLflow as an outbox: results are written down first, told to MLflow second.

A trained basin leaves a JSON file in the outbox; `drain` sends it and moves it to the ledger
`outbox/sent/`, which remembers the MLflow run it became. A dead MLflow therefore costs seconds and
never a training, and nothing is sent twice: the ledger is asked first, then MLflow itself by tag,
unless nothing can be there: the model was trained just now, and nobody died while sending the
record. An experiment's results go the same way, to the parent
run of its trainings, and a later reading of them replaces an earlier one.

Here: what is sent, and when. Not here: the records and their files (outbox.py), reaching MLflow
(mlflow_store.py), what is worth telling (pipeline/).
"""

import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aef_dagster.errors import DISK_FULL, UserError, is_disk_full
from aef_dagster.storage.mlflow_store import (
    BATCH,
    EXPERIMENT,
    MODEL_PAGES,
    connect,
    find_run,
    is_absent,
    make_experiment,
    masked,
    search_runs,
    searchable,
    told,
)
from aef_dagster.storage.outbox import Outbox, StudyRecord, TrackedRun, study_name

__all__ = ["EXPERIMENT", "Drained", "StudyRecord", "TrackedRun", "Tracking", "masked"]

SILENCE_S = 60  # after a failure: a dead MLflow costs 5 s now and then, not 5 s a basin
# Unlike those of metrics and parameters, MLflow's limit of tags a call is low.
TAGS_AT_ONCE = 100

logger = logging.getLogger(__name__)


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
        self._box = Outbox(self.outbox, uri)
        self._client: tuple[Any, str] | None = None
        # Run ids of the parents met since the connection was made: each result would ask again.
        self._parents: dict[str, str] = {}
        # Keys of records that nobody else can have told of.
        self._fresh: set[str] = set()
        self._silent_until = 0.0

    @property
    def ledger(self) -> Path:
        """Records that MLflow has, each with its run id."""
        return self._box.ledger

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
            with self._box.alone():
                self._connect()
        except Exception as error:
            if is_disk_full(error):
                told_full = f"MLflow at {masked(self.uri)} could not be written: {DISK_FULL}"
                raise UserError(told_full) from None
            raise UserError(
                f"MLflow at {masked(self.uri)} cannot be used: {told(error, self.uri)}. Start it, "
                "or move a damaged file away: `aef sync` and re-runs fill a new one"
            ) from None

    def enqueue(self, run: TrackedRun, *, fresh: bool = False) -> None:
        """Write a record into the outbox, unless MLflow already has it.

        Parameters
        ----------
        run
            The record.
        fresh
            Whether this process has just trained the model, so that MLflow cannot know it: it is
            not asked, which saves a tenth of what telling costs.
        """
        self._box.put(run)
        if fresh:
            self._fresh.add(run.key)

    def enqueue_study(self, record: StudyRecord) -> None:
        """Write an experiment's results into the outbox, unless MLflow has just these.

        One of the same key that still waits is replaced.
        """
        self._box.put(record)

    def run_id(self, key: str) -> str | None:
        """MLflow run of a trained basin, None while it waits in the outbox."""
        entry = self._box.entry(key)
        return entry["run_id"] if entry else None

    def url(self, key: str) -> str | None:
        """Page of a trained basin in the MLflow UI, None while it waits in the outbox."""
        return self._page_of(self._box.entry(key))

    def study_url(self, key: str) -> str | None:
        """Page of an experiment in the MLflow UI, None until it was sent for the first time."""
        return self._page_of(self._box.entry(study_name(key)))

    def drain(self, on_sent: Callable[[str], None] | None = None) -> Drained:
        """Send what waits; stop at the first sign that MLflow cannot be reached.

        Never raises for MLflow's sake: the outcome says how many wait and why.
        """
        waiting = self._box.waiting()
        if not waiting:
            return Drained(0, 0)
        if time.monotonic() < self._silent_until:
            return Drained(0, len(waiting), "MLflow did not answer a moment ago")
        sent = 0
        try:
            with self._box.alone():
                client, experiment_id = self._connect()
                for path in waiting:
                    record = self._box.read(path)
                    if record is None:
                        continue
                    if isinstance(record, TrackedRun):
                        begun = self._box.begin(path)
                        entry = self._send(client, experiment_id, record, begun)
                    else:
                        entry = self._send_study(client, experiment_id, record)
                    self._box.tick_off(path, record, entry | {"experiment_id": experiment_id})
                    self._fresh.discard(record.key)
                    sent += 1
                    if on_sent:
                        on_sent(record.key)
        except Exception as error:  # noqa: BLE001 - MLflow raises a dozen types; all mean "later"
            left = len(self._box.waiting())
            self._client, self._silent_until = None, time.monotonic() + SILENCE_S
            cause = told(error, self.uri)
            logger.warning("MLflow at %s: %s. %d results wait in %s; `aef sync` sends them",
                           masked(self.uri), cause, left, self.outbox)  # fmt: skip
            return Drained(sent, left, cause)
        return Drained(sent, len(self._box.waiting()))

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
            parent = find_run(client, experiment_id, "parent_key", searchable(parent_key))
            if parent is None:
                return None
            run_id = parent.info.run_id
            nested = search_runs(client, experiment_id, "mlflow.parentRunId", run_id)
            rows = [dict(run.data.metrics) for run in nested]
            for name, value in summarise(rows).items():
                # Of two values MLflow shows the later one, also where the clock has gone back.
                told_at = [old.timestamp for old in client.get_metric_history(run_id, name)]
                at = max([int(time.time() * 1000), *(moment + 1 for moment in told_at)])
                client.log_metric(run_id, name, value, timestamp=at)
            for name, content in (figures(rows) if figures else {}).items():
                self._attach(client, run_id, name, content)
            return run_id
        except Exception as error:  # noqa: BLE001 - a summary is never worth a training
            logger.warning("MLflow: the summary was not written: %s", type(error).__name__)
            return None

    def _send(
        self, client, experiment_id: str, run: TrackedRun, begun_before: bool
    ) -> dict[str, Any]:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if run.parent_key not in self._parents:
            self._parents[run.parent_key] = self._parent(
                client, experiment_id, run.parent_key, run.parent_name, run.parent_tags
            ).info.run_id
        known = None
        if begun_before or run.key not in self._fresh:
            known = find_run(client, experiment_id, "record_key", run.key)
        if known is not None and known.info.status == "FINISHED":
            return {"run_id": known.info.run_id}
        tags = {
            **run.tags,
            "record_key": run.key,
            "mlflow.runName": run.name,
            "mlflow.parentRunId": self._parents[run.parent_key],
        }
        started, ended = int(run.started * 1000), int(run.ended * 1000)
        begun = known is not None
        known = known or client.create_run(experiment_id, start_time=started, tags=tags)
        run_id = known.info.run_id
        metrics = [Metric(name, value, ended, 0) for name, value in run.metrics.items()]
        metrics += [Metric(name, value, ended, step) for name, step, value in run.curve]
        params = [Param(name, value) for name, value in run.params.items()]
        # A run that was just made has its tags; one that was begun earlier may have old ones.
        texts = [RunTag(name, value) for name, value in tags.items()] if begun else []
        client.log_batch(run_id, metrics[:BATCH], params, texts)
        for start in range(BATCH, len(metrics), BATCH):
            client.log_batch(run_id, metrics[start : start + BATCH])
        # The client's own `log_artifact` asks for the run again with each file.
        files = get_artifact_repository(known.info.artifact_uri, self.uri)
        for artifact in run.artifacts:
            if Path(artifact).exists():
                files.log_artifact(artifact)
        client.set_terminated(run_id, end_time=ended)
        return {"run_id": run_id}

    def _send_study(self, client, experiment_id: str, record: StudyRecord) -> dict[str, Any]:
        """Make the parent run show a record and nothing else of earlier ones.

        What it does twice, after a death in between, changes nothing.
        """
        from mlflow.entities import Metric, RunTag

        run_id = self._parent(client, experiment_id, record.key, record.name).info.run_id
        before = self._box.entry(record.ledger_name) or {"metrics": [], "tags": []}
        for name in sorted(set(before["tags"]) - set(record.tags)):
            client.delete_tag(run_id, name)
        # MLflow cannot forget a metric: one that is no longer there becomes undefined.
        values = dict.fromkeys(before["metrics"], math.nan) | record.metrics
        # Of two values MLflow shows the later one, also where the clock has gone back since.
        at = max(int(record.at * 1000), before.get("at", 0) + 1)
        metrics = [Metric(name, value, at, 0) for name, value in values.items()]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics[start : start + BATCH])
        texts = record.tags | {"mlflow.note.content": record.note, "mlflow.runName": record.name}
        tags = [RunTag(name, value) for name, value in texts.items()]
        for start in range(0, len(tags), TAGS_AT_ONCE):
            client.log_batch(run_id, tags=tags[start : start + TAGS_AT_ONCE])
        for name, path in record.files.items():
            if Path(path).is_file():
                self._attach(client, run_id, name, Path(path).read_bytes())
            else:
                logger.warning("%s is gone: MLflow is told of %s without it", path, record.name)
        return {
            "run_id": run_id,
            "digest": record.digest,
            "at": at,
            "metrics": sorted(record.metrics),
            "tags": sorted(record.tags),
        }

    def _parent(
        self, client, experiment_id: str, key: str, name: str, tags: dict[str, str] | None = None
    ):
        """The run of a study, found by its key or made."""
        found = find_run(client, experiment_id, "parent_key", key)
        if found is not None:
            if found.info.status == "RUNNING":  # whoever made it was killed before it said more
                client.set_terminated(found.info.run_id)
            return found
        tags = {**(tags or {}), "parent_key": key, "mlflow.runName": name}
        created = client.create_run(experiment_id, tags=tags)
        client.set_terminated(created.info.run_id)
        return created

    def _page_of(self, entry: dict[str, Any] | None) -> str | None:
        if entry is None:
            return None
        place = f"experiments/{entry['experiment_id']}/runs/{entry['run_id']}"
        return f"{self.page}/#/{place}?{MODEL_PAGES}"

    def _connect(self) -> tuple[Any, str]:
        if self._client is None:
            absent = is_absent(self.uri)
            client = connect(self.uri)
            if absent:
                self._box.forget()
            self._parents = {}
            self._client = client, make_experiment(client, self.uri, self.artifacts)
        return self._client

    def _attach(self, client, run_id: str, name: str, content: bytes) -> None:
        """Put a file below a run, over one of the same name; folders of the name are kept."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(content)
            place = str(Path(name).parent)
            client.log_artifact(run_id, str(path), None if place == "." else place)
