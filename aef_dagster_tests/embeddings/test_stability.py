"""Stability of embeddings: hand-worked angles, planted drift, odd years and gaps."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings import stability
from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError


def table(vectors, years, gauge_ids=None):
    """A yearly frame from vectors [basin, year, up to 64]; NaN in the first band = no row."""
    vectors = np.asarray(vectors, dtype=float)
    n, t, dim = vectors.shape
    bands = np.zeros((n * t, 64))
    bands[:, :dim] = vectors.reshape(n * t, dim)
    frame = pd.DataFrame(bands, columns=list(BANDS))
    frame["gauge_id"] = np.repeat(gauge_ids or [f"{i:08d}" for i in range(1, n + 1)], t)
    frame["year"] = pd.array(np.tile(years, n), dtype="Int64")
    return frame[frame["A00"].notna()]


def turning(degrees):
    """Vectors in the plane of the first two bands; NaN = a missing year."""
    angle = np.radians(np.asarray(degrees, dtype=float))
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def noisy(n_basins, n_years, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n_basins, 1, 64))
    return base + noise * rng.normal(size=(n_basins, n_years, 64)), rng


def test_cosine_of_neighbours_whatever_their_length_and_over_a_gap():
    vectors = turning([[0, 60, 60, 90], [0, np.nan, 0, 45]])
    vectors[0, 1] *= 0.3
    steps = stability.year_to_year(table(vectors, [2017, 2018, 2019, 2020]))
    assert steps["gauge_id"].tolist() == ["00000001"] * 3 + ["00000002"] * 2
    assert steps["year_from"].tolist() == [2017, 2018, 2019, 2017, 2019]
    assert steps["gap"].tolist() == [1, 1, 1, 2, 1]
    expected = [0.5, 1, np.sqrt(3) / 2, 1, np.sqrt(0.5)]
    np.testing.assert_allclose(steps["cosine"], expected, atol=1e-12)


def test_missing_years_are_told():
    nan = np.nan
    angles = [[0, nan, 0, nan, nan], [0, 0, 0, 0, 0], [nan, 0, nan, 0, 0]]
    told = stability.missing_years(table(turning(angles), range(2017, 2022)))
    assert told.to_dict("records") == [
        {"gauge_id": "00000001", "n_years": 2, "missing": "2018,2020-2021", "in_the_middle": True},
        {"gauge_id": "00000003", "n_years": 3, "missing": "2017,2019", "in_the_middle": True},
    ]
    ends_only = stability.missing_years(table(turning([[nan, 0, 0], [0, 0, 0]]), [1, 2, 3]))
    assert ends_only["in_the_middle"].tolist() == [False]


def test_median_cosines_between_all_years():
    angles = [[0, 60, np.nan], [0, 90, 0], [0, 0, 60]]
    square = stability.median_cosines(table(turning(angles), [2017, 2018, 2020]))
    assert square.index.tolist() == square.columns.tolist() == [2017, 2018, 2020]
    expected = [[1, 0.5, 0.75], [0.5, 1, 0.25], [0.75, 0.25, 1]]
    np.testing.assert_allclose(square, expected, atol=1e-12)


def test_bands_correlate_over_the_basins_that_have_both_years():
    # All vectors have length 1 by a third number; band 0 turns its sign round, band 1 stays.
    before = np.array([[0.1, 0.4], [0.2, 0.1], [0.3, 0.2], [0.5, 0.5]])
    after = before * [-1, 1]
    both = np.stack([before, after], axis=1)
    third = np.sqrt(1 - (both**2).sum(axis=2, keepdims=True))
    frame = table(np.concatenate([both, third], axis=2), [2017, 2019])
    frame = frame.drop(index=frame.index[-1])  # the last basin lacks 2019
    bands = stability.band_stability(frame).set_index("band")
    assert bands.loc["A00", ["year_from", "year_to", "gap", "n_basins"]].tolist() == [
        2017, 2019, 2, 3,
    ]  # fmt: skip
    assert bands.loc["A00", "correlation"] == pytest.approx(-1)
    assert bands.loc["A01", "correlation"] == pytest.approx(1)
    assert np.isnan(bands.loc["A63", "correlation"])  # constant
    assert len(bands) == 64


def test_drift_and_spread_of_a_steady_turn():
    frame = table(turning([[0, 30, 60]]), [2017, 2018, 2019])
    row = stability.drift_against_spread(frame).iloc[0]
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
    rows = stability.drift_against_spread(frame)
    # Years -4/3, -1/3, 5/3 from their mean: weights of (cos, sin) divided by 42/9.
    weights = np.array([-4 / 3, -1 / 3, 5 / 3]) / (42 / 9)
    slope = np.linalg.norm(weights @ turning([0, 30, 60]))
    np.testing.assert_allclose(rows["slope"], [slope, 0.5])


def test_p_of_drawn_orders_is_that_of_all_orders():
    vectors, _ = noisy(40, 6)
    frame = table(vectors, range(2017, 2023))
    exact = stability.drift_against_spread(frame)  # 720 orders
    drawn = stability.drift_against_spread(frame, n_permutations=719, seed=3)
    assert np.abs(exact["p"] - drawn["p"]).max() < 0.08  # four standard errors of 719 draws
    assert not exact["p"].equals(drawn["p"])
    again = stability.drift_against_spread(frame, n_permutations=719, seed=3)
    pd.testing.assert_frame_equal(drawn, again)


def test_one_drifting_basin_is_found_among_many_that_do_not():
    vectors, rng = noisy(671, 9)
    vectors[5] += 0.1 * np.arange(9)[:, None] * rng.normal(size=64)
    rows = stability.drift_against_spread(table(vectors, range(2017, 2026)))
    assert rows.loc[rows["drifts"], "gauge_id"].tolist() == ["00000006"]
    assert 0.02 < (rows["p"] <= 0.05).mean() < 0.09
    assert (rows["q"] >= rows["p"]).all()


def test_a_basin_that_stays_has_no_drift_and_one_with_two_years_no_test():
    frame = table(turning([[20, 20, 20, 20], [0, np.nan, np.nan, 30]]), range(2017, 2021))
    still, short = stability.drift_against_spread(frame).to_dict("records")
    assert still["drift"] == pytest.approx(0, abs=1e-12)
    assert still["spread"] == 0
    assert still["p"] == 1
    assert np.isnan(still["ratio"])
    assert not still["drifts"]
    assert np.isnan([short["drift"], short["p"], short["q"]]).all()
    assert short["n_years"] == 2


def test_an_odd_year_lies_apart_and_makes_two_jumps():
    vectors, rng = noisy(60, 9)
    vectors[:40, 4] += 0.5 * rng.normal(size=(40, 64))
    frame = table(vectors, range(2017, 2026))
    years = stability.outlier_years(frame)
    assert years.loc[years["outlier"], "year"].tolist() == [2021]
    assert years.loc[4, "share_apart"] == pytest.approx(40 / 60, abs=0.03)
    pairs = stability.year_pairs(frame)
    assert pairs.loc[pairs["jump"], "year_to"].tolist() == [2021, 2022]
    few = vectors.copy()
    few[20:, 4] = few[20:, 3]  # odd in a third of the basins: theirs, not the year's
    assert not stability.outlier_years(table(few, range(2017, 2026)))["outlier"].any()


def test_a_lasting_change_is_one_jump_and_no_odd_year():
    vectors, rng = noisy(60, 9)
    vectors[:, 4:] += 0.5 * rng.normal(size=(60, 1, 64))
    frame = table(vectors, range(2017, 2026))
    pairs = stability.year_pairs(frame)
    assert pairs.loc[pairs["jump"], ["year_from", "year_to"]].to_numpy().tolist() == [[2020, 2021]]
    assert not stability.outlier_years(frame)["outlier"].any()


def test_a_step_over_a_missing_year_is_told_and_not_called_a_jump():
    vectors, rng = noisy(30, 9)
    vectors[:, 4:] += 0.5 * rng.normal(size=(30, 1, 64))
    frame = table(vectors, range(2017, 2026))
    pairs = stability.year_pairs(frame[frame["year"] != 2020])
    over = pairs[pairs["gap"] == 2].iloc[0]
    assert (over["year_from"], over["year_to"], over["n_basins"]) == (2019, 2021, 30)
    assert over["median"] < 0.95
    assert np.isnan(over["z"])
    assert not pairs["jump"].any()


def test_the_restless_basin_comes_first():
    angles = np.array([[0, d, 0, d, 0] for d in (1.0, 1.1, 0.9, 1.05, 0.95, 30)])
    angles[5, 3] = 40
    rows = stability.outlier_basins(table(turning(angles), range(2017, 2022)))
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
    z = stability._robust_z(np.array([[1.0, 2, 3, 4, 10]]), at_least=4)
    np.testing.assert_allclose(z, np.array([[-2, -1, 0, 1, 7]]) / 1.4826)
    # MAD 0, mean absolute deviation 1.
    z = stability._robust_z(np.array([[0.0, 0, 0, 4]]), at_least=4)
    np.testing.assert_allclose(z, [[0, 0, 0, 4 / 1.2533]])
    assert (stability._robust_z(np.ones((1, 4)), at_least=4) == 0).all()
    assert np.isnan(stability._robust_z(np.array([[1.0, 2, np.nan, 9]]), at_least=4)).all()


def test_basins_without_neighbouring_years_have_rows_without_numbers():
    frame = table(turning([[0, np.nan, np.nan], [np.nan, np.nan, 10]]), [2017, 2018, 2019])
    assert stability.year_to_year(frame).empty
    assert stability.year_pairs(frame).empty
    assert stability.outlier_basins(frame)["distance"].isna().all()
    assert stability.outlier_years(frame)["year"].tolist() == [2017, 2019]
    assert not stability.drift_against_spread(frame)["drifts"].any()


@pytest.mark.parametrize(("change", "said"), [
    (lambda f: f.assign(year=pd.array([pd.NA] * len(f), dtype="Int64")), "finished mean"),
    (lambda f: f[f["year"] == 2017], "two years or more, and there are 1"),
    (lambda f: pd.concat([f, f.tail(1)]), "basin 00000002 occurs more than once in 2018"),
    (lambda f: f.assign(A00=0.0, A01=0.0), "length zero"),
])  # fmt: skip
def test_what_cannot_be_compared_is_said(change, said):
    frame = table(turning([[0, 10], [0, 20]]), [2017, 2018])
    with pytest.raises(UserError, match=said):
        stability.year_to_year(change(frame))
