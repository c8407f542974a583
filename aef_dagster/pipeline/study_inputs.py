"""What the study reads, put together from warehouse and lake.

Here: the basins of a study, regional models planned as jobs, the evidence for the readings. No
Dagster object is needed. Not here: which models an experiment wants (experiments/).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.basins.periods import default_periods
from aef_dagster.errors import UserError
from aef_dagster.experiments.asks import RegionalAsk, StudyBasins
from aef_dagster.experiments.designs import BY_EMBEDDING, folds, of_these_groups, regions
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.sizes import Size
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.statics import REPRESENTATIONS
from aef_dagster.pipeline.inputs import (
    combined,
    static_frames,
    tells_embedding,
    training_data,
    usable,
    versions_of,
)
from aef_dagster.storage.home import Home
from aef_dagster.storage.tables import (
    attribute_frame,
    embedding_frame,
    embeddings_by_year,
    marks,
    require_rows,
    similarity_matrix,
)
from aef_dagster.storage.warehouse import Warehouse

logger = logging.getLogger("aef_dagster")

PUBLISHED_TARGETS = "target_basins_129.csv"


@dataclass(frozen=True)
class RegionalPlan:
    """Regional models to be trained: each ask with its job, and all that the jobs read."""

    jobs: list[tuple[RegionalAsk, TrainingJob]]
    data: TrainingData


def study_basins(
    home: Home, store: Warehouse, dataset: str, reference_dir: str | None = None
) -> StudyBasins:
    """The basins that every model of a study can learn from and be tested on.

    They have weather, flow in the training period, and all descriptors: so representations are
    compared on the same basins.

    Raises
    ------
    UserError
        Nothing is prepared, or no clusters were made.
    """
    statics = static_frames(store, REPRESENTATIONS)
    _targets, donors = usable(home, store, statics, default_periods(dataset))
    frame = store.frame("SELECT gauge_id, name, lat, lon, huc_02 FROM basins ORDER BY gauge_id")
    frame = frame[frame["gauge_id"].isin(donors)].set_index("gauge_id")
    clusters = store.frame("SELECT scheme, k, silhouette, gauge_id, cluster FROM basin_clusters")
    require_rows(clusters, "basin_clusters", "basin_clusters")
    # In each scheme: a basin without climate indices has a cluster by AlphaEarth alone.
    absent = set().union(
        *(set(frame.index) - set(rows["gauge_id"]) for _scheme, rows in clusters.groupby("scheme"))
    )
    if absent:
        raise UserError(
            f"{len(absent)} basins have no cluster ({', '.join(sorted(absent)[:5])}): materialize "
            "`basin_clusters` again"
        )
    labels: dict[str, dict[int, pd.Series]] = {}
    silhouettes: dict[str, dict[int, float]] = {}
    for _key, rows in clusters.groupby(["scheme", "k"]):
        scheme, k = str(rows["scheme"].iloc[0]), int(rows["k"].iloc[0])
        labels.setdefault(scheme, {})[k] = rows.set_index("gauge_id")["cluster"]
        silhouettes.setdefault(scheme, {})[k] = float(rows["silhouette"].iloc[0])
    return StudyBasins(frame, labels, silhouettes, _published_targets(reference_dir, frame))


def plan_regional(
    home: Home,
    store: Warehouse,
    asks: Sequence[RegionalAsk],
    size: Size,
    dataset: str,
    forcing: str,
    precision: str,
) -> RegionalPlan:
    """Jobs of regional models, and the arrays they share."""
    representations = sorted({ask.representation for ask in asks})
    statics = static_frames(store, representations)
    needed = sorted({g for ask in asks for g in (*ask.split.donors, *ask.split.targets)})
    data = training_data(home, needed, representations, statics)
    versions = {name: versions_of(data, name) for name in representations}
    periods = default_periods(dataset)
    jobs = []
    for ask in asks:
        made_of = marks(
            store, "",
            told_embedding=tells_embedding(ask.representation)
            or ask.split.design in BY_EMBEDDING,
        )  # fmt: skip
        basins = sorted({*ask.split.donors, *ask.split.targets})
        job = ask.job(
            dataset=dataset,
            forcing=forcing,
            data_version=combined(versions[ask.representation], basins),
            periods=periods,
            budget=size.budget,
            precision=precision,
            **made_of,
        )
        jobs.append((ask, job))
    return RegionalPlan(jobs, data)


def evidence_of(
    home: Home,
    store: Warehouse,
    size: Size,
    basins: StudyBasins,
    signatures: pd.DataFrame,
    precision: str,
) -> Evidence:
    """All that readings look at."""
    from aef_dagster.pipeline.yearly_scores import score_years

    scores = store.frame(
        "SELECT * FROM scores WHERE current AND n_members = 1 AND budget = ? AND precision = ?",
        [size.budget, precision],
    )
    held = of_these_groups(scores, _groups(basins, size))
    if not held.all():
        logger.warning(
            "%d scores were made with other folds or clusters than now and are left out: "
            "materialize `regional_models` again for all basins to have theirs", int((~held).sum()),
        )  # fmt: skip
        scores = scores[held]
    return Evidence(
        size=size,
        basins=basins,
        scores=scores,
        attributes=attribute_frame(store, "published"),
        climate=attribute_frame(store, "training_period"),
        embedding=embedding_frame(store),
        signatures=signatures,
        yearly=embeddings_by_year(store),
        stability=store.frame("SELECT * FROM embedding_stability").set_index("gauge_id"),
        similarity=lambda space: _float_matrix(store, space),
        # Basins may have left the study since, and have neither weather nor vectors any more.
        yearly_scores=lambda: score_years(
            home, store, scores[scores["gauge_id"].isin(basins.gauge_ids)]
        ),
        outlines=home.polygons,
        checkpoints=home.checkpoints,
        marks=marks(store, "aef"),
    )


def _groups(basins: StudyBasins, size: Size) -> dict[str, dict[str, int]]:
    """Group of each basin in the designs that hold groups out, as they are now."""
    fold_of = folds(basins.gauge_ids, size.folds)
    clusters = basins.labels("aef", size.most_clusters)
    return {
        **dict.fromkeys(("folds", "fewer_folds", "each_cluster"), fold_of),
        **dict.fromkeys(("clusters", "fewer_clusters"), clusters),
        "climates": basins.labels("climate", size.climates),
        "regions": regions(basins.frame["huc_02"], size.regions),
    }


def _float_matrix(store: Warehouse, space: str) -> tuple[np.ndarray, list[str]]:
    matrix, ids = similarity_matrix(store, space)
    return np.asarray(matrix, dtype=np.float64), ids


def _published_targets(reference_dir: str | None, frame: pd.DataFrame) -> tuple[str, ...]:
    path = Path(reference_dir) / PUBLISHED_TARGETS if reference_dir else None
    if path is None or not path.exists():
        return ()
    listed = pd.read_csv(path, dtype=str).iloc[:, 0].str.zfill(8)
    return tuple(sorted(set(listed) & set(frame.index)))
