"""Difference of differences, and intervals over groups of basins."""

import numpy as np
import pytest

from aef_dagster.evaluation.statistics import (
    bootstrap_median,
    difference_of_differences,
    paired_difference,
)


def gaps(seed: int, extra: float, n: int = 80) -> list[np.ndarray]:
    """Scores of two representations in two designs; the first loses `extra` more."""
    rng = np.random.default_rng(seed)
    basin = rng.normal(0.6, 0.3, n)
    lost = rng.normal(0.1, 0.1, n)  # by both: a hard basin is hard for all
    noise = rng.normal(0, 0.03, (4, n))
    return [basin + noise[0], basin - lost - extra + noise[1], basin - 0.05 + noise[2],
            basin - 0.05 - lost + noise[3]]  # fmt: skip


def test_a_larger_gap_is_found_with_its_size_and_none_is_not():
    covered, alarms = 0, 0
    for seed in range(150):
        told = difference_of_differences(*gaps(seed, 0.04), n=300, seed=seed)
        covered += told["low"] <= 0.04 <= told["high"]
        none = difference_of_differences(*gaps(1000 + seed, 0.0), n=300, seed=seed)
        alarms += not none["low"] <= 0 <= none["high"]
    assert 0.89 <= covered / 150 <= 0.99
    assert 0.01 <= alarms / 150 <= 0.11
    assert told["wilcoxon_p"] < 0.01
    assert told["share_higher"] > 0.6
    assert told["gap_1"] > told["gap_2"]


def test_a_basin_without_all_four_scores_is_left_out():
    a1, b1, a2, b2 = gaps(0, 0.04)
    b2[3] = a1[5] = np.nan
    told = difference_of_differences(a1, b1, a2, b2)
    assert (told["n"], told["n_missing"]) == (78, 2)
    keep = np.arange(80)[~np.isin(np.arange(80), [3, 5])]
    assert told == difference_of_differences(*(s[keep] for s in (a1, b1, a2, b2))) | {
        "n_missing": 2
    }
    mirrored = difference_of_differences(a2, b2, a1, b1)
    assert mirrored["median_difference"] == pytest.approx(-told["median_difference"])
    with pytest.raises(ValueError, match="different basins"):
        difference_of_differences(a1, b1, a2, b2[:5])
    assert np.isnan(difference_of_differences(*[[np.nan]] * 4)["gap_1"])


def test_groups_hold_the_level_where_basins_of_a_region_go_together():
    region = np.repeat(np.arange(30), 12)
    plain = grouped = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        nse = rng.normal(0, 0.2, 30)[region] + rng.normal(0, 0.2, 360)
        _, low, high = bootstrap_median(nse, n=300, seed=seed)
        plain += low <= 0 <= high
        _, low, high = bootstrap_median(nse, n=300, seed=seed, groups=region)
        grouped += low <= 0 <= high
    assert plain / 200 < 0.75
    assert 0.87 <= grouped / 200 <= 0.99


def test_groups_of_one_are_the_plain_bootstrap_and_one_group_has_no_interval():
    nse = np.random.default_rng(1).normal(size=101)
    plain = bootstrap_median(nse, n=4000)
    alone = bootstrap_median(nse, n=4000, groups=[f"{i:08d}" for i in range(101)])
    assert alone[0] == plain[0]
    assert alone[1:] == pytest.approx(plain[1:], abs=0.06)
    median, low, high = bootstrap_median(nse, groups=["17"] * 101)
    assert median == plain[0]
    assert np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="other basins"):
        bootstrap_median(nse, groups=["17"])


def test_medians_of_resampled_groups_are_those_of_their_members():
    # Two groups of 1 and 3 values: draws are (a, a), (a, b), (b, b); medians 0, 2, 3.
    values, groups = [0.0, 1.0, 3.0, 9.0, np.nan], ["a", "b", "b", "b", "a"]
    _, low, high = bootstrap_median(values, n=500, groups=groups)
    assert (low, high) == (0, 3)
    _, low, high = bootstrap_median(values, n=2001, groups=groups, level=0.2)
    assert (low, high) == (2, 2)


def test_paired_difference_takes_groups():
    rng = np.random.default_rng(2)
    region = np.repeat(np.arange(20), 20)
    a = rng.normal(0.02, 0.1, 20)[region] + rng.normal(0, 0.02, 400)
    b = np.zeros(400)
    a[:7] = np.nan
    plain, grouped = paired_difference(a, b), paired_difference(a, b, groups=region)
    assert grouped["n"] == 393
    assert grouped["median_difference"] == plain["median_difference"]
    assert grouped["high"] - grouped["low"] > 2 * (plain["high"] - plain["low"])
