"""Group report: the study as one page, and its models as one registered bundle.

Here: the assets. Not here: the page (experiments/report/), what it tells (each experiment), the
bundle's choice and check (pipeline/bundling.py).
"""

from datetime import date

import dagster as dg

from aef_dagster.basins.dataset import FORCINGS
from aef_dagster.errors import UserError
from aef_dagster.experiments.readings_folder import RECORD, load_reading
from aef_dagster.experiments.report import Heading, render_report
from aef_dagster.experiments.study import EXPERIMENTS
from aef_dagster.experiments.trust import NAME as TRUST
from aef_dagster.models.jobs import CODE_VERSION
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.bundling import (
    choose_models,
    largest_difference,
    may_replace,
    static_names,
)
from aef_dagster.pipeline.config import StudyConfig
from aef_dagster.pipeline.hydrographs import hydrograph_pictures
from aef_dagster.pipeline.regional_training import study_key
from aef_dagster.pipeline.resources import (
    HomeResource,
    PlatformResource,
    TrackingResource,
    WarehouseResource,
)
from aef_dagster.pipeline.telling import told
from aef_dagster.storage.bundle import save_bundle
from aef_dagster.storage.outbox import StudyRecord
from aef_dagster.storage.registry import (
    REGISTERED,
    champion_tags,
    load_bundle,
    promote,
    register_bundle,
)
from aef_dagster.storage.tables import marks

GROUP = "report"
ATTRIBUTION = (
    "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google "
    "DeepMind (CC-BY 4.0; Brown, Kazmierski, Pasquarella et al. 2025, arXiv:2507.22291).",
    "The study under test: arXiv:2601.01558. Basins: CAMELS-US, Newman et al. 2015 "
    "(doi:10.5194/hess-19-209-2015), Addor et al. 2017 (doi:10.5194/hess-21-5293-2017).",
)


@dg.asset(
    group_name=GROUP, kinds={"html", "mlflow"}, code_version="1",
    deps=[*(dg.AssetKey(name) for name in EXPERIMENTS), "trust"],
)  # fmt: skip
@told
def study_report(
    context: dg.AssetExecutionContext, config: StudyConfig, home: HomeResource,
    warehouse: WarehouseResource, tracking: TrackingResource, platform: PlatformResource,
):  # fmt: skip
    """Everything the study found, as one HTML page that needs no network.

    Contents: `study/<size>/index.html` in the home: findings first, then each experiment with
    pictures, tables and checks; experiments that were not run are named as such. The same file is
    an artifact of the study's run in MLflow.
    """
    size = config.resolve(platform.dataset)
    world, store = home.open(), warehouse.open()
    folder = world.study / size.name
    there = [name for name in (*EXPERIMENTS, TRUST) if (folder / name / RECORD).exists()]
    readings = [load_reading(folder / name) for name in there]
    absent = [name for name in (*EXPERIMENTS, TRUST) if name not in there]
    made_of = marks(store, "aef")
    readings += hydrograph_pictures(
        store, world, size, platform.precision, metadata.marked(made_of)
    )
    counts = store.frame(
        "SELECT count(DISTINCT gauge_id) AS basins, count(DISTINCT job_hash) AS models FROM scores "
        "WHERE current AND n_members = 1 AND budget = ? AND precision = ?",
        [size.budget, platform.precision],
    ).iloc[0]  # fmt: skip
    heading = Heading(
        title="Do satellite embeddings help where no river is gauged?",
        size=size.name,
        dataset=platform.dataset,
        marks=tuple(name for name, yes in made_of.items() if yes),
        made_on=date.today().isoformat(),
        facts={
            "basins": f"{counts['basins']:,}", "trained models": f"{counts['models']:,}",
            "budget": size.budget, "forcing": platform.forcing, "code version": CODE_VERSION,
            **({"not run": ", ".join(absent)} if absent else {}),
        },
        notes=ATTRIBUTION,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    page = world.report(size.name)
    unfinished = page.with_suffix(".tmp")
    unfinished.write_text(render_report(readings, heading), encoding="utf-8")
    unfinished.replace(page)
    mlflow = tracking.open()
    key = study_key(size.name, "report")
    mlflow.enqueue_study(StudyRecord(
        key=key, name=f"report · {size.name}",
        tags={"experiment": "report", "size": size.name, "dataset": platform.dataset,
              "dagster_run_id": context.run.run_id,
              **{name: str(yes).lower() for name, yes in made_of.items()}},
        metrics={n: v for r in readings for n, v in r.numbers.items() if v == v},
        note="\n\n".join(f"**{r.title}**: {r.findings[0]}" for r in readings if r.findings),
        files={page.name: str(page)},
    ))  # fmt: skip
    mlflow.drain()
    url = mlflow.study_url(key)
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(str(page)),
            "kilobytes": round(page.stat().st_size / 1024),
            "size": size.name,
            "experiments": len(there),
            "not_run": ", ".join(absent) or "none",
            **made_of,
            "findings": dg.MetadataValue.md(
                "\n\n".join(f"**{r.title}.** {r.findings[0]}" for r in readings if r.findings)
            ),
            "mlflow_run": dg.MetadataValue.url(url) if url else "waits in the outbox; `aef sync`",
        }
    )


