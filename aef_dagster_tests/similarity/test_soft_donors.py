"""Weights of all donors by similarity: they sum to 1, follow the similarity, spread as wanted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aef_dagster.errors import UserError
from aef_dagster.similarity.donors import soft_weights

COSINES = st.lists(st.floats(-1, 1), min_size=1, max_size=40)


def effective_number(weights):
    return 1.0 / np.sum(weights**2)


@settings(max_examples=200, deadline=None)
@given(COSINES, st.floats(1, 60))
def test_weights_sum_to_1_and_rise_with_similarity(cosine, effective):
    weights = soft_weights(cosine, effective)
    assert weights.shape == (len(cosine),)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    order = np.argsort(cosine, kind="stable")
    assert (np.diff(weights[order]) >= -1e-12).all()
    for value in set(cosine):
        assert np.ptp(weights[np.array(cosine) == value]) <= 1e-15
    ties = np.sum(np.round(cosine, 12) == np.round(max(cosine), 12))
    expected = min(max(effective, ties), len(cosine))
    if expected < len(cosine):
        assert effective_number(weights) == pytest.approx(expected, rel=1e-6)
    else:
        np.testing.assert_allclose(weights, 1.0 / len(cosine))


def test_two_donors_by_hand():
    # w = (p, 1 - p) with 1 / (p^2 + (1 - p)^2) = 1.6: p = 3/4, and beta = log 3 / 0.5.
    np.testing.assert_allclose(soft_weights([0.9, 0.4], 1.6), [0.75, 0.25], atol=1e-7)
    beta = np.log(3.0) / 0.5
    three = np.exp(beta * np.array([0.0, 0.5, 0.1]))
    three /= three.sum()
    found = soft_weights([0.0, 0.5, 0.1], effective_number(three))
    np.testing.assert_allclose(found, three, atol=1e-9)


def test_fewer_effective_donors_are_nearer_ones():
    cosine = np.random.default_rng(0).uniform(-0.2, 0.9, 670)
    means = [float(soft_weights(cosine, n) @ cosine) for n in (1, 10, 100, 300, 670)]
    assert means[0] == pytest.approx(cosine.max())
    assert means[-1] == pytest.approx(cosine.mean())
    assert (np.diff(means) < 0).all()
    for n in (10, 100, 300):
        assert effective_number(soft_weights(cosine, n)) == pytest.approx(n)


def test_ties_share_the_first_place():
    np.testing.assert_allclose(soft_weights([0.5, 0.7, 0.7], 1), [0, 0.5, 0.5])
    np.testing.assert_allclose(soft_weights([0.7, 0.7, 0.7], 2), [1 / 3] * 3)
    # Apart by rounding alone is a tie, as in the ranking.
    np.testing.assert_allclose(soft_weights([0.7, 0.7 + 1e-15], 1), [0.5, 0.5])


@pytest.mark.parametrize("effective", [0.99, 0, -1, np.nan])
def test_less_than_one_donor_is_refused(effective):
    with pytest.raises(UserError, match="choose one from 1 up"):
        soft_weights([0.1, 0.2], effective)


@pytest.mark.parametrize("cosine", [[], [[0.1]], [0.1, np.nan]])
def test_similarities_must_be_a_list_of_numbers(cosine):
    with pytest.raises(ValueError, match="must be a list of numbers"):
        soft_weights(cosine, 2)
