"""Plans: what a study asks to be trained, each model once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError
from aef_dagster.experiments import designs, donor_scaling
from aef_dagster.experiments.asks import StudyBasins
from aef_dagster.experiments.sizes import SIZES, size_named
from aef_dagster.experiments.study import (
    EXPERIMENTS,
    chosen,
    even_order,
    merged,
    plan_study,
    regional_costs,
    regional_keys,
)
from aef_dagster.models.statics import REPRESENTATIONS
from aef_dagster_tests.experiments.study_world import IDS, LAND, SIZE

# Basins of CAMELS-US in each HUC-2 region.
CAMELS = {
    "01": 27, "02": 75, "03": 92, "04": 31, "05": 45, "06": 17, "07": 33, "08": 12, "09": 9,
    "10": 70, "11": 31, "12": 37, "13": 7, "14": 17, "15": 19, "16": 18, "17": 91, "18": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def camels():
    """As many basins as CAMELS-US has, in its regions; five clusters and four climates."""
    huc = np.repeat(list(CAMELS), list(CAMELS.values()))
    index = pd.Index([f"{i:08d}" for i in range(len(huc))], name="gauge_id")
    rng = np.random.default_rng(0)
    labels = {
        "aef": {5: pd.Series(rng.choice(5, 671, p=[0.3, 0.25, 0.2, 0.15, 0.1]), index),
                3: pd.Series(rng.integers(0, 3, 671), index)},
        "climate": {4: pd.Series(rng.integers(0, 4, 671), index),
                    3: pd.Series(rng.integers(0, 3, 671), index)},
    }  # fmt: skip
    scores = {"aef": {5: 0.2, 3: 0.1}, "climate": {4: 0.2, 3: 0.1}}
    return StudyBasins(pd.DataFrame({"huc_02": huc}, index), labels, scores)


def what(ask):
    """All that decides weights of a regional model."""
    return (ask.split.donors, ask.split.targets, ask.split.role, ask.representation, ask.recipe,
            ask.seed)  # fmt: skip


def test_the_small_study_of_all_basins_is_not_more_trainings_than_it_was_made_to_be(camels):
    assert len(camels.gauge_ids) == 671
    plans = plan_study(camels, SIZES["small"])
    regional = merged(plans)
    donors = sum(len(ask.targets) * ask.seeds for plan in plans.values() for ask in plan.donors)
    # Minutes each, on two cores: with the most clusters that it may have.
    assert len(regional) + donors <= 250
    # Of what the experiments ask for on their own, a fifth is the same.
    assert len(regional) <= 0.8 * sum(len(plan.regional) for plan in plans.values())


@pytest.mark.parametrize("size", ["small", "full"])
def test_no_target_of_any_plan_is_learned_from_unless_it_is_gauged(camels, size):
    for plan in plan_study(camels, SIZES[size]).values():
        for ask in plan.regional:
            leaked = set(ask.split.donors) & set(ask.split.targets)
            assert bool(leaked) == (ask.split.design == "gauged") == (ask.split.role == "gauged")


def test_equal_models_of_several_experiments_are_trained_once():
    plans = plan_study(LAND.basins, SIZE)
    found = merged(plans)
    assert len({what(ask) for ask in found}) == len(found)
    assert {what(ask) for ask in found} == {what(a) for p in plans.values() for a in p.regional}
    asked = {(ask.partition, ask.split.fold, ask.recipe, ask.seed): names
             for ask, names in found.items()}  # fmt: skip
    assert asked["folds/aef", 0, "strong", 0] == [
        "in_vs_out_of_sample", "controls", "cross_regime", "regime_model", "fusion_ablation",
        "temporal_stability",
    ]  # fmt: skip
    assert asked["folds/none", 0, "strong", 0] == ["controls", "fusion_ablation"]
    assert asked["folds/aef", 0, "strong+ea_lstm", 0] == ["fusion_ablation"]
    assert all(ask.experiment in names for ask, names in found.items())


def test_two_asks_of_one_model_make_one_job():
    plans = plan_study(LAND.basins, SIZE)
    first, second = (
        next(a for a in plans[name].regional if a.partition == "folds/aef" and a.split.fold == 1)
        for name in ("controls", "cross_regime")
    )
    said = {
        "dataset": "made_up", "forcing": "none", "data_version": "1", "budget": "toy",
        "precision": "fp32", "sample": True, "surrogate": False,
        "periods": Periods("2000-01-01", "2001-12-31", "2002-01-01", "2002-12-31", "2003-01-01",
                           "2003-12-31"),
    }  # fmt: skip
    assert first.experiment != second.experiment
    assert first.job(**said).hash == second.job(**said).hash
    assert first.job(**said).role == "ungauged"
    assert replace(first, seed=1).job(**said).hash != first.job(**said).hash


@pytest.mark.parametrize("size", SIZES)
def test_the_partitions_are_those_of_every_plan(camels, size):
    keys = regional_keys()
    assert len(set(keys)) == len(keys)
    for basins in (camels, LAND.basins):
        for plan in plan_study(basins, SIZES[size]).values():
            assert {ask.partition for ask in plan.regional} <= set(keys)


@pytest.mark.parametrize(("groups", "most"), [(2, 1.05), (3, 1.05), (4, 1.1), (6, 1.25)])
def test_groups_of_as_many_partitions_cost_alike(groups, most):
    costs, keys = regional_costs(), regional_keys()
    assert sorted(costs) == sorted(keys)
    share = sum(costs.values()) / groups
    dearest = max(sum(costs[key] for key in part) for part in np.array_split(keys, groups))
    assert dearest <= most * share
    before = max(sum(costs[key] for key in part) for part in np.array_split(list(costs), groups))
    assert before > 1.25 * share, "the order of the study would do"


def test_an_even_order_takes_each_key_once_and_the_first_of_equals():
    assert even_order(["a", "b", "c", "d"], [1, 5, 1, 1]) == ["b", "d", "c", "a"]
    assert even_order([], []) == []


def test_partitions_are_designs_and_representations_that_there_are():
    for key in regional_keys():
        design, representation = key.split("/")
        assert design in designs.DESIGNS
        assert representation in REPRESENTATIONS


def test_targets_are_spread_over_clusters(camels):
    few = donor_scaling.targets(camels, SIZES["small"])
    labels = camels.labels("aef", 5)
    assert len(few) == 5
    assert {labels[g] for g in few} == set(range(5))
    more = donor_scaling.targets(camels, replace(SIZES["small"], targets=52))
    counts = Counter(labels[g] for g in more)
    assert sum(counts.values()) == len(set(more)) == 52
    assert set(counts.values()) == {10, 11}
    assert donor_scaling.targets(LAND.basins, replace(SIZE, targets=1000)) == IDS


def test_published_targets_are_taken_where_the_size_wants_them(camels):
    known = replace(camels, published_targets=camels.gauge_ids[5:9])
    assert donor_scaling.targets(known, SIZES["full"]) == camels.gauge_ids[5:9]
    assert len(donor_scaling.targets(known, SIZES["small"])) == 5
    assert len(donor_scaling.targets(camels, SIZES["full"])) == 150


def test_donor_models_of_every_k_that_leaves_somebody_out():
    size = replace(SIZE, ks=(5, 59, 600), soft=(10, 60))
    asks = donor_scaling.plan(LAND.basins, size).donors
    assert {ask.k for ask in asks if ask.space in size.spaces} == {5, 59}
    # With all basins as donors every space is one model: it is asked for once.
    assert [ask.space for ask in asks if ask.k == 59] == ["aef"]
    assert [ask.k for ask in asks if ask.space == "soft_aef"] == [10]
    assert {ask.representation for ask in asks} == {"aef+climate"}


def test_clusters_are_those_with_the_best_silhouette_up_to_a_number():
    assert set(LAND.basins.labels("aef", 3).values()) == {0, 1, 2}
    assert set(LAND.basins.labels("aef", 2).values()) == {0, 1}
    with pytest.raises(UserError, match="no clusters by aef yet: materialize `basin_clusters`"):
        LAND.basins.labels("aef", 1)
    with pytest.raises(UserError, match="no clusters by soil yet"):
        LAND.basins.labels("soil", 5)


def test_an_experiment_comes_with_what_it_reads_besides():
    assert list(plan_study(LAND.basins, SIZE, ["cross_regime"])) == [
        "in_vs_out_of_sample", "cross_regime",
    ]  # fmt: skip
    assert list(plan_study(LAND.basins, SIZE)) == list(EXPERIMENTS)
    assert [e.name for e in chosen(["mechanisms", "controls"])] == ["controls", "mechanisms"]
    assert "cross_regime" in plan_study(LAND.basins, SIZE, ["mechanisms"])
    assert plan_study(LAND.basins, SIZE, ["mechanisms"])["mechanisms"].models == 0


def test_names_that_there_are_not_are_refused():
    with pytest.raises(UserError, match="no experiment magic; choose from in_vs_out_of_sample, "):
        plan_study(LAND.basins, SIZE, ["controls", "magic"])
    with pytest.raises(UserError, match="unknown size 'huge'; choose one of sample, small, full"):
        size_named("huge")
    assert size_named("small") is SIZES["small"]
