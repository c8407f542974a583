"""Group experiments: an asset for each experiment of the study.

Here: a factory from the study's register; each asset loads the evidence, calls the experiment's
reading, and reports. Not here: plans and readings (experiments/), training.
"""

import dagster as dg

from aef_dagster.experiments.reading import Picture, Reading
from aef_dagster.experiments.readings_folder import save_reading
from aef_dagster.experiments.study import EXPERIMENTS, Experiment
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.config import StudyConfig
from aef_dagster.pipeline.regional_training import study_key
from aef_dagster.pipeline.resources import (
    DatasetResource,
    HomeResource,
    PlatformResource,
    TrackingResource,
    WarehouseResource,
)
from aef_dagster.pipeline.study_inputs import evidence_of, study_basins
from aef_dagster.pipeline.telling import told
from aef_dagster.storage.outbox import StudyRecord

GROUP = "experiments"
# A page of Dagster keeps its metadata in a row of its database: pictures above this are left to
# the report.
LARGEST_PICTURE = 120_000

DEPS: dict[str, list[str]] = {
    "donor_scaling": ["basin_scores", "basin_clusters"],
    "cross_regime": ["regional_scores", "basin_clusters"],
    "mechanisms": [
        "regional_scores", "similarity/aef", "similarity/attributes", "similarity/distance",
        "similarity/random", "similarity/fusion", "basin_clusters",
    ],
    "temporal_stability": ["regional_scores", "aef_embeddings", "embedding_stability"],
}  # fmt: skip


def _asset(experiment: Experiment) -> dg.AssetsDefinition:
    deps = [dg.AssetKey.from_user_string(name)
            for name in DEPS.get(experiment.name, ["regional_scores"])]  # fmt: skip
    held = dg.AssetCheckSpec(
        "checks_held",
        asset=experiment.name,
        description="What the experiment itself checks: failure signatures and floors.",
    )

    @dg.asset(
        name=experiment.name, group_name=GROUP, kinds={"duckdb", "mlflow"}, code_version="1",
        deps=deps, check_specs=[held],
        description=f"{experiment.question} Reads `scores`; writes its rows of `estimates` (a row "
        "a number, with its interval), tables and pictures in the home's folder `study/`, and its "
        "MLflow run. Grain: one row a measure and comparison.",
    )  # fmt: skip
    @told
    def read_experiment(
        context: dg.AssetExecutionContext, config: StudyConfig, home: HomeResource,
        warehouse: WarehouseResource, dataset: DatasetResource, tracking: TrackingResource,
        platform: PlatformResource,
    ):  # fmt: skip
        size = config.resolve(platform.dataset)
        world, store = home.open(), warehouse.open()
        basins = study_basins(world, store, platform.dataset, platform.reference_dir)
        evidence = evidence_of(
            world, store, size, basins, dataset.open().signatures(), platform.precision
        )
        reading = experiment.read(evidence)
        table = reading.estimates.assign(
            experiment=experiment.name, size=size.name, **evidence.marks
        )
        store.replace("estimates", table, experiment=experiment.name, size=size.name)
        files = save_reading(reading, world.study / size.name / experiment.name)
        mlflow = tracking.open()
        mlflow.enqueue_study(StudyRecord(
            key=study_key(size.name, experiment.name),
            name=f"{experiment.name} · {size.name}",
            tags={"experiment": experiment.name, "size": size.name, "dataset": platform.dataset,
                  "budget": size.budget, "dagster_run_id": context.run.run_id,
                  **{name: str(yes).lower() for name, yes in evidence.marks.items()}},
            metrics={n: float(v) for n, v in reading.numbers.items() if v == v},
            note="\n\n".join([f"**{reading.question}**", *reading.findings]),
            files={name: str(path) for name, path in files.items()},
        ))  # fmt: skip
        mlflow.drain()
        yield dg.MaterializeResult(metadata=_metadata(reading, size.name, dict(evidence.marks)))
        failed = [check for check in reading.checks if not check.passed]
        yield dg.AssetCheckResult(
            asset_key=experiment.name,
            check_name=held.name,
            passed=not failed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={check.name: check.told for check in reading.checks},
        )

    return read_experiment


def _metadata(reading: Reading, size: str, marks: dict[str, bool]) -> dict:
    shown = reading.estimates.drop(columns=["k"]).head(40)
    return {
        "size": size,
        **marks,
        "findings": dg.MetadataValue.md("\n\n".join(reading.findings)),
        "dagster/row_count": len(reading.estimates),
        **metadata.numbers(reading.numbers),
        "estimates": dg.MetadataValue.md(metadata.markdown_table(shown)),
        **{f"picture_{number}": _shown(picture) for number, picture in enumerate(reading.pictures)
           if len(picture.content) < LARGEST_PICTURE},
    }  # fmt: skip


def _shown(picture: Picture) -> dg.MetadataValue:
    if isinstance(picture.content, str):
        return metadata.picture(picture.content)
    return metadata.png(picture.content, picture.title)


def build() -> list:
    """Assets of the group."""
    return [_asset(experiment) for experiment in EXPERIMENTS.values()]
