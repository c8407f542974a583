"""Group report: the study as one page.

Here: the asset. Not here: the page (experiments/report/), what it tells (each experiment).
"""

from datetime import date

import dagster as dg

from aef_dagster.experiments.readings_folder import RECORD, load_reading
from aef_dagster.experiments.report import Heading, render_report
from aef_dagster.experiments.study import EXPERIMENTS
from aef_dagster.experiments.trust import NAME as TRUST
from aef_dagster.models.jobs import CODE_VERSION
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.config import StudyConfig
from aef_dagster.pipeline.hydrographs import hydrograph_pictures
from aef_dagster.pipeline.regional_training import study_key
from aef_dagster.pipeline.resources import (
    HomeResource,
    PlatformResource,
    TrackingResource,
    WarehouseResource,
)
from aef_dagster.storage.outbox import StudyRecord
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
    readings += hydrograph_pictures(store, world, size, metadata.marked(marks(store, "aef")))
    made_of = marks(store, "aef")
    counts = store.frame(
        "SELECT count(DISTINCT gauge_id) AS basins, count(DISTINCT job_hash) AS models FROM scores "
        "WHERE current AND budget = ?", [size.budget],
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
    url = mlflow.url(key)
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(str(page)),
            "kilobytes": round(page.stat().st_size / 1024),
            "size": size.name,
            "experiments": len(there),
            "not_run": ", ".join(absent),
            **made_of,
            "findings": dg.MetadataValue.md(
                "\n\n".join(f"**{r.title}.** {r.findings[0]}" for r in readings if r.findings)
            ),
            "mlflow_run": dg.MetadataValue.url(url) if url else "waits in the outbox; `aef sync`",
        }
    )


def build() -> list:
    """Assets of the group."""
    return [study_report]
