"""Skill metrics of simulated streamflow, one definition each, for many basins at once.

Here: the metrics of the platform under the names that tables and MLflow use, each named for its
definition, and `score`, which computes all of them.
Not here: medians over basins, intervals and tests (statistics.py); pictures (figures.py).

Rules that hold for every metric: a day counts only where both series have a value; whatever is
undefined is NaN, never an infinity; computations are in float64. NSE of a constant observed series
is NaN here, where most packages return minus infinity: a basin that cannot be judged must not
count as a failure.
"""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

METRIC_TEXT: dict[str, str] = {
    "nse": "Nash-Sutcliffe efficiency: 1 - SSE / SST of the observed flow; best 1",
    "kge": "Kling-Gupta efficiency of 2009 (r, ratio of standard deviations, ratio of means); "
    "best 1",
    "kge_2012": "Kling-Gupta efficiency of 2012 (r, ratio of coefficients of variation, ratio of "
    "means); best 1",
    "rmse": "root mean squared error in the unit of the flow (mm/day); best 0",
    "pearson_r": "Pearson correlation; best 1",
    "alpha_nse": "standard deviation of simulated over that of observed flow; best 1",
    "beta_nse": "mean error over the standard deviation of observed flow; best 0",
    "pbias": "percent bias of the total volume, positive when simulated is larger; best 0",
    "fhv": "percent bias of the highest 2 % of the flow duration curve; best 0",
    "flv_log": "percent bias of the lowest 30 % of the flow duration curve, in log space above "
    "its minimum (Yilmaz et al. 2008), positive when simulated low flows are flatter; best 0",
    "flv_linear": "percent bias of the volume of the lowest 30 % of the flow duration curve "
    "(as in the AlphaEarth study); best 0",
    "fms": "percent bias of the log slope of the flow duration curve between 20 % and 70 % "
    "exceedance; best 0",
    "peak_timing": "mean absolute error in the timing of observed peaks, in days; best 0",
}
METRICS: tuple[str, ...] = tuple(METRIC_TEXT)

# Logarithms need positive flows: zero flow counts as this (mm/day), and the same number keeps
# denominators off zero. Both as in neuralhydrology, so that published numbers can be compared.
SMALL_FLOW = 1e-6

PEAK_DISTANCE_DAYS = 100
PEAK_WINDOW_DAYS = 3


