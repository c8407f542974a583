"""What vectors know and whether neighbours are alike: planted effects, and their absence."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, kstest, spearmanr

from aef_dagster.evaluation.coherence import (
    cluster_quality,
    effective_neighbours,
    mantel,
    neighbour_spread,
    partial_mantel,
)
from aef_dagster.evaluation.knowledge import (
    benjamini_hochberg,
    effective_dimension,
    ridge_skill,
    ridge_skills,
    spearman_table,
)


def similarity_of(positions: np.ndarray) -> np.ndarray:
    """Minus the Euclidean distance."""
    return -np.linalg.norm(positions[:, None] - positions[None, :], axis=2)


def test_ridge_finds_the_planted_share_of_variance_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    vectors = rng.normal(3.0, 2.0, (600, 16))
    signal = vectors @ rng.normal(size=16)
    signal /= signal.std()
    attributes = pd.DataFrame(
        {
            "noise": rng.normal(size=600),
            "half": 1e-6 * (np.sqrt(0.5) * signal + np.sqrt(0.5) * rng.normal(size=600)),
            "all": 50 + signal,
            "constant": np.ones(600),
        }
    )
    attributes.loc[:99, "all"] = np.nan
    table = ridge_skills(vectors, attributes).set_index("attribute")
    assert table.index.tolist() == ["all", "half", "noise", "constant"]
    assert table.loc["all", "n"] == 500
    assert table.loc["all", "r2"] > 0.999
    assert table.loc["half", "r2"] == pytest.approx(0.5, abs=0.06)
    assert table.loc["half", "low"] < 0.5 < table.loc["half", "high"]
    assert -0.05 < table.loc["noise", "r2"] < 0.02
    assert np.isnan(table.loc["constant", "r2"])


def test_ridge_intervals_of_pure_noise_rarely_lie_above_0():
    rng = np.random.default_rng(1)
    lows = [
        ridge_skill(rng.normal(size=(60, 64)), rng.normal(size=60), n_resamples=300)["low"]
        for _ in range(25)
    ]
    assert np.mean(np.array(lows) > 0) <= 0.05


def test_regions_held_out_unmask_a_vector_that_only_knows_the_region():
    rng = np.random.default_rng(2)
    region = np.repeat(np.arange(20), 15)
    vectors = rng.normal(size=(20, 10))[region] + rng.normal(0, 0.1, (300, 10))
    attribute = rng.normal(size=20)[region] + rng.normal(0, 0.1, 300)
    assert ridge_skill(vectors, attribute)["r2"] > 0.3
    assert ridge_skill(vectors, attribute, groups=region)["r2"] < 0.1
    assert np.isnan(ridge_skill(vectors, attribute, groups=np.zeros(300))["r2"])


def test_rank_correlations_are_those_of_scipy_and_name_their_bands():
    rng = np.random.default_rng(3)
    vectors = rng.integers(0, 9, (50, 64)).astype(float)  # with ties
    attributes = pd.DataFrame({"elev_mean": rng.normal(size=50), "flat": 1.0})
    attributes.loc[:4, "elev_mean"] = np.nan
    table = spearman_table(vectors, attributes)
    assert len(table) == 128
    row = table[(table["band"] == "A07") & (table["attribute"] == "elev_mean")].iloc[0]
    known = attributes["elev_mean"].notna()
    expected = spearmanr(vectors[known, 7], attributes["elev_mean"][known])
    assert row["n"] == 45
    assert row["rho"] == pytest.approx(expected.statistic)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert table[table["attribute"] == "flat"][["rho", "p", "q"]].isna().all(axis=None)
    strength = table["rho"].abs().dropna()
    assert strength.is_monotonic_decreasing
    named = spearman_table(pd.DataFrame({"x": vectors[:, 0]}), attributes[["elev_mean"]])
    assert named["band"].tolist() == ["x"]


def test_perfect_order_is_significant_and_noise_is_not():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(100, 64))
    attributes = pd.DataFrame({"known": np.exp(vectors[:, 5]), "noise": rng.normal(size=100)})
    table = spearman_table(vectors, attributes)
    first = table.iloc[0]
    assert (first["band"], first["attribute"]) == ("A05", "known")
    assert (first["rho"], first["p"]) == (1.0, 0.0)
    assert table["significant"].sum() == 1


def test_benjamini_hochberg_has_its_textbook_values():
    q = benjamini_hochberg([0.01, np.nan, 0.04, 0.03, 0.5])
    assert q == pytest.approx([0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5], nan_ok=True)
    assert np.isnan(benjamini_hochberg([np.nan])).all()


def test_benjamini_hochberg_holds_the_share_of_false_finds():
    rng = np.random.default_rng(5)
    shares, any_false, found = [], 0, 0
    for _ in range(400):
        t = rng.normal(size=200)
        t[:40] += 3.5  # the true effects
        z = np.abs(t)
        finds = benjamini_hochberg(_two_sided(z)) < 0.05
        shares.append(finds[40:].sum() / max(finds.sum(), 1))
        found += finds[:40].mean()
        any_false += (benjamini_hochberg(_two_sided(np.abs(rng.normal(size=200)))) < 0.05).any()
    # The law says 0.05 times the share of tests without effect.
    assert np.mean(shares) == pytest.approx(0.04, abs=0.01)
    assert found / 400 > 0.6
    assert binomtest(any_false, 400, 0.05).pvalue > 0.01


def _two_sided(z: np.ndarray) -> np.ndarray:
    from scipy.stats import norm

    return 2 * norm.sf(z)


def test_effective_dimension_counts_directions():
    rng = np.random.default_rng(6)
    line = rng.normal(size=(500, 1)) * np.ones(5)
    assert effective_dimension(line) == pytest.approx(1)
    sphere = rng.normal(size=(20_000, 8))
    assert effective_dimension(sphere) == pytest.approx(8, rel=0.01)
    # Eigenvalues 4, 1, 1: 36 / 18.
    assert effective_dimension(sphere[:, :3] * [2, 1, 1]) == pytest.approx(2, rel=0.03)
    gaps = sphere[:50].copy()
    gaps[0, 0] = np.nan
    assert effective_dimension(gaps) == pytest.approx(effective_dimension(sphere[1:50]))
    assert np.isnan(effective_dimension(np.ones((4, 3))))


def test_spread_and_purity_by_hand():
    # z of 0, 0, 2, 2 are -1, -1, 1, 1.
    signatures = pd.DataFrame({"q_mean": [0.0, 0, 2, 2]}, index=["a", "b", "c", "d"])
    near = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0, 0], [0.8, 0, 1, 0.7], [0, 0, 0.9, 1]])
    table = neighbour_spread(near, signatures, 1)
    assert table["spread"].tolist() == [0, 0, 2, 0]
    assert table["distance"].tolist() == [0, 0, 2, 0]
    assert table["random"].to_numpy() == pytest.approx(4 / 3)
    assert table["purity"].to_numpy() == pytest.approx([1, 1, -0.5, 1])
    both = neighbour_spread(near, signatures, 2).loc["c"]
    assert (both["spread"], both["distance"]) == (1, 1)  # donors a and d
    with pytest.raises(ValueError, match="4 donors of 3 others"):
        neighbour_spread(near, signatures, 4)


def test_purity_is_0_for_random_donors_and_high_for_donors_alike_in_flow():
    rng = np.random.default_rng(7)
    positions = rng.normal(size=(300, 2))
    signatures = pd.DataFrame(positions, columns=["q_mean", "bfi"])
    signatures["noise"] = rng.normal(size=300)
    for k in (1, 10, 100):
        by_chance = neighbour_spread(similarity_of(rng.normal(size=(300, 3))), signatures, k)
        assert abs(by_chance["purity"].mean()) < 0.06
    purity = [
        neighbour_spread(similarity_of(positions), signatures, k)["purity"].mean()
        for k in (5, 50, 299)
    ]
    assert purity[0] > 0.5 > purity[1] > 0.2
    assert purity[2] == pytest.approx(0)


def test_missing_signatures_and_similarities_cost_their_pairs_only():
    rng = np.random.default_rng(8)
    near = similarity_of(rng.normal(size=(6, 2)))
    signatures = pd.DataFrame(rng.normal(size=(6, 2)), columns=["x", "y"])
    signatures["empty"], signatures["flat"] = np.nan, 1.0
    whole = neighbour_spread(near, signatures, 5)
    assert whole.notna().all(axis=None)
    signatures.iloc[0] = np.nan
    near[1] = np.nan
    table = neighbour_spread(near, signatures, 5)
    assert table.loc[[0, 1], "purity"].isna().all()
    assert table.loc[2:].notna().all(axis=None)


def test_quality_of_groups_and_of_noise():
    rng = np.random.default_rng(9)
    labels = np.repeat(["wet", "dry"], 50)
    vectors = rng.normal(size=(100, 3)) + 20 * (labels == "wet")[:, None]
    good = cluster_quality(vectors, labels)
    assert good["silhouette"] > 0.9
    assert good["davies_bouldin"] < 0.2
    noise = cluster_quality(vectors, rng.permutation(labels))
    assert noise["silhouette"] < 0.05
    assert noise["davies_bouldin"] > 2
    by_distance = cluster_quality(-similarity_of(vectors) + 1e-9, labels, precomputed=True)
    assert by_distance["silhouette"] == pytest.approx(good["silhouette"])
    assert np.isnan(by_distance["davies_bouldin"])
    with_gap = cluster_quality(vectors, [None, *labels[1:]])
    assert with_gap == cluster_quality(vectors[1:], labels[1:])
    assert np.isnan(cluster_quality(vectors, np.ones(100))["silhouette"])


def test_effective_neighbours_from_one_to_all():
    flat = np.full((5, 5), 0.3)
    assert effective_neighbours(flat) == pytest.approx(4)
    one = np.zeros((5, 5))
    one[:, 1] = one[1, 0] = 1.0
    assert effective_neighbours(one, temperature=0.02) == pytest.approx(1)
    # Two others; the second weighs 1 / e of the first.
    pair = np.array([[1, 0.5, 0.4], [0.5, 1, 0], [0.4, 0, 1]])
    w = np.array([1, np.exp(-1)]) / (1 + np.exp(-1))
    assert effective_neighbours(pair)[0] == pytest.approx(1 / (w**2).sum())
    flat[0] = np.nan
    assert np.isnan(effective_neighbours(flat)[0])


def test_mantel_r_and_the_smallest_p():
    rng = np.random.default_rng(10)
    positions = rng.normal(size=(60, 2))
    a, b = similarity_of(positions), similarity_of(positions + rng.normal(0, 0.3, (60, 2)))
    told = mantel(a, b, 199)
    pairs = np.triu_indices(60, 1)
    assert told["r"] == pytest.approx(np.corrcoef(a[pairs], b[pairs])[0, 1])
    assert told["p"] == 1 / 200
    assert mantel(a, -b, 199)["p"] > 0.9  # one-sided
    ranked = mantel(a, b, 9, rank=True)
    assert ranked["r"] == pytest.approx(spearmanr(a[pairs], b[pairs]).statistic)
    assert mantel(a, -np.exp(-b), 9, rank=True)["r"] == pytest.approx(ranked["r"])
    assert np.isnan(mantel(a, np.ones((60, 60)))["p"])
    with pytest.raises(ValueError, match="missing pairs"):
        mantel(a, np.where(np.eye(60, k=1) > 0, np.nan, b))
    with pytest.raises(ValueError, match="square"):
        mantel(a, b[:50])


def test_mantel_p_is_uniform_where_nothing_is_shared():
    rng = np.random.default_rng(11)
    p = [
        mantel(
            similarity_of(rng.normal(size=(15, 2))), similarity_of(rng.normal(size=(15, 2))), 99, i
        )["p"]
        for i in range(250)
    ]
    assert kstest(p, "uniform").pvalue > 0.01
    assert binomtest(int(np.sum(np.array(p) <= 0.05)), 250, 0.05).pvalue > 0.01


def test_partial_mantel_removes_a_common_cause_and_keeps_what_is_their_own():
    rng = np.random.default_rng(12)
    alone, held, own = [], [], []
    for i in range(120):
        cause, shared = (similarity_of(rng.normal(size=(20, 2))) for _ in range(2))
        a, b = (cause + similarity_of(rng.normal(size=(20, 2))) for _ in range(2))
        alone.append(mantel(a, b, 99, i)["p"])
        held.append(partial_mantel(a, b, cause, 99, i)["p"])
        if i < 20:
            own.append(partial_mantel(a + shared, b + shared, cause, 99, i)["p"])
    assert np.mean(np.array(alone) <= 0.05) > 0.9
    assert kstest(held, "uniform").pvalue > 0.01
    assert binomtest(int(np.sum(np.array(held) <= 0.05)), 120, 0.05).pvalue > 0.01
    assert np.mean(np.array(own) <= 0.05) > 0.9


def test_partial_p_is_that_of_residuals_renumbered_and_regressed_again():
    rng = np.random.default_rng(14)
    pairs = np.triu_indices(7, 1)

    def left_of(matrix, cause):
        design = np.column_stack([np.ones(21), cause[pairs]])
        rest = np.zeros((7, 7))
        solution = np.linalg.lstsq(design, matrix[pairs], rcond=None)[0]
        rest[pairs] = matrix[pairs] - design @ solution
        return rest + rest.T

    for seed in range(5):
        a, b, cause = (similarity_of(rng.normal(size=(7, 1))) for _ in range(3))
        rest_a, rest_b = left_of(a, cause), left_of(b, cause)
        r = np.corrcoef(rest_a[pairs], rest_b[pairs])[0, 1]
        draws, as_large = np.random.default_rng(seed), 0
        for _ in range(199):
            order = draws.permutation(7)
            again = left_of(rest_a[np.ix_(order, order)], cause)
            as_large += np.corrcoef(again[pairs], rest_b[pairs])[0, 1] >= r - 1e-6
        assert partial_mantel(a, b, cause, 199, seed)["p"] == (1 + as_large) / 200


def test_partial_r_is_the_textbook_formula_and_several_matrices_may_be_given():
    rng = np.random.default_rng(13)
    a, b, c, d = (similarity_of(rng.normal(size=(30, 3))) for _ in range(4))
    a = a + c
    pairs = np.triu_indices(30, 1)
    r = np.corrcoef([matrix[pairs] for matrix in (a, b, c)])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_mantel(a, b, c, 9)["r"] == pytest.approx(expected)
    assert partial_mantel(a, b, [c], 9) == partial_mantel(a, b, c, 9)
    assert partial_mantel(a, b, [c, d], 9)["r"] != pytest.approx(expected)
    assert np.isnan(partial_mantel(2 * c - 1, b, c, 9)["p"])  # nothing is left of it
