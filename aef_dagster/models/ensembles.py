"""Ensembles: the mean of several models that differ in their seed alone.

Here: making the mean simulation, its spread and its scores into a checkpoint of its own.
Not here: training the members (training.py); running an ensemble on new days (simulate.py).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint, partial_folder, write_checkpoint
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.scoring import score_rows, simulation_table


def ensemble_hash(members: Sequence[TrainingJob]) -> str:
    """16 hexadecimal digits naming an ensemble, whatever the order of its members."""
    described = "ensemble " + " ".join(sorted(member.hash for member in members))
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def ensemble(checkpoints: Path, members: Sequence[TrainingJob]) -> Checkpoint:
    """The checkpoint of an ensemble: made from its members' simulations, or found made already.

    Parameters
    ----------
    checkpoints
        Folder with the members' checkpoints.
    members
        At least two jobs, equal but for their seeds.

    Returns
    -------
    Checkpoint
        `sim` is the members' mean, `sim_std` their standard deviation (of these members, not an
        estimate for more), scores are those of the mean.

    Raises
    ------
    UserError
        Fewer than two members, members of different jobs, or one not trained yet.
    """
    jobs = sorted({member.hash: member for member in members}.values(), key=lambda job: job.seed)
    if len(jobs) < 2:
        raise UserError("an ensemble needs at least two members with different seeds")
    if len({replace(job, seed=0).hash for job in jobs}) > 1:
        raise UserError("the members of an ensemble must be one job with different seeds")
    absent = [job for job in jobs if not Checkpoint.open(checkpoints, job.hash).exists]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(jobs)} members are not trained yet (seed "
            f"{', '.join(str(job.seed) for job in absent)}): train them first"
        )
    found = Checkpoint.open(checkpoints, ensemble_hash(jobs))
    if found.exists:
        return found

    first = jobs[0]
    tables = [Checkpoint.open(checkpoints, job.hash).simulation() for job in jobs]
    shape = (len(first.targets), len(tables[0]) // len(first.targets))
    simulations = np.stack([table["sim"].to_numpy().reshape(shape) for table in tables])
    mean = simulations.mean(0, dtype=np.float64).astype(np.float32)
    observed = tables[0]["obs"].to_numpy().reshape(shape)
    dates = tables[0]["date"].to_numpy()[: shape[1]].astype("datetime64[D]")
    runs = [Checkpoint.open(checkpoints, job.hash).run() for job in jobs]
    with partial_folder(checkpoints) as partial:
        return write_checkpoint(
            Path(checkpoints),
            found.hash,
            partial=partial,
            job=first,
            members=tuple(job.hash for job in jobs),
            simulation=simulation_table(
                first.targets, dates, observed, mean, simulations.std(0, dtype=np.float64)
            ),
            scores=score_rows(first, dates, observed, mean),
            run={
                "seconds": round(sum(run["seconds"] for run in runs), 2),
                "basin_days": sum(run["basin_days"] for run in runs),
                "peak_mb": max(run["peak_mb"] for run in runs),
            },
        )
