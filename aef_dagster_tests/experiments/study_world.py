"""A made-up study: sixty basins in nine regions and the scores of every training that is planned.

Here: evidence with planted effects, made without training anything. Not here: what experiments make
of it (the tests).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError
from aef_dagster.experiments.asks import DonorAsk, RegionalAsk, StudyBasins
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.sizes import SIZES, Size
from aef_dagster.experiments.study import merged, plan_study
from aef_dagster.similarity import spaces
from aef_dagster.similarity.representations import CLIMATE

N_BASINS = 60
IDS = tuple(f"{i:08d}" for i in range(1, N_BASINS + 1))
YEARS = (2017, 2018, 2019)
SIZE = replace(
    SIZES["sample"],
    representations=("attributes17", "attributes27", "aef"),
    regimes=("attributes17", "aef", "aef+subsurface"),
    counts=(10, 20, 30, 50),  # folds and clusters leave 40 to learn from: 50 cannot be had
    ks=(5, 10, 20),
    targets=24,
    soft=(10,),
    seeds=2,
    other_seeds=2,  # noise of one training is shared by its basins, which no interval knows
)
UNSEEN_REGIMES = ("clusters", "fewer_clusters", "climates", "regions")


@dataclass(frozen=True)
class Truth:
    """What is planted, in units of NSE.

    Parameters
    ----------
    effect
        What the basin's own embedding adds in unseen basins, and donors picked by it.
    gap
        What an unseen regime changes, whatever the network is told.
    aef_gap
        What it changes on top where the network is told the embedding.
    alone
        What models of one cluster change.
    experts
        What a mixture of experts adds.
    soft
        What softly weighted donors add.
    collapse
        What all basins as donors lose against the best k.
    peak
        What k = 10 adds.
    drift_costs
        What the embedding's effect loses for each unit of drift.
    aged
        What the last year's embedding changes for each unit of drift.
    noise
        Standard deviation of a score of one training; half its variance is shared by a region.
    seed
        Of all draws.
    """

    effect: float = 0.0
    gap: float = 0.0
    aef_gap: float = 0.0
    alone: float = 0.0
    experts: float = 0.0
    soft: float = 0.0
    collapse: float = 0.0
    peak: float = 0.0
    drift_costs: float = 0.0
    aged: float = 0.0
    noise: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Land:
    """The basins themselves, the same for every truth."""

    basins: StudyBasins
    attributes: pd.DataFrame
    climate: pd.DataFrame
    signatures: pd.DataFrame
    embedding: pd.DataFrame
    yearly: pd.DataFrame
    drift: pd.Series
    skill: pd.Series = field(repr=False)


def make_land() -> Land:
    """Three landscapes scattered over nine regions; three climates of three regions each."""
    rng = np.random.default_rng(42)
    index = pd.Index(IDS, name="gauge_id")
    region = np.arange(N_BASINS) % 9
    landscape = rng.permutation(np.arange(N_BASINS) % 3)
    frame = pd.DataFrame(
        {
            "name": [f"made-up river {i}" for i in range(N_BASINS)],
            "lat": 31.0 + 6 * (region // 3) + rng.uniform(-2, 2, N_BASINS),
            "lon": -115.0 + 15 * (region % 3) + rng.uniform(-2, 2, N_BASINS),
            "huc_02": [f"{number + 1:02d}" for number in region],
        },
        index=index,
    )
    latent = rng.normal(size=(N_BASINS, 3))
    vectors = (
        2.0 * rng.normal(size=(3, 64))[landscape]
        + latent @ rng.normal(size=(3, 64))
        + 0.3 * rng.normal(size=(N_BASINS, 64))
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    drift = pd.Series(rng.uniform(0, 1, N_BASINS), index, name="drift")
    away = rng.normal(size=(N_BASINS, 64)) / 8
    years = []
    for place, year in enumerate(YEARS):
        moved = vectors + place * 0.3 * drift.to_numpy()[:, None] * away
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        table = pd.DataFrame(moved, index, list(BANDS)).reset_index()
        years.append(table.assign(year=year))
    attributes = pd.DataFrame(
        {
            "elev_mean": 500 + 200 * latent[:, 0],
            "slope_mean": np.exp(latent[:, 1]),
            "frac_forest": 0.5 + 0.1 * latent[:, 2],
            "soil_porosity": rng.normal(size=N_BASINS),  # in no embedding
            "dom_land_cover": np.array(["forest", "grass", "crops"])[landscape],
            "geol_1st_class": "shale",
        },
        index=index,
    )
    climate = pd.DataFrame(rng.normal(size=(N_BASINS, 9)), index, list(CLIMATE))
    climate["aridity"] = 1 + region // 3 + 0.1 * rng.normal(size=N_BASINS)
    signatures = pd.DataFrame(
        latent @ rng.normal(size=(3, 4)) + 0.5 * rng.normal(size=(N_BASINS, 4)),
        index,
        ["q_mean", "runoff_ratio", "baseflow_index", "q95"],
    )
    labels = {
        "aef": {2: pd.Series(landscape // 2, index), 3: pd.Series(landscape, index)},
        "climate": {3: pd.Series(region // 3, index)},
    }
    basins = StudyBasins(frame, labels, {"aef": {2: 0.2, 3: 0.4}, "climate": {3: 0.3}})
    skill = pd.Series(rng.normal(0.6, 0.1, N_BASINS), index)
    return Land(basins, attributes, climate, signatures,
                pd.DataFrame(vectors, index, list(BANDS)), pd.concat(years, ignore_index=True),
                drift, skill)  # fmt: skip


LAND = make_land()


def study_scores(truth: Truth, size: Size = SIZE, only: Sequence[str] = ()) -> pd.DataFrame:
    """A row for every basin that a study of this size trains and tests."""
    regional, donors = _asks(size, tuple(only))
    rng = np.random.default_rng([truth.seed, 1])
    parts = [_regional_rows(ask, truth, size, rng) for ask in regional]
    parts += [_donor_rows(ask, truth, size, rng) for ask in donors]
    return pd.concat(parts, ignore_index=True)


def study_world(folder: Path, truth: Truth, size: Size = SIZE) -> Evidence:
    """Evidence of a study in which the truth is known."""
    return Evidence(
        size=size,
        basins=LAND.basins,
        scores=study_scores(truth, size),
        attributes=LAND.attributes,
        climate=LAND.climate,
        embedding=LAND.embedding,
        signatures=LAND.signatures,
        yearly=LAND.yearly,
        stability=LAND.drift.to_frame(),
        similarity=_similarity,
        yearly_scores=lambda: _yearly_scores(truth),
        outlines=_outlines(folder),
        checkpoints=folder / "checkpoints",
        marks={"sample": True, "surrogate": False},
    )


@cache
def _asks(size: Size, only: tuple[str, ...]) -> tuple[list[RegionalAsk], list[DonorAsk]]:
    plans = plan_study(LAND.basins, size, only)
    return list(merged(plans)), [ask for plan in plans.values() for ask in plan.donors]


def _regional_rows(
    ask: RegionalAsk, truth: Truth, size: Size, rng: np.random.Generator
) -> pd.DataFrame:
    split = ask.split
    index = list(split.targets)
    nse = LAND.skill[index] + _noise(index, truth, rng)
    if "aef" in ask.representation and split.role == "ungauged":
        nse += truth.effect - truth.drift_costs * LAND.drift[index]
        nse += truth.aef_gap * (split.design in UNSEEN_REGIMES)
    nse += truth.gap * (split.design in UNSEEN_REGIMES)
    nse += truth.alone * (split.design == "each_cluster")
    nse += truth.experts * ask.recipe.endswith("experts")
    said = (ask.partition, split.fold, split.learned_from, ask.recipe, ask.seed)
    return pd.DataFrame(
        {
            "job_hash": "/".join(map(str, said)),
            "asset": "regional_models", "design": split.design, "fold": split.fold,
            "learned_from": split.learned_from, "n_donors": len(split.donors), "gauge_id": index,
            "role": split.role, "space": None, "k": np.nan, "representation": ask.representation,
            "recipe": ask.recipe, "budget": size.budget, "seed": ask.seed,
            "nse": nse.to_numpy(), "kge": nse.to_numpy() + 0.05,
        }
    )  # fmt: skip


def _donor_rows(ask: DonorAsk, truth: Truth, size: Size, rng: np.random.Generator) -> pd.DataFrame:
    index = list(ask.targets)
    everyone = ask.k == N_BASINS - 1
    nse = LAND.skill[index] + _noise(index, truth, rng)
    nse += truth.effect * ("aef" in ask.space and not everyone)
    nse += truth.soft * ask.space.startswith("soft") + truth.peak * (ask.k == 10)
    nse -= truth.collapse * everyone
    return pd.DataFrame(
        {
            "job_hash": [f"{ask.space}/{ask.k}/{gauge_id}" for gauge_id in index],
            "asset": "basin_models", "design": None, "fold": np.nan, "learned_from": None,
            "n_donors": ask.k, "gauge_id": index, "role": "ungauged", "space": ask.space,
            "k": ask.k, "representation": ask.representation, "recipe": "strong",
            "budget": size.budget, "seed": 0, "nse": nse.to_numpy(), "kge": nse.to_numpy() + 0.05,
        }
    )  # fmt: skip


def _noise(index: Sequence[str], truth: Truth, rng: np.random.Generator) -> np.ndarray:
    """Luck of one training, half of it shared by the basins of a region."""
    of_region = dict(zip(sorted(set(LAND.basins.frame["huc_02"])), rng.normal(size=9), strict=True))
    shared = LAND.basins.frame["huc_02"][list(index)].map(of_region).to_numpy(dtype=float)
    return truth.noise * (shared + rng.normal(size=len(index))) / np.sqrt(2)


def _yearly_scores(truth: Truth) -> pd.DataFrame:
    rng = np.random.default_rng([truth.seed, 2])
    parts = []
    for place, year in enumerate(YEARS):
        moved = truth.aged * LAND.drift * place / (len(YEARS) - 1)
        nse = LAND.skill + moved + 0.1 * truth.noise * rng.normal(size=N_BASINS)
        parts.append(
            pd.DataFrame({"gauge_id": IDS, "year": year, "seed": 0, "nse": nse.to_numpy()})
        )
    return pd.concat(parts, ignore_index=True)


def _similarity(space: str) -> tuple[np.ndarray, list[str]]:
    frame, vectors = LAND.basins.frame, LAND.embedding.to_numpy()
    made = {
        "attributes": lambda: spaces.similarity_attributes(LAND.attributes),
        "aef": lambda: spaces.similarity_aef(vectors),
        "distance": lambda: spaces.similarity_distance(frame["lat"], frame["lon"]),
        "random": lambda: spaces.similarity_random(IDS, 0),
        "fusion": lambda: spaces.similarity_by_model(
            [vectors[:, :32], vectors[:, 32:]], np.arange(N_BASINS) % 2
        ),
    }
    if space not in made:
        raise UserError(f"space {space!r} is not there")
    # The order of the warehouse need not be that of the study.
    return made[space]()[::-1, ::-1], list(IDS[::-1])


def _outlines(folder: Path) -> Path:
    """Squares of a quarter of a degree about the gauges."""
    import geopandas
    from shapely import box

    frame = LAND.basins.frame
    squares = [box(lon - 0.25, lat - 0.25, lon + 0.25, lat + 0.25)
               for lon, lat in zip(frame["lon"], frame["lat"], strict=True)]  # fmt: skip
    path = folder / "outlines.parquet"
    geopandas.GeoDataFrame({"gauge_id": list(IDS)}, geometry=squares, crs=4326).to_parquet(path)
    return path
