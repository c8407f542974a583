"""What can be chosen when an asset is materialized: shown, described and bounded in the Launchpad.

Here: Dagster config classes. Defaults that depend on the dataset are None here and filled in by
`TrainingChoice.resolve`. Not here: settings of the whole platform (settings.py).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from aef_dagster.embeddings.pooling import POOLINGS
from aef_dagster.experiments.donor_models import SPACE_OF_SOFT
from aef_dagster.experiments.sizes import SIZES, Size, size_named
from aef_dagster.models.recipes import BUDGETS, RECIPES
from aef_dagster.models.statics import REPRESENTATIONS
from aef_dagster.similarity.spaces import LEARNED_SPACES, SPACES

DEFAULT_K = {"camels_us": 100, "sample": 8}
DEFAULT_BUDGET = {"camels_us": "donor", "sample": "tiny"}
DEFAULT_SIZE = {"camels_us": "small", "sample": "sample"}
MOST_SEEDS = 50


def _choices(name: str, values) -> type[Enum]:
    return Enum(name, {value: value for value in values}, type=str)  # type: ignore[return-value]


def chosen(choice: Any) -> Any:
    """Plain text of an Enum choice (the Launchpad offers Enums as a list to pick from)."""
    return choice.value


Space = _choices("Space", (*SPACES, *LEARNED_SPACES, *SPACE_OF_SOFT))
SizeName = _choices("SizeName", SIZES)
Representation = _choices("Representation", REPRESENTATIONS)
BudgetName = _choices("BudgetName", BUDGETS)
RecipeName = _choices("RecipeName", RECIPES)
Pooling = _choices("Pooling", POOLINGS)


class EmbeddingYears(dg.Config):
    """Which years `aef_embeddings` fetches."""

    years: list[int] = Field(
        [], description="Years to fetch in this run; empty: the partitions the run was asked for."
    )


class EmbeddingPooling(dg.Config):
    """How years become one vector per basin."""

    pooling: Pooling = Field(  # type: ignore[valid-type]
        Pooling("unit_mean"),
        description="unit_mean: mean of the years' unit vectors, made unit again. "
        "plain_mean: the study's plain mean. gem: generalised mean, power 3. mean_std: unit_mean, "
        "and the standard deviations over years beside it, for the space aef.",
    )
    years: list[int] = Field([], description="Years to pool; empty: all that are there.")


class AefSimilarity(dg.Config):
    """How AlphaEarth vectors are compared."""

    raw: bool = Field(
        False,
        description="Cosine of the vectors as they are. By default the candidates' mean vector "
        "is subtracted first: raw cosines are nearly all alike.",
    )


class DonorDrift(dg.Config):
    """When a target counts as moved."""

    k: int | None = Field(
        None, ge=1, le=100_000,
        description="Donors compared; by default 100, or 8 in the sample, as in training.",
    )  # fmt: skip
    threshold: float = Field(
        0.5, ge=0, le=1,
        description="A target moved if the Jaccard index of its donors fell below this: at 0.5, a "
        "third of them and more were exchanged.",
    )  # fmt: skip


class RandomSimilarity(dg.Config):
    """The random control."""

    seed: int = Field(0, ge=0, description="Seed of the random vectors.")


class Clustering(dg.Config):
    """How many clusters are tried."""

    k_min: int = Field(3, ge=2, le=50, description="Fewest clusters.")
    k_max: int = Field(12, ge=2, le=50, description="Most clusters (the study tried 4 to 12).")


_SIZES = (
    "sample (a minute), small (minutes, never the answer), full (a GPU or a cluster); by default "
    "small, or sample in the sample."
)


def _size_of(name: Any, dataset: str) -> Size:
    """A size, the dataset's default filled in."""
    return size_named(chosen(name) if name else DEFAULT_SIZE[dataset])


class StudyConfig(dg.Config):
    """Which study an asset belongs to."""

    size: SizeName | None = Field(None, description=_SIZES)  # type: ignore[valid-type]

    def resolve(self, dataset: str) -> Size:
        """The size, the dataset's default filled in."""
        return _size_of(self.size, dataset)


class LearnedSimilarity(dg.Config):
    """Which networks' learned vectors are compared."""

    budget: BudgetName | None = Field(  # type: ignore[valid-type]
        None, description="Networks of this budget; by default those trained last."
    )


class RegionalConfig(dg.Config):
    """What `regional_models` trains."""

    size: SizeName | None = Field(None, description=_SIZES)  # type: ignore[valid-type]
    experiments: list[str] = Field(
        [], description="Only what these experiments ask for; empty: all of the study."
    )
    partitions: list[str] = Field(
        [], description="Partitions to train; empty: those the run was asked for."
    )
    workers: int | None = Field(
        None, ge=1, le=256, description="Models trained at once; by default one per core."
    )

    def resolve(self, dataset: str) -> Size:
        """The size, the dataset's default filled in."""
        return _size_of(self.size, dataset)


class TrainingConfig(dg.Config):
    """What `basin_models` trains for each basin of the run."""

    basins: list[str] = Field(
        [], description="Gauge ids to train; empty: the partitions the run was asked for."
    )
    space: Space = Field(  # type: ignore[valid-type]
        Space("aef"), description="Where similarity is measured to pick donors."
    )
    k: int | None = Field(
        None, ge=1, le=100_000,
        description="Number of donors; by default 100, or 8 in the sample.",
    )  # fmt: skip
    representation: Representation = Field(  # type: ignore[valid-type]
        Representation("aef+climate"), description="What the network is told about a basin."
    )
    recipe: RecipeName = Field(  # type: ignore[valid-type]
        RecipeName("strong"),
        description="How the network is trained: strong, or paper (the study's way).",
    )
    budget: BudgetName | None = Field(  # type: ignore[valid-type]
        None,
        description="Size of network and training: tiny, donor, full, or paper (the study's: "
        "hours); by default donor, or tiny in the sample.",
    )
    seeds: int = Field(1, ge=1, le=MOST_SEEDS, description="Members of the ensemble, seeds 0..N-1.")
    workers: int | None = Field(
        None, ge=1, le=256, description="Models trained at once; by default one per core."
    )
    study: str = Field(
        "", description="Name of the MLflow parent run; empty: one per backfill, or per run."
    )

    def resolve(self, dataset: str) -> "TrainingChoice":
        """Plain values, the dataset's defaults filled in."""
        return TrainingChoice(
            space=chosen(self.space),
            k=self.k or DEFAULT_K[dataset],
            representation=chosen(self.representation),
            recipe=chosen(self.recipe),
            budget=chosen(self.budget) if self.budget else DEFAULT_BUDGET[dataset],
            seeds=self.seeds,
            workers=self.workers,
        )


@dataclass(frozen=True)
class TrainingChoice:
    """A resolved `TrainingConfig`, free of Dagster."""

    space: str
    k: int
    representation: str
    recipe: str
    budget: str
    seeds: int
    workers: int | None

    @property
    def title(self) -> str:
        """One line for people."""
        members = f" · {self.seeds} seeds" if self.seeds > 1 else ""
        return (
            f"{self.space} · k={self.k} · {self.representation} · {self.recipe} "
            f"{self.budget}{members}"
        )
