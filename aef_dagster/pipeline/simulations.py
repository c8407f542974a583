"""Finding and writing the simulation of one trained basin, for `aef simulate`.

Here: choice of the checkpoint and file formats. Not here: simulating (models/).
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.pipeline.scores import all_checkpoints
from aef_dagster.pipeline.trust_inputs import donor_choice, expectation
from aef_dagster.storage.warehouse import Warehouse

FORMATS = (".csv", ".parquet")


@dataclass(frozen=True)
class Simulation:
    """A basin's simulation and where it came from."""

    job_hash: str
    title: str
    table: pd.DataFrame
    expected: str


def newest_simulation(
    checkpoints: Path, store: Warehouse, gauge_id: str, *, space: str | None, k: int | None
) -> Simulation:
    """The newest result of a basin that fits, ensembles before single models.

    Raises
    ------
    UserError
        Nothing that fits was trained.
    """
    fitting = []
    for checkpoint in all_checkpoints(checkpoints):
        if gauge_id not in checkpoint.job().targets:
            continue
        for request in checkpoint.requests():
            if request["asset"] != "basin_models":
                continue  # regional models are the study's; one of them may have seen this basin
            if space in (None, request["space"]) and k in (None, request["k"]):
                age = (len(checkpoint.members()) > 1, request["asked_at"])
                fitting.append((age, checkpoint, request))
    if not fitting:
        wanted = "".join(
            f" --{name} {value}" for name, value in (("space", space), ("k", k)) if value
        )
        raise UserError(
            f"no model of basin {gauge_id}{' that fits' + wanted if wanted else ''} yet; "
            f"run `aef train {gauge_id}{wanted}`"
        )
    _age, checkpoint, request = max(fitting, key=lambda item: item[0])
    table = checkpoint.simulation()
    table = table[table["gauge_id"] == gauge_id].drop(columns="gauge_id")
    job, members = checkpoint.job(), checkpoint.members()
    kind = f"mean of {len(members)} members" if len(members) > 1 else f"seed {job.seed}"
    marks = [mark for mark in ("sample", "surrogate") if request[mark]]
    title = f"{request['space']} k={request['k']}, {kind}" + "".join(f" [{m}]" for m in marks)
    choice = donor_choice(
        request["space"], request["k"], job.representation, job.recipe.name, job.budget.name,
        job.precision, len(members),
    )  # fmt: skip
    expected = expectation(store, gauge_id, choice)
    return Simulation(checkpoint.hash, title, table.reset_index(drop=True), expected)


def write_simulation(table: pd.DataFrame, path: Path) -> None:
    """Write a simulation as CSV or Parquet, by the file's ending.

    Raises
    ------
    UserError
        Another ending, or a place that cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: write a file that ends in {' or '.join(FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            table.to_csv(path, index=False, float_format="%.4f")
        else:
            table.to_parquet(path, index=False)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
