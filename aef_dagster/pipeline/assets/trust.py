"""Group evaluation: what NSE to expect of a basin without a gauge.

Here: the asset. Not here: calibrating (experiments/trust.py), its inputs
(pipeline/trust_inputs.py).
"""

import json

import dagster as dg
import pandas as pd

from aef_dagster.experiments import trust as experiment
from aef_dagster.experiments.readings_folder import save_reading
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.config import StudyConfig
from aef_dagster.pipeline.resources import HomeResource, PlatformResource, WarehouseResource
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.trust_inputs import calibrations
from aef_dagster.storage.tables import marks

GROUP = "evaluation"

holds = dg.AssetCheckSpec(
    "coverage_holds",
    asset="trust",
    description="The interval of held-out basins holds as many of them as it says, within sampling "
    "error.",
)


@dg.asset(
    group_name=GROUP, kinds={"duckdb"}, code_version="1", check_specs=[holds],
    deps=["basin_scores", "regional_scores", dg.AssetKey(["similarity", "aef"])],
)  # fmt: skip
@told
def trust(
    config: StudyConfig, home: HomeResource, warehouse: WarehouseResource,
    platform: PlatformResource,
):  # fmt: skip
    """The NSE to expect of each basin if it had no gauge, with an interval.

    Contents: for each choice of training that at least 20 basins were simulated with as if
    ungauged, a quantile regression of NSE on similarity to donors, climate, distance and the spread
    of the ensemble, with a conformal interval. The expectation of a basin with flow comes from
    other basins (`held_out`); of one without, from all. A choice with fewer basins is not
    calibrated, and whoever asks is told so.
    Grain: (gauge_id, choice).
    """
    world, store = home.open(), warehouse.open()
    size = config.resolve(platform.dataset)
    made, untold = calibrations(world, store)
    made_of = marks(store, "aef")
    columns = ["gauge_id", "asset", "choice", "expected_nse", "low", "high", "level", "nse",
               "held_out"]  # fmt: skip
    tables = [
        found.table.rename_axis("gauge_id").reset_index().assign(
            asset=found.asset, choice=found.choice, level=experiment.LEVEL
        )[columns]
        for found in made
    ]  # fmt: skip
    table = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
    store.replace("trust", table.assign(**made_of))
    folder = world.study / "trust"
    folder.mkdir(parents=True, exist_ok=True)
    models = {found.choice: json.loads(found.model.to_json()) for found in made}
    (folder / "calibrations.json").write_text(json.dumps(models, indent=1), encoding="utf-8")
    reading = experiment.read(made, untold, metadata.marked(made_of))
    save_reading(reading, world.study / size.name / experiment.NAME)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(table),
            "calibrated": len(made),
            "not_calibrated_yet": ", ".join(untold[:10]),
            **made_of,
            **metadata.numbers(reading.numbers),
            "findings": dg.MetadataValue.md("\n\n".join(reading.findings)),
            **{picture.title.lower().replace(" ", "_"): metadata.png(picture.content, picture.title)
               for picture in reading.pictures if isinstance(picture.content, bytes)},
        }
    )  # fmt: skip
    yield dg.AssetCheckResult(
        asset_key="trust",
        check_name=holds.name,
        passed=all(check.passed for check in reading.checks),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={check.name: check.told for check in reading.checks},
    )


def build() -> list:
    """Assets of the group."""
    return [trust]
