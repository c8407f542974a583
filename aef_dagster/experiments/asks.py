"""What an experiment asks to be trained, free of data: basins, representation, recipe, seed.

Here: the two kinds of asks, of regional models and of donor models; the basins that plans choose
from; the step from an ask to a training job. Not here: which asks an experiment has (its own
module), training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError
from aef_dagster.experiments.designs import Split
from aef_dagster.experiments.sizes import Size
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, recipe_named


@dataclass(frozen=True)
class RegionalAsk:
    """One regional model.

    Parameters
    ----------
    experiment
        Who asks.
    split
        Its basins.
    representation
        What the network is told.
    recipe
        Name of a recipe or of a variant.
    seed
        Its seed.
    """

    experiment: str
    split: Split
    representation: str
    recipe: str = "strong"
    seed: int = 0

    @property
    def partition(self) -> str:
        """The partition of `regional_models` it belongs to."""
        return f"{self.split.design}/{self.representation}"

    def job(
        self,
        *,
        dataset: str,
        forcing: str,
        data_version: str,
        periods: Periods,
        budget: str,
        precision: str,
        sample: bool,
        surrogate: bool,
    ) -> TrainingJob:
        """The job that answers the ask."""
        return TrainingJob(
            dataset=dataset,
            forcing=forcing,
            data_version=data_version,
            targets=self.split.targets,
            donors=self.split.donors,
            role=self.split.role,
            periods=periods,
            representation=self.representation,
            recipe=recipe_named(self.recipe),
            budget=BUDGETS[budget],
            seed=self.seed,
            precision=precision,
            sample=sample,
            surrogate=surrogate,
        )


@dataclass(frozen=True)
class DonorAsk:
    """Donor models of some targets under one choice.

    Parameters
    ----------
    experiment
        Who asks.
    space, k
        Where donors are picked, and how many.
    representation
        What the network is told.
    targets
        Basins, each with a model of its own.
    seeds
        Members of each ensemble.
    """

    experiment: str
    space: str
    k: int
    representation: str
    targets: tuple[str, ...]
    seeds: int = 1


@dataclass(frozen=True)
class StudyBasins:
    """The basins that a study is about: those with weather, flow and all descriptors.

    Parameters
    ----------
    frame
        Index gauge_id, sorted; name, lat, lon, huc_02.
    clusters
        Labels of each scheme (`aef`, `climate`), by number of clusters: scheme -> k -> labels
        indexed by gauge_id.
    silhouettes
        Mean silhouette of each: scheme -> k -> score.
    published_targets
        Basins that the study simulated, as far as they are known and among these.
    """

    frame: pd.DataFrame
    clusters: Mapping[str, Mapping[int, pd.Series]]
    silhouettes: Mapping[str, Mapping[int, float]]
    published_targets: tuple[str, ...] = ()

    @property
    def gauge_ids(self) -> tuple[str, ...]:
        """All basins, sorted."""
        return tuple(self.frame.index)

    def labels(self, scheme: str, most: int) -> dict[str, int]:
        """Clusters of a scheme: of the number with the best silhouette, up to `most`.

        Raises
        ------
        UserError
            No clusters were made.
        """
        scores = {k: s for k, s in self.silhouettes.get(scheme, {}).items() if k <= most}
        if not scores:
            raise UserError(
                f"no clusters by {scheme} yet: materialize `basin_clusters` (or run `aef study`)"
            )
        best = max(scores, key=lambda k: scores[k])
        found = self.clusters[scheme][best]
        return {gauge_id: int(found[gauge_id]) for gauge_id in self.gauge_ids}


@dataclass(frozen=True)
class Plan:
    """All that one experiment wants trained."""

    regional: tuple[RegionalAsk, ...] = ()
    donors: tuple[DonorAsk, ...] = ()

    @property
    def models(self) -> int:
        """Trainings asked for, before equal ones are joined."""
        return len(self.regional) + sum(len(ask.targets) * ask.seeds for ask in self.donors)


Planner = Callable[[StudyBasins, Size], Plan]


def regional(
    experiment: str,
    splits: Sequence[Split],
    representations: Sequence[str],
    seeds: int,
    recipe: str = "strong",
) -> tuple[RegionalAsk, ...]:
    """Every split with every representation and seed."""
    return tuple(
        RegionalAsk(experiment, split, representation, recipe, seed)
        for representation in representations
        for split in splits
        for seed in range(seeds)
    )
