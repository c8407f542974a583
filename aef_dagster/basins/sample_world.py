"""The made-up world of the sample dataset: landscape, weather, flow, attributes, embeddings.

Four landscapes in three climates, so that a near basin is not a like basin. A conceptual model
turns weather into flow, and its parameters come from five landscape factors alone. The planted
embeddings see all five, the attributes see some of them through noise: that advantage is put in by
hand and says nothing of AlphaEarth. In the null world the embeddings are those of other, unrelated
basins.
Not here: the files (sample_files.py).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from aef_dagster.basins.climate import climate_indices
from aef_dagster.basins.pet import extraterrestrial_radiation, oudin_pet

FIRST_DAY, LAST_DAY = "1990-01-01", "2003-12-31"
SPIN_UP_DAYS = 730
EMBEDDING_YEARS = tuple(range(2017, 2025))
EMBEDDING_SIZE = 64

FACTORS = ("permeability", "depth", "forest", "steepness", "lakes")
# Centres of the four landscapes in units of one standard deviation, in the order of FACTORS:
# sandy plain, clay farmland, steep thin-soiled forest, lake country.
LANDSCAPES = np.array(
    [
        [1.6, 1.2, 0.0, -1.0, -0.6],
        [-1.2, 0.2, -1.4, -0.7, -0.8],
        [-0.5, -1.4, 1.0, 1.6, -0.8],
        [0.2, 0.2, 0.8, -0.6, 1.8],
    ]
)
WITHIN_LANDSCAPE = 0.25
GEOLOGY = (
    "Unconsolidated sediments",
    "Siliciclastic sedimentary rocks",
    "Metamorphics",
    "Mixed sedimentary rocks",
)


@dataclass(frozen=True)
class Climate:
    """Weather of one of the three climates: place, temperature, rain."""

    huc_02: str
    lat: float
    lon: float
    elevation: float  # m
    t_mean: float  # degC
    t_amplitude: float  # degC
    wet_after_dry: float  # chance of a wet day
    wet_after_wet: float
    rain: float  # mm on a wet day
    rain_wave: float  # relative, positive for wet summers


CLIMATES = (
    Climate("01", 44.8, -71.5, 350.0, 5.5, 14.5, 0.36, 0.58, 6.5, 0.10),
    Climate("03", 35.2, -83.2, 600.0, 13.5, 10.0, 0.27, 0.58, 9.5, -0.10),
    Climate("10", 41.5, -96.5, 420.0, 10.0, 14.5, 0.25, 0.48, 9.0, 0.40),
)


@dataclass(frozen=True)
class World:
    """All of the sample, as frames and arrays in the units of the published files.

    `basins`, `attributes`, `signatures` have a row a basin, indexed by gauge_id; `forcings` maps a
    published variable to [basin, day]; `flow` is mm/day with NaN in the gaps; `embeddings` is
    [basin, year, 64].
    """

    dates: np.ndarray
    basins: pd.DataFrame
    factors: pd.DataFrame
    attributes: pd.DataFrame
    signatures: pd.DataFrame
    forcings: dict[str, np.ndarray]
    flow: np.ndarray
    embeddings: np.ndarray


def make_world(gauge_ids: tuple[str, ...], *, planted: bool, seed: int) -> World:
    """Make the world of the sample.

    Parameters
    ----------
    gauge_ids
        Its 24 basins: six of each landscape, one landscape after the other.
    planted
        Whether the embeddings see the landscape factors. All else is the same in both worlds.
    seed
        Seed of all that is random.

    Returns
    -------
    World
    """
    # A stream for each part: the embeddings of the null world cannot disturb the weather.
    streams = iter(np.random.default_rng(seed).spawn(6))
    n = len(gauge_ids)
    landscape = np.arange(n) * len(LANDSCAPES) // n
    climate = np.arange(n) % len(CLIMATES)
    rng = next(streams)
    factors = LANDSCAPES[landscape] + WITHIN_LANDSCAPE * rng.standard_normal((n, len(FACTORS)))
    basins = _place(rng, gauge_ids, climate, factors)
    dates = np.arange(np.datetime64(FIRST_DAY) - SPIN_UP_DAYS, np.datetime64(LAST_DAY) + 1)
    weather = _weather(next(streams), dates, climate, basins)
    flow = _flow(weather, factors)
    rng = next(streams)
    # Measured within a few per cent, and small against what weather and landscape do.
    flow = flow * np.exp(0.03 * rng.standard_normal(flow.shape))
    kept = slice(SPIN_UP_DAYS, None)
    dates, flow = dates[kept], flow[:, kept]
    weather = {name: values[:, kept] for name, values in weather.items()}
    flow = _with_gaps(rng, dates, flow)
    climate_table = climate_indices(weather["prcp"], weather["tmean"], weather["pet"], dates)
    attributes = _attributes(next(streams), factors, landscape, basins)
    attributes = pd.concat([attributes, climate_table.set_index(basins.index)], axis=1)
    unrelated = next(streams).standard_normal(factors.shape) * factors.std(axis=0)
    published = ("dayl", "prcp", "srad", "tmax", "tmin", "vp")
    return World(
        dates=dates,
        basins=basins,
        factors=pd.DataFrame(factors, index=basins.index, columns=list(FACTORS)),
        attributes=attributes,
        signatures=_signatures(weather["prcp"], flow, basins.index),
        forcings={name: weather[name] for name in published},
        flow=flow,
        embeddings=_embeddings(next(streams), factors if planted else unrelated),
    )


def _place(rng, gauge_ids, climate, factors) -> pd.DataFrame:
    """Where each basin lies, how high and how large it is; two have areas that disagree."""
    n = len(gauge_ids)
    places = [CLIMATES[i] for i in climate]
    steep = factors[:, FACTORS.index("steepness")]
    area = np.exp(rng.uniform(np.log(60), np.log(1500), n))
    mismatch = rng.uniform(-0.04, 0.04, n)
    mismatch[[4, 15]] = 0.18, -0.13
    return pd.DataFrame(
        {
            "name": [f"Made-up Creek {i + 1}, sample" for i in range(n)],
            "huc_02": [place.huc_02 for place in places],
            "lat": [place.lat for place in places] + rng.uniform(-1.6, 1.6, n),
            "lon": [place.lon for place in places] + rng.uniform(-2.2, 2.2, n),
            "elevation": [place.elevation for place in places]
            + 130 * (steep + 1)
            + rng.uniform(-60, 60, n),
            "area_gages2": area,
            "area_geospa_fabric": area * (1 + mismatch),
        },
        index=pd.Index(gauge_ids, name="gauge_id"),
    )


def _weather(rng, dates, climate, basins) -> dict[str, np.ndarray]:
    """Daily weather [basin, day]: storms shared within a climate, seasons, lapse of temperature."""
    from scipy.special import gammaincinv, ndtr

    n_days, n = len(dates), len(climate)
    day_of_year = (dates - dates.astype("datetime64[Y]")).astype(int) + 1
    season = -np.cos(2 * np.pi * (day_of_year - 20) / 365.25)  # -1 in January, 1 in July

    def of_climate(name: str) -> np.ndarray:
        return np.array([getattr(CLIMATES[i], name) for i in climate])[:, None]

    def shared(correlation: float) -> np.ndarray:
        """Standard normal noise [basin, day], correlated between basins of one climate."""
        common = rng.standard_normal((len(CLIMATES), n_days))[climate]
        own = rng.standard_normal((n, n_days))
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    chance, amount = ndtr(shared(0.85)), ndtr(shared(0.7))
    wet = np.zeros((n, n_days), bool)
    after_dry, after_wet = of_climate("wet_after_dry")[:, 0], of_climate("wet_after_wet")[:, 0]
    for day in range(1, n_days):
        wet[:, day] = chance[:, day] < np.where(wet[:, day - 1], after_wet, after_dry)
    shape = 0.75
    depth = gammaincinv(shape, amount) / shape * of_climate("rain")
    prcp = np.where(wet, depth * (1 + of_climate("rain_wave") * season), 0.0)

    anomaly = np.zeros((n, n_days))
    shock = shared(0.9)
    for day in range(1, n_days):
        anomaly[:, day] = 0.75 * anomaly[:, day - 1] + 2.4 * shock[:, day]
    lapse = -0.0065 * (basins["elevation"].to_numpy()[:, None] - of_climate("elevation"))
    tmean = of_climate("t_mean") + of_climate("t_amplitude") * season + lapse + anomaly
    spread = np.where(wet, 4.0, 6.5) * np.exp(0.12 * shared(0.5))
    tmax, tmin = tmean + spread, tmean - spread

    lat = basins["lat"].to_numpy()[:, None]
    daylight = _day_length(day_of_year, lat)
    clearness = np.where(wet, 0.38, 0.62) * np.exp(0.05 * shared(0.5))
    radiation = extraterrestrial_radiation(day_of_year, lat)  # MJ/m2/day
    humidity = np.where(wet, 0.95, 0.85)
    return {
        "prcp": prcp,
        "dayl": daylight,
        # Daymet's srad is the mean over the daylight hours.
        "srad": radiation * 1e6 * clearness / daylight,
        "tmax": tmax,
        "tmin": tmin,
        "tmean": tmean,
        "vp": humidity * 610.8 * np.exp(17.27 * tmin / (tmin + 237.3)),
        "pet": oudin_pet(tmean, dates, lat),
    }


def _day_length(day_of_year: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Seconds between sunrise and sunset."""
    declination = 0.409 * np.sin(2 * np.pi * day_of_year / 365 - 1.39)
    sunset = np.arccos(np.clip(-np.tan(np.radians(lat)) * np.tan(declination), -1, 1))
    return 86_400 * sunset / np.pi


