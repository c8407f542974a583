"""Checkpoints: everything that one trained model left, in a folder named by its job's hash.

Here: writing a folder whole or not at all, finding out whether it is whole, reading its parts.
Not here: training (engine/cpu.py), running a checkpoint on new days (simulate.py), the notes of
who asked for it (requests.py).

<root>/<hash>/
    job.json             kind "model" or "ensemble", the job, hashes of the members
    scores.json          one row per target
    simulation.parquet   gauge_id, date, obs, sim, sim_std over the test period
    run.json             what it cost, on what
    manifest.json        sha256 of each file above and below
    weights.safetensors, scaler.json, curve.json    of a model, not of an ensemble
    requests/            who asked for it: equal jobs are trained once, whatever they are for
<root>/.partial/         folders being written; whoever finds old ones may delete them
<root>/.corrupt/         folders set aside because a file was missing or altered
<root>/.asked            dated as the last request, for clocks that go back
"""

import hashlib
import json
import logging
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import DataFileError, writing
from aef_dagster.models.jobs import CODE_VERSION, TrainingJob
from aef_dagster.models.requests import add_request, asking_moment, read_requests
from aef_dagster.models.scalers import Scaler

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# What every checkpoint has, that of an ensemble too.
SEALED = {"job.json", "scores.json", "simulation.parquet", "run.json"}
PARTIAL, CORRUPT = ".partial", ".corrupt"
STALE_AFTER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one job or ensemble; whether it exists is asked of the disk each time."""

    root: Path
    hash: str

    @classmethod
    def open(cls, root: Path, job_hash: str) -> Self:
        """The checkpoint of a job, whether or not it has been trained yet.

        Raises
        ------
        DataFileError
            The hash, which a file may have named, would lead out of the root.
        """
        if not job_hash or Path(job_hash).name != job_hash or job_hash.startswith("."):
            raise DataFileError(root, f"{job_hash!r} is no name of a checkpoint")
        return cls(Path(root), job_hash)

    @property
    def folder(self) -> Path:
        """Where it lies, or will lie."""
        return self.root / self.hash

    @property
    def exists(self) -> bool:
        """Whether it is there and whole. A damaged folder is set aside, with a warning."""
        if not self.folder.is_dir():
            return False
        fault = self._fault()
        if fault is None:
            return True
        aside = self._set_aside()
        logger.warning(
            "checkpoint %s is damaged (%s): set aside as %s, to be trained again",
            self.hash,
            fault,
            aside,
        )
        return False

    def record(self) -> dict[str, Any]:
        """`job.json`: kind, hash, code_version, job, members."""
        return self._json("job.json")

    def job(self) -> TrainingJob:
        """The job; of an ensemble, the job of its first member."""
        return TrainingJob.from_json(self.record()["job"])

    def members(self) -> tuple[str, ...]:
        """Hashes of an ensemble's members; of a model, its own."""
        return tuple(self.record()["members"])

    def scores(self) -> list[dict[str, Any]]:
        """A row per target: gauge_id, role, n_days, period_start, period_end and each metric.

        Missing metrics are NaN.
        """
        return [
            {name: math.nan if value is None else value for name, value in row.items()}
            for row in self._json("scores.json")
        ]

    def simulation(self, columns: list[str] | None = None) -> "pd.DataFrame":
        """Test period of all targets: gauge_id, date, obs, sim, sim_std, flows in mm/day.

        Parameters
        ----------
        columns
            Those wanted; None = all.
        """
        import pandas as pd

        try:
            return pd.read_parquet(self.folder / "simulation.parquet", columns=columns)
        except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
            raise self._unreadable("simulation.parquet", error) from None

    def scaler(self) -> Scaler:
        """Statistics of the donors."""
        return Scaler.from_json(self._json("scaler.json"))

    def curve(self) -> list[dict[str, Any]]:
        """Learning curve, a row per validation (cpu.Trained)."""
        return self._json("curve.json")

    def run(self) -> dict[str, Any]:
        """Cost and circumstances of training: seconds, basin_days, peak_mb, versions and more."""
        return self._json("run.json")

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Parameters of the network by name; of several, as `committees.parted` takes them."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.folder / "weights.safetensors")
        except (OSError, SafetensorError) as error:
            raise self._unreadable("weights.safetensors", error) from None

    def add_request(self, label: dict[str, Any]) -> None:
        """Note who asked for this job: asset, design, space, k and the like."""
        add_request(self.folder / "requests", label, asking_moment(self.root))

    def requests(self) -> list[dict[str, Any]]:
        """All labels given to `add_request`, each with `asked_at`, when it was last given.

        Seconds since 1970; sorted by it.
        """
        return read_requests(self.folder / "requests")

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> DataFileError:
        if not self.folder.is_dir():
            cause = "no such checkpoint: train the job first"
            return DataFileError(self.folder, cause)
        cause = f"part of a checkpoint is unreadable ({error}): asked for again, it is trained anew"
        return DataFileError(self.folder / name, cause)

    def _fault(self) -> str | None:
        """What is wrong with the folder, or None."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            if unsealed := SEALED - set(manifest):
                return f"manifest.json says nothing of {', '.join(sorted(unsealed))}"
            for name, digest in manifest.items():
                if _sha256(self.folder / name) != digest:
                    return f"{name} was altered"
        except (OSError, ValueError, AttributeError, TypeError) as error:
            return str(error)
        return None

    def _set_aside(self) -> Path:
        aside = self.root / CORRUPT
        aside.mkdir(exist_ok=True)
        number = 1
        while (target := aside / f"{self.hash}-{number}").exists():
            number += 1
        with suppress(FileNotFoundError):  # another process has just done it
            self.folder.rename(target)
        return target


def write_checkpoint(
    root: Path,
    checkpoint_hash: str,
    *,
    partial: Path,
    job: TrainingJob,
    simulation: "pd.DataFrame",
    scores: list[dict[str, Any]],
    run: dict[str, Any],
    members: tuple[str, ...] = (),
    weights: dict[str, NDArray[np.float32]] | None = None,
    scaler: Scaler | None = None,
    curve: list[dict[str, Any]] | None = None,
) -> Checkpoint:
    """Write a checkpoint whole: in a partial folder first, then by one rename.

    Parameters
    ----------
    root, checkpoint_hash
        Where it shall lie.
    partial
        A folder of `partial_folder`, on the same disk.
    job
        The job; of an ensemble, that of the first member.
    simulation
        gauge_id, date, obs, sim, sim_std.
    scores, run, curve
        As `Checkpoint` gives them.
    members
        Member hashes; given for an ensemble only.
    weights, scaler
        Of a model; None for an ensemble.

    Returns
    -------
    Checkpoint
        This one, or the whole one that another process finished first.
    """
    record = {
        "kind": "ensemble" if members else "model",
        "hash": checkpoint_hash,
        "code_version": CODE_VERSION,
        "job": job.to_json(),
        "members": list(members or (checkpoint_hash,)),
    }
    contents = {"job.json": record, "scores.json": _without_nan(scores), "run.json": run}
    if scaler is not None:
        contents["scaler.json"] = scaler.to_json()
    if curve is not None:
        contents["curve.json"] = _without_nan(curve)
    checkpoint = Checkpoint.open(root, checkpoint_hash)
    folder = partial / checkpoint_hash
    with writing(f"the checkpoint of {_named(job.targets)}, {checkpoint.folder},"):
        folder.mkdir(parents=True)
        for name, content in contents.items():
            text = json.dumps(content, indent=1, allow_nan=False)
            (folder / name).write_text(text, encoding="utf-8")
        if weights is not None:
            from safetensors.numpy import save_file

            save_file(weights, folder / "weights.safetensors")
        simulation.to_parquet(folder / "simulation.parquet", index=False)
        manifest = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    if checkpoint.exists:
        return checkpoint
    try:
        folder.rename(checkpoint.folder)
    except OSError:
        # Another process was faster in this very moment: equal jobs have equal results.
        if not checkpoint.exists:
            raise
    return checkpoint


@contextmanager
def partial_folder(root: Path) -> Iterator[Path]:
    """A folder for what is being written, gone afterwards with all that was not finished.

    Folders that a killed process left a day ago or earlier are removed as well.
    """
    parent = Path(root) / PARTIAL
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.iterdir():
        with suppress(FileNotFoundError):  # another process has just finished with it
            if time.time() - stale.stat().st_mtime > STALE_AFTER_SECONDS:
                rmtree(stale, ignore_errors=True)
    folder = parent / uuid.uuid4().hex
    with writing(folder):
        folder.mkdir()
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def _named(targets: tuple[str, ...]) -> str:
    some = ", ".join(targets[:3])
    return f"basin {some}" + (f" and {len(targets) - 3} more" if len(targets) > 3 else "")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NaN becomes null: JSON has no NaN, and DuckDB refuses it."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in rows
    ]
