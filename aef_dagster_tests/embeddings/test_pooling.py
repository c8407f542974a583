"""One vector per basin from several years, in all ways."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import POOLINGS, STD_BANDS, pool_years, stacked, unit
from aef_dagster.errors import UserError


def frame(rows):
    """Rows (gauge_id, year, vector of a few numbers), the other bands 0."""
    bands = np.zeros((len(rows), 64))
    for i, (_, _, vector) in enumerate(rows):
        bands[i, : len(vector)] = vector
    table = pd.DataFrame(bands, columns=list(BANDS))
    table["gauge_id"] = [row[0] for row in rows]
    table["year"] = pd.array([row[1] for row in rows], dtype="Int64")
    return table


ROWS = [
    ("02", 2018, [0.0, 0.5]),
    ("01", 2018, [0.0, 0.8]),
    ("01", 2017, [0.4, 0.0]),
    ("01", 2020, [0.0, 0.8]),
]


def test_unit_mean_weighs_years_alike_and_is_unit():
    pooled = pool_years(frame(ROWS))
    assert pooled["gauge_id"].tolist() == ["01", "02"]
    assert pooled["n_years"].tolist() == [3, 1]
    assert pooled["years"].tolist() == ["2017-2018,2020", "2018"]
    np.testing.assert_allclose(pooled["norm"], 1.0, atol=1e-6)
    expected = np.array([1, 2]) / np.sqrt(5)  # the short vector of 2017 counts as much as others
    np.testing.assert_allclose(pooled.loc[0, ["A00", "A01"]].astype(float), expected, atol=1e-6)
    assert pooled["A00"].dtype == np.float32


def test_plain_mean_is_the_mean_as_published():
    pooled = pool_years(frame(ROWS), how="plain_mean")
    got = pooled.loc[0, ["A00", "A01"]].astype(float)
    np.testing.assert_allclose(got, [0.4 / 3, 1.6 / 3], atol=1e-6)
    assert pooled.loc[0, "norm"] == pytest.approx(np.hypot(0.4, 1.6) / 3, abs=1e-6)


def test_gem_is_the_signed_cube_mean_of_unit_years():
    rows = [("01", 2017, [3.0, -4.0]), ("01", 2018, [0.0, -2.0])]  # units (.6, -.8), (0, -1)
    pooled = pool_years(frame(rows), how="gem")
    expected = np.cbrt([0.6**3 / 2, -(0.8**3 + 1) / 2])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(pooled.loc[0, ["A00", "A01"]].astype(float), expected, atol=1e-6)
    np.testing.assert_allclose(pooled["norm"], 1.0, atol=1e-6)
    # Further from the mean, towards the year in which the first band is large.
    mean = pool_years(frame(rows))
    assert pooled.loc[0, "A00"] > mean.loc[0, "A00"]


def test_deviations_stand_beside_the_unit_mean():
    rows = [("01", 2017, [3.0, 4.0]), ("01", 2018, [0.0, 2.0]), ("02", 2018, [1.0])]
    pooled = pool_years(frame(rows), how="mean_std")
    mean = pool_years(frame(rows))
    pd.testing.assert_frame_equal(pooled[mean.columns], mean)
    # Two numbers a, b have the sample standard deviation |a - b| / sqrt(2).
    got = pooled.loc[0, ["S00", "S01", "S02"]].astype(float)
    np.testing.assert_allclose(got, [0.6 / np.sqrt(2), 0.2 / np.sqrt(2), 0], atol=1e-6)
    assert pooled["S00"].dtype == np.float32
    assert pooled.loc[1, list(STD_BANDS)].isna().all()  # one year


def test_what_is_compared_has_deviations_where_all_basins_have():
    rows = [(b, y, [1.0, y - 2017.0]) for b in ("01", "02") for y in (2017, 2018)]
    both = pool_years(frame(rows), how="mean_std")
    assert stacked(both).shape == (2, 128)
    np.testing.assert_allclose(stacked(both)[0, 64:66], both.loc[0, ["S00", "S01"]].astype(float))
    plain = pool_years(frame(rows))
    np.testing.assert_array_equal(stacked(plain), plain[[f"A{i:02d}" for i in range(64)]])
    assert stacked(pool_years(frame(rows), how="mean_std", years=[2017])).shape == (2, 64)
    # As it comes back from a table: by basin, deviations empty.
    assert stacked(both.set_index("gauge_id").assign(**dict.fromkeys(STD_BANDS))).shape == (2, 64)
    with pytest.raises(UserError, match=r"1 basins have one year only \(02\)"):
        stacked(pool_years(frame(rows[:3]), how="mean_std").set_index("gauge_id"))


def test_chosen_years():
    pooled = pool_years(frame(ROWS), years=range(2018, 2025))
    assert pooled["years"].tolist() == ["2018,2020", "2018"]
    assert pooled.loc[0, "A00"] == 0
    with pytest.raises(
        UserError, match="no embeddings of 2024-2025; there are those of 2017-2018,2020"
    ):
        pool_years(frame(ROWS), years=[2025, 2024])


def test_finished_mean_has_no_years():
    pooled = pool_years(frame([("01", None, [0.6, 0.0]), ("02", None, [0.0, 0.7])]))
    assert pooled["n_years"].tolist() == [0, 0]
    assert pooled["years"].tolist() == ["finished mean"] * 2
    np.testing.assert_allclose(pooled["norm"], 1.0)


@pytest.mark.parametrize("rows", [
    [("01", 2017, [0.5]), ("01", 2018, [0.0])],
    [("01", 2017, [0.5]), ("01", 2018, [-0.5])],
    [("01", 2017, [0.5]), ("01", 2018, [np.nan])],
])  # fmt: skip
def test_a_vector_without_direction_names_its_basin(rows):
    with pytest.raises(UserError, match="embedding of 01"):
        pool_years(frame(rows))


def test_a_missing_vector_is_not_passed_over_by_the_plain_mean():
    with pytest.raises(UserError, match="embedding of 01"):
        pool_years(frame([("01", 2017, [0.5]), ("01", 2018, [np.nan])]), how="plain_mean")


def test_unknown_way():
    with pytest.raises(ValueError, match="unit_mean"):
        pool_years(frame(ROWS), how="median")


def test_unit_of_zero_is_missing():
    assert np.isnan(unit([[0.0, 0.0]])).all()
    np.testing.assert_allclose(unit([[3.0, 4.0]]), [[0.6, 0.8]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(POOLINGS))
def test_order_of_rows_does_not_matter(seed, how):
    rng = np.random.default_rng(seed)
    rows = [(f"{b:02d}", 2017 + y, rng.normal(size=64)) for b in range(4) for y in range(5)]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    pd.testing.assert_frame_equal(
        pool_years(frame(rows), how=how), pool_years(frame(shuffled), how=how), check_exact=True
    )
