"""Climate indices of a basin, computed from its forcings over a chosen period.

Here: nine of the indices of CAMELS-US by their published definitions, for all basins at once.
Computed rather than read, so that they can be kept to the training period.
Not here: the published table itself (camels_us.py).
"""

import numpy as np
import pandas as pd
import xarray as xr

CLIMATE_INDICES = (
    "p_mean",
    "pet_mean",
    "p_seasonality",
    "frac_snow",
    "aridity",
    "high_prec_freq",
    "high_prec_dur",
    "low_prec_freq",
    "low_prec_dur",
)
DAYS_PER_YEAR = 365.25
HIGH_PRECIPITATION = 5.0  # times the mean of the basin
DRY_DAY_MM = 1.0


def climate_indices(
    prcp: np.ndarray, tmean: np.ndarray, pet: np.ndarray, dates: np.ndarray
) -> pd.DataFrame:
    """Nine climate indices of each basin.

    Parameters
    ----------
    prcp, tmean, pet
        Precipitation (mm/day), mean temperature (degC), potential evapotranspiration (mm/day),
        each [basin, date]; NaN is left out of what it touches.
    dates
        Days, datetime64, [date].

    Returns
    -------
    DataFrame
        A row a basin. p_mean, pet_mean (mm/day); p_seasonality (-1..1 and a little beyond, positive
        for wet summers); frac_snow (share of precipitation on days below 0 degC); aridity (pet_mean
        / p_mean); high_prec_freq (days/year with at least 5 times p_mean); low_prec_freq (days/year
        below 1 mm); high_prec_dur, low_prec_dur (days, mean length of such spells).

    References
    ----------
    Addor et al. (2017), HESS 21, 5293-5313, table 2; p_seasonality: Woods (2009), Advances in
    Water Resources 32, 1465-1481, equation 14.
    """
    prcp, tmean, pet = (np.asarray(values, float) for values in (prcp, tmean, pet))
    p_mean = _mean(prcp)
    both = np.isfinite(prcp) & np.isfinite(tmean)
    snow = np.where(both & (tmean < 0), prcp, 0).sum(axis=1)
    rain_and_snow = np.where(both, prcp, 0).sum(axis=1)
    pet_mean = _mean(pet)
    n_days = np.isfinite(prcp).sum(axis=1)
    # A comparison with NaN is false: a missing day is neither wet nor dry, and ends a spell.
    high = prcp >= HIGH_PRECIPITATION * p_mean[:, None]
    low = prcp < DRY_DAY_MM
    columns = {
        "p_mean": p_mean,
        "pet_mean": pet_mean,
        "p_seasonality": _seasonality(prcp, tmean, dates),
        "frac_snow": _ratio(snow, rain_and_snow),
        "aridity": _ratio(pet_mean, p_mean),
        "high_prec_freq": _ratio(high.sum(axis=1) * DAYS_PER_YEAR, n_days),
        "high_prec_dur": _spell_length(high, n_days),
        "low_prec_freq": _ratio(low.sum(axis=1) * DAYS_PER_YEAR, n_days),
        "low_prec_dur": _spell_length(low, n_days),
    }
    return pd.DataFrame({name: columns[name] for name in CLIMATE_INDICES})


def climate_from_cube(cube: xr.Dataset, start: str, end: str) -> pd.DataFrame:
    """Climate indices of each basin of the cube over a period.

    Parameters
    ----------
    cube
        Dims (basin, date), with prcp, tmin, tmax and pet.
    start, end
        First and last day, ISO dates.

    Returns
    -------
    DataFrame
        As `climate_indices`, indexed by gauge_id.
    """
    period = cube[["prcp", "tmin", "tmax", "pet"]].sel(date=slice(start, end))
    tmean = (period["tmin"].values + period["tmax"].values) / 2
    indices = climate_indices(
        period["prcp"].values, tmean, period["pet"].values, period["date"].values
    )
    return indices.set_index(pd.Index(cube["basin"].values, name="gauge_id"))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over days; NaN for a basin without any."""
    return _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(axis=1))


def _spell_length(days: np.ndarray, n_days: np.ndarray) -> np.ndarray:
    """Mean length of the runs of true days, [basin]; 0 without a run, NaN without data."""
    first = days.copy()
    first[:, 1:] &= ~days[:, :-1]
    n_spells = first.sum(axis=1)
    length = np.where(n_spells > 0, days.sum(axis=1) / np.maximum(n_spells, 1), 0.0)
    return np.where(n_days > 0, length, np.nan)


def _seasonality(prcp: np.ndarray, tmean: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Relative amplitude of the yearly wave of precipitation, signed by that of temperature.

    With P = Pm (1 + dp sin(w t - sp)) and T = Tm + dt sin(w t - st), dt > 0: dp cos(sp - st).
    """
    days = np.asarray(dates).astype("datetime64[D]")
    day_of_year = (days - days.astype("datetime64[Y]")).astype(int) + 1
    angle = 2 * np.pi * day_of_year / DAYS_PER_YEAR
    waves = np.stack([np.ones_like(angle), np.sin(angle), np.cos(angle)], axis=1)
    mean, *p_wave = _fit(prcp, waves)
    _, *t_wave = _fit(tmean, waves)
    # The product of two amplitudes and the cosine between their phases is a dot product.
    dot = p_wave[0] * t_wave[0] + p_wave[1] * t_wave[1]
    return _ratio(dot, mean * np.hypot(*t_wave))


def _fit(values: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Least-squares coefficients [wave, basin] of values [basin, date], missing days left out."""
    there = np.isfinite(values)
    gram = np.einsum("bt,ti,tj->bij", there.astype(float), waves, waves, optimize=True)
    moment = np.where(there, values, 0) @ waves
    coefficients = np.full(moment.shape, np.nan)
    # Fewer than three days of data leave the three coefficients undetermined.
    fits = np.linalg.matrix_rank(gram) == waves.shape[1]
    coefficients[fits] = np.linalg.solve(gram[fits], moment[fits][..., None])[..., 0]
    return coefficients.T
