"""Drift of embeddings: steady turns by hand, the test of orders, planted drift."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings.trend import drift_against_spread
from aef_dagster_tests.embeddings.turning import noisy, table, turning


def test_drift_and_spread_of_a_steady_turn():
    frame = table(turning([[0, 30, 60]]), [2017, 2018, 2019])
    row = drift_against_spread(frame).iloc[0]
    assert row["drift"] == pytest.approx(1 - np.cos(np.radians(60)))
    # The mean points to 30 degrees: two years are 30 degrees away, one is not.
    assert row["spread"] == pytest.approx(2 * (1 - np.cos(np.radians(30))) / 3)
    assert row["ratio"] == pytest.approx(row["drift"] / row["spread"])
    # From (1, 0) to (1/2, sqrt(3)/2) in two years.
    assert row["slope"] == pytest.approx(0.5)
    # Six orders: this one and its reverse are the steepest.
    assert row["p"] == pytest.approx(2 / 6)


def test_slope_knows_of_the_gap():
    frame = table(turning([[0, 30, np.nan, 60], [0, 30, 60, np.nan]]), range(2017, 2021))
    rows = drift_against_spread(frame)
    # Years -4/3, -1/3, 5/3 from their mean: weights of (cos, sin) divided by 42/9.
    weights = np.array([-4 / 3, -1 / 3, 5 / 3]) / (42 / 9)
    slope = np.linalg.norm(weights @ turning([0, 30, 60]))
    np.testing.assert_allclose(rows["slope"], [slope, 0.5])


def test_p_of_drawn_orders_is_that_of_all_orders():
    vectors, _ = noisy(40, 6)
    frame = table(vectors, range(2017, 2023))
    exact = drift_against_spread(frame)  # 720 orders
    drawn = drift_against_spread(frame, n_permutations=719, seed=3)
    assert np.abs(exact["p"] - drawn["p"]).max() < 0.08  # four standard errors of 719 draws
    assert not exact["p"].equals(drawn["p"])
    again = drift_against_spread(frame, n_permutations=719, seed=3)
    pd.testing.assert_frame_equal(drawn, again)


def test_one_drifting_basin_is_found_among_many_that_do_not():
    vectors, rng = noisy(671, 9)
    vectors[5] += 0.1 * np.arange(9)[:, None] * rng.normal(size=64)
    rows = drift_against_spread(table(vectors, range(2017, 2026)))
    assert rows.loc[rows["drifts"], "gauge_id"].tolist() == ["00000006"]
    assert 0.02 < (rows["p"] <= 0.05).mean() < 0.09
    assert (rows["q"] >= rows["p"]).all()


def test_a_basin_that_stays_has_no_drift_and_one_with_two_years_no_test():
    frame = table(turning([[20, 20, 20, 20], [0, np.nan, np.nan, 30]]), range(2017, 2021))
    still, short = drift_against_spread(frame).to_dict("records")
    assert still["drift"] == pytest.approx(0, abs=1e-12)
    assert still["spread"] == 0
    assert still["p"] == 1
    assert np.isnan(still["ratio"])
    assert not still["drifts"]
    assert np.isnan([short["drift"], short["p"], short["q"]]).all()
    assert short["n_years"] == 2
