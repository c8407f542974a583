"""Summaries, intervals and paired tests over basins; random folds."""

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.evaluation.splits import spatial_folds
from aef_dagster.evaluation.statistics import bootstrap_median, paired_difference, summarise


def test_summary_counts_what_is_missing():
    summary = summarise([0.5, np.nan, -2.0, 0.7, 0.6])
    assert summary["n"] == 4
    assert summary["n_missing"] == 1
    assert summary["median"] == pytest.approx(0.55)
    assert summary["mean"] == pytest.approx(-0.05)
    assert summary["q25"] == pytest.approx(-0.125)
    assert summary["q75"] == pytest.approx(0.625)
    assert summary["share_below_0"] == 0.25


def test_summary_of_nothing():
    summary = summarise([np.nan])
    assert (summary["n"], summary["n_missing"]) == (0, 1)
    assert np.isnan(summary["median"])
    assert all(np.isnan(bootstrap_median([np.nan])))


def test_bootstrap_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        _, low, high = bootstrap_median(rng.normal(0.6, 0.2, 60), n=300, seed=seed)
        hits += low <= 0.6 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_is_reproducible_and_ordered():
    values = np.random.default_rng(1).normal(size=80)
    first = bootstrap_median(values, seed=3)
    assert first == bootstrap_median(values, seed=3)
    assert first != bootstrap_median(values, seed=4)
    median, low, high = first
    assert low < median < high


def test_paired_difference_sees_a_shift_that_unpaired_noise_hides():
    rng = np.random.default_rng(2)
    basins = rng.normal(0.5, 0.4, 120)
    a, b = basins + 0.03 + rng.normal(0, 0.02, 120), basins + rng.normal(0, 0.02, 120)
    a[0] = b[1] = np.nan
    result = paired_difference(a, b)
    assert (result["n"], result["n_missing"]) == (118, 2)
    assert result["low"] < 0.03 < result["high"]
    assert result["low"] > 0
    assert result["wilcoxon_p"] < 1e-6
    assert result["share_a_higher"] > 0.7
    mirrored = paired_difference(b, a)
    assert mirrored["median_difference"] == pytest.approx(-result["median_difference"])


def test_paired_difference_of_equal_and_of_no_scores():
    same = paired_difference([0.1, 0.2], [0.1, 0.2])
    assert (same["median_difference"], same["wilcoxon_p"]) == (0.0, 1.0)
    none = paired_difference([np.nan], [0.2])
    assert none["n"] == 0
    assert np.isnan(none["wilcoxon_p"])
    with pytest.raises(ValueError, match="different basins"):
        paired_difference([0.1], [0.1, 0.2])


def test_folds_do_not_depend_on_the_order_of_basins():
    ids = [f"{i:08d}" for i in range(53)]
    folds = spatial_folds(ids, 5, seed=1)
    assert folds.equals(spatial_folds(ids[::-1], 5, seed=1))
    assert not folds.equals(spatial_folds(ids, 5, seed=2))
    assert sorted(folds.value_counts()) == [10, 10, 11, 11, 11]
    assert set(folds.index) == set(ids)


@pytest.mark.parametrize("n_folds", [1, 5])
def test_folds_that_cannot_be(n_folds):
    with pytest.raises(UserError, match="choose from 2 to 4"):
        spatial_folds(["a", "b", "c", "d"], n_folds, seed=0)


def test_a_basin_in_two_folds_is_refused():
    with pytest.raises(ValueError, match="twice"):
        spatial_folds(["a", "b", "a"], 2, seed=0)
