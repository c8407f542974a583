"""PET against FAO-56's worked examples; the climate indices against series made by hand."""

import numpy as np
import pytest
import xarray as xr

from aef_dagster.basins.climate import CLIMATE_INDICES, climate_from_cube, climate_indices
from aef_dagster.basins.pet import extraterrestrial_radiation, oudin_pet

FOUR_YEARS = np.arange("1990-01-01", "1994-01-01", dtype="datetime64[D]")


def test_extraterrestrial_radiation_of_fao56_example_8():
    # 20 degrees south on 3 September (day 246): 32.2 MJ/m2/day.
    assert extraterrestrial_radiation(np.array(246), -20.0) == pytest.approx(32.2, abs=0.05)


@pytest.mark.parametrize("latitude", [-70.0, -20.0, 0.0, 45.0, 70.0])
@pytest.mark.parametrize("day", [15, 80, 172, 266, 355])
def test_extraterrestrial_radiation_is_the_sum_over_the_hours(latitude, day):
    """FAO-56's closed form against the sum over a day of the sun's height, above the horizon."""
    hour = np.linspace(-np.pi, np.pi, 20_001)
    phi = np.radians(latitude)
    declination = 0.409 * np.sin(2 * np.pi * day / 365 - 1.39)
    height = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    mean = np.maximum(height, 0)[:-1].mean()
    expected = 24 * 60 * 0.0820 * (1 + 0.033 * np.cos(2 * np.pi * day / 365)) * mean
    got = extraterrestrial_radiation(np.array(day), latitude)
    assert got == pytest.approx(expected, abs=1e-4)
    assert (got == 0) == ((latitude, day) in {(-70.0, 172), (70.0, 355), (70.0, 15)})


def test_oudin_by_hand_and_its_threshold():
    date = np.array(["1990-09-03"], "datetime64[D]")
    # 32.2 MJ/m2/day / 2.45 MJ/kg * (15 + 5) / 100 = 2.63 mm/day.
    assert oudin_pet(np.array([15.0]), date, -20.0)[0] == pytest.approx(2.63, abs=0.01)
    assert oudin_pet(np.array([-5.0]), date, -20.0)[0] == 0
    assert oudin_pet(np.array([-30.0]), date, -20.0)[0] == 0
    assert np.isnan(oudin_pet(np.array([np.nan]), date, -20.0)[0])


def test_oudin_of_basins_at_once_is_that_of_each():
    rng = np.random.default_rng(1)
    tmean = rng.normal(8, 10, (3, len(FOUR_YEARS)))
    latitude = np.array([30.0, 40.0, 49.0])
    together = oudin_pet(tmean, FOUR_YEARS, latitude[:, None])
    for i in range(3):
        np.testing.assert_allclose(together[i], oudin_pet(tmean[i], FOUR_YEARS, latitude[i]))
    assert (together >= 0).all()


def angle(dates=FOUR_YEARS):
    day_of_year = (dates - dates.astype("datetime64[Y]")).astype(int) + 1
    return 2 * np.pi * day_of_year / 365.25


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.6), (np.pi, -0.6), (np.pi / 2, 0.0)])
def test_seasonality_is_the_signed_amplitude(shift, expected):
    tmean = 10 + 12 * np.sin(angle() - 1.9)
    prcp = 3 * (1 + 0.6 * np.sin(angle() - 1.9 - shift))
    table = climate_indices(prcp[None], tmean[None], prcp[None], FOUR_YEARS)
    assert table["p_seasonality"].item() == pytest.approx(expected, abs=1e-9)


def test_indices_of_a_series_made_by_hand():
    dates = np.arange("1990-01-01", "1990-01-21", dtype="datetime64[D]")
    prcp = np.zeros(20)
    prcp[[2, 3, 10]] = 20.0, 30.0, 40.0  # mean 4.5, five times that is 22.5
    prcp[4] = 0.0
    tmean = np.full(20, 5.0)
    tmean[10] = -1.0
    pet = np.full(20, 9.0)
    table = climate_indices(prcp[None], tmean[None], pet[None], dates).iloc[0]
    assert list(table.index) == list(CLIMATE_INDICES)
    assert table["p_mean"] == 4.5
    assert table["aridity"] == 2.0
    assert table["frac_snow"] == pytest.approx(40 / 90)
    assert table["high_prec_freq"] == pytest.approx(2 * 365.25 / 20)
    assert table["high_prec_dur"] == 1.0
    assert table["low_prec_freq"] == pytest.approx(17 * 365.25 / 20)
    # Dry spells of 2, 6 and 9 days.
    assert table["low_prec_dur"] == pytest.approx(17 / 3)


def test_missing_days_are_left_out_and_end_a_spell():
    dates = FOUR_YEARS
    rng = np.random.default_rng(2)
    prcp = rng.gamma(0.5, 6.0, (2, len(dates)))
    tmean = np.tile(8 + 12 * np.sin(angle() - 1.9), (2, 1))
    pet = np.full_like(prcp, 2.0)
    whole = climate_indices(prcp, tmean, pet, dates)
    holes = prcp.copy()
    holes[0, rng.choice(len(dates), 100, replace=False)] = np.nan
    holes[1] = np.nan
    table = climate_indices(holes, tmean, pet, dates)
    for name in ("p_mean", "frac_snow", "aridity", "high_prec_freq", "low_prec_freq"):
        assert table[name][0] == pytest.approx(whole[name][0], rel=0.1), name
    assert table.loc[1].drop("pet_mean").isna().all()
    four = np.array([[0.0, 0.0, np.nan, 0.0, 9.0]])
    days = dates[:5]
    assert climate_indices(four, four, four, days)["low_prec_dur"].item() == 1.5


def test_cube_is_cut_to_the_period():
    rng = np.random.default_rng(3)
    shape = (2, len(FOUR_YEARS))
    values = {name: (("basin", "date"), rng.gamma(1, 3, shape)) for name in ("prcp", "pet")}
    values |= {name: (("basin", "date"), rng.normal(0, 9, shape)) for name in ("tmin", "tmax")}
    cube = xr.Dataset(values, {"basin": ["00000001", "00000002"], "date": FOUR_YEARS})
    table = climate_from_cube(cube, "1991-01-01", "1992-12-31")
    assert table.index.tolist() == ["00000001", "00000002"]
    assert table.index.name == "gauge_id"
    within = cube["prcp"].values[:, 365 : 365 + 731]
    np.testing.assert_allclose(table["p_mean"], within.mean(axis=1))
