"""What is known of a basin beforehand, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.evaluation.trust_features import NEAREST, trust_features

IDS = [f"{i:08d}" for i in range(14)]
TARGET, OTHERS = IDS[0], IDS[1:]


@pytest.fixture
def world():
    """Twelve donors that are ever less alike, further off, and further in climate."""
    step = np.arange(14.0)
    apart = abs(step[:, None] - step[None, :])
    return {
        "similarity": pd.DataFrame(1 - apart / 20, IDS, IDS),
        "kilometres": pd.DataFrame(100 * apart, IDS, IDS),
        "climate": pd.DataFrame({"aridity": 1 + step / 10, "frac_snow": 0.3}, IDS),
    }


def test_similarity_is_that_of_the_ten_most_similar_donors(world):
    (row,) = trust_features({TARGET: OTHERS[::-1]}, **world).itertuples()
    assert NEAREST == 10
    assert row.Index == TARGET
    assert row.most_similar == pytest.approx(0.95)
    assert row.similarity == pytest.approx(1 - np.arange(1, 11).mean() / 20)
    few = trust_features({TARGET: IDS[3:5]}, **world).loc[TARGET]
    assert few["similarity"] == pytest.approx((0.85 + 0.80) / 2)


def test_distances_are_to_the_nearest_donors(world):
    row = trust_features({TARGET: OTHERS}, **world).loc[TARGET]
    step = 0.1 / world["climate"]["aridity"].std()
    # frac_snow is one number everywhere: it tells nobody apart, and divides by nothing.
    assert row["climate_distance"] == pytest.approx(step * np.arange(1, 11).mean())
    assert row["log_km"] == pytest.approx(2.0)
    world["kilometres"].loc[TARGET] = 0.0
    assert trust_features({TARGET: OTHERS}, **world).loc[TARGET, "log_km"] == 0.0


def test_climate_that_is_missing_for_a_donor_does_not_make_the_row_missing(world):
    world["climate"].loc[IDS[1], "aridity"] = np.nan
    row = trust_features({TARGET: OTHERS}, **world).loc[TARGET]
    assert np.isfinite(row["climate_distance"])


def test_a_basin_is_no_donor_of_itself(world):
    with_itself = trust_features({TARGET: IDS}, **world)
    pd.testing.assert_frame_equal(with_itself, trust_features({TARGET: OTHERS}, **world))


def test_the_targets_own_climate_is_told(world):
    table = trust_features({IDS[4]: IDS[:4], IDS[2]: IDS[8:]}, **world)
    assert table.index.tolist() == [IDS[4], IDS[2]]
    assert table["aridity"].tolist() == pytest.approx([1.4, 1.2])
    world["climate"] = world["climate"].drop(columns="frac_snow")
    assert "frac_snow" not in trust_features({TARGET: OTHERS}, **world)


@pytest.mark.parametrize(
    ("spread", "told"),
    [
        (None, np.nan),
        (pd.Series({TARGET: 0.1}), -1.0),
        (pd.Series({OTHERS[0]: 0.1}), np.nan),
        (pd.Series({TARGET: np.nan}), np.nan),
        (pd.Series({TARGET: 0.0}), np.nan),
    ],
)
def test_spread_is_a_logarithm_or_missing(world, spread, told):
    row = trust_features({TARGET: OTHERS}, **world, spread=spread).loc[TARGET]
    assert row["log_spread"] == pytest.approx(told, nan_ok=True)
