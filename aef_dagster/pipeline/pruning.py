"""The clean-up of a home: which checkpoints are in force, and what it amounts to.

Here: everything that names a checkpoint: scores, and results that wait for MLflow. Not here: the
files (models/pruning.py), words and tables (cli.py).
"""

import re
from dataclasses import dataclass

from aef_dagster.models.pruning import (
    KINDS,
    Leftover,
    at_work,
    left_behind,
    remove,
    sort_checkpoints,
)
from aef_dagster.pipeline.scores import collect_scores
from aef_dagster.storage.home import Home
from aef_dagster.storage.warehouse import Warehouse

ASSETS = ("basin_models", "regional_models")
_OF_A_MODEL = re.compile("([0-9a-f]{16})-")


@dataclass(frozen=True)
class Pruned:
    """A clean-up, done or only counted.

    Parameters
    ----------
    leftovers
        What is of no further use; after a removal, what was removed.
    kept, kept_bytes
        Checkpoints that stay.
    at_work
        A training is at work, so that no checkpoint and no state was looked at.
    """

    leftovers: list[Leftover]
    kept: int
    kept_bytes: int
    at_work: bool

    def table(self) -> list[tuple[str, int, float]]:
        """Kind, number and size in MB (1e6 bytes) of what there is of each kind."""
        rows = []
        for kind in KINDS:
            sizes = [item.n_bytes for item in self.leftovers if item.kind == kind]
            if sizes:
                rows.append((kind, len(sizes), sum(sizes) / 1e6))
        return rows


def prune(home: Home, store: Warehouse, older_than_days: float, *, dry_run: bool) -> Pruned:
    """Find what is no longer in force, and remove it unless this is a dry run.

    Parameters
    ----------
    home, store
        The home and its tables.
    older_than_days
        Age of states of unfinished trainings.
    dry_run
        Remove nothing.

    Raises
    ------
    UserError
        Something cannot be removed.
    """
    root = home.checkpoints
    working = at_work(root)
    # Before checkpoints are read: one that is found damaged now is there to be looked at.
    beside = left_behind(root, older_than_days)
    found = sort_checkpoints(root, in_force(home, store))
    leftovers = [*found.leftovers, *beside]
    if not dry_run:
        leftovers = remove(root, leftovers)
    return Pruned(leftovers, len(found.kept), found.kept_bytes, working)


def in_force(home: Home, store: Warehouse) -> set[str]:
    """Hashes of models and ensembles that something still reads.

    The networks of the space `fusion` and of a study's bundle are among them: both take current
    scores only, and a bundle that is made carries copies.
    """
    named: set[str] = set()
    for asset in ASSETS:
        # From the checkpoints themselves: the table may be older than the last training.
        scores = collect_scores(home.checkpoints, asset, lambda _key: None)
        named.update(scores.loc[scores["current"], "job_hash"])
    if store.path.exists():
        # What the table says is read by trust, study and pages until it is made anew.
        named.update(store.frame("SELECT DISTINCT job_hash FROM scores WHERE current")["job_hash"])
    # Results that MLflow was not told yet name files of their checkpoint.
    for waiting in home.outbox.glob("*.json"):
        found = _OF_A_MODEL.match(waiting.name)
        if found:
            named.add(found[1])
    return named
