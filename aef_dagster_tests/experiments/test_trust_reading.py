"""Calibrations of an expected NSE, and what is said of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aef_dagster.experiments import trust

FEATURES = ["similarity", "climate_distance", "log_km"]


def held_out(n, n_blind=0, signal=1.0, seed=0):
    """Features and NSE of n basins, and features of some without flow."""
    rng = np.random.default_rng(seed)
    index = pd.Index([f"{i:08d}" for i in range(n + n_blind)], name="gauge_id")
    features = pd.DataFrame(rng.normal(size=(n + n_blind, 3)), index, FEATURES)
    t = 0.7 + signal * 0.1 * features["similarity"] + 0.04 * rng.normal(size=n + n_blind)
    nse = (2 - 1 / t.clip(0.05, 0.98)).where(np.arange(n + n_blind) < n)
    return features, nse


@pytest.fixture(scope="module")
def planted():
    return trust.calibrate("regional_models", "folds, told aef", *held_out(60, 8))


def test_nineteen_basins_are_too_few_and_twenty_are_not():
    features, nse = held_out(19, 10)
    assert trust.calibrate("regional_models", "folds", features, nse) is None
    nse.iloc[19] = 0.5
    found = trust.calibrate("regional_models", "folds", features, nse)
    assert found is not None
    assert int(found.table["held_out"].sum()) == found.told["n"] == 20


def test_a_planted_relation_ranks_basins(planted):
    assert planted.told["rank_correlation"] > 0.8
    assert planted.told["n"] == 60
    assert (planted.asset, planted.choice) == ("regional_models", "folds, told aef")
    table = planted.table
    assert (table["low"] <= table["expected_nse"]).all()
    assert (table["expected_nse"] <= table["high"]).all()


def test_no_relation_ranks_nobody():
    found = trust.calibrate("regional_models", "folds", *held_out(60, signal=0.0))
    assert abs(found.told["rank_correlation"]) < 0.4


def test_basins_without_flow_have_an_expectation_that_no_score_stands_behind(planted):
    table = planted.table
    assert len(table) == 68
    assert table.index.is_unique
    blind = table[~table["held_out"]]
    assert blind.index.tolist() == [f"{i:08d}" for i in range(60, 68)]
    assert blind["nse"].isna().all()
    assert blind["expected_nse"].notna().all()
    features, _ = held_out(60, 8)
    # They follow the relation that was learned from the others.
    order = features["similarity"][blind.index].rank()
    assert blind["expected_nse"].rank().corr(order) > 0.8


def test_the_expectation_of_a_basin_never_sees_its_own_score():
    features, nse = held_out(24)
    one = trust.calibrate("regional_models", "folds", features, nse).table
    worse = nse.copy()
    worse.iloc[5] = -5.0
    other = trust.calibrate("regional_models", "folds", features, worse).table
    gauge_id = nse.index[5]
    for column in ("expected_nse", "low", "high"):
        assert one.loc[gauge_id, column] == other.loc[gauge_id, column]
    assert not one["expected_nse"].equals(other["expected_nse"])


def test_scores_of_basins_without_features_do_not_matter():
    features, nse = held_out(22)
    more = pd.concat([nse, pd.Series({"99999999": 0.1})])
    one = trust.calibrate("regional_models", "folds", features, nse)
    other = trust.calibrate("regional_models", "folds", features, more)
    pd.testing.assert_frame_equal(one.table, other.table)


def test_the_reading_tells_of_the_largest_calibration(planted):
    small = trust.calibrate("basin_models", "donors aef k=5", *held_out(24, seed=3))
    reading = trust.read([small, planted], ["donors random k=5"], "[sample] ")
    assert reading.name == trust.NAME
    assert reading.findings[0].startswith("Of 60 basins simulated without their gauge (folds, ")
    assert "calibrations hold their level" in reading.findings[1]
    assert (
        "1 choice of training has too few scored basins (fewer than 20)" in (reading.findings[-1])
    )
    assert reading.numbers["rank_correlation"] == planted.told["rank_correlation"]
    assert reading.tables[0].frame["basins"].tolist() == [24, 60]
    assert reading.tables[1].frame.index.name == "gauge_id"
    assert len(reading.tables[1].frame) == 68
    assert reading.pictures[0].content.startswith(b"\x89PNG\r\n")
    inside = reading.estimates[reading.estimates["measure"].str.startswith("share of held-out")]
    assert (inside["low"] <= inside["value"]).all()
    assert (inside["value"] <= inside["high"]).all()
    (check,) = reading.checks
    assert check.name == "coverage_holds"
    assert check.passed


def test_intervals_that_hold_too_few_fail_the_check(planted):
    told = planted.told | {"share": 0.4, "low": 0.28, "high": 0.53}
    reading = trust.read([replace(planted, told=told)], [], "")
    assert not reading.checks[0].passed
    assert reading.findings[1].startswith("0 of 1 calibrations")


def test_nothing_to_read_says_so():
    reading = trust.read([], ["donors aef k=5"], "")
    assert "No expectation of NSE is calibrated yet: it takes 20 basins" in reading.findings[0]
    assert reading.estimates.empty
    assert reading.numbers == {}
