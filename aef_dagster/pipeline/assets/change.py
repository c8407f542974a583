"""What a new year changed: embeddings from year to year, and the donors that follow from them.

Here: `embedding_stability` (group embeddings) and `donor_drift` (group similarity).
Not here: how either is measured (embeddings/stability.py, trend.py and outliers.py there;
similarity/drift.py).
"""

import dagster as dg
import pandas as pd

from aef_dagster.embeddings import outliers, stability
from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.trend import drift_against_spread
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.assets.embeddings import GROUP as EMBEDDINGS
from aef_dagster.pipeline.assets.similarity import GROUP as SIMILARITY
from aef_dagster.pipeline.automation import when_inputs_change
from aef_dagster.pipeline.choices import CHOICES, as_last_chosen, choices_of
from aef_dagster.pipeline.config import DEFAULT_K, DonorDrift
from aef_dagster.pipeline.resources import (
    EmbeddingsResource,
    HomeResource,
    PlatformResource,
    WarehouseResource,
)
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.versions import frame_version
from aef_dagster.similarity import drift
from aef_dagster.storage.tables import donor_frame, marks, require_rows
from aef_dagster.storage.warehouse import Warehouse

SPACE = "aef"


@dg.asset(
    group_name=EMBEDDINGS, kinds={"duckdb"}, code_version="1",
    deps=[dg.AssetDep("aef_embeddings", partition_mapping=dg.AllPartitionMapping()), "basins"],
)  # fmt: skip
@told
def embedding_stability(
    home: HomeResource, embeddings: EmbeddingsResource, warehouse: WarehouseResource
):
    """How much each basin's embedding changes from year to year.

    Contents: per basin the mean cosine between neighbouring years, drift between its first and last
    years, spread around its mean, and whether it drifts in one direction (permutation test,
    Benjamini-Hochberg over basins). On this page: odd years, the most restless basins, a map, years
    against years, bands against years.
    """
    home.open()
    store = warehouse.open()
    yearly = store.frame(
        f"SELECT gauge_id, year, surrogate, sample, {', '.join(BANDS)} FROM aef_embeddings "
        "WHERE route = ?",
        [embeddings.open().route],
    )
    require_rows(yearly, "aef_embeddings", "aef_embeddings")
    steps = stability.year_to_year(yearly)
    basins = drift_against_spread(yearly)
    cosine = steps[steps["gap"] == 1].groupby("gauge_id")["cosine"].mean()
    made_of = {mark: bool(yearly[mark].any()) for mark in ("sample", "surrogate")}
    table = basins.assign(mean_cosine=basins["gauge_id"].map(cosine), **made_of)
    store.replace("embedding_stability", table)
    years, restless = outliers.outlier_years(yearly), outliers.outlier_basins(yearly)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frame_version(table)),
        metadata={
            "dagster/row_count": len(table),
            **metadata.numbers(
                {
                    "median_cosine": steps.loc[steps["gap"] == 1, "cosine"].median(),
                    "median_drift": basins["drift"].median(),
                    "median_spread": basins["spread"].median(),
                }
            ),
            "drifting_basins": int(basins["drifts"].fillna(False).sum()),
            "odd_years": ", ".join(map(str, years.loc[years["outlier"], "year"])) or "none",
            "basins_without_some_year": len(stability.missing_years(yearly)),
            **made_of,
            **_pictures(yearly, table, store, metadata.marked(made_of)),
            "years": dg.MetadataValue.md(metadata.markdown_table(years)),
            "steps": dg.MetadataValue.md(metadata.markdown_table(outliers.year_pairs(yearly))),
            "most_restless": metadata.preview(restless),
        },
    )


