"""Metrics against published oracle values, HydroErr, hand-checked vectors and edge cases."""

import HydroErr
import numpy as np
import pytest

from aef_dagster.evaluation import metrics
from aef_dagster.evaluation.metrics import METRIC_TEXT, METRICS, score, valid_days

# Values on which several packages agree (neuralhydrology, HydroErr, scores, spotpy, plain numpy).
ORACLE = {
    "nse": 0.7295834886386516,
    "kge": 0.8228346095113591,
    "kge_2012": 0.8414173247936131,
    "rmse": 1.0169078712913635,
    "pearson_r": 0.8576320596586288,
    "alpha_nse": 0.9041416543664061,
    "beta_nse": -0.06153144493484125,
    "pbias": -4.393316198885335,
    "fhv": -8.709986842999308,
    "flv_log": -43.83432635720265,
    "flv_linear": 3.6220583644823594,
    "fms": -5.397199655121532,
    "peak_timing": 1.0,
}


def days(n, start="2000-01-01"):
    return np.datetime64(start) + np.arange(n)


@pytest.fixture(scope="module")
def oracle():
    t = np.arange(730)
    storms = 8 * np.exp(-(t % 73) / 6) * (1 + 0.3 * np.cos(t / 50))
    obs = np.maximum(2 + 1.5 * np.sin(2 * np.pi * t / 365) + storms, 0)
    sim = 0.9 * np.roll(obs, 1) + 0.15 + 0.2 * np.sin(t / 7)
    assert obs.sum() == pytest.approx(1999.366993083755, abs=1e-9)
    assert sim.sum() == pytest.approx(1911.528479101440, abs=1e-9)
    return obs, sim, days(730)


def random_series(seed, n=900, missing=0.1):
    rng = np.random.default_rng(seed)
    obs = rng.gamma(0.8, 2, n)
    sim = obs * rng.uniform(0.4, 1.5, n) + rng.gamma(1, 0.2, n)
    obs[rng.random(n) < missing] = np.nan
    sim[rng.random(n) < missing / 3] = np.nan
    return obs, sim


def test_names_are_those_of_the_design():
    assert METRICS == (
        "nse", "kge", "kge_2012", "rmse", "pearson_r", "alpha_nse", "beta_nse", "pbias", "fhv",
        "flv_log", "flv_linear", "fms", "peak_timing",
    )  # fmt: skip
    assert all(METRIC_TEXT[name] for name in METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_oracle(oracle, name):
    assert score(*oracle)[name] == pytest.approx(ORACLE[name], abs=1e-9)


def test_hand_checked_ten_points():
    obs = np.arange(1, 11.0)
    sim = np.array([1.5, 1.8, 3.3, 3.9, 5.5, 5.7, 7.4, 7.6, 9.6, 9.1])
    result = score(obs, sim, days(10))
    assert result["nse"] == pytest.approx(1 - 2.22 / 82.5, abs=1e-12)
    assert result["rmse"] == pytest.approx(np.sqrt(0.222), abs=1e-12)
    assert result["pbias"] == pytest.approx(100 * 0.4 / 55, abs=1e-12)
    assert result["kge"] == pytest.approx(0.950593671962, abs=1e-11)
    assert result["kge_2012"] == pytest.approx(0.943990608133, abs=1e-11)
    assert result["flv_log"] == pytest.approx(45.819771458, abs=1e-8)
    assert result["flv_linear"] == pytest.approx(100 * (1.5 + 1.8 + 3.3 - 6) / 6, abs=1e-12)
    assert result["fms"] == pytest.approx(-14.946875236, abs=1e-8)
    assert metrics.fhv(obs, sim, share=0.2) == pytest.approx(-1.578947368, abs=1e-8)
    assert np.isnan(result["fhv"])  # 2 % of ten days is no day


def test_missing_pairs_are_dropped():
    obs = np.array([1, 2, np.nan, 4, 5, 6])
    sim = np.array([1.1, 1.9, 3, 4.2, 4.8, 6.1])
    result = score(obs, sim, days(6))
    assert result["nse"] == pytest.approx(0.9936046511627907, abs=1e-12)
    assert result["kge"] == pytest.approx(0.9936086694813232, abs=1e-12)
    assert valid_days(obs, sim) == 5


@pytest.mark.parametrize("seed", range(8))
def test_moments_agree_with_hydroerr_on_series_with_gaps(seed):
    obs, sim = random_series(seed)
    result = score(obs, sim, days(obs.size))
    keep = ~np.isnan(obs) & ~np.isnan(sim)
    obs, sim = obs[keep], sim[keep]
    assert result["nse"] == pytest.approx(HydroErr.nse(sim, obs), abs=1e-10)
    assert result["kge"] == pytest.approx(HydroErr.kge_2009(sim, obs), abs=1e-10)
    assert result["kge_2012"] == pytest.approx(HydroErr.kge_2012(sim, obs), abs=1e-10)
    assert result["rmse"] == pytest.approx(HydroErr.rmse(sim, obs), abs=1e-10)
    assert result["pearson_r"] == pytest.approx(HydroErr.pearson_r(sim, obs), abs=1e-10)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [60, 275, 333, 900])
