"""Stability of embeddings: hand-worked cosines, gaps, and bands."""

import numpy as np
import pytest

from aef_dagster.embeddings import stability
from aef_dagster_tests.embeddings.turning import table, turning


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
