"""Reaching an MLflow store: a file or a server, within seconds or not at all.

Here: the client and our experiment, a new SQLite store made whole, runs found by a tag, addresses
and errors fit to be shown.
Not here: what is sent (tracking.py: runs; bundle.py: registered models). No fluent calls
(`mlflow.start_run` and its global state).
"""

import logging
import os
import socket
import warnings
from pathlib import Path
from urllib.parse import urlparse

from aef_dagster.errors import UserError
from aef_dagster.settings import masked

EXPERIMENT = "aef_dagster"
CONNECT_TIMEOUT_S = 5
# Without both, the MLflow pages open on an overview of language-model traces.
_KIND_TAG = "mlflow.experimentKind"
MODEL_PAGES = "workflowType=machine_learning"
BATCH = 1000  # MLflow's own limit of metrics a call


def connect(uri: str):
    """A client of a store; a new SQLite store is made.

    Parameters
    ----------
    uri
        SQLite file or address of a server.

    Raises
    ------
    UserError
        The address is that of a folder.
    Exception
        Whatever a store that does not answer makes of it; `told` gives its first line.
    """
    _probe(uri)
    # MLflow's own patience is minutes; the outbox is ours.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(CONNECT_TIMEOUT_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    _quieten()
    from mlflow import MlflowClient

    _make_store(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_experiment(client, uri: str, artifacts: Path) -> str:
    """Id of our experiment, made where it is not there.

    Parameters
    ----------
    client
        Of `connect`.
    uri
        Its address.
    artifacts
        Folder of the files of runs. A server keeps them where it was told to; a database that is
        reached directly needs it.
    """
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    return client.create_experiment(
        EXPERIMENT,
        artifact_location=None if uri.startswith("http") else artifacts.as_uri(),
        tags={_KIND_TAG: "custom_model_development"},
    )


def import_pyfunc():
    """The module `mlflow.pyfunc`, which warns of MLflow's own type hints when first imported."""
    _quieten()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
        import mlflow.pyfunc
    return mlflow.pyfunc


def find_run(client, experiment_id: str, tag: str, value: str):
    """The newest run with a tag, or None."""
    return next(iter(search_runs(client, experiment_id, tag, value, limit=1)), None)


def search_runs(client, experiment_id: str, tag: str, value: str, limit: int | None = None) -> list:
    """All runs with a tag, newest first; `value` as `searchable` gives it."""
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.`{tag}` = '{value}'",
            max_results=limit or BATCH,
            page_token=token,
        )
        runs.extend(page)
        token = page.token
        if not token or (limit and len(runs) >= limit):
            return runs


def searchable(key: str) -> str:
    """A key with primes for quotes: MLflow's search cannot escape them."""
    return key.replace("'", "\u2032")


def told(error: Exception, uri: str) -> str:
    """First line of an error, without a password."""
    line = masked(str(error).replace(uri, masked(uri)).partition("\n")[0])
    return line or type(error).__name__


def _quieten() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # MLflow would print the address of each run it sends, with the password in it.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401 - sets the levels of its loggers when imported

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_absent(uri: str) -> bool:
    """Whether a store is an SQLite file that is not there: new, or moved away."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def _make_store(uri: str) -> None:
    """A new SQLite store, whole or not at all.

    MLflow migrates a new file through dozens of steps, and one that was stopped half-way can
    never be opened again.
    """
    if not is_absent(uri):
        return
    path = Path(uri.removeprefix("sqlite:///"))
    from mlflow import MlflowClient

    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{unfinished}").search_experiments()
    unfinished.replace(path)


def _probe(uri: str) -> None:
    address = urlparse(uri)
    if address.scheme == "sqlite":
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    elif address.scheme in ("http", "https"):
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname, port), timeout=CONNECT_TIMEOUT_S):
            pass
    elif address.scheme.startswith("postgresql"):
        import sqlalchemy

        # MLflow itself would try ten times, 100 s in all, also with a wrong password.
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
        engine.connect().close()
        engine.dispose()
    elif address.scheme in ("", "file"):
        raise UserError(
            f"AEF_TRACKING_URI={masked(uri)}: MLflow no longer takes folders; use "
            "sqlite:///FILE or the address of a server"
        )