def test_flow_duration_metrics_agree_with_their_formulas(seed, n):
    obs, sim = random_series(seed, n)
    result = score(obs, sim, days(n))
    keep = ~np.isnan(obs) & ~np.isnan(sim)
    # Written as in the papers: curves from high to low, part by part, one basin.
    o, s = np.sort(obs[keep])[::-1], np.sort(sim[keep])[::-1]
    high = round(0.02 * o.size)
    low = round(0.3 * o.size)
    fhv = 100 * (s[:high].sum() - o[:high].sum()) / o[:high].sum()
    linear = 100 * (s[-low:].sum() - o[-low:].sum()) / o[-low:].sum()
    o, s = np.maximum(o, 1e-6), np.maximum(s, 1e-6)
    lo, ls = np.log(o[-low:]), np.log(s[-low:])
    log = -100 * ((ls - ls[-1]).sum() / ((lo - lo[-1]).sum() + 1e-6) - 1)
    a, b = round(0.2 * o.size), round(0.7 * o.size)
    fms = 100 * (np.log(s[a] / s[b]) / (np.log(o[a] / o[b]) + 1e-6) - 1)
    assert result["fhv"] == pytest.approx(fhv, abs=1e-8)
    assert result["flv_linear"] == pytest.approx(linear, abs=1e-8)
    assert result["flv_log"] == pytest.approx(log, abs=1e-3)  # 1e-6 above is only below here
    assert result["fms"] == pytest.approx(fms, abs=1e-3)


def test_many_basins_at_once_equal_each_basin_alone():
    pairs = [random_series(seed) for seed in range(6)]
    obs, sim = (np.stack(part).reshape(2, 3, -1) for part in zip(*pairs, strict=True))
    together = score(obs, sim, days(obs.shape[-1]))
    for i, (o, s) in enumerate(pairs):
        alone = score(o, s, days(o.size))
        for name in METRICS:
            assert together[name].shape == (2, 3)
            value = together[name].reshape(-1)[i]
            np.testing.assert_allclose(value, alone[name], rtol=1e-12, err_msg=name)


def test_perfect_simulation():
    obs, _ = random_series(1)
    result = score(obs, obs, days(obs.size))
    best_one = ("nse", "kge", "kge_2012", "pearson_r", "alpha_nse")
    for name in METRICS:
        assert result[name] == pytest.approx(1.0 if name in best_one else 0.0, abs=1e-12), name


FIXED = {"rmse", "pbias"}  # defined by the mean alone


@pytest.mark.parametrize("constant", [0.1, 3.0])
def test_constant_observations_cannot_be_judged(constant):
    _, sim = random_series(2, missing=0)
    obs = np.full(sim.size, constant)
    result = score(obs, sim, days(sim.size))
    defined = {name for name in METRICS if not np.isnan(result[name])}
    assert defined == FIXED | {"fhv", "flv_linear"}


def test_constant_simulation():
    obs, _ = random_series(3, missing=0)
    result = score(obs, np.full(obs.size, obs.mean()), days(obs.size))
    assert result["nse"] == pytest.approx(0, abs=1e-12)
    assert result["alpha_nse"] == pytest.approx(0, abs=1e-12)
    assert all(np.isnan(result[name]) for name in ("kge", "kge_2012", "pearson_r"))


def test_all_zero_river():
    _, sim = random_series(4, missing=0)
    result = score(np.zeros(sim.size), sim, days(sim.size))
    assert {name for name in METRICS if not np.isnan(result[name])} == {"rmse"}


@pytest.mark.parametrize("n", [0, 1, 2, 3, 400])
def test_too_little_is_nan_never_infinite(n):
    obs, sim = random_series(5, n, missing=0)
    for o in (obs, np.full(n, np.nan), np.zeros(n)):
        result = score(o, sim, days(n))
        assert not any(np.isinf(result[name]) for name in METRICS)
    assert all(np.isnan(score(np.full(n, np.nan), sim, days(n))[name]) for name in METRICS)


def test_zero_and_negative_flows_count_as_tiny_in_logs():
    obs, sim = random_series(6, missing=0)
    obs[:200], sim[:50] = 0.0, -1.0
    replaced_obs, replaced_sim = np.maximum(obs, 1e-6), np.maximum(sim, 1e-6)
    for metric in (metrics.flv_log, metrics.fms):
        assert metric(obs, sim) == pytest.approx(metric(replaced_obs, replaced_sim), abs=1e-9)


def test_float32_series_are_scored_in_float64():
    obs, sim = (1000 + part.astype(np.float32) for part in random_series(7))
    expected = score(obs.astype(float), sim.astype(float), days(obs.size))
    result = score(obs, sim, days(obs.size))
    assert all(result[name] == expected[name] for name in METRICS)


def storm(n, *peaks, width=4.0):
    t = np.arange(n)
    return 0.2 + sum(10 * np.exp(-(((t - peak) / width) ** 2)) for peak in peaks)


def test_peak_timing_counts_days():
    obs = storm(600, 100, 300, 500)
    assert metrics.peak_timing(obs, storm(600, 102, 300, 499), days(600)) == pytest.approx(1.0)


def test_peak_timing_looks_no_further_than_three_days():
    obs = storm(400, 200)
    assert metrics.peak_timing(obs, storm(400, 230), days(400)) == 3.0


def test_peak_timing_leaves_out_peaks_beside_a_gap():
    obs, sim = storm(600, 100, 300, 500), storm(600, 102, 300, 499)
    obs[303] = np.nan  # the window of the second peak now spans a missing day
    assert metrics.peak_timing(obs, sim, days(600)) == pytest.approx(1.5)


def test_peak_timing_sees_gaps_in_the_dates():
    obs, sim = storm(600, 100, 300, 500), storm(600, 102, 300, 499)
    keep = np.arange(600) != 303
    result = metrics.peak_timing(obs[keep], sim[keep], days(600)[keep])
    assert result == pytest.approx(1.5)


def test_peak_timing_without_peaks_is_nan():
    assert np.isnan(metrics.peak_timing(np.arange(400.0), np.arange(400.0), days(400)))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        score(np.zeros(4), np.zeros(5), days(4))
    with pytest.raises(ValueError, match="dates"):
        score(np.zeros(4), np.zeros(4), days(5))
