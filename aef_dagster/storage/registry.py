"""The registry: bundles as versions of one registered MLflow model, and the one in use.

Here: registering a bundle once, the alias `champion`, loading from the registry or a folder.
Not here: what a bundle is (bundle.py), the runs (tracking.py). No outbox: registering is asked for,
and one that fails says so.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.storage.bundle import bundle_key
from aef_dagster.storage.mlflow_store import (
    EXPERIMENT,
    connect,
    find_run,
    import_pyfunc,
    masked,
    told,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.pyfunc import PyFuncModel

REGISTERED = "aef_dagster"
CHAMPION = "champion"
# Below the run that a version is made from.
_PLACE = "bundle"


def register_bundle(
    tracking_uri: str,
    folder: Path,
    name: str = REGISTERED,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Give a bundle a version in the registry; the same bundle has one version for good.

    Parameters
    ----------
    tracking_uri
        MLflow store; `Tracking.setup` has made its experiment.
    folder
        Written by `save_bundle`.
    name
        Of the registered model, made if absent.
    tags
        Of the version, besides `bundle_key`, the title and the marks.

    Returns
    -------
    str
        The version.

    Raises
    ------
    DataFileError
        The folder holds no bundle.
    UserError
        MLflow does not answer, or refuses.
    """
    folder = Path(folder)
    key = bundle_key(folder)
    about = json.loads((folder / "artifacts" / "about.json").read_text(encoding="utf-8"))
    with _answering(tracking_uri, "the bundle was not registered"):
        client = connect(tracking_uri)
        _make_registered(client, name)
        found = client.search_model_versions(f"name = '{name}' and tags.bundle_key = '{key}'")
        if found:
            return str(min(int(version.version) for version in found))
        # What loading it here has compiled belongs to this machine's Python.
        for compiled in folder.rglob("__pycache__"):
            shutil.rmtree(compiled)
        run_id = _run_of(client, key, about["title"], tracking_uri)
        client.log_artifacts(run_id, str(folder), _PLACE)
        client.set_terminated(run_id)
        told_of = dict.fromkeys(about["marks"], "true") | {"title": about["title"]}
        made = client.create_model_version(
            name,
            f"runs:/{run_id}/{_PLACE}",
            run_id,
            tags={**told_of, **(tags or {}), "bundle_key": key},
            description=f"{about['title']}. {about['units']}",
        )
    return str(made.version)


def promote(tracking_uri: str, name: str, version: str) -> None:
    """Let the alias `champion` of a registered model name this version.

    Raises
    ------
    UserError
        MLflow does not answer, or has no such version.
    """
    with _answering(tracking_uri, f"version {version} of {name} was not made {CHAMPION}"):
        connect(tracking_uri).set_registered_model_alias(name, CHAMPION, version)


def champion_tags(tracking_uri: str, name: str = REGISTERED) -> dict[str, str] | None:
    """Tags of the version that the alias `champion` names, with `version`; None without one.

    Raises
    ------
    UserError
        MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    with _answering(tracking_uri, "the champion could not be asked for"):
        try:
            found = connect(tracking_uri).get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return {**found.tags, "version": str(found.version)}


def load_bundle(uri: str | Path, tracking_uri: str | None = None) -> "PyFuncModel":
    """A bundle, ready to simulate: `.predict(table)` as in `bundle_model.Bundle.predict`.

    Parameters
    ----------
    uri
        Its folder, or `models:/NAME@ALIAS`, or `models:/NAME/VERSION`.
    tracking_uri
        MLflow store of a registered one.

    Raises
    ------
    UserError
        MLflow does not answer or has no such version, or this is other training code.
    DataFileError
        It is no bundle of this platform.
    """
    pyfunc = import_pyfunc()
    from mlflow.artifacts import download_artifacts

    place, uri = str(uri), str(uri)
    if uri.startswith("models:/"):
        if tracking_uri is None:
            raise UserError(f"{uri} is in a registry: say at which MLflow store")
        with _answering(tracking_uri, f"{uri} was not loaded"):
            client = connect(tracking_uri)
            name, alias, version = _parsed(uri)
            if alias:
                version = client.get_model_version_by_alias(name, alias).version
            source = client.get_model_version_download_uri(name, version)
            place = download_artifacts(source, tracking_uri=tracking_uri)
    return pyfunc.PyFuncModel(model_meta=_described(Path(place)), model_impl=_Models(Path(place)))


class _Models:
    """What simulates: this package's code on a bundle's data.

    MLflow itself would run what the folder names: any Python file, or a pickle. Whoever may write
    to a store could put one there, so nothing of a bundle is run here.
    """

    def __init__(self, folder: Path):
        from mlflow.pyfunc import PythonModelContext

        from aef_dagster.storage.bundle_model import Bundle

        places = {"about": "about.json", "checkpoints": "checkpoints"}
        self._context = PythonModelContext(
            {name: str(folder / "artifacts" / place) for name, place in places.items()}, {}
        )
        self._bundle = Bundle()
        try:
            self._bundle.load_context(self._context)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataFileError(folder, f"no bundle of this platform ({error})") from error

    def predict(self, model_input: "pd.DataFrame") -> "pd.DataFrame":
        """As `Bundle.predict`."""
        return self._bundle.predict(self._context, model_input)


def _described(folder: Path):
    """MLflow's record of a bundle: signature, example, units."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        return Model.load(str(folder))
    except (MlflowException, OSError, ValueError, TypeError, AttributeError) as error:
        raise DataFileError(folder, f"no MLflow model ({told(error, str(folder))})") from error


def _make_registered(client, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Daily flow of rivers without a gauge.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _run_of(client, key: str, title: str, tracking_uri: str) -> str:
    """The run that holds a bundle's files; found again if we died before the version was made."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise UserError(
            f"MLflow at {masked(tracking_uri)} has no experiment {EXPERIMENT} yet: train a model, "
            "or run `aef dev` once"
        )
    found = find_run(client, experiment.experiment_id, "bundle_key", key)
    if found is None:
        tags = {"bundle_key": key, "mlflow.runName": f"bundle: {title}"}
        found = client.create_run(experiment.experiment_id, tags=tags)
    return found.info.run_id


def _parsed(uri: str) -> tuple[str, str, str]:
    """Name, alias, version of `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    rest = uri.removeprefix("models:/")
    if "@" in rest:
        name, alias = rest.split("@", 1)
        return name, alias, ""
    name, _, version = rest.partition("/")
    return name, "", version


@contextmanager
def _answering(uri: str, outcome: str) -> Iterator[None]:
    """Make a sentence of whatever MLflow answers, or that it does not."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{outcome}: MLflow at {masked(uri)} says {told(error, uri)!r}; start it or mend the "
            "address, then try again"
        ) from error
