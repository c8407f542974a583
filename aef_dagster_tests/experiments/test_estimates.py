"""Estimates: rows of one shape, and intervals that keep their rate."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.experiments.estimates import COLUMNS, Estimates, interval, verdict
from aef_dagster_tests.experiments.study_world import IDS, LAND, Truth, study_scores

REGIONS = LAND.basins.frame["huc_02"]


def some(seed, shift=0.0, scale=0.05):
    rng = np.random.default_rng(seed)
    return pd.Series(rng.normal(0.6 + shift, scale, len(IDS)), index=list(IDS))


def test_the_table_has_one_shape_also_when_it_is_empty():
    assert Estimates().frame().columns.tolist() == COLUMNS
    found = Estimates(REGIONS)
    found.median(some(0), "aef", "folds")
    found.difference(some(0), some(1), "aef", "attributes17", "folds", k=4)
    found.add("parameters", "EA-LSTM", 12)
    frame = found.frame()
    assert frame.columns.tolist() == COLUMNS
    assert [str(frame[c].dtype) for c in ("value", "p", "k", "n_basins")] == [
        "float64", "float64", "Int32", "Int32",
    ]  # fmt: skip
    assert frame["k"].isna().tolist() == [True, False, True]
    assert frame.loc[2, "value"] == 12.0


def test_pairs_are_matched_by_basin_and_not_by_place():
    a = some(0)
    b = (a - 0.1).sample(frac=1, random_state=1)
    row = Estimates(REGIONS).difference(a, b, "a", "b", "folds")
    assert row["value"] == pytest.approx(0.1)
    assert row["low"] == pytest.approx(row["high"])
    less = Estimates(REGIONS).difference(a.iloc[5:], b, "a", "b", "folds")
    assert less["n_basins"] == 55
    a.iloc[:7] = np.nan
    assert Estimates(REGIONS).difference(a, b, "a", "b", "folds")["n_basins"] == 53


def test_a_summary_is_six_numbers_of_the_same_basins():
    values = some(2).clip(upper=0.65)
    values.iloc[:3] = [-0.4, np.nan, -0.1]
    found = Estimates(REGIONS)
    told = found.summary(values, "aef", "folds")
    frame = found.frame().set_index("measure")["value"]
    assert told["n_missing"] == 1
    assert set(found.frame()["n_basins"]) == {59}
    assert frame["median NSE"] == values.median()
    assert frame["mean NSE"] == pytest.approx(values.mean())
    assert frame["share of basins with NSE below 0"] == pytest.approx(2 / 59)
    assert frame["lower quartile of NSE"] < frame["median NSE"] < frame["upper quartile of NSE"]


def test_whole_regions_are_resampled_where_there_are_eight():
    index = list(IDS)
    of_region = {"01": 0.3, "02": -0.3, "03": 0.2}
    values = some(3) + REGIONS.map(of_region).fillna(0.0).to_numpy(dtype=float)
    eight = pd.Series([f"{i % 8:02d}" for i in range(60)], index)
    seven = pd.Series([f"{i % 7:02d}" for i in range(60)], index)
    assert Estimates(eight).groups(values.index) is not None
    assert Estimates(seven).groups(values.index) is None
    rows = {
        name: Estimates(groups).median(values, "aef", "folds")
        for name, groups in (("regions", REGIONS), ("basins", None), ("few", seven))
    }
    width = {name: row["high"] - row["low"] for name, row in rows.items()}
    assert width["regions"] > 1.2 * width["basins"]
    assert width["few"] == width["basins"]


def test_regions_follow_the_basins_that_are_compared():
    found = Estimates(REGIONS)
    index = pd.Index(IDS[::-1])
    assert found.groups(index).tolist() == [REGIONS[g] for g in index]
    assert found.groups(pd.Index([IDS[40], IDS[3], IDS[17]])) is None  # three regions at most


def test_so_few_basins_have_a_value_and_no_interval():
    a, b = some([1, 0], 0.1)[:7], some([1, 1])[:7]
    found = Estimates()
    row = found.difference(a, b, "a", "b", "donors")
    assert np.isfinite(row["value"]) and np.isnan(row["low"]) and np.isnan(row["high"])
    assert verdict(row) == "too few basins for an interval"
    assert np.isnan(found.median(a, "a", "donors")["low"])


def test_intervals_of_independent_basins_hold_at_their_rate():
    truth, held = 0.02, 0
    for seed in range(200):
        a, b = some([seed, 0], truth), some([seed, 1])
        row = Estimates().difference(a, b, "a", "b", "folds")
        held += row["low"] <= truth <= row["high"]
    # 95 % of 200, give or take three standard errors of 1.5 %.
    assert 0.905 <= held / 200 <= 0.995


def test_without_an_effect_higher_is_said_about_as_often_as_the_interval_allows():
    """Luck that neighbours share: resampling regions keeps the rate, resampling basins does not."""
    said = {"regions": 0, "basins": 0}
    n = 200
    for seed in range(n):
        rng = np.random.default_rng([seed, 7])
        shared = dict(zip(sorted(REGIONS.unique()), rng.normal(size=9), strict=True))
        luck = REGIONS.map(shared).to_numpy(dtype=float) + rng.normal(size=60)
        a, b = pd.Series(0.6 + 0.02 * luck, list(IDS)), pd.Series(0.6, list(IDS))
        for name, groups in (("regions", REGIONS), ("basins", None)):
            found = Estimates(groups).difference(a, b, "aef", "none", "folds")
            said[name] += verdict(found) == "higher"
    # 2.5 % is stated. Nine regions are few: 6 % in 600 trials (with the 18 of CAMELS-US 4 %).
    # Resampled basins, as if neighbours knew nothing of each other: 16 %.
    assert said["regions"] / n <= 0.10
    assert said["basins"] / n > 0.10
    assert said["basins"] > 1.5 * said["regions"]


def test_on_scores_without_an_effect_the_embedding_is_seldom_called_higher():
    """The controls' comparisons, from the plan to the verdict, twenty-five times."""
    studies = [(0.0, seed) for seed in range(20)] + [(0.06, seed) for seed in range(5)]
    said = {(effect, control): 0 for effect in (0.0, 0.06) for control in ("none", "shuffled")}
    for effect, seed in studies:
        scores = study_scores(Truth(effect=effect, noise=0.05, seed=seed), only=("controls",))
        here = scores[scores["design"] == "folds"]
        nse = here.groupby(["representation", "gauge_id"])["nse"].median().unstack(0)
        for control in ("none", "shuffled"):
            row = Estimates(REGIONS).difference(nse["aef"], nse[control], "aef", control, "")
            said[effect, control] += verdict(row) == "higher"
    # At a rate of 6 % (see above) five or more of 20 would be seen once in 150 times.
    assert max(said[0.0, control] for control in ("none", "shuffled")) <= 4
    assert said[0.06, "none"] == said[0.06, "shuffled"] == 5


def test_an_interval_in_words():
    row = {"value": 0.6123, "low": 0.59, "high": 0.6334}
    assert interval(row) == "0.612 (0.590 to 0.633)"
    assert interval(row, 2, signed=True) == "+0.61 (+0.59 to +0.63)"
    assert interval({"value": -0.01, "low": np.nan, "high": np.nan}, signed=True) == "-0.010"
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.500"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.02, "higher"),
        (-0.02, -0.001, "lower"),
        (-0.001, 0.02, "not told apart"),
        (0.0, 0.02, "not told apart"),
        (np.nan, np.nan, "too few basins for an interval"),
        (None, None, "too few basins for an interval"),
    ],
)
def test_what_an_interval_allows_to_say(low, high, said):
    assert verdict({"value": 0.0, "low": low, "high": high}) == said
