"""Ranked donors: the target never among them, ties settled, k checked."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aef_dagster.errors import UserError
from aef_dagster.similarity.donors import rank_donors, similarity_long, top_k
from aef_dagster.similarity.spaces import similarity_random

IDS = ["01", "02", "03", "04"]
MATRIX = np.array(
    [
        [1.0, 0.2, 0.9, 0.2],
        [0.2, 1.0, -0.5, 0.1],
        [0.9, -0.5, 1.0, 0.0],
        [0.2, 0.1, 0.0, 1.0],
    ]
)


def test_ranking_of_a_small_set():
    ranked = rank_donors(MATRIX, IDS)
    assert ranked.columns.tolist() == ["gauge_id", "rank", "donor_id", "cosine"]
    first = ranked[ranked["gauge_id"] == "01"]
    assert first["donor_id"].tolist() == ["03", "02", "04"]  # 02 and 04 tie: by id
    assert first["rank"].tolist() == [1, 2, 3]
    assert first["cosine"].tolist() == [0.9, 0.2, 0.2]


def test_rows_are_targets_when_the_matrix_is_not_symmetric():
    matrix = MATRIX.copy()
    matrix[0, 3] = 0.95
    ranked = rank_donors(matrix, IDS)
    assert top_k(ranked, "01", 1) == ("04",)
    assert top_k(ranked, "04", 1) == ("01",)
    assert ranked[ranked["gauge_id"] == "04"]["cosine"].tolist() == [0.2, 0.1, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 15))
def test_ranking_holds_every_other_basin_once_in_falling_order(seed, n):
    ids = [f"{i:08d}" for i in range(n)]
    # Rounded, so that there are ties.
    matrix = np.round(similarity_random(ids, seed), 1)
    ranked = rank_donors(matrix, ids)
    for gauge_id, donors in ranked.groupby("gauge_id"):
        assert sorted(donors["donor_id"]) == [i for i in ids if i != gauge_id]
        assert donors["rank"].tolist() == list(range(1, n))
        assert donors["cosine"].is_monotonic_decreasing
        ties = donors.groupby("cosine")["donor_id"].apply(lambda same: same.is_monotonic_increasing)
        assert ties.all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 15))
def test_order_of_basins_does_not_matter(seed, n):
    ids = np.array([f"{i:08d}" for i in range(n)], dtype=object)
    matrix = np.round(similarity_random(list(ids), seed), 1)
    order = np.random.default_rng(seed).permutation(n)
    # The last bits of a matrix product change with the order; ties must survive that.
    noise = np.random.default_rng(seed).uniform(-1e-15, 1e-15, (n, n))
    before = rank_donors(matrix, list(ids))
    after = rank_donors((matrix + noise)[np.ix_(order, order)], list(ids[order]))
    pd.testing.assert_frame_equal(before, after, atol=1e-14)


def test_all_donors_are_the_same_set_in_every_ranking():
    ids = [f"{i:08d}" for i in range(9)]
    sets = {
        frozenset(top_k(rank_donors(similarity_random(ids, seed), ids), ids[3], 8))
        for seed in range(4)
    }
    assert sets == {frozenset(ids) - {ids[3]}}


def test_top_k_takes_the_best():
    ranked = rank_donors(MATRIX, IDS).sample(frac=1, random_state=0)
    assert top_k(ranked, "01", 2) == ("03", "02")
    assert top_k(ranked, "01", 3) == ("03", "02", "04")


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_that_cannot_be(k):
    with pytest.raises(UserError, match=f"k = {k} .*has 4 basins: choose k from 1 to 3"):
        top_k(rank_donors(MATRIX, IDS), "01", k)


def test_unknown_basin_gets_a_hint():
    ids = ["01013500", "01022500", "14138900"]
    ranked = rank_donors(np.eye(3), ids)
    with pytest.raises(UserError, match="1013500 is not among the 3 basins; did you mean 01013500"):
        top_k(ranked, "1013500", 1)
    with pytest.raises(UserError, match="check the id"):
        top_k(ranked, "Fish River", 1)


def test_long_table_holds_all_pairs():
    table = similarity_long(MATRIX, IDS)
    assert len(table) == 16
    wide = table.pivot(index="gauge_id", columns="other_id", values="cosine")
    np.testing.assert_array_equal(wide.loc[IDS, IDS].to_numpy(), MATRIX)


@pytest.mark.parametrize(
    ("matrix", "ids", "match"),
    [
        (np.eye(3), IDS, "shape"),
        (np.eye(4), ["01", "02", "02", "04"], "twice"),
        (np.full((4, 4), np.nan), IDS, "NaN"),
    ],
)
def test_input_that_is_no_similarity(matrix, ids, match):
    with pytest.raises(ValueError, match=match):
        rank_donors(matrix, ids)