def score(obs: ArrayLike, sim: ArrayLike, dates: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """All metrics of `METRICS`.

    Parameters
    ----------
    obs, sim
        Observed and simulated flow in the same unit, shape [..., time]; NaN = missing.
    dates
        The days, shape [time], ascending; gaps are allowed.

    Returns
    -------
    dict
        For each name in `METRICS` an array of shape [...]; NaN where undefined.
    """
    obs, sim = _paired(obs, sim)
    # Sorted once here: the flow duration metrics see only the values, not their order.
    low_to_high = np.sort(obs, axis=-1), np.sort(sim, axis=-1)
    results = _moment_metrics(obs, sim) | {
        "fhv": fhv(*low_to_high),
        "flv_log": flv_log(*low_to_high),
        "flv_linear": flv_linear(*low_to_high),
        "fms": fms(*low_to_high),
        "peak_timing": peak_timing(obs, sim, dates),
    }
    return {name: results[name] for name in METRICS}


def valid_days(obs: ArrayLike, sim: ArrayLike) -> NDArray[np.int64]:
    """Number of days on which both series have a value: [..., time] -> [...]."""
    obs, _ = _paired(obs, sim)
    return _count(obs)


def fhv(obs: ArrayLike, sim: ArrayLike, share: float = 0.02) -> NDArray[np.float64]:
    """Percent bias of the high flows.

    100 * sum(sim_h - obs_h) / sum(obs_h) over the `round(share * n)` highest flows of each series,
    sorted separately (Yilmaz et al. 2008, doi:10.1029/2007WR006716).

    Parameters
    ----------
    obs, sim
        Flow, shape [..., time].
    share
        Share of the days taken as high flows.

    Returns
    -------
    ndarray
        Percent, shape [...]; NaN below 25 days (no day would be left) or where sum(obs_h) is 0.
    """
    obs, sim, n = _sorted_pairs(obs, sim)
    first = n - _rounded(share, n)
    rank = np.arange(obs.shape[-1])
    high = (rank >= first[..., None]) & (rank < n[..., None])
    return _volume_bias(obs, sim, high)


def flv_linear(obs: ArrayLike, sim: ArrayLike, share: float = 0.3) -> NDArray[np.float64]:
    """Percent bias of the volume of the low flows.

    100 * sum(sim_l - obs_l) / sum(obs_l) over the `round(share * n)` lowest flows of each series,
    sorted separately: what the AlphaEarth study (arXiv:2601.01558) calls FLV. Not comparable with
    `flv_log`.

    Parameters
    ----------
    obs, sim
        Flow, shape [..., time].
    share
        Share of the days taken as low flows.

    Returns
    -------
    ndarray
        Percent, shape [...]; NaN where no day is left or the observed low flows are all 0.
    """
    obs, sim, n = _sorted_pairs(obs, sim)
    low = np.arange(obs.shape[-1]) < _rounded(share, n)[..., None]
    return _volume_bias(obs, sim, low)


def flv_log(obs: ArrayLike, sim: ArrayLike, share: float = 0.3) -> NDArray[np.float64]:
    """Percent bias of the low flows above their minimum, in log space.

    -100 * (S - O) / (O + 1e-6), where O and S are sum(log q_l - min log q_l) over the
    `round(share * n)` lowest observed and simulated flows, sorted separately (Yilmaz et al. 2008,
    doi:10.1029/2007WR006716, as computed by neuralhydrology). Flows of 0 or less count as 1e-6, so
    the number explodes for intermittent rivers: read it beside `flv_linear`.

    Parameters
    ----------
    obs, sim
        Flow, shape [..., time].
    share
        Share of the days taken as low flows.

    Returns
    -------
    ndarray
        Percent, shape [...]; NaN where no day is left or all observed low flows are equal.
    """
    obs, sim, n = _sorted_pairs(obs, sim)
    low = np.arange(obs.shape[-1]) < _rounded(share, n)[..., None]
    observed, simulated = (_log_volume_above_minimum(flow, low) for flow in (obs, sim))
    with np.errstate(invalid="ignore", divide="ignore"):
        bias = -100.0 * (simulated - observed) / (observed + SMALL_FLOW)
    return np.where(observed > 0, bias, np.nan)


def fms(
    obs: ArrayLike, sim: ArrayLike, lower: float = 0.2, upper: float = 0.7
) -> NDArray[np.float64]:
    """Percent bias of the slope of the middle of the flow duration curve.

    100 * (S - O) / (O + 1e-6), where O and S are log q(lower) - log q(upper) of the observed and
    simulated flow at these exceedance probabilities (Yilmaz et al. 2008,
    doi:10.1029/2007WR006716, as computed by neuralhydrology). Flows of 0 or less count as 1e-6.

    Parameters
    ----------
    obs, sim
        Flow, shape [..., time].
    lower, upper
        Exceedance probabilities between which the slope is taken.

    Returns
    -------
    ndarray
        Percent, shape [...]; NaN where the observed curve is flat in between.
    """
    obs, sim, n = _sorted_pairs(obs, sim)
    observed, simulated = (
        _log_at_exceedance(flow, n, lower) - _log_at_exceedance(flow, n, upper)
        for flow in (obs, sim)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        bias = 100.0 * (simulated - observed) / (observed + SMALL_FLOW)
    return np.where(observed > 0, bias, np.nan)


def peak_timing(obs: ArrayLike, sim: ArrayLike, dates: ArrayLike) -> NDArray[np.float64]:
    """Mean absolute difference in the timing of peaks, in days.

    Observed peaks stand out by at least the standard deviation of the observed flow and lie at
    least 100 days apart. The simulated peak is on the same day where the simulation has a local
    maximum there, else on the day of its largest value within 3 days. Peaks with a missing day
    within 3 days are left out (Kratzert et al. 2021, doi:10.5194/hess-25-2685-2021, as computed by
    neuralhydrology).

    Parameters
    ----------
    obs, sim
        Flow, shape [..., time].
    dates
        The days, shape [time], ascending; gaps are allowed.

    Returns
    -------
    ndarray
        Days, shape [...]; NaN where no peak can be judged.
    """
    obs, sim = _paired(obs, sim)
    days = np.asarray(dates, dtype="datetime64[D]").astype(np.int64)
    if days.shape != obs.shape[-1:]:
        raise ValueError(f"dates have shape {days.shape}, the series {obs.shape}")
    basins = obs.shape[:-1]
    rows = [_peak_timing_of_one(obs[i], sim[i], days) for i in np.ndindex(basins)]
    return np.array(rows, dtype=np.float64).reshape(basins)


def _peak_timing_of_one(obs: NDArray, sim: NDArray, days: NDArray) -> float:
    from scipy.signal import find_peaks

    valid = ~np.isnan(obs)
    obs, sim, days = obs[valid], sim[valid], days[valid]
    if obs.size == 0:
        return np.nan
    peaks, _ = find_peaks(obs, distance=PEAK_DISTANCE_DAYS, prominence=np.std(obs))
    window = PEAK_WINDOW_DAYS
    errors = []
    for peak in peaks:
        first, last = peak - window, peak + window
        if first < 0 or last >= obs.size or days[last] - days[first] != 2 * window:
            continue
        if sim[peak] > sim[peak - 1] and sim[peak] > sim[peak + 1]:
            errors.append(0)
        else:
            simulated = first + np.argmax(sim[first : last + 1])
            errors.append(abs(days[simulated] - days[peak]))
    return float(np.mean(errors)) if errors else np.nan


def _moment_metrics(obs: NDArray, sim: NDArray) -> dict[str, NDArray[np.float64]]:
    """Metrics made of means, variances and the correlation of paired series, by `scores`."""
    import xarray as xr
    from scores.continuous import additive_bias, kge, nse, pbias, rmse

    # `scores` refuses fewer than two days; days without values change nothing.
    padding = [(0, 0)] * (obs.ndim - 1) + [(0, max(0, 2 - obs.shape[-1]))]
    obs, sim = (np.pad(flow, padding, constant_values=np.nan) for flow in (obs, sim))
    dims = [f"dim_{i}" for i in range(obs.ndim - 1)] + ["time"]
    observed, simulated = xr.DataArray(obs, dims=dims), xr.DataArray(sim, dims=dims)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Constant and empty series divide by zero; they are set to NaN below.
        warnings.simplefilter("ignore")
        parts = kge(simulated, observed, reduce_dims="time", include_components=True)
        results = {
            "nse": nse(simulated, observed, reduce_dims="time"),
            "kge": parts["kge"],
            "kge_2012": _kge_2012(parts),
            "rmse": rmse(simulated, observed, reduce_dims="time"),
            "pearson_r": parts["rho"],
            "alpha_nse": parts["alpha"],
            "beta_nse": additive_bias(simulated, observed, reduce_dims="time")
            / observed.std("time"),
            "pbias": pbias(simulated, observed, reduce_dims="time"),
        }
        # By range, not by variance: rounding leaves a constant series a variance above zero.
        obs_varies = (observed.max("time") > observed.min("time")).values
        sim_varies = (simulated.max("time") > simulated.min("time")).values
    defined = {
        "nse": obs_varies,
        "alpha_nse": obs_varies,
        "beta_nse": obs_varies,
        "pearson_r": obs_varies & sim_varies,
        "kge": obs_varies & sim_varies,
        "kge_2012": obs_varies & sim_varies,
    }
    return {
        name: np.where(defined.get(name, True) & np.isfinite(values), values, np.nan)
        for name, values in results.items()
    }


def _kge_2012(parts):
    """KGE of Kling et al. 2012 (doi:10.1016/j.jhydrol.2012.01.011), from the parts of that of 2009.

    Asked for by itself it would cost the three parts again, a quarter of all scores.
    """
    gamma = parts["alpha"] / parts["beta"]  # the ratio of the coefficients of variation
    return 1 - ((parts["rho"] - 1) ** 2 + (gamma - 1) ** 2 + (parts["beta"] - 1) ** 2) ** 0.5


def _paired(obs: ArrayLike, sim: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both series in float64, with NaN in both wherever one of them has it."""
    obs, sim = np.asarray(obs, dtype=np.float64), np.asarray(sim, dtype=np.float64)
    if obs.shape != sim.shape or obs.ndim == 0:
        raise ValueError(f"obs {obs.shape} and sim {sim.shape} must have one shape [..., time]")
    missing = np.isnan(obs) | np.isnan(sim)
    return np.where(missing, np.nan, obs), np.where(missing, np.nan, sim)


def _count(paired: NDArray) -> NDArray[np.int64]:
    return np.count_nonzero(~np.isnan(paired), axis=-1)


def _rounded(share: float, n: NDArray) -> NDArray[np.int64]:
    """`share` of n days, half to even, which is how the published numbers were made."""
    return np.round(share * n).astype(np.int64)


def _sorted_pairs(obs: ArrayLike, sim: ArrayLike) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Each series from low to high, missing days last, and the number of valid days."""
    obs, sim = _paired(obs, sim)
    return np.sort(obs, axis=-1), np.sort(sim, axis=-1), _count(obs)


def _volume_bias(obs: NDArray, sim: NDArray, where: NDArray) -> NDArray[np.float64]:
    observed, simulated = (np.sum(flow, axis=-1, where=where) for flow in (obs, sim))
    with np.errstate(invalid="ignore", divide="ignore"):
        bias = 100.0 * (simulated - observed) / observed
    return np.where(np.isfinite(bias), bias, np.nan)


def _log_volume_above_minimum(low_to_high: NDArray, where: NDArray) -> NDArray[np.float64]:
    if low_to_high.shape[-1] == 0:
        return np.zeros(low_to_high.shape[:-1])
    logs = np.log(np.maximum(low_to_high, SMALL_FLOW))
    return np.sum(logs - logs[..., :1], axis=-1, where=where)


def _log_at_exceedance(low_to_high: NDArray, n: NDArray, share: float) -> NDArray[np.float64]:
    """Log flow exceeded by `share` of the n valid days; NaN where there is none."""
    if low_to_high.shape[-1] == 0:
        return np.full(n.shape, np.nan)
    position = n - 1 - _rounded(share, n)
    flow = np.take_along_axis(low_to_high, np.maximum(position, 0)[..., None], axis=-1)[..., 0]
    return np.where(position >= 0, np.log(np.maximum(flow, SMALL_FLOW)), np.nan)
