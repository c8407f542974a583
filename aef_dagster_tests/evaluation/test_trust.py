"""Expected NSE of an ungauged basin: honest intervals, also with few basins and poor features."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from aef_dagster.errors import UserError
from aef_dagster.evaluation.trust import TrustModel, coverage, cross_fitted, fit_trust


def world(n: int, seed: int, signal: float = 1.0) -> tuple[pd.DataFrame, pd.Series]:
    """Basins whose t = 1 / (2 - NSE) hangs on similarity and climate, and is unsure by spread."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    unsure = 0.06 * np.exp(0.4 * signal * x[:, 2])
    t = 0.68 + signal * (0.08 * x[:, 0] - 0.03 * x[:, 1]) + unsure * rng.normal(size=n)
    index = pd.Index([f"{i:08d}" for i in range(n)], name="gauge_id")
    features = pd.DataFrame(x, index, ["similarity", "climate_distance", "ensemble_spread"])
    return features, pd.Series(2 - 1 / np.clip(t, 0.02, 0.98), index)


def test_a_planted_law_is_found_and_the_interval_holds_on_fresh_basins():
    features, nse = world(400, 0)
    model = fit_trust(features, nse)
    low, median, high = np.array(model.coefficients) / np.array(model.scale)
    assert median == pytest.approx([0.08, -0.03, 0], abs=0.012)
    slope = 0.06 * 0.4 * norm.ppf(0.9)  # of the ends against the spread, at its mean
    assert low[2] == pytest.approx(-slope, abs=0.02)
    assert high[2] == pytest.approx(slope, abs=0.02)
    fresh, observed = world(4000, 1)
    told = coverage(model.expect(fresh), observed)
    # The fit itself varies from draw to draw by 2 %.
    assert told["share"] == pytest.approx(0.8, abs=0.05)
    assert told["rank_correlation"] > 0.7
    assert told["n"] == 4000
    assert told["low"] < told["share"] < told["high"]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "signal"), [(24, 0.0), (24, 1.0), (100, 1.0)])
def test_coverage_is_near_its_level_over_repeated_draws(n, signal):
    shares = []
    for seed in range(10):
        model = fit_trust(*world(n, seed, signal), seed=seed)
        fresh, observed = world(1000, 500 + seed, signal)
        shares.append(coverage(model.expect(fresh), observed)["share"])
    # The share of one fit to n basins varies by sqrt(0.8 * 0.2 / n), the mean of ten by a third.
    assert np.mean(shares) == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / n / 10))


def test_cross_fitted_expectations_cover_and_rank_held_out_basins():
    features, nse = world(200, 2)
    nse.iloc[:10] = np.nan
    table = cross_fitted(features, nse)
    assert table.index.tolist() == nse.index[10:].tolist()
    told = coverage(table, nse)
    assert told["n"] == 190
    assert told["low"] - 0.03 <= 0.8 <= told["high"] + 0.03
    assert told["rank_correlation"] > 0.6
    assert (table["low"] <= table["expected"]).all()
    assert (table["expected"] <= table["high"]).all()
    assert (table["high"] <= 1).all()


def test_features_without_a_message_are_not_followed():
    features, nse = world(150, 3, signal=0.0)
    told = coverage(cross_fitted(features, nse), nse)
    assert abs(told["rank_correlation"]) < 0.25
    assert abs(told["share"] - 0.8) < 0.1


def test_a_held_out_basin_has_no_say_in_its_own_expectation():
    features, nse = world(40, 4)
    before = cross_fitted(features, nse)
    changed = nse.copy()
    changed.iloc[7] = -40.0
    after = cross_fitted(features, changed)
    assert after.iloc[7].equals(before.iloc[7])
    assert not after.equals(before)


def test_constant_and_missing_features_are_dropped_and_named():
    features, nse = world(30, 5)
    features.insert(0, "flat", 0.5)
    features["empty"] = np.nan
    features.loc[features.index[:8], "climate_distance"] = np.nan
    model = fit_trust(features, nse)
    assert model.dropped == ("flat", "empty")
    assert model.features == ("similarity", "climate_distance", "ensemble_spread")
    table = model.expect(features)
    assert table.notna().all(axis=None)
    filled = features.fillna({"climate_distance": model.fill[1]})
    pd.testing.assert_frame_equal(table, model.expect(filled))
    nothing = fit_trust(features[["flat", "empty"]], nse)
    assert nothing.features == ()
    expected = nothing.expect(features)
    assert expected["expected"].nunique() == 1
    assert expected["expected"].iloc[0] == pytest.approx(nse.median(), abs=0.05)


def test_too_few_basins_is_not_calibrated():
    features, nse = world(24, 6)
    nse.iloc[:5] = np.nan
    with pytest.raises(UserError, match=r"not calibrated yet: .* there are 19; train more"):
        fit_trust(features, nse)
    with pytest.raises(UserError, match="not calibrated yet"):
        cross_fitted(features, nse)
    nse.iloc[0] = 0.5
    assert fit_trust(features, nse).n_basins == 20
    # 95 % of 20 can be calibrated; more cannot, and the interval is all there is.
    wide = fit_trust(features, nse, level=0.99).expect(features)
    assert (wide["high"] == 1).all()
    assert (wide["low"] == -98).all()


def test_the_model_is_plain_json_and_comes_back_equal():
    features, nse = world(60, 7)
    features["flat"] = 1.0
    model = fit_trust(features, nse, level=0.9)
    text = model.to_json()
    assert json.loads(text)["level"] == 0.9
    again = TrustModel.from_json(text)
    assert again == model
    pd.testing.assert_frame_equal(again.expect(features), model.expect(features))
    with pytest.raises(UserError, match="needs climate_distance"):
        again.expect(features.drop(columns="climate_distance"))


def test_basins_unlike_those_fitted_to_are_told():
    features, nse = world(60, 8)
    model = fit_trust(features, nse)
    assert (model.expect(features)["beyond"] == 0).all()
    far = features.iloc[:1].assign(similarity=99.0, climate_distance=-99.0)
    assert model.expect(far)["beyond"].tolist() == [2]


def test_coverage_counts_by_hand():
    table = pd.DataFrame(
        {"expected": [0.5, 0.6, 0.7, 0.8], "low": 0.4, "high": [0.6, 0.7, 0.8, 0.9]},
        index=list("abcd"),
    )
    nse = pd.Series({"a": 0.5, "b": 0.9, "c": 0.4, "d": np.nan, "e": 0.1})
    told = coverage(table, nse)
    assert (told["n"], told["share"]) == (3, pytest.approx(2 / 3))
    # Wilson for 2 of 3: (p + z2 / 2n -+ z sqrt(p (1 - p) / n + z2 / 4n2)) / (1 + z2 / n).
    assert told["low"] == pytest.approx(0.2077, abs=1e-4)
    assert told["high"] == pytest.approx(0.9385, abs=1e-4)
    assert told["median_width"] == pytest.approx(0.3)
    assert told["rank_correlation"] == pytest.approx(-0.5)
    assert np.isnan(coverage(table, nse[["e"]])["share"])
    assert np.isnan(coverage(table.assign(expected=0.5), nse)["rank_correlation"])
