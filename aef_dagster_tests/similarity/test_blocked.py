"""The first k donors in blocks: the same as from the whole matrix, in less memory."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aef_dagster.errors import UserError
from aef_dagster.similarity.blocked import nearest_donors
from aef_dagster.similarity.donors import rank_donors
from aef_dagster.similarity.spaces import similarity_aef


def _ids(n, seed=0):
    """Ids that are not in the order of the basins."""
    return [f"{number:08d}" for number in np.random.default_rng(seed).permutation(n)]


def _clustered(n, d=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, d)) + 2.0
    return centres[rng.integers(0, 5, n)] + 0.5 * rng.standard_normal((n, d))


def _exact_cosines(n, seed):
    """Vectors of a few patterns, some of them zero, whose cosines have no rounding at all.

    1, 4 or 16 entries of 16 are -1 or 1: lengths 1, 2, 4. Their cosines are sixteenths, so that
    most of them are tied.
    """
    rng = np.random.default_rng(seed)
    patterns = np.zeros((8, 16))
    for pattern, count in zip(patterns, (0, 1, 4, 4, 16, 16, 16, 16), strict=True):
        pattern[rng.choice(16, count, replace=False)] = rng.choice([-1.0, 1.0], count)
    return patterns[rng.integers(0, len(patterns), n)]


def _assert_as_the_whole_matrix(vectors, ids, k, centre=True, **options):
    whole = rank_donors(similarity_aef(vectors, raw=not centre), ids)
    first = whole[whole["rank"] <= k].reset_index(drop=True)
    ours = nearest_donors(vectors, ids, k, centre=centre, **options)
    pd.testing.assert_frame_equal(ours, first, rtol=0, atol=1e-14)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("k", [1, 7, 202])
@pytest.mark.parametrize("block", [1, 64, 512])
def test_it_is_the_ranking_of_the_whole_matrix(k, block, centre):
    _assert_as_the_whole_matrix(_clustered(203), _ids(203), k, centre, block=block)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.data())
def test_ties_duplicates_and_zero_vectors(seed, n, data):
    k = data.draw(st.integers(1, n - 1))
    _assert_as_the_whole_matrix(_exact_cosines(n, seed), _ids(n, seed), k, centre=False, block=9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.data())
def test_ties_about_a_mean(seed, half, data):
    k = data.draw(st.integers(1, 2 * half - 1))
    vectors = _exact_cosines(half, seed)
    both = np.concatenate([vectors, -vectors])  # their mean is exactly zero
    _assert_as_the_whole_matrix(both, _ids(2 * half, seed), k, block=9)


@pytest.mark.parametrize("k", [1, 50, 100, 149])
def test_cosines_that_float32_cannot_tell_apart(k):
    """Fifty cosines to the first basin 2e-12 apart, each three times within 2e-13: those tie."""
    rng = np.random.default_rng(0)
    steps, same = np.divmod(np.arange(150), 3)
    cosine = (0.5 + 2e-12 * steps + 1e-13 * same)[:, None]
    # Any directions about the first basin, so that each product has float32 errors of its own.
    axes = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    around = rng.standard_normal((150, 63))
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    others = cosine * axes[0] + np.sqrt(1 - cosine**2) * (around @ axes[1:])
    vectors = np.vstack([axes[:1], others])
    single = vectors.astype(np.float32)
    assert np.ptp(single[1:] @ single[0]) > 100 * np.ptp(cosine)
    _assert_as_the_whole_matrix(vectors, _ids(151), k, centre=False)


def test_a_basin_at_the_mean_takes_donors_by_id():
    vectors = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    ranked = nearest_donors(vectors, ["05", "02", "04", "01", "03"], 3)
    at_mean = ranked[ranked["gauge_id"] == "02"]
    assert at_mean["donor_id"].tolist() == ["01", "03", "04"]
    assert at_mean["cosine"].tolist() == [0.0, 0.0, 0.0]


def test_order_of_basins_does_not_matter():
    vectors, ids = _clustered(120), np.array(_ids(120))
    order = np.random.default_rng(1).permutation(120)
    before = nearest_donors(vectors, ids, 20)
    after = nearest_donors(vectors[order], ids[order], 20, block=7)
    pd.testing.assert_frame_equal(before, after, rtol=0, atol=1e-14)


def test_memory_stays_far_below_that_of_the_matrix():
    n, vectors, ids = 6000, _clustered(6000, d=8), _ids(6000)
    nearest_donors(vectors[:50], ids[:50], 5)  # imports
    tracemalloc.start()
    nearest_donors(vectors, ids, 5, memory_mb=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 16 MiB are the vectors, the ids and the answer, with room; the matrix takes 137 even in
    # float32.
    assert peak < (4 + 16) * 2**20 < 4 * n * n / 6


def test_vectors_are_left_as_they_were():
    vectors = _clustered(30)
    before = vectors.copy()
    nearest_donors(vectors, _ids(30), 3)
    np.testing.assert_array_equal(vectors, before)


def test_progress_is_told_after_each_block():
    told = []
    nearest_donors(
        _clustered(10),
        _ids(10),
        2,
        block=4,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_block_shrinks_to_the_memory():
    told = []
    # 400 bytes a row: 4,000 bytes are ten rows.
    nearest_donors(
        _clustered(100), _ids(100), 2, memory_mb=4000 / 2**20,
        on_progress=lambda done, _total: told.append(done),
    )  # fmt: skip
    assert told == list(range(10, 101, 10))


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_that_cannot_be(k):
    with pytest.raises(UserError, match=f"k = {k} .*has 4 basins: choose k from 1 to 3"):
        nearest_donors(np.eye(4), _ids(4), k)


@pytest.mark.parametrize(
    ("vectors", "ids", "options", "match"),
    [
        (np.eye(3), ["1", "2"], {}, "shape"),
        (np.ones(2), ["1", "2"], {}, "shape"),
        (np.eye(2), ["1", "1"], {}, "twice"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), ["1", "2"], {}, r"rows \[1\] .* NaN"),
        (np.eye(2), ["1", "2"], {"block": 0}, "blocks of 0"),
    ],
)
def test_input_that_cannot_be_ranked(vectors, ids, options, match):
    with pytest.raises(ValueError, match=match):
        nearest_donors(vectors, ids, 1, **options)
