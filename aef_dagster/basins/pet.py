"""Potential evapotranspiration where the data has none: Oudin's formula.

Chosen because it needs the daily mean temperature and the latitude only: some published forcing
products have tmax = tmin, which makes formulas with the daily range (Hargreaves) return zero.
"""

import numpy as np

PET_METHOD = "oudin_2005"

# FAO-56: solar constant, and the latent heat of vaporisation at about 20 degC.
SOLAR_CONSTANT_MJ_M2_MIN = 0.0820
LATENT_HEAT_MJ_KG = 2.45


def extraterrestrial_radiation(day_of_year: np.ndarray, latitude: float | np.ndarray) -> np.ndarray:
    """Radiation on a horizontal plane above the atmosphere, daily sum.

    Parameters
    ----------
    day_of_year
        1..366, any shape that broadcasts with `latitude`.
    latitude
        Degrees north.

    Returns
    -------
    ndarray
        Ra in MJ/m2/day; zero in the polar night.

    References
    ----------
    Allen et al. (1998), FAO Irrigation and Drainage Paper 56, equations 21-25.
    """
    phi = np.radians(latitude)
    angle = 2 * np.pi * np.asarray(day_of_year) / 365
    inverse_distance = 1 + 0.033 * np.cos(angle)
    declination = 0.409 * np.sin(angle - 1.39)
    # Outside -1..1 the sun does not set, or does not rise.
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1, 1))
    return (
        24 * 60 / np.pi * SOLAR_CONSTANT_MJ_M2_MIN * inverse_distance
        * (
            sunset * np.sin(phi) * np.sin(declination)
            + np.cos(phi) * np.cos(declination) * np.sin(sunset)
        )
    )  # fmt: skip


def oudin_pet(tmean: np.ndarray, date: np.ndarray, latitude: float | np.ndarray) -> np.ndarray:
    """Potential evapotranspiration from the daily mean temperature.

    PET = Ra / lambda * (T + 5) / 100 where T > -5 degC, else 0.

    Parameters
    ----------
    tmean
        Daily mean temperature in degC, the last axis is time.
    date
        Days, datetime64, one for each step of the last axis.
    latitude
        Degrees north: a number, or an array that broadcasts against `tmean` (basins: [B, 1]).

    Returns
    -------
    ndarray
        PET in mm/day, shape of `tmean`; NaN where the temperature is missing.

    References
    ----------
    Oudin et al. (2005), Journal of Hydrology 303, 290-306, doi 10.1016/j.jhydrol.2004.08.026.
    """
    days = np.asarray(date).astype("datetime64[D]")
    day_of_year = (days - days.astype("datetime64[Y]")).astype(int) + 1
    radiation = extraterrestrial_radiation(day_of_year, latitude)
    return radiation / LATENT_HEAT_MJ_KG * np.maximum(tmean + 5.0, 0.0) / 100.0
