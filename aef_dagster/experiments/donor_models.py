"""The plan behind `basin_models`: one model per target, trained on its k most similar donors.

Here: from ranked donors to training jobs. Not here: how donors are ranked (similarity/), how jobs
are trained (models/), who asked for them (pipeline/).
"""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from aef_dagster.basins.periods import Periods
from aef_dagster.models.jobs import BUDGETS, RECIPES, TrainingJob
from aef_dagster.similarity.donors import top_k


def donors_of(ranked: pd.DataFrame, target: str, k: int, usable: Iterable[str]) -> tuple[str, ...]:
    """The k most similar donors that can be trained on.

    Parameters
    ----------
    ranked
        gauge_id, rank, donor_id, cosine.
    usable
        Basins with weather, flow and static inputs; the others are passed over, and the next most
        similar takes their place.
    """
    allowed = set(usable)
    candidates = ranked[(ranked["gauge_id"] == target) & ranked["donor_id"].isin(allowed)]
    candidates = candidates.assign(rank=range(1, len(candidates) + 1))
    return top_k(candidates if len(candidates) else ranked, target, k)


def plan(
    target: str,
    donors: Sequence[str],
    *,
    seeds: int,
    dataset: str,
    forcing: str,
    periods: Periods,
    representation: str,
    recipe: str,
    budget: str,
    version_of: Callable[[Sequence[str], str], str],
    sample: bool,
    surrogate: bool,
) -> list[TrainingJob]:
    """The jobs of one target: one per seed.

    Parameters
    ----------
    version_of
        From the basins of a job and its representation to a hash of all the data it will see, so
        that changed data is trained anew and unchanged data is not.
    """
    return [
        TrainingJob(
            dataset=dataset,
            forcing=forcing,
            data_version=version_of((target, *donors), representation),
            targets=(target,),
            donors=tuple(donors),
            role="ungauged",
            periods=periods,
            representation=representation,
            recipe=RECIPES[recipe],
            budget=BUDGETS[budget],
            seed=seed,
            sample=sample,
            surrogate=surrogate,
        )
        for seed in range(seeds)
    ]
