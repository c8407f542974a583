"""The study: its experiments in order, and what they want trained together.

Here: the register. Not here: any experiment.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.experiments import (
    controls,
    cross_regime,
    donor_scaling,
    fusion_ablation,
    in_vs_out_of_sample,
    mechanisms,
    regime_model,
    temporal_stability,
)
from aef_dagster.experiments.asks import Plan, Planner, RegionalAsk, StudyBasins
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Reading
from aef_dagster.experiments.sizes import SIZES, Size


class Experiment(NamedTuple):
    """One experiment: its plan and its reading, and the sentence that says what it asks."""

    name: str
    title: str
    question: str
    plan: Planner
    read: Callable[[Evidence], Reading]


EXPERIMENTS: dict[str, Experiment] = {
    module.NAME: Experiment(module.NAME, module.TITLE, module.QUESTION, module.plan, module.read)
    for module in (
        in_vs_out_of_sample,
        controls,
        donor_scaling,
        cross_regime,
        regime_model,
        fusion_ablation,
        temporal_stability,
        mechanisms,
    )
}

# What a reading looks at beyond its own trainings.
READS_ALSO: dict[str, tuple[str, ...]] = {
    "cross_regime": ("in_vs_out_of_sample",),
    "mechanisms": ("cross_regime",),
}


def chosen(only: Sequence[str]) -> list[Experiment]:
    """Experiments by name, in the study's order; all where none is named.

    Raises
    ------
    UserError
        There is no such experiment.
    """
    unknown = [name for name in only if name not in EXPERIMENTS]
    if unknown:
        raise UserError(f"no experiment {', '.join(unknown)}; choose from {', '.join(EXPERIMENTS)}")
    return [found for name, found in EXPERIMENTS.items() if not only or name in only]


def regional_keys() -> tuple[str, ...]:
    """All `design/representation` that a study of any size asks for.

    In an order whose groups of equal count cost alike: whoever trains the keys in several runs
    takes neighbours. The cost of a key is its number of models in the largest size; the order is
    `even_order`. Of the largest size's 558 models in 36 keys, the dearest of 2, 3, 4, 6 groups has
    1.03, 1.04, 1.08, 1.24 times its share; in the study's order it had 1.30, 1.42, 1.65, 1.67.
    Finer groups stay uneven: the dearest key alone has 100 models.
    """
    costs = regional_costs()
    return tuple(even_order(list(costs), list(costs.values())))


def even_order(keys: Sequence[str], costs: Sequence[float]) -> list[str]:
    """Keys so that the running total of their costs stays near a straight line.

    The dearest key that is left where the total is on the line or below it, else the cheapest; of
    equal ones the first.
    """
    left = sorted(range(len(keys)), key=lambda place: (-costs[place], place))
    share = sum(costs) / max(1, len(keys))
    order: list[str] = []
    total = 0.0
    while left:
        place = left.pop(0 if total <= share * len(order) else -1)
        order.append(keys[place])
        total += costs[place]
    return order


def regional_costs() -> dict[str, int]:
    """Models of each `design/representation` in the size that asks for most of them."""
    # Which basins there are does not matter here: any few that fill every design will do.
    ids = [f"{number:08d}" for number in range(24)]
    frame = pd.DataFrame({"huc_02": [f"{i % 4:02d}" for i in range(24)]}, index=ids)
    labels = {2: pd.Series([i % 2 for i in range(24)], index=ids)}
    basins = StudyBasins(frame, {"aef": labels, "climate": labels},
                         {"aef": {2: 0.0}, "climate": {2: 0.0}})  # fmt: skip
    costs: dict[str, int] = {}
    for size in SIZES.values():
        asks = merged(plan_study(basins, replace(size, counts=(2,))))
        for key, models in Counter(ask.partition for ask in asks).items():
            costs[key] = max(models, costs.get(key, 0))
    return costs


def merged(plans: Mapping[str, Plan]) -> dict[RegionalAsk, list[str]]:
    """Regional models of several plans, each once, with the experiments that ask for it."""
    found: dict[RegionalAsk, list[str]] = {}
    by_what: dict[RegionalAsk, RegionalAsk] = {}
    for name, plan in plans.items():
        for ask in plan.regional:
            first = by_what.setdefault(replace(ask, experiment=""), ask)
            asked = found.setdefault(first, [])
            if name not in asked:
                asked.append(name)
    return found


def plan_study(basins: StudyBasins, size: Size, only: Sequence[str] = ()) -> dict[str, Plan]:
    """The plan of each experiment, and of those that it reads as well."""
    wanted = {experiment.name for experiment in chosen(only)}
    for name in tuple(wanted):
        wanted |= set(READS_ALSO.get(name, ()))
    return {name: EXPERIMENTS[name].plan(basins, size) for name in EXPERIMENTS if name in wanted}
