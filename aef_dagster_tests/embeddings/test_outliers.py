"""Years and basins that stand out: planted odd years, jumps and restless basins."""

import numpy as np
import pytest

from aef_dagster.embeddings import outliers
from aef_dagster_tests.embeddings.turning import noisy, table, turning


def test_an_odd_year_lies_apart_and_makes_two_jumps():
    vectors, rng = noisy(60, 9)
    vectors[:40, 4] += 0.5 * rng.normal(size=(40, 64))
    frame = table(vectors, range(2017, 2026))
    years = outliers.outlier_years(frame)
    assert years.loc[years["outlier"], "year"].tolist() == [2021]
    assert years.loc[4, "share_apart"] == pytest.approx(40 / 60, abs=0.03)
    pairs = outliers.year_pairs(frame)
    assert pairs.loc[pairs["jump"], "year_to"].tolist() == [2021, 2022]
    few = vectors.copy()
    few[20:, 4] = few[20:, 3]  # odd in a third of the basins: theirs, not the year's
    assert not outliers.outlier_years(table(few, range(2017, 2026)))["outlier"].any()


def test_a_lasting_change_is_one_jump_and_no_odd_year():
    vectors, rng = noisy(60, 9)
    vectors[:, 4:] += 0.5 * rng.normal(size=(60, 1, 64))
    frame = table(vectors, range(2017, 2026))
    pairs = outliers.year_pairs(frame)
    assert pairs.loc[pairs["jump"], ["year_from", "year_to"]].to_numpy().tolist() == [[2020, 2021]]
    assert not outliers.outlier_years(frame)["outlier"].any()


def test_a_step_over_a_missing_year_is_told_and_not_called_a_jump():
    vectors, rng = noisy(30, 9)
    vectors[:, 4:] += 0.5 * rng.normal(size=(30, 1, 64))
    frame = table(vectors, range(2017, 2026))
    pairs = outliers.year_pairs(frame[frame["year"] != 2020])
    over = pairs[pairs["gap"] == 2].iloc[0]
    assert (over["year_from"], over["year_to"], over["n_basins"]) == (2019, 2021, 30)
    assert over["median"] < 0.95
    assert np.isnan(over["z"])
    assert not pairs["jump"].any()


def test_the_restless_basin_comes_first():
    angles = np.array([[0, d, 0, d, 0] for d in (1.0, 1.1, 0.9, 1.05, 0.95, 30)])
    angles[5, 3] = 40
    rows = outliers.outlier_basins(table(turning(angles), range(2017, 2022)))
    assert rows.loc[0, "gauge_id"] == "00000006"
    assert rows["outlier"].tolist() == [True] + [False] * 5
    assert rows.loc[0, "n_steps"] == 4
    # Steps of 30, 30, 40, 40 degrees.
    steps = 1 - np.cos(np.radians([30, 40]))
    assert rows.loc[0, "distance"] == pytest.approx(steps.mean())
    assert rows.loc[0, "worst_distance"] == pytest.approx(steps[1])
    assert rows.loc[0, "worst_year"] == 2020


def test_robust_z_by_hand_and_where_most_values_are_equal():
    # Median 3; absolute deviations 2, 1, 0, 1, 7: MAD 1.
    z = outliers._robust_z(np.array([[1.0, 2, 3, 4, 10]]), at_least=4)
    np.testing.assert_allclose(z, np.array([[-2, -1, 0, 1, 7]]) / 1.4826)
    # MAD 0, mean absolute deviation 1.
    z = outliers._robust_z(np.array([[0.0, 0, 0, 4]]), at_least=4)
    np.testing.assert_allclose(z, [[0, 0, 0, 4 / 1.2533]])
    assert (outliers._robust_z(np.ones((1, 4)), at_least=4) == 0).all()
    assert np.isnan(outliers._robust_z(np.array([[1.0, 2, np.nan, 9]]), at_least=4)).all()