simulates_as_trained = dg.AssetCheckSpec(
    "simulates_as_trained",
    asset="study_bundle",
    description="Fed with weather and descriptors, it gives what its models gave; asked before it "
    "is registered.",
)
CLOSE_ENOUGH = 1e-3  # mm/day


@dg.asset(
    group_name=GROUP, kinds={"mlflow"}, code_version="1", check_specs=[simulates_as_trained],
    deps=["regional_scores"],
)  # fmt: skip
@told
def study_bundle(
    config: StudyConfig, home: HomeResource, warehouse: WarehouseResource,
    tracking: TrackingResource, platform: PlatformResource,
):  # fmt: skip
    """The study's models as one registered MLflow model that simulates any basin.

    Contents: the models of all folds, told the representation that served unseen basins best. Give
    it days of weather and a basin's descriptors, it gives mm/day; a basin of the study is simulated
    by the models that never saw it. It is registered only if its check passes; the alias `champion`
    moves to it only if no better bundle of the same dataset holds it.
    """
    size = config.resolve(platform.dataset)
    world, store, mlflow = home.open(), warehouse.open(), tracking.open()
    chosen = choose_models(world, store, size.budget, platform.precision)
    made_of = marks(store, "aef")
    folder = world.study / size.name / "bundle"
    save_bundle(
        folder, chosen.checkpoints, title=f"study {size.name} of {platform.dataset}",
        marks=[name for name, yes in made_of.items() if yes],
        forcing_names=FORCINGS,
        static_names=static_names(store, chosen),
    )  # fmt: skip
    # Before it is registered: a version that does not simulate must not be found there.
    difference = largest_difference(world, store, load_bundle(folder), chosen)
    passed = difference < CLOSE_ENOUGH
    yield dg.AssetCheckResult(
        asset_key="study_bundle",
        check_name=simulates_as_trained.name,
        passed=bool(passed),
        metadata={"largest_difference_mm_per_day": difference},
    )
    if not passed:
        raise UserError(
            f"the bundle does not simulate as its models did (up to {difference:.3g} mm/day "
            "apart): it was not registered. Train its models again"
        )
    mlflow.setup()
    version = register_bundle(mlflow.uri, folder, tags={
        "dataset": platform.dataset, "size": size.name, "representation": chosen.representation,
        "median_nse": f"{chosen.median_nse:.4f}", "basins": str(chosen.basins),
    })  # fmt: skip
    better = may_replace(
        champion_tags(mlflow.uri), platform.dataset, chosen.median_nse, made_of["surrogate"]
    )
    if better:
        promote(mlflow.uri, REGISTERED, version)
    yield dg.MaterializeResult(
        metadata={
            "version": version,
            "champion": better,
            "representation": chosen.representation,
            "models": len(chosen.checkpoints),
            **metadata.numbers({"median_nse": chosen.median_nse}),
            **made_of,
            "load_it": dg.MetadataValue.md(
                f'```python\nimport mlflow\nmodel = mlflow.pyfunc.load_model("models:/{REGISTERED}'
                f'/{version}")\nmodel.predict(table)  # gauge_id, date, forcings, descriptors\n```'
            ),
        }
    )


def build() -> list:
    """Assets of the group."""
    return [study_report, study_bundle]
