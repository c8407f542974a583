"""Group models: regional models, each of many basins at once, as the study's designs ask.

Here: the asset. Not here: designs and plans (experiments/), training
(pipeline/regional_training.py), models of one target (models.py).
"""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.evaluation.figures import skill_cdf_png
from aef_dagster.evaluation.statistics import summarise
from aef_dagster.experiments.study import chosen, merged, plan_study
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.basin_training import describe_failures
from aef_dagster.pipeline.checks import check_leakage
from aef_dagster.pipeline.config import RegionalConfig
from aef_dagster.pipeline.mending import read_mended
from aef_dagster.pipeline.partitions import asked_partitions, regional_partitions
from aef_dagster.pipeline.regional_training import Member, tracked_model, train_regional
from aef_dagster.pipeline.resources import (
    DatasetResource,
    HomeResource,
    PlatformResource,
    TrackingResource,
    WarehouseResource,
)
from aef_dagster.pipeline.study_inputs import plan_regional, study_basins
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.versions import text_version

GROUP = "models"

no_leakage = dg.AssetCheckSpec(
    "no_leakage",
    asset="regional_models",
    description="No unseen target among the basins learned from; all scaling statistics come from "
    "these only.",
)


def build() -> list:
    """Assets of the group."""

    @dg.asset(
        group_name=GROUP, partitions_def=regional_partitions(), pool="training",
        backfill_policy=dg.BackfillPolicy.single_run(), output_required=False,
        kinds={"pytorch", "mlflow"}, code_version="1", check_specs=[no_leakage],
        deps=["forcings", "streamflow", "attributes", "basin_embedding", "basin_clusters"],
    )  # fmt: skip
    @told
    def regional_models(
        context: dg.AssetExecutionContext, config: RegionalConfig, home: HomeResource,
        dataset: DatasetResource, warehouse: WarehouseResource, tracking: TrackingResource,
        platform: PlatformResource,
    ) -> Iterator:  # fmt: skip
        """One model of many basins, tested on basins or in years that it has not seen.

        Contents: per partition, a design (which basins are held out together) and a
        representation (what the network is told), all models that the study of the chosen size
        asks for: folds, seeds, recipes. Each is a checkpoint with the simulations and scores of its
        targets, and an MLflow run under the experiment that asked first.
        Grain: one partition a design and representation. A finished job is not trained twice.
        """
        size = config.resolve(platform.dataset)
        world, store, mlflow = home.open(), warehouse.open(), tracking.open()
        keys = asked_partitions(context, config.partitions)
        basins = read_mended(
            lambda: study_basins(world, store, platform.dataset, platform.reference_dir),
            world, dataset, context.log,
        )  # fmt: skip
        chosen(config.experiments)
        asked_by = merged(plan_study(basins, size, config.experiments))
        asks = [ask for ask in asked_by if ask.partition in keys]
        if not asks:
            raise UserError(
                f"a study of size {size.name} asks for none of {', '.join(keys[:5])}; choose "
                "another size, or partitions that it asks for"
            )
        unasked = sorted(set(keys) - {ask.partition for ask in asks})
        if unasked:
            context.log.info("a study of size %s does not ask for %s", size.name, unasked)
        plan = read_mended(
            lambda: plan_regional(
                world, store, asks, size, platform.dataset, platform.forcing, platform.precision
            ),
            world, dataset, context.log,
        )  # fmt: skip
        failures: dict[str, str] = {}
        finished: set[str] = set()
        for key, members in train_regional(
            plan, world.checkpoints, workers=config.workers, device=platform.device,
            gpus=platform.gpus(context.run), run_id=context.run.run_id, failures=failures,
        ):  # fmt: skip
            for member in members:
                asking = asked_by[member.ask]
                mlflow.enqueue(
                    tracked_model(
                        member, size.name, asking, context.run.run_id, platform.dagster_url
                    )
                )
            mlflow.drain()
            finished |= {member.checkpoint.hash for member in members}
            yield dg.AssetMaterialization(
                context.asset_key,
                partition=key,
                metadata=_metadata(key, members, size.name),
                tags={"dagster/data_version": text_version(*(m.checkpoint.hash for m in members))},
            )
        done = [job for _ask, job in plan.jobs if job.hash in finished]
        yield check_leakage(world.checkpoints, done, plan.data, asset="regional_models")
        if failures:
            raise dg.Failure(
                describe_failures(failures, len(keys), of="partitions"),
                metadata={key: reason for key, reason in list(failures.items())[:50]},
                allow_retries=False,
            )

    return [regional_models]


def _metadata(key: str, members: list[Member], size: str) -> dict:
    members = sorted(members, key=lambda m: (m.ask.recipe, m.ask.split.learned_from,
                                             m.ask.split.fold, m.ask.seed))  # fmt: skip
    rows: list[dict] = []
    curves: dict[str, list[float]] = {}
    for member in members:
        scores, split = member.scores, member.ask.split
        told = summarise(scores["nse"])
        rows.append({
            "fold": split.fold, "learned from": split.learned_from or "all others",
            "recipe": member.ask.recipe, "seed": member.ask.seed, "donors": len(split.donors),
            "targets": len(split.targets), "median NSE": told["median"],
            "share below 0": told["share_below_0"], "reused": member.reused,
            "seconds": round(member.checkpoint.run()["seconds"], 1),
        })  # fmt: skip
        if member.ask.recipe == "strong":
            curves.setdefault(f"seed {member.ask.seed}", []).extend(scores["nse"])
    job = members[0].job
    nse = [value for values in curves.values() for value in values]
    marks = {"sample": job.sample, "surrogate": job.surrogate}
    title = f"{metadata.marked(marks)}{key}"
    return {
        "models": len(members),
        "reused": sum(member.reused for member in members),
        **metadata.numbers({"median_nse": pd.Series(nse, dtype=float).median()}),
        "size": size,
        **marks,
        "by_model": dg.MetadataValue.md(metadata.markdown_table(pd.DataFrame(rows))),
        "nse_of_basins": metadata.png(skill_cdf_png(curves or {"none": []}), title),
        "train_seconds": round(sum(m.seconds for m in members if not m.reused), 1),
    }
