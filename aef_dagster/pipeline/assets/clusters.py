"""Group similarity: basins in clusters, by what satellites see and by climate.

Here: the asset. Not here: clustering (similarity/clusters.py).
"""

import dagster as dg
import numpy as np
import pandas as pd

from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.config import Clustering
from aef_dagster.pipeline.resources import HomeResource, WarehouseResource
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.versions import frame_version
from aef_dagster.similarity.clusters import agreement, choose_clusters
from aef_dagster.similarity.representations import attribute_matrix
from aef_dagster.storage.tables import attribute_frame, embedding_frame, marks
from aef_dagster.storage.warehouse import Warehouse

GROUP = "similarity"


@dg.asset(
    group_name=GROUP, kinds={"duckdb"}, code_version="1", deps=["basin_embedding", "attributes"]
)
@told
def basin_clusters(config: Clustering, home: HomeResource, warehouse: WarehouseResource):
    """Clusters of like basins: by AlphaEarth vectors, and by climate indices.

    Contents: KMeans labels for every number of clusters tried, with the mean silhouette; `best`
    marks the number with the largest one. The largest cluster is 0. Leave-one-cluster-out designs
    of the study are built on these.
    Grain: (scheme, k, gauge_id).
    """
    home.open()
    store = warehouse.open()
    embedding = embedding_frame(store)
    climate = attribute_frame(store, "training_period")
    climate = climate[climate.notna().all(axis=1)]
    made_of = marks(store, "aef")
    tables = [
        _labels("aef", embedding.index, embedding.to_numpy(), config).assign(
            surrogate=made_of["surrogate"]
        ),
        _labels("climate", climate.index, attribute_matrix(climate)[0], config).assign(
            surrogate=False
        ),
    ]
    table = pd.concat(tables, ignore_index=True).assign(sample=made_of["sample"])
    store.replace("basin_clusters", table)
    best = table[table["best"]].pivot(index="gauge_id", columns="scheme", values="cluster").dropna()
    scores = table.groupby(["scheme", "k"])["silhouette"].first().unstack("scheme").reset_index()
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frame_version(table)),
        metadata={
            "dagster/row_count": len(table),
            "basins": len(embedding),
            **{f"k_{scheme}": int(table.loc[table["best"] & (table["scheme"] == scheme), "k"].max())
               for scheme in ("aef", "climate")},
            **metadata.numbers(
                {f"{name}_aef_climate": value
                 for name, value in agreement(best["aef"], best["climate"]).items()}
            ),
            **made_of,
            "silhouettes": dg.MetadataValue.md(metadata.markdown_table(scores)),
            "map_of_clusters": _map(store, best["aef"], metadata.marked(made_of)),
        },
    )  # fmt: skip


def _labels(scheme: str, index: pd.Index, vectors: np.ndarray, config: Clustering) -> pd.DataFrame:
    tables = []
    # Beyond a third of the basins, clusters are single basins.
    for k in range(config.k_min, min(config.k_max, len(index) // 3) + 1):
        found = choose_clusters(vectors, [k])
        tables.append(pd.DataFrame(
            {"scheme": scheme, "k": k, "silhouette": found.silhouettes[k],
             "gauge_id": index, "cluster": found.labels}
        ))  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    return table.assign(best=table["silhouette"] == table["silhouette"].max())


def _map(store: Warehouse, labels: pd.Series, prefix: str) -> dg.MetadataValue:
    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.maps import basin_map

    places = store.frame("SELECT gauge_id, lat, lon FROM basins").set_index("gauge_id")
    places = places.loc[labels.index]
    title = f"{prefix}clusters by AlphaEarth"
    figure = basin_map(places["lon"], places["lat"], labels, title=title, label="cluster")
    return metadata.png(png_of(figure), title)


def build() -> list:
    """Assets of the group."""
    return [basin_clusters]
