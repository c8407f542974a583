"""Number of donors: flat curves give no finding, planted ones give theirs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from aef_dagster.evaluation.scaling import best_k_counts, chi_square_uniform, collapse, rise_law

K = (10, 20, 50, 100, 200, 400, 670)


def curves(
    n: int, seed: int, shape: tuple[float, ...] = (0.0,) * 7, spread: float = 0.3
) -> pd.DataFrame:
    """Scores of n targets: their level, the curve over k, noise of 0.05."""
    rng = np.random.default_rng(seed)
    nse = rng.normal(0.5, spread, (n, 1)) + np.array(shape) + rng.normal(0, 0.05, (n, 7))
    ids = [f"{i:08d}" for i in range(n)]
    wide = pd.DataFrame(nse, index=pd.Index(ids, name="gauge_id"), columns=pd.Index(K, name="k"))
    return wide.stack().rename("nse").reset_index()


def test_best_k_is_counted_for_targets_with_every_k():
    scores = pd.DataFrame(
        {
            "gauge_id": ["a", "a", "a", "b", "b", "b", "c", "c", "d", "d", "d"],
            "k": [10, 20, 30, 10, 20, 30, 10, 30, 10, 20, 30],
            "nse": [0.1, 0.5, 0.2, -3.0, -2.0, -2.0, 0.9, 0.1, 0.5, np.nan, 0.6],
        }
    )
    counts = best_k_counts(scores)
    assert counts.to_dict() == {10: 0, 20: 2, 30: 0}  # b: the smaller of two equals
    assert best_k_counts(scores[scores["gauge_id"] == "c"]).to_dict() == {10: 1, 30: 0}
    assert best_k_counts(scores.iloc[:0]).empty
    with pytest.raises(ValueError, match="duplicate"):
        best_k_counts(pd.concat([scores, scores]))


def test_chi_square_by_hand_and_without_counts():
    told = chi_square_uniform([30, 10, 20])
    assert (told["statistic"], told["dof"]) == (10, 2)
    assert told["p"] == pytest.approx(np.exp(-5))  # two degrees of freedom: exp(-x / 2)
    # The published counts of best donor numbers for AlphaEarth, 147 targets.
    published = chi_square_uniform([23, 11, 19, 31, 15, 26, 22])
    assert published["statistic"] == pytest.approx(12.86, abs=0.01)
    assert np.isnan(chi_square_uniform([0, 0])["p"])
    assert np.isnan(chi_square_uniform([])["p"])


def test_a_flat_law_is_refused_as_often_as_the_level_says_and_a_peak_nearly_always():
    flat = sum(chi_square_uniform(best_k_counts(curves(100, s)))["p"] < 0.05 for s in range(150))
    assert binomtest(flat, 150, 0.05).pvalue > 0.01
    peak = (0, 0, 0, 0.06, 0, 0, 0)
    for seed in range(10):
        counts = best_k_counts(curves(100, seed, peak))
        assert counts.idxmax() == 100
        assert chi_square_uniform(counts)["p"] < 0.001


def test_a_loss_is_seen_with_its_size_and_a_flat_curve_has_none():
    falling = (-0.1, 0.0, 0.1, 0.1, 0.05, 0.0, 0.0)
    hits = []
    for seed in range(20):
        told = collapse(curves(150, seed, falling), n=400, seed=seed)
        assert told["falls"]
        assert told["best_k"] in (50, 100)
        assert told["largest_k"] == 670
        hits.append(told["low"] <= 0.1 <= told["high"])
    assert sum(hits) >= 16
    # Targets of one level, so that noise alone picks the best k.
    flat = [collapse(curves(60, seed, spread=0), n=300, seed=seed) for seed in range(100)]
    # Two-sided 95 %: above 0 in 2.5 % of draws.
    assert sum(told["falls"] for told in flat) <= 7
    assert abs(np.mean([told["loss"] for told in flat])) < 0.004
    # Choosing and measuring on the same targets would have found a loss.
    assert np.mean([told["median_best"] - told["median_largest"] for told in flat]) > 0.008


def test_a_rising_curve_loses_nothing_and_too_little_data_says_so():
    rising = tuple(np.linspace(0, 0.6, 7))
    told = collapse(curves(50, 0, rising), n=100)
    assert (told["best_k"], told["loss"], told["falls"]) == (670, 0, False)
    regions = pd.Series(1, index=[f"{i:08d}" for i in range(50)])
    assert np.isnan(collapse(curves(50, 0, rising), n=100, groups=regions)["low"])
    alone = collapse(curves(1, 0))
    assert alone["n"] == 1
    assert np.isnan(alone["loss"])
    assert not alone["falls"]


@pytest.mark.parametrize("n", [(25, 50, 100, 200, 400), (25, 25, 25, 100, 100, 100, 400, 400)])
def test_the_line_over_log_n_covers_the_truth_as_often_as_it_says(n):
    hits = slopes = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(0, 0.03, len(n))
        law = rise_law(n, 0.3 + 0.05 * np.log(n) + noise, at=1000, n_resamples=300, seed=seed)
        hits += law["low"] <= 0.3 + 0.05 * np.log(1000) <= law["high"]
        slopes += law["b_low"] <= 0.05 <= law["b_high"]
    assert 0.89 <= hits / 200 <= 0.99
    assert 0.89 <= slopes / 200 <= 0.99


def test_an_exact_line_is_found_and_extrapolation_is_named():
    n = np.array([10, 30, 100, 300])
    law = rise_law(n, 0.2 + 0.1 * np.log(n), at=300)
    assert (law["a"], law["b"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert law["predicted"] == pytest.approx(0.2 + 0.1 * np.log(300))
    assert law["low"] == pytest.approx(law["high"], abs=1e-6)
    assert not law["extrapolated"]
    assert rise_law(n, 0.1 * np.log(n), at=301)["extrapolated"]
    assert rise_law(n, 0.1 * np.log(n), at=9)["extrapolated"]
    short = rise_law([10, 20, 30, 40], [0.1, np.nan, 0.2, 0.3], at=20)
    assert short["n_points"] == 3
    assert np.isnan(short["predicted"])
