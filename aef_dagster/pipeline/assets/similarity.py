"""Group similarity: how alike basins are in each space, and whom each would borrow from.

Here: a factory that makes one pair of assets per space, each with its true upstream.
Not here: how similarity is measured (similarity/).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import dagster as dg
import pandas as pd

from aef_dagster.embeddings.pooling import stacked
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.automation import when_inputs_change
from aef_dagster.pipeline.choices import CHOICES, as_last_chosen, choices_of
from aef_dagster.pipeline.config import AefSimilarity, LearnedSimilarity, RandomSimilarity
from aef_dagster.pipeline.learned_similarity import learned_similarity
from aef_dagster.pipeline.resources import HomeResource, WarehouseResource
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.versions import frame_version
from aef_dagster.similarity import spaces
from aef_dagster.similarity.donors import rank_donors, similarity_long
from aef_dagster.similarity.representations import STUDY_ATTRIBUTES
from aef_dagster.storage.home import Home
from aef_dagster.storage.tables import (
    attribute_frame,
    donor_frame,
    embedding_frame,
    marks,
    similarity_matrix,
)
from aef_dagster.storage.warehouse import Warehouse, replace_slice

GROUP = "similarity"


class NoConfig(dg.Config):
    """A space without choices."""


def _attributes(home: Home, store: Warehouse, config: NoConfig) -> tuple:
    frame = attribute_frame(store, "published")[list(STUDY_ATTRIBUTES)]
    return spaces.similarity_attributes(frame), frame.index.tolist()


def _aef(home: Home, store: Warehouse, config: AefSimilarity) -> tuple:
    frame = embedding_frame(store, with_spread=True)
    return spaces.similarity_aef(stacked(frame), raw=config.raw), frame.index.tolist()


def _distance(home: Home, store: Warehouse, config: NoConfig) -> tuple:
    frame = store.frame("SELECT gauge_id, lat, lon FROM basins ORDER BY gauge_id")
    return spaces.similarity_distance(frame["lat"], frame["lon"]), frame["gauge_id"].tolist()


def _random(home: Home, store: Warehouse, config: RandomSimilarity) -> tuple:
    ids = store.frame("SELECT gauge_id FROM basins ORDER BY gauge_id")["gauge_id"].tolist()
    return spaces.similarity_random(ids, config.seed), ids


class Space(NamedTuple):
    """How one space is measured, its config, its upstream, and what a reader should know."""

    measure: Callable[[Home, Warehouse, Any], tuple]
    config: type[dg.Config]
    upstream: str
    meaning: str
    symmetric: bool = True


# Spaces whose inputs change by themselves, when a year appears.
_REFRESHED = ("aef",)

_SPACES = {
    "attributes": Space(
        _attributes,
        NoConfig,
        "attributes",
        "Cosine of the study's 17 catchment attributes, z-scored over all candidates; categories "
        "as indicator columns.",
    ),
    "aef": Space(
        _aef,
        AefSimilarity,
        "basin_embedding",
        "Cosine of AlphaEarth vectors after subtracting the candidates' mean vector.",
    ),
    "distance": Space(
        _distance,
        NoConfig,
        "basins",
        "Cosine of the angle between two gauges seen from the centre of the Earth: 1 = same place.",
    ),
    "random": Space(
        _random,
        RandomSimilarity,
        "basins",
        "Control: cosine of seeded random vectors. Donors picked here know nothing.",
    ),
    "fusion": Space(
        learned_similarity,
        LearnedSimilarity,
        "regional_scores",  # which says of each basin what network held it out
        "Cosine of what networks told attributes and embeddings made of each basin in their first "
        "layer; a target's row comes from a network that never saw the target.",
        symmetric=False,
    ),
}


def _pair(space: str) -> list:
    measure, config_class, upstream, meaning, symmetric = _SPACES[space]
    condition = when_inputs_change() if space in _REFRESHED else None
    valid = dg.AssetCheckSpec(
        "valid_matrix",
        asset=dg.AssetKey(["similarity", space]),
        blocking=True,
        description=("Symmetric, finite" if symmetric else "Finite")
        + ", ones on the diagonal, nothing outside [-1, 1].",
    )
    leak_free = dg.AssetCheckSpec(
        "leak_free",
        asset=dg.AssetKey(["donors", space]),
        blocking=True,
        description="No target among its own donors; each target ranks every other candidate once.",
    )

    @dg.asset(
        name=space, key_prefix="similarity", group_name=GROUP, deps=[upstream], kinds={"duckdb"},
        code_version="1", check_specs=[valid], automation_condition=condition,
        description=f"How alike basins are in the space `{space}`. {meaning} Static descriptors "
        "only, never flow. Grain: one row a pair of basins.",
    )  # fmt: skip
    @told
    def similarity(
        context: dg.AssetExecutionContext,
        config: config_class,  # type: ignore[valid-type]
        home: HomeResource,
        warehouse: WarehouseResource,
    ):
        world = home.open()
        config = as_last_chosen(context, config)
        store = warehouse.open()
        matrix, gauge_ids = measure(world, store, config)
        table = similarity_long(matrix, gauge_ids).assign(space=space)
        store.replace("similarity", table, space=space)
        matrix, gauge_ids = similarity_matrix(store, space)  # checked as it was stored
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(frame_version(table)),
            metadata={
                "dagster/row_count": len(table),
                "basins": len(gauge_ids),
                "median_cosine": float(table["cosine"].median()),
                **_choices(config),
                CHOICES: choices_of(config),
                **marks(store, space),
                "map_of_similarity": metadata.heatmap(
                    matrix, f"{metadata.marked(marks(store, space))}similarity in `{space}`"
                ),
            },
        )
        yield _valid_matrix(valid, matrix, symmetric)

    @dg.asset(
        name=space, key_prefix="donors", group_name=GROUP, deps=[similarity], kinds={"duckdb"},
        code_version="1", check_specs=[leak_free], automation_condition=condition,
        description=f"For each basin all others, ranked by similarity in the space `{space}`: rank "
        "1 is the first donor. The basin itself is never among them.",
    )  # fmt: skip
    @told
    def donors(home: HomeResource, warehouse: WarehouseResource):
        home.open()
        store = warehouse.open()
        matrix, gauge_ids = similarity_matrix(store, space)
        ranked = rank_donors(matrix, gauge_ids).assign(space=space)
        _replace_donors(store, space, ranked)
        ranked = donor_frame(store, space)  # checked as it was stored
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(frame_version(ranked)),
            metadata={
                "dagster/row_count": len(ranked),
                "basins": len(gauge_ids),
                "median_cosine_of_first_donor": float(
                    ranked.loc[ranked["rank"] == 1, "cosine"].median()
                ),
                **marks(store, space),
                "preview": metadata.preview(ranked),
            },
        )
        yield _leak_free(leak_free, ranked, len(gauge_ids))

    return [similarity, donors]


def build() -> list:
    """Assets of the group: a pair per space."""
    return [asset for space in _SPACES for asset in _pair(space)]


def _replace_donors(store: Warehouse, space: str, ranked: pd.DataFrame) -> None:
    """Write the ranking; the one before it stays beside, for `donor_drift`, if it was another."""
    with store.write() as connection:
        before = connection.execute("SELECT * FROM donors WHERE space = ?", [space]).df()
        # Last digits of a cosine may change where no rank does: that moves nobody's donors.
        if len(before) and _ranking(before) != _ranking(ranked):
            replace_slice(connection, "donors_before", before, space=space)
        replace_slice(connection, "donors", ranked, space=space)


def _ranking(ranked: pd.DataFrame) -> str:
    """A hash of who is whose donor at which rank."""
    return frame_version(ranked[["gauge_id", "rank", "donor_id"]].astype({"rank": "int64"}))


def _choices(config: Any) -> dict[str, str]:
    return {name: str(value) for name, value in config.model_dump().items()}


def _valid_matrix(spec: dg.AssetCheckSpec, matrix, symmetric: bool) -> dg.AssetCheckResult:
    import numpy as np

    asymmetry = float(np.abs(matrix - matrix.T).max())
    diagonal = float(np.abs(np.diagonal(matrix) - 1).max())
    finite = bool(np.isfinite(matrix).all())
    inside = bool((np.abs(matrix) <= 1 + 1e-6).all())
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=bool(finite and inside and (asymmetry < 1e-6 or not symmetric) and diagonal < 1e-6),
        metadata={"asymmetry": asymmetry, "diagonal_error": diagonal, "finite": finite},
    )


def _leak_free(spec: dg.AssetCheckSpec, ranked: pd.DataFrame, n: int) -> dg.AssetCheckResult:
    own = int((ranked["gauge_id"] == ranked["donor_id"]).sum())
    repeated = int(ranked.duplicated(["gauge_id", "donor_id"]).sum())
    incomplete = int((ranked.groupby("gauge_id").size() != n - 1).sum())
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=own == 0 and repeated == 0 and incomplete == 0,
        metadata={
            "targets_among_own_donors": own, "repeated": repeated, "incomplete": incomplete,
        },
    )  # fmt: skip