@dg.asset(
    group_name=SIMILARITY, kinds={"duckdb"}, code_version="1",
    deps=[dg.AssetKey(["donors", SPACE])], automation_condition=when_inputs_change(),
)  # fmt: skip
@told
def donor_drift(
    context: dg.AssetExecutionContext, config: DonorDrift, home: HomeResource,
    warehouse: WarehouseResource, platform: PlatformResource,
):  # fmt: skip
    """How each target's first k donors by AlphaEarth changed when they last did.

    Contents: per target the Jaccard index of its k donors before and after, correlation of their
    ranks, who entered and who left, and whether it `moved`: its Jaccard index is below the
    threshold, so that a model trained on the new donors would be another one. Only the last change
    counts: small ones one after another do not add up. Nothing is trained here; the sensor
    `retrain_moved_basins`, off unless you switch it on, does that.
    """
    home.open()
    config = as_last_chosen(context, config)
    store = warehouse.open()
    after = donor_frame(store, SPACE)
    before = store.frame(
        "SELECT gauge_id, rank, donor_id, cosine FROM donors_before WHERE space = ?", [SPACE]
    )
    if before.empty:
        before = after  # ranked once so far: nothing has moved
    most = min(int(frame.groupby("gauge_id").size().min()) for frame in (before, after))
    k = min(config.k or DEFAULT_K[platform.dataset], most)
    found = drift.donor_drift(before, after, k).rename(columns={"left": "gone"})
    moved = drift.moved(found, config.threshold)
    made_of = marks(store, SPACE)
    table = found.assign(k=k, moved=found["gauge_id"].isin(moved), **made_of)
    store.replace("donor_drift", table)
    both = table[table["present"] == "both"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frame_version(table)),
        metadata={
            "dagster/row_count": len(table),
            "k": k,
            "threshold": config.threshold,
            CHOICES: choices_of(config),
            "moved": len(moved),
            "in_one_ranking_only": len(table) - len(both),
            **metadata.numbers(
                {
                    "median_jaccard": both["jaccard"].median(),
                    "smallest_jaccard": both["jaccard"].min(),
                    "median_spearman": both["spearman"].median(),
                    "unchanged_share": (both["jaccard"] == 1).mean(),
                }
            ),
            **made_of,
            "map_of_change": _map(
                both,
                "jaccard",
                store,
                f"{metadata.marked(made_of)}donors kept (k = {k})",
                "Jaccard index",
            ),
            "most_changed": metadata.preview(both.sort_values("jaccard")),
        },
    )


def build() -> list:
    """Both assets."""
    return [embedding_stability, donor_drift]


def _pictures(yearly: pd.DataFrame, table: pd.DataFrame, store: Warehouse, mark: str) -> dict:
    """A map of restlessness, years against years, bands against steps."""
    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.heatmaps import band_heatmap, year_heatmap

    cosines = stability.median_cosines(yearly)
    bands = stability.band_stability(yearly)
    bands["step"] = bands["year_from"].astype(str) + "-" + bands["year_to"].astype(str)
    by_band = bands.pivot(index="band", columns="step", values="correlation")
    figures = {
        "years_against_years": year_heatmap(
            cosines.to_numpy(), [int(year) for year in cosines.columns],
            title=f"{mark}how alike years are",
        ),
        "bands_against_steps": band_heatmap(
            by_band.to_numpy(), list(by_band.index), list(by_band.columns),
            title=f"{mark}bands from year to year",
        ),
    }  # fmt: skip
    pictures = {name: metadata.png(png_of(figure), name) for name, figure in figures.items()}
    title = f"{mark}embedding of a year against the next"
    return {"map_of_change": _map(table, "mean_cosine", store, title, "mean cosine"), **pictures}


def _map(
    table: pd.DataFrame, column: str, store: Warehouse, title: str, label: str
) -> dg.MetadataValue:
    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.maps import basin_map

    placed = table.merge(store.frame("SELECT gauge_id, lon, lat FROM basins"), on="gauge_id")
    figure = basin_map(placed["lon"], placed["lat"], placed[column], title=title, label=label)
    return metadata.png(png_of(figure), title)
