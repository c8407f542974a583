"""The registry of assets: which module's assets stand in which group.

Not here: any asset. Each group has a module of its name. Others stand by themselves: change.py has
two assets, of two groups, that tell what a new year changed; clusters.py, regional.py and trust.py
have one each.
"""

from aef_dagster.pipeline.assets import (
    basins,
    change,
    clusters,
    embeddings,
    evaluation,
    experiments,
    models,
    regional,
    report,
    similarity,
    trust,
)
from aef_dagster.settings import Settings


def build_assets(settings: Settings) -> list:
    """Every asset, by group in the order data flows."""
    return [
        *basins.build(),
        *embeddings.build(settings),
        *similarity.build(),
        *clusters.build(),
        *change.build(),
        *regional.build(),
        *models.build(settings),
        *evaluation.build(),
        *trust.build(),
        *experiments.build(),
        *report.build(),
    ]