def _flow(weather: dict[str, np.ndarray], factors: np.ndarray) -> np.ndarray:
    """Flow in mm/day [basin, day] of a snow store, a soil store, and three linear reservoirs."""
    permeability, depth, forest, steepness, lakes = factors.T
    capacity = 160 * np.exp(0.45 * depth)  # of the soil, mm
    # A high exponent keeps the soil shut until it is nearly full.
    exponent = 2.2 * np.exp(0.25 * depth - 0.15 * steepness)
    to_slow = 1 / (1 + np.exp(-1.3 * permeability))  # share of the water that leaves the soil
    k_fast = 1 / (1 + 2.0 * np.exp(-0.6 * steepness))  # per day
    k_slow = 1 / (60 * np.exp(0.35 * permeability))
    k_lake = 1 / (1 + 3.5 * np.exp(0.8 * lakes))
    through_lakes = 1 / (1 + np.exp(-2.0 * lakes))
    evaporation = 0.85 + 0.12 * np.tanh(forest)
    melt_rate = 3.5 - 0.8 * np.tanh(forest)  # mm/degC/day

    prcp, tmean, pet = weather["prcp"], weather["tmean"], weather["pet"]
    snowfall = prcp * np.clip((1.0 - tmean) / 2.0, 0, 1)
    rain = prcp - snowfall
    flow = np.empty_like(prcp)
    snow, fast, slow, lake = np.zeros((4, len(factors)))
    soil = 0.5 * capacity
    for day in range(prcp.shape[1]):
        snow = snow + snowfall[:, day]
        melt = np.minimum(snow, melt_rate * np.maximum(tmean[:, day], 0))
        snow = snow - melt
        water = rain[:, day] + melt
        leaving = water * np.minimum(soil / capacity, 1) ** exponent
        soil = soil + water - leaving
        over = np.maximum(soil - capacity, 0)
        leaving, soil = leaving + over, soil - over
        soil = soil - np.minimum(
            soil, evaporation * pet[:, day] * np.minimum(1, soil / (0.6 * capacity))
        )
        fast = fast + (1 - to_slow) * leaving
        slow = slow + to_slow * leaving
        quick, base = k_fast * fast, k_slow * slow
        fast, slow = fast - quick, slow - base
        lake = lake + through_lakes * quick
        out = k_lake * lake
        lake = lake - out
        flow[:, day] = (1 - through_lakes) * quick + out + base
    return flow


