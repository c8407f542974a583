"""Group evaluation: one table of scores of everything trained.

Here: the asset. Not here: metrics and statistics (evaluation/), reading checkpoints
(pipeline/scores.py).
"""

import dagster as dg

from aef_dagster.evaluation.summaries import compare_published, medians
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.resources import (
    HomeResource,
    PlatformResource,
    TrackingResource,
    WarehouseResource,
)
from aef_dagster.pipeline.scores import collect_scores
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.trust_inputs import with_expectation

GROUP = "evaluation"

scored = dg.AssetCheckSpec(
    "every_gauged_basin_scored",
    asset="basin_scores",
    description="Each simulated basin with observed flow has a finite NSE.",
)
skilful = dg.AssetCheckSpec(
    "mostly_skilful",
    asset="basin_scores",
    description="Fewer than a quarter of the basins are simulated worse than by their mean flow "
    "(NSE below 0).",
)
WORST_SHARE_BELOW_0 = 0.25


@dg.asset(
    group_name=GROUP, kinds={"duckdb"}, code_version="1", check_specs=[scored, skilful],
    deps=[dg.AssetDep("basin_models", partition_mapping=dg.AllPartitionMapping())],
)  # fmt: skip
@told
def basin_scores(
    home: HomeResource, warehouse: WarehouseResource, tracking: TrackingResource,
    platform: PlatformResource,
):  # fmt: skip
    """All scores of basin models, one row a basin, model and choice of donors.

    Contents: thirteen metrics over the test period (named for their definition), what was trained
    (space, k, representation, recipe, budget, seed; no seed = mean of an ensemble), where it is
    recorded (MLflow run, Dagster run), and whether sample or surrogate data made it.
    Grain: (job_hash, gauge_id, space, k). Missing is NULL, and counted. `current` is false where
    data changed and the basin was trained anew.
    """
    world, store = home.open(), warehouse.open()
    scores = collect_scores(world.checkpoints, "basin_models", tracking.open().run_id)
    store.replace("scores", scores, asset="basin_models")
    current = scores[scores["current"]]
    summary = medians(current)
    published = compare_published(current, platform.reference_dir)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(scores),
            "superseded": int((~scores["current"]).sum()),
            "basins": current["gauge_id"].nunique(),
            "without_score": int(current["nse"].isna().sum()),
            "sample": bool(current["sample"].any()),
            "surrogate": bool(current["surrogate"].any()),
            **metadata.numbers({"median_nse": current["nse"].median()}),
            "by_choice": dg.MetadataValue.md(metadata.markdown_table(summary)),
            **(
                {"beside_published": dg.MetadataValue.md(metadata.markdown_table(published))}
                if published is not None
                else {}
            ),
            "preview": metadata.preview(
                with_expectation(store, current)[
                    [
                        "gauge_id",
                        "space",
                        "k",
                        "budget",
                        "seed",
                        "nse",
                        "expected NSE",
                        "kge",
                        "pbias",
                    ]
                ]
            ),
        }
    )
    unscored = current[current["nse"].isna() & (current["n_days"] > 0)]
    yield dg.AssetCheckResult(
        asset_key="basin_scores",
        check_name=scored.name,
        passed=unscored.empty,
        metadata={"unscored": ", ".join(unscored["gauge_id"].head(20))},
    )
    below = float((current["nse"] < 0).mean()) if len(current) else 0.0
    yield dg.AssetCheckResult(
        asset_key="basin_scores",
        check_name=skilful.name,
        passed=below < WORST_SHARE_BELOW_0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"share_below_0": below},
    )


@dg.asset(
    group_name=GROUP, kinds={"duckdb"}, code_version="1",
    deps=[dg.AssetDep("regional_models", partition_mapping=dg.AllPartitionMapping())],
)  # fmt: skip
@told
def regional_scores(
    home: HomeResource, warehouse: WarehouseResource, tracking: TrackingResource
):  # fmt: skip
    """All scores of regional models, one row a model and basin tested.

    Contents: as `basin_scores`, with design, fold, what was learned from and from how many basins,
    in place of space and k.
    Grain: (job_hash, gauge_id, design, fold, learned_from).
    """
    world, store = home.open(), warehouse.open()
    scores = collect_scores(world.checkpoints, "regional_models", tracking.open().run_id)
    store.replace("scores", scores, asset="regional_models")
    current = scores[scores["current"]]
    summary = (
        current.groupby(["design", "representation", "recipe", "budget"])
        .agg(basins=("gauge_id", "nunique"), models=("job_hash", "nunique"),
             median_nse=("nse", "median"), median_kge=("kge", "median"))
        .reset_index()
    )  # fmt: skip
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(scores),
            "superseded": int((~scores["current"]).sum()),
            "models": current["job_hash"].nunique(),
            "sample": bool(current["sample"].any()),
            "surrogate": bool(current["surrogate"].any()),
            **metadata.numbers({"median_nse": current["nse"].median()}),
            "by_design": dg.MetadataValue.md(metadata.markdown_table(summary)),
        }
    )


def build() -> list:
    """Assets of the group."""
    return [basin_scores, regional_scores]
