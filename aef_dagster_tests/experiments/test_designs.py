"""Designs: who learns and who is tested, without a leak and without a basin forgotten."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aef_dagster.errors import UserError
from aef_dagster.experiments import designs
from aef_dagster_tests.experiments.study_world import IDS, LAND

FOLDS = designs.folds(IDS, 3)
CLUSTERS = LAND.basins.labels("aef", 3)
HUC = LAND.basins.frame["huc_02"]
OUT = {
    "folds": designs.held_out("folds", FOLDS),
    "clusters": designs.held_out("clusters", CLUSTERS),
    "regions": designs.held_out("regions", designs.regions(HUC, None)),
    "few regions": designs.held_out("regions", designs.regions(HUC, 3)),
}


def test_gauged_basins_are_learned_from_and_tested():
    (split,) = designs.gauged(IDS[::-1])
    assert split.donors == split.targets == IDS
    assert split.role == "gauged"


@pytest.mark.parametrize("name", OUT)
def test_every_basin_is_tested_once_by_a_model_of_all_the_others(name):
    splits = OUT[name]
    assert Counter(g for split in splits for g in split.targets) == Counter(IDS)
    for split in splits:
        assert not set(split.donors) & set(split.targets)
        assert sorted(split.donors + split.targets) == list(IDS)
        assert split.role == "ungauged"
        assert split.design in designs.DESIGNS
    assert [split.fold for split in splits] == list(range(len(splits)))


@given(st.dictionaries(st.sampled_from(IDS), st.integers(0, 5), min_size=2))
def test_held_out_leaks_for_no_grouping_and_refuses_one_group(groups):
    if len(set(groups.values())) == 1:
        with pytest.raises(UserError, match="design 'clusters': all basins are in one group"):
            designs.held_out("clusters", groups)
        return
    splits = designs.held_out("clusters", groups)
    assert Counter(g for split in splits for g in split.targets) == Counter(list(groups))
    for split in splits:
        assert {groups[g] for g in split.targets} == {split.fold}
        assert split.fold not in {groups[g] for g in split.donors}


def test_folds_do_not_depend_on_the_order_of_basins():
    assert designs.folds(IDS[::-1], 3) == FOLDS
    assert Counter(FOLDS.values()) == {0: 20, 1: 20, 2: 20}


def test_each_cluster_is_tested_on_every_basin_without_learning_from_it():
    splits = designs.each_cluster(CLUSTERS, FOLDS)
    assert len(splits) == 9
    by_cluster = {}
    for split in splits:
        assert not set(split.donors) & set(split.targets)
        assert len({CLUSTERS[g] for g in split.donors}) == 1
        assert split.learned_from == f"cluster {CLUSTERS[split.donors[0]]}"
        by_cluster.setdefault(split.learned_from, []).extend(split.targets)
    for tested in by_cluster.values():
        assert Counter(tested) == Counter(IDS)


def test_a_cluster_within_one_fold_has_no_model_of_that_fold():
    clusters = dict.fromkeys(IDS, 0) | {g: 1 for g in IDS if FOLDS[g] == 2}
    splits = designs.each_cluster(clusters, FOLDS)
    assert [(s.learned_from, s.fold) for s in splits] == [
        ("cluster 0", 0), ("cluster 0", 1), ("cluster 0", 2), ("cluster 1", 0), ("cluster 1", 1),
    ]  # fmt: skip


def test_each_region_is_a_group_of_its_own():
    groups = designs.regions(HUC, None)
    assert len(set(groups.values())) == 9
    for gauge_id, group in groups.items():
        assert HUC[gauge_id] == f"{group + 1:02d}"


@given(
    st.lists(st.integers(1, 100), min_size=2, max_size=18),
    st.integers(2, 6),
)
def test_joined_regions_are_neighbours_in_groups_of_about_equal_size(counts, n_groups):
    huc = pd.Series(np.repeat([f"{i + 1:02d}" for i in range(len(counts))], counts))
    huc.index = pd.Index([f"{i:08d}" for i in range(len(huc))])
    groups = pd.Series(designs.regions(huc, n_groups)).reindex(huc.index)
    # A region is in one group, and groups follow the order of the regions without a gap.
    of_region = [set(groups[huc == name]) for name in sorted(huc.unique())]
    assert all(len(found) == 1 for found in of_region)
    numbers = [found.pop() for found in of_region]
    assert set(np.diff(numbers)) <= {0, 1}
    assert numbers[0] == 0
    assert max(numbers) < n_groups
    # No further from equal than the largest region reaches over both its ends.
    sizes = groups.value_counts()
    if sizes.size == n_groups:
        assert abs(sizes - len(huc) / n_groups).max() <= max(counts)


def test_fewer_basins_are_some_of_the_same_and_always_the_same():
    for splits in (OUT["folds"], OUT["clusters"]):
        fewer = designs.fewer(splits, 12)
        assert fewer == designs.fewer(splits, 12)
        for few, all_of_them in zip(fewer, splits, strict=True):
            assert set(few.donors) < set(all_of_them.donors)
            assert len(set(few.donors)) == 12
            assert few.targets == all_of_them.targets
            assert (few.design, few.learned_from) == (f"fewer_{all_of_them.design}", "12 basins")
            assert few.fold == all_of_them.fold
            assert few.design in designs.DESIGNS


def test_a_count_that_leaves_nobody_out_is_no_model():
    assert designs.fewer(OUT["folds"], 40) == []
    assert len(designs.fewer(OUT["folds"], 39)) == 3


def test_samples_of_folds_are_not_the_same_draw():
    first, second, _ = designs.fewer(OUT["folds"], 12)
    shared = set(OUT["folds"][0].donors) & set(OUT["folds"][1].donors)
    assert set(first.donors) & shared != set(second.donors) & shared


def test_scores_of_other_groups_are_told_apart():
    scores = pd.DataFrame(
        {
            "design": ["folds", "folds", "clusters", "gauged", None, "folds"],
            "fold": pd.array([0, 1, 1, 0, None, 2], dtype="Int32"),
            "gauge_id": ["a", "b", "a", "a", "a", "gone"],
        }
    )
    held = designs.of_these_groups(scores, {"folds": {"a": 0, "b": 0}, "clusters": {"a": 1}})
    assert held.tolist() == [True, False, True, True, True, True]
