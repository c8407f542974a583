"""The plan behind `basin_models`: one model per target, trained on its k most similar donors.

Here: from ranked donors to training jobs. Not here: how donors are ranked (similarity/), how jobs
are trained (models/), who asked for them (pipeline/).
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from aef_dagster.basins.periods import Periods
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS, RECIPES
from aef_dagster.similarity.donors import soft_weights, top_k, unknown_basin

# A choice of donors that takes all basins, weighted by their similarity in a space.
SPACE_OF_SOFT = {"soft_aef": "aef"}


def donors_of(ranked: Mapping[str, pd.DataFrame], target: str, k: int) -> tuple[str, ...]:
    """The k most similar donors of a target.

    Parameters
    ----------
    ranked
        Per target the donors that can be trained on: gauge_id, rank, donor_id, cosine. Where some
        were passed over, the next most similar take their place.

    Raises
    ------
    UserError
        The target has no donors, or fewer than k.
    """
    if target not in ranked:
        raise unknown_basin(target, list(ranked))
    return top_k(ranked[target], target, k)


def soft_donors_of(
    ranked: Mapping[str, pd.DataFrame], target: str, k: int
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """All donors of a target, and how much each counts.

    Parameters
    ----------
    ranked
        As for `donors_of`.
    k
        As many donors count, effectively, as if k of them counted alike.

    Raises
    ------
    UserError
        The target has no donors.
    """
    if target not in ranked:
        raise unknown_basin(target, list(ranked))
    rows = ranked[target].sort_values("rank")
    weights = soft_weights(rows["cosine"].to_numpy(), k)
    return tuple(rows["donor_id"]), tuple(float(weight) for weight in weights)


def plan(
    target: str,
    donors: Sequence[str],
    *,
    weights: Sequence[float] = (),
    seeds: int,
    dataset: str,
    forcing: str,
    periods: Periods,
    representation: str,
    recipe: str,
    budget: str,
    data_version: str,
    precision: str,
    sample: bool,
    surrogate: bool,
) -> list[TrainingJob]:
    """The jobs of one target: one per seed.

    Parameters
    ----------
    weights
        How much each donor counts, in the order of `donors`; empty = all alike.
    data_version
        Hash of all the data the jobs will see, so that changed data is trained anew and unchanged
        data is not.
    """
    return [
        TrainingJob(
            dataset=dataset,
            forcing=forcing,
            data_version=data_version,
            targets=(target,),
            donors=tuple(donors),
            donor_weights=tuple(weights),
            role="ungauged",
            periods=periods,
            representation=representation,
            recipe=RECIPES[recipe],
            budget=BUDGETS[budget],
            seed=seed,
            precision=precision,
            sample=sample,
            surrogate=surrogate,
        )
        for seed in range(seeds)
    ]
