"""Designs: which basins a regional model learns from, and which it is tested on.

Here: `Split`, one model's basins, and a function per design that gives the splits of a set of
basins. Not here: what the models are told and how they are trained (asks.py).

In every design but `gauged` no basin is tested by a model that learned from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.evaluation.splits import spatial_folds

# name -> what it is, for people
DESIGNS: dict[str, str] = {
    "gauged": "every basin is learned from and tested in later years (in sample)",
    "folds": "random folds of basins are held out in turn (out of sample)",
    "regions": "neighbouring HUC-2 regions are held out in turn",
    "clusters": "clusters of similar AlphaEarth vectors are held out in turn",
    "climates": "clusters of similar climate are held out in turn",
    "each_cluster": "one cluster is learned from, every basin of a held-out fold is tested",
    "fewer_folds": "as folds, learning from some of the other basins",
    "fewer_clusters": "as clusters, learning from some of the other basins",
}
# Held out by clusters of AlphaEarth, so made of embeddings whatever the network is told.
BY_EMBEDDING = ("clusters", "each_cluster", "fewer_clusters")
FOLD_SEED = 0


@dataclass(frozen=True)
class Split:
    """The basins of one model.

    Parameters
    ----------
    design
        A name of `DESIGNS`.
    fold
        Which group is held out, counted from 0.
    donors, targets
        Basins learned from, basins tested.
    role
        `gauged` or `ungauged`, as a training job has it.
    learned_from
        What tells models apart that test the same basins in one design: "" where there is one.
    """

    design: str
    fold: int
    donors: tuple[str, ...]
    targets: tuple[str, ...]
    role: str = "ungauged"
    learned_from: str = ""


def gauged(gauge_ids: Sequence[str]) -> list[Split]:
    """One model of all basins."""
    basins = tuple(sorted(gauge_ids))
    return [Split("gauged", 0, basins, basins, role="gauged")]


def held_out(design: str, groups: Mapping[str, int]) -> list[Split]:
    """Each group of basins tested by a model of all the others.

    Parameters
    ----------
    design
        Name of the design.
    groups
        Group of each basin.

    Raises
    ------
    UserError
        There is one group only.
    """
    splits = []
    for group in sorted(set(groups.values())):
        targets = tuple(sorted(g for g in groups if groups[g] == group))
        donors = tuple(sorted(g for g in groups if groups[g] != group))
        if not donors:
            raise UserError(f"design {design!r}: all basins are in one group, none is left to test")
        splits.append(Split(design, group, donors, targets))
    return splits


def folds(gauge_ids: Sequence[str], n_folds: int) -> dict[str, int]:
    """Fold of each basin, drawn at random; the same draw in every experiment."""
    found = spatial_folds(gauge_ids, n_folds, FOLD_SEED)
    return {str(gauge_id): int(fold) for gauge_id, fold in found.items()}


def regions(huc_02: pd.Series, n_groups: int | None) -> dict[str, int]:
    """Region of each basin.

    Parameters
    ----------
    huc_02
        HUC-2 of each basin, indexed by gauge_id.
    n_groups
        HUC-2 numbers run from New England to California: runs of neighbours are joined into so
        many groups of about equal numbers of basins. None = each HUC-2 by itself.
    """
    counts = huc_02.value_counts().sort_index()
    if n_groups is None:
        number = {huc: group for group, huc in enumerate(counts.index)}
    else:
        middle = counts.cumsum() - counts / 2
        cut = (middle * n_groups / counts.sum()).astype(int).clip(upper=n_groups - 1)
        # A region larger than its share may leave a group without any: number them anew.
        number = {huc: int(group) for huc, group in (cut.rank(method="dense") - 1).items()}
    return {str(gauge_id): number[huc] for gauge_id, huc in huc_02.items()}


def of_these_groups(
    scores: pd.DataFrame, groups: Mapping[str, Mapping[str, int]]
) -> "pd.Series[bool]":
    """Which rows of scores were made with the groups that hold now.

    A basin that has left the study, or another year of embeddings, gives other folds and clusters;
    what was trained with the old ones would be compared with what was trained with the new.

    Parameters
    ----------
    scores
        design, fold, gauge_id.
    groups
        Design -> group of each basin; rows of other designs, and of basins without a group, are
        left as they are.
    """
    held = pd.Series(True, index=scores.index)
    for design, group_of in groups.items():
        rows = scores["design"] == design
        now = scores.loc[rows, "gauge_id"].map(group_of)
        held[rows] = now.isna() | (now == scores.loc[rows, "fold"])
    return held


def each_cluster(clusters: Mapping[str, int], fold_of: Mapping[str, int]) -> list[Split]:
    """Models of one cluster, less a fold; all basins of that fold are tested, of every cluster.

    So each cluster's model is tested on its own cluster as on the others: without their gauges.
    A cluster that a fold leaves without basins to learn from has no model of that fold.
    """
    splits = []
    for cluster in sorted(set(clusters.values())):
        for fold in sorted(set(fold_of.values())):
            targets = tuple(sorted(g for g in fold_of if fold_of[g] == fold))
            donors = tuple(
                sorted(g for g in clusters if clusters[g] == cluster and fold_of[g] != fold)
            )
            if donors:
                split = Split("each_cluster", fold, donors, targets,
                              learned_from=f"cluster {cluster}")  # fmt: skip
                splits.append(split)
    return splits


def fewer(splits: Sequence[Split], count: int) -> list[Split]:
    """The same tests, learning from a random sample of each model's donors.

    Models with no more donors than that are left out: they are there already.
    """
    sampled = []
    for split in splits:
        if len(split.donors) <= count:
            continue
        rng = np.random.default_rng([FOLD_SEED, split.fold, count])
        donors = tuple(sorted(rng.choice(split.donors, count, replace=False).tolist()))
        name = f"fewer_{split.design}"
        sampled.append(Split(name, split.fold, donors, split.targets,
                             learned_from=f"{count} basins"))  # fmt: skip
    return sampled