def _with_gaps(rng, dates: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Take out days as in real records: some winters, and the end of one record."""
    flow = flow.copy()
    for basin in (2, 9, 16, 21):
        for start in rng.choice(len(dates) - 60, 3, replace=False):
            flow[basin, start : start + rng.integers(5, 60)] = np.nan
    flow[11, dates >= np.datetime64("2003-06-01")] = np.nan
    return flow


def _attributes(rng, factors, landscape, basins) -> pd.DataFrame:
    """Attributes with the published names, which see some factors and each through noise.

    Permeability below the soil and the lakes are hidden, as much of the subsurface is in reality.
    """
    n = len(factors)
    _, depth, forest, steepness, _ = factors.T

    def through_noise(values: np.ndarray | float, noise: float) -> np.ndarray:
        return values + noise * rng.standard_normal(n)

    seen_forest = through_noise(forest, 0.6)
    seen_depth = through_noise(depth, 0.8)
    frac_forest = 1 / (1 + np.exp(-1.5 * seen_forest))
    sand = np.clip(through_noise(40, 12), 5, 85)
    clay = np.clip(through_noise(22, 6), 3, 60)
    geology = np.where(rng.random(n) < 0.5, landscape, rng.integers(0, len(GEOLOGY), n))
    second = (geology + rng.integers(1, len(GEOLOGY), n)) % len(GEOLOGY)
    table = pd.DataFrame(
        {
            "gauge_lat": basins["lat"],
            "gauge_lon": basins["lon"],
            "elev_mean": basins["elevation"],
            "slope_mean": np.exp(through_noise(2.8 + 0.7 * steepness, 0.5)),
            "area_gages2": basins["area_gages2"],
            "area_geospa_fabric": basins["area_geospa_fabric"],
            "soil_depth_pelletier": np.exp(through_noise(1.5, 0.8)),
            "soil_depth_statsgo": np.clip(1.2 + 0.15 * seen_depth, 0.4, 1.5),
            "soil_porosity": np.clip(through_noise(0.44, 0.02), 0.37, 0.68),
            "soil_conductivity": np.exp(through_noise(0.4, 0.4)),
            "max_water_content": np.clip(0.5 + 0.08 * seen_depth, 0.1, 1.0),
            "sand_frac": sand,
            "silt_frac": 100 - sand - np.minimum(clay, 99 - sand),
            "clay_frac": np.minimum(clay, 99 - sand),
            "water_frac": np.abs(through_noise(0, 1)),
            "organic_frac": np.abs(through_noise(0, 1)),
            "other_frac": np.abs(through_noise(0, 1)),
            "geol_1st_class": [GEOLOGY[i] for i in geology],
            "glim_1st_class_frac": rng.uniform(0.5, 1.0, n),
            "geol_2nd_class": [GEOLOGY[i] for i in second],
            "glim_2nd_class_frac": rng.uniform(0.0, 0.4, n),
            "carbonate_rocks_frac": rng.uniform(0.0, 0.3, n),
            "geol_porostiy": np.clip(through_noise(0.13, 0.05), 0.01, 0.28),
            "geol_permeability": through_noise(-13.9, 1.0),
            "frac_forest": frac_forest,
            "lai_max": 1 + 4 * frac_forest + np.abs(through_noise(0, 0.3)),
            "lai_diff": 1 + 2 * frac_forest + np.abs(through_noise(0, 0.3)),
            "gvf_max": np.clip(0.6 + 0.25 * frac_forest, 0, 1),
            "gvf_diff": np.clip(through_noise(0.35, 0.08), 0.02, 0.7),
            "dom_land_cover_frac": rng.uniform(0.4, 1.0, n),
            "dom_land_cover": np.where(frac_forest > 0.5, "Mixed Forests", "Croplands"),
            "root_depth_50": np.clip(0.15 + 0.08 * frac_forest, 0.1, 0.3),
            "root_depth_99": np.clip(1.5 + 0.6 * frac_forest, 1.0, 3.0),
        },
        index=basins.index,
    )
    # As in the published tables: few basins lack these.
    table.loc[table.index[7], ["root_depth_50", "root_depth_99"]] = np.nan
    table.loc[table.index[[1, 18]], "geol_2nd_class"] = None
    return table


def _signatures(prcp: np.ndarray, flow: np.ndarray, index: pd.Index) -> pd.DataFrame:
    """The plain ones of the published flow signatures."""
    q_mean = np.nanmean(flow, axis=1)
    low, high = np.nanquantile(flow, [0.05, 0.95], axis=1)
    q33, q66 = np.nanquantile(flow, [0.33, 0.66], axis=1)
    return pd.DataFrame(
        {
            "q_mean": q_mean,
            "runoff_ratio": q_mean / prcp.mean(axis=1),
            "slope_fdc": np.log(q66 / q33) / (0.66 - 0.33),
            "q5": low,
            "q95": high,
            "zero_q_freq": np.nanmean(flow == 0, axis=1),
        },
        index=index,
    )


def _embeddings(rng, factors: np.ndarray) -> np.ndarray:
    """Yearly basin means of made-up embeddings [basin, year, 64] from what they may see.

    As of the real table: a large part common to all basins, norms a little under 1, and a cosine of
    about 0.98 between neighbouring years.
    """
    n, n_features, n_years = len(factors), 24, len(EMBEDDING_YEARS)
    features = np.tanh(factors @ rng.normal(0, 0.5, (factors.shape[1], n_features)))
    features += 0.03 * rng.standard_normal(features.shape)
    common = rng.standard_normal(EMBEDDING_SIZE)
    own = features @ rng.standard_normal((n_features, EMBEDDING_SIZE))
    own *= 0.9 * np.linalg.norm(common) / np.linalg.norm(own, axis=1).mean()
    vector = _unit(common + own)
    noise = rng.standard_normal((n, n_years, EMBEDDING_SIZE)) / np.sqrt(EMBEDDING_SIZE)
    yearly = _unit(vector[:, None, :] + 0.14 * noise)
    return yearly * rng.uniform(0.90, 0.98, (n, 1, 1)) * rng.uniform(0.995, 1.005, (n, n_years, 1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
