"""The bundle: the trained models of one study as one registered MLflow model.

Here: putting checkpoints into an MLflow model folder.
Not here: what the loaded model does with a table (bundle_model.py, which travels in the folder),
the registry (registry.py).

<bundle>/
    MLmodel, requirements.txt, ...     MLflow's own: signature, example, environments
    bundle_model.py                    the code, run at loading; nothing is pickled
    artifacts/about.json               title, marks, inputs, spin-up, names of the checkpoints
    artifacts/checkpoints/<hash>/      job.json, scores.json; of a model scaler.json and weights
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.scalers import SKEWED, Scaler
from aef_dagster.storage.mlflow_store import import_pyfunc

if TYPE_CHECKING:
    import pandas as pd

CODE = Path(__file__).with_name("bundle_model.py")
# Without what differs each time it is trained (cost, machine), and without the observed flow.
CARRIED = ("job.json", "scaler.json", "weights.safetensors", "scores.json")
REQUIRED = ("aef-dagster", "mlflow", "numpy", "pandas", "safetensors", "torch")
_UNITS = (
    "Rows of days, one or several basins; forcings in the units of the training data, sim in "
    "mm/day. sim is missing on the first {spinup} days of each basin, which fill the networks' "
    "memory. Where the recipe divides flow by a basin's mean precipitation, this is the mean of "
    "the training period if the rows cover it, else of all days given: give several years."
)


@dataclass(frozen=True)
class _Inputs:
    """What all checkpoints of a bundle must share: the columns of its table, and how to read it."""

    representation: str
    role: str
    forcings: tuple[str, ...]
    numeric: tuple[str, ...]
    categories: tuple[str, ...]
    code_version: str


def save_bundle(
    folder: Path,
    checkpoints: Sequence[Path],
    *,
    title: str,
    marks: Sequence[str],
    forcing_names: Sequence[str],
    static_names: Sequence[str],
) -> None:
    """Write a bundle: an MLflow model made of code and of the checkpoints' own files.

    Parameters
    ----------
    folder
        Written whole or not at all; one that is there is replaced.
    checkpoints
        Folders of models or ensembles; the members of an ensemble lie beside it. A basin that is
        a target of some is simulated by these, any other by all.
    title
        Of the study.
    marks
        What a reader must know of the data, such as `sample`, `surrogate`; those of the jobs are
        added.
    forcing_names, static_names
        What the models were trained on, in any order, as a check: the columns of the table that
        the bundle takes, besides gauge_id and date.

    Raises
    ------
    UserError
        No checkpoints, or they differ in their inputs, in their role, or from the names given.
    DataFileError
        A checkpoint is absent or unreadable.
    """
    tops = [Checkpoint.open(Path(path).parent, Path(path).name) for path in checkpoints]
    if not tops:
        raise UserError(f"the bundle {title!r} would be empty: train the study's models first")
    for top in tops:
        if not top.exists:
            raise DataFileError(top.folder, "no whole checkpoint: train the job again")
    jobs = [top.job() for top in tops]
    inputs = _shared_inputs(tops)
    for kind, given, trained in (
        ("forcings", forcing_names, inputs.forcings),
        ("static inputs", static_names, inputs.numeric + inputs.categories),
    ):
        if sorted(given) != sorted(trained):
            odd = ", ".join(sorted(set(given) ^ set(trained))[:5])
            raise UserError(f"the {kind} are not those the models were trained on ({odd}): give "
                            f"the {len(trained)} names of the checkpoints")  # fmt: skip
    of_data = {mark for job in jobs for mark in ("sample", "surrogate") if getattr(job, mark)}
    spinup = max(_spinup_days(job) for job in jobs)
    about = {
        "title": title,
        "marks": sorted({*marks, *of_data}),
        "checkpoints": sorted(top.hash for top in tops),
        "spinup_days": spinup,
        "units": _UNITS.format(spinup=spinup),
        "representation": inputs.representation,
        "forcings": inputs.forcings,
        "numeric": inputs.numeric,
        "categories": inputs.categories,
        "code_version": inputs.code_version,
    }
    first = Checkpoint.open(tops[0].root, tops[0].members()[0]).scaler()
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bundle-") as scratch:
        staged = Path(scratch)
        for top in tops:
            _carry(top, staged / "checkpoints")
        text = json.dumps(about, indent=1, sort_keys=True)
        (staged / "about.json").write_text(text, encoding="utf-8")
        _save_model(staged, about, _example(first, about))
        if folder.exists():
            shutil.rmtree(folder)
        (staged / "model").replace(folder)


def bundle_key(folder: Path) -> str:
    """Hash of what a bundle is: its code, its checkpoints and what is said of them.

    Raises
    ------
    DataFileError
        The folder holds no bundle.
    """
    if not (folder / "artifacts" / "about.json").is_file():
        raise DataFileError(folder, "no bundle: materialize the study's bundle first")
    digest = hashlib.sha256()
    for path in [folder / CODE.name, *sorted((folder / "artifacts").rglob("*"))]:
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:32]


def _shared_inputs(tops: Sequence[Checkpoint]) -> _Inputs:
    found: dict[_Inputs, str] = {}
    for top in tops:
        record, job = top.record(), top.job()
        for member in top.members():
            scaler = Checkpoint.open(top.root, member).scaler()
            categories = tuple(scaler.categories)
            inputs = _Inputs(
                representation=job.representation,
                role=job.role,
                forcings=scaler.forcing_names,
                # Without one-hot codes a class is a number among the others as well.
                numeric=tuple(n for n in scaler.static_names if n not in categories),
                categories=categories,
                code_version=record["code_version"],
            )
            found.setdefault(inputs, member)
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise UserError(
            f"checkpoints {one} and {other} differ in representation, role, forcings, static "
            "inputs or training code: a bundle takes models of one kind, so make one for each"
        )
    return next(iter(found))


def _spinup_days(job: TrainingJob) -> int:
    """Days before the first whose simulation is what training and test mean by one."""
    windowed = job.recipe.evaluation == "windowed"
    return job.budget.window - 1 if windowed else job.recipe.spinup_days


def _carry(top: Checkpoint, root: Path) -> None:
    """Copy a checkpoint and its members, as far as a simulation needs them."""
    for name in {top.hash, *top.members()}:
        target = root / name
        target.mkdir(parents=True, exist_ok=True)
        for file in CARRIED:
            source = top.root / name / file
            if source.is_file():
                shutil.copyfile(source, target / file)


def _example(scaler: Scaler, about: dict[str, Any]) -> "pd.DataFrame":
    """A basin like the donors' mean, under the same weather each day: what a table looks like."""
    import pandas as pd

    days = about["spinup_days"] + 3
    columns: dict[str, Any] = {
        "gauge_id": ["example"] * days,
        "date": pd.date_range("2000-01-01", periods=days),
    }
    for forcing, mean in zip(scaler.forcing_names, scaler.forcing_mean, strict=True):
        skewed = scaler.scaling.log_sqrt and forcing in SKEWED
        columns[forcing] = float(f"{(10**mean - 0.1) ** 2 if skewed else mean:.4g}")
    means = dict(zip(scaler.static_names, scaler.static_mean, strict=True))
    columns |= {name: float(f"{means[name]:.4g}") for name in about["numeric"]}
    columns |= {name: next(iter(scaler.categories[name]), "") for name in about["categories"]}
    return pd.DataFrame(columns)


def _save_model(staged: Path, about: dict[str, Any], example: "pd.DataFrame") -> None:
    """Let MLflow write `staged/model` from what lies in `staged`."""
    # MLflow would look into the working directory for a uv project and copy it into the bundle.
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    pyfunc = import_pyfunc()
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    key = [ColSpec("string", "gauge_id"), ColSpec("datetime", "date")]
    numbers = [ColSpec("double", name) for name in (*about["forcings"], *about["numeric"])]
    classes = [ColSpec("string", name) for name in about["categories"]]
    pyfunc.save_model(
        staged / "model",
        python_model=CODE,
        artifacts={name: str(staged / f"{name}{ending}")
                   for name, ending in (("about", ".json"), ("checkpoints", ""))},
        signature=ModelSignature(
            Schema([*key, *numbers, *classes]), Schema([*key, ColSpec("double", "sim")])
        ),
        input_example=example,
        # A local version such as 2.8.0+cpu is on no index.
        pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in REQUIRED],
        metadata={name: about[name] for name in ("title", "marks", "units", "spinup_days")},
    )  # fmt: skip
