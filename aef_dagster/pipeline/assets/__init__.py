"""The registry of assets: which module's assets stand in which group.

Not here: any asset. Each group has a module of its name; change.py has two assets, of two groups,
that tell what a new year changed.
"""

from aef_dagster.pipeline.assets import (
    basins,
    change,
    embeddings,
    evaluation,
    models,
    similarity,
)
from aef_dagster.settings import Settings


def build_assets(settings: Settings) -> list:
    """Every asset, by group in the order data flows."""
    return [
        *basins.build(),
        *embeddings.build(),
        *similarity.build(),
        *change.build(),
        *models.build(settings),
        *evaluation.build(),
    ]
