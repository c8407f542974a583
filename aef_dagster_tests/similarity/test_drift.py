"""Donor drift: sets and orders worked by hand, targets that come and go."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import UserError
from aef_dagster.similarity.donors import rank_donors
from aef_dagster.similarity.drift import donor_drift, moved
from aef_dagster.similarity.spaces import similarity_random


def ranked(lists):
    """Target -> donors as text, the best first."""
    rows = [(t, i + 1, d, 1.0 - i / 10) for t, ds in lists.items() for i, d in enumerate(ds)]
    return pd.DataFrame(rows, columns=["gauge_id", "rank", "donor_id", "cosine"])


def test_one_donor_entered_and_one_left():
    row = donor_drift(ranked({"t": "abcd"}), ranked({"t": "adbc"}), k=2).iloc[0]
    # Top 2 before: a, b; after: a, d.
    assert row["present"] == "both"
    assert (row["n_shared"], row["n_entered"], row["n_left"]) == (1, 1, 1)
    assert row["jaccard"] == pytest.approx(1 / 3)
    assert (row["entered"], row["left"]) == ("d", "b")
    # a, b, d: ranks 1, 2, 4 and 1, 3, 2; among themselves 1, 2, 3 and 1, 3, 2:
    # rho = 1 - 6 * 2 / (3 * 8).
    assert row["spearman"] == pytest.approx(0.5)
    # b and d, places 2 and 3 in either order, changed: pairs weigh 3/2 (1, 2), 4/3 (1, 3) and
    # 5/6 (2, 3), so (3/2 + 4/3 - 5/6) / (3/2 + 4/3 + 5/6).
    assert row["weighted_tau"] == pytest.approx(12 / 22)


def test_the_first_places_weigh_more():
    before = ranked({"t": "abcdef"})
    top = donor_drift(before, ranked({"t": "bacdef"}), k=6).iloc[0]
    end = donor_drift(before, ranked({"t": "abcdfe"}), k=6).iloc[0]
    assert top["jaccard"] == end["jaccard"] == 1
    assert top["spearman"] == pytest.approx(end["spearman"])
    assert top["weighted_tau"] < end["weighted_tau"] < 1


def test_a_short_fall_counts_less_than_a_long_one():
    before = ranked({"t": "abcdefghij"})
    near = donor_drift(before, ranked({"t": "abdcefghij"}), k=3).iloc[0]
    far = donor_drift(before, ranked({"t": "bdefghijca"}), k=3).iloc[0]
    assert near["spearman"] > 0.5 > far["spearman"]
    assert far["left"] == "a, c"
    assert far["entered"] == "d, e"


def test_a_donor_that_a_ranking_lacks_stands_behind_its_last():
    row = donor_drift(ranked({"t": "abc"}), ranked({"t": "xab"}), k=2).iloc[0]
    # Union a, b, x: before 1, 2, 4; after 2, 3, 1. rho = 1 - 6 * (1 + 1 + 4) / 24.
    assert row["spearman"] == pytest.approx(-0.5)
    assert row["jaccard"] == pytest.approx(1 / 3)


def test_lists_cut_off_at_k_have_no_correlation_of_one_donor():
    one = donor_drift(ranked({"t": "a"}), ranked({"t": "a"}), k=1).iloc[0]
    assert one["jaccard"] == 1
    assert np.isnan([one["spearman"], one["weighted_tau"]]).all()
    other = donor_drift(ranked({"t": "a"}), ranked({"t": "b"}), k=1).iloc[0]
    assert (other["jaccard"], other["spearman"]) == (0, pytest.approx(-1))


def test_targets_of_one_ranking_only_are_listed_and_have_not_moved():
    before = ranked({"s": "abc", "t": "abc"})
    after = ranked({"t": "cba", "u": "abc"})
    drift = donor_drift(before, after, k=1)
    assert dict(zip(drift["gauge_id"], drift["present"], strict=True)) == {
        "s": "before",
        "t": "both",
        "u": "after",
    }
    alone = drift[drift["present"] != "both"]
    assert alone[["jaccard", "n_entered", "spearman"]].isna().all(axis=None)
    assert (alone["entered"] == "").all()
    assert moved(drift, 0.5) == ("t",)


def test_at_most_three_are_named():
    row = donor_drift(ranked({"t": "abcdefgh"}), ranked({"t": "hgfedcba"}), k=4).iloc[0]
    assert (row["n_entered"], row["entered"], row["left"]) == (4, "h, g, f", "a, b, c")


def test_moved_is_strict_and_sorted():
    drift = pd.DataFrame({"gauge_id": ["03", "02", "01"], "jaccard": [0.2, 0.5, 0.4]})
    assert moved(drift, 0.5) == ("01", "03")
    assert moved(drift, 0) == ()


def test_equal_rankings_do_not_drift_and_random_ones_do():
    ids = [f"{i:08d}" for i in range(30)]
    first, second = (rank_donors(similarity_random(ids, seed), ids) for seed in (0, 1))
    same = donor_drift(first, first.sample(frac=1, random_state=0), k=5)
    assert (same["jaccard"] == 1).all()
    np.testing.assert_allclose(same[["spearman", "weighted_tau"]], 1)
    assert moved(same, 1) == ()
    other = donor_drift(first, second, k=5)
    assert other["jaccard"].mean() < 0.3
    assert (other["n_shared"] + other["n_entered"] == 5).all()
    # Sets as the plain way finds them.
    sets = [
        f[f["rank"] <= 5].groupby("gauge_id")["donor_id"].agg(set).reindex(ids)
        for f in (first, second)
    ]
    expected = [len(a & b) / len(a | b) for a, b in zip(*sets, strict=True)]
    np.testing.assert_allclose(other["jaccard"], expected)


@pytest.mark.parametrize(("k", "most"), [(0, 3), (3, 2)])
def test_k_must_fit_both_rankings(k, most):
    with pytest.raises(UserError, match=f"k = {k} .* choose k from 1 to {most}$"):
        donor_drift(ranked({"t": "abc"}), ranked({"t": "ab"}), k=k)
