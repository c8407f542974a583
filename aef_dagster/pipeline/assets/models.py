"""Group models: one LSTM, or one seed ensemble, per target basin.

Here: the asset. Not here: planning (experiments/), training (models/), what is told of a result
(pipeline/reports.py).
"""

from collections.abc import Iterator

import dagster as dg

from aef_dagster.experiments.donor_models import SPACE_OF_SOFT
from aef_dagster.pipeline.basin_training import describe_failures, finish_study, train_basins
from aef_dagster.pipeline.checks import (
    check_complete,
    check_leakage,
    complete,
    no_leakage,
    refuse_blocked_donors,
)
from aef_dagster.pipeline.config import TrainingConfig
from aef_dagster.pipeline.inputs import plan_basins
from aef_dagster.pipeline.mending import read_mended
from aef_dagster.pipeline.partitions import asked_partitions, basin_partitions
from aef_dagster.pipeline.reports import basin_metadata, tracked_run
from aef_dagster.pipeline.resources import (
    DatasetResource,
    HomeResource,
    PlatformResource,
    TrackingResource,
    WarehouseResource,
)
from aef_dagster.pipeline.telling import told
from aef_dagster.settings import Settings
from aef_dagster.similarity.spaces import SPACES

GROUP = "models"
# A run costs seconds of start-up and the models of one run share data and cores, so a backfill is
# cut into runs of this many basins; a killed run loses little, for finished basins are kept.
BASINS_PER_RUN = 64


def build(settings: Settings) -> list:
    """Assets of the group; partitions follow the dataset."""
    partitions = basin_partitions(settings)

    # Not on donors/fusion: the page would warn of it before each training until a study has made
    # it, and only a run that asks for that space reads it.
    @dg.asset(
        group_name=GROUP, partitions_def=partitions, pool="training",
        backfill_policy=dg.BackfillPolicy.multi_run(BASINS_PER_RUN), output_required=False,
        kinds={"pytorch", "mlflow"}, code_version="1", check_specs=[no_leakage, complete],
        deps=["forcings", "streamflow", "attributes", "basin_embedding",
              *(dg.AssetKey(["donors", space]) for space in SPACES)],
    )  # fmt: skip
    @told
    def basin_models(
        context: dg.AssetExecutionContext, config: TrainingConfig, home: HomeResource,
        dataset: DatasetResource, warehouse: WarehouseResource, tracking: TrackingResource,
        platform: PlatformResource,
    ) -> Iterator:  # fmt: skip
        """A model of each basin as if it had no gauge: an LSTM trained on its k nearest donors.

        Contents: per basin a checkpoint (weights, scaler, job, scores, simulation of the test
        period), an MLflow run, and the scores and hydrograph on this page. The target's own flow is
        used for scoring only. The recipe says which of the donors' years it learns from.
        Grain: one partition a basin. A finished job is not trained twice: its name is the hash of
        all that decides its weights. Cost: about 40 s a basin and core at budget `donor`.
        """
        choice = config.resolve(platform.dataset)
        world, store, mlflow = home.open(), warehouse.open(), tracking.open()
        targets = asked_partitions(context, config.basins)
        refuse_blocked_donors(context.instance, SPACE_OF_SOFT.get(choice.space, choice.space))
        plan = read_mended(
            lambda: plan_basins(
                world, store, choice, targets, platform.dataset, platform.forcing,
                platform.precision,
            ),
            world, dataset, context.log,
        )  # fmt: skip
        failures = dict(plan.refused)
        study = _study(context, config, choice.title)
        hashes: dict[str, list[str]] = {}

        for result in train_basins(
            plan, world.checkpoints, choice, platform.device, platform.gpus(context.run),
            context.run.run_id, failures,
        ):  # fmt: skip
            mlflow.enqueue(
                tracked_run(result, choice, study, context.run.run_id, platform.dagster_url),
                fresh=not result.reused,
            )
            mlflow.drain()
            hashes[result.gauge_id] = [job.hash for job in result.members]
            yield dg.AssetMaterialization(
                context.asset_key,
                partition=result.gauge_id,
                metadata=basin_metadata(result, choice, mlflow.url(result.key(choice))),
                tags={"dagster/data_version": result.checkpoint.hash},
            )

        finish_study(mlflow, study[0], plan.title(choice))
        done = [job for target in hashes for job in plan.jobs[target]]
        yield check_leakage(world.checkpoints, done, plan.data)
        yield check_complete(context.instance, partitions, world.checkpoints, hashes, targets)
        if failures:
            raise dg.Failure(
                describe_failures(failures, len(targets)),
                metadata={gauge_id: reason for gauge_id, reason in list(failures.items())[:50]},
                allow_retries=False,
            )

    return [basin_models]


def _study(context: dg.AssetExecutionContext, config: TrainingConfig, title: str):
    """Key and name of the MLflow parent: the named study, else the backfill, else this run."""
    if config.study:
        return config.study, config.study
    backfill = context.run.tags.get("dagster/backfill")
    if backfill:
        return f"backfill:{backfill}:{title}", f"backfill {backfill} · {title}"
    return f"run:{context.run.run_id}", f"run {context.run.run_id[:8]} · {title}"
