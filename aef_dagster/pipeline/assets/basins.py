"""Group basins: what is known of each basin, from the published files to DuckDB and Parquet.

Here: the assets. Not here: how the files are read (basins/), or where things lie (storage/).
"""

import dagster as dg
import pandas as pd

from aef_dagster.basins.dataset import UNITS
from aef_dagster.basins.ingest import IngestReport
from aef_dagster.errors import writing
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.resources import (
    DatasetResource,
    HomeResource,
    PlatformResource,
    WarehouseResource,
)
from aef_dagster.pipeline.telling import told
from aef_dagster.progress import bar

GROUP = "basins"

readable_forcings = dg.AssetCheckSpec(
    "all_basins_readable", asset="forcings", description="No basin was excluded for a bad file."
)
readable_streamflow = dg.AssetCheckSpec(
    "all_basins_readable", asset="streamflow", description="No basin was excluded for a bad file."
)


@dg.asset(group_name=GROUP, kinds={"duckdb"}, code_version="1")
@told
def basins(
    home: HomeResource, dataset: DatasetResource, warehouse: WarehouseResource
) -> dg.MaterializeResult:
    """The catalog: one row a basin.

    Contents: gauge id (8 digits, as text), name, position of the gauge, area and HUC-2 region;
    outlines as GeoParquet. A basin is flagged where its outline and its gauged area differ by more
    than 10 %: there, weather and embeddings describe another area than the gauge measures.
    Source: CAMELS-US (Newman et al. 2015, Addor et al. 2017), or the made-up sample.
    Units: area km2, elevation m, position degrees (WGS 84).
    """
    world = home.open()
    reader = dataset.open()
    catalog = reader.catalog().assign(sample=reader.is_sample)
    outlines = reader.polygons()
    world.lake.mkdir(parents=True, exist_ok=True)
    unfinished = world.polygons.with_suffix(".tmp")
    with writing(world.polygons):
        outlines.to_parquet(unfinished)
        unfinished.replace(world.polygons)
    warehouse.open().replace("basins", catalog)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(catalog),
            "area_flagged": int(catalog["area_flag"].sum()),
            "outlines": len(outlines),
            "sample": reader.is_sample,
            "source": str(reader.root),
            "preview": metadata.preview(catalog),
        }
    )


@dg.asset(
    group_name=GROUP, deps=[basins], kinds={"parquet"}, code_version="1",
    check_specs=[readable_forcings],
)  # fmt: skip
@told
def forcings(
    home: HomeResource, dataset: DatasetResource, warehouse: WarehouseResource,
    platform: PlatformResource,
):  # fmt: skip
    """Daily weather of each basin, one Parquet a basin.

    Contents: prcp, dayl, srad, tmax, tmin, vp as published, and pet. CAMELS-US has no potential
    evapotranspiration beside its forcings, so it is computed (Oudin et al. 2005) for all products.
    A basin with a bad file is left out, with the reason, and the others go on.
    Units: mm/day, s, W/m2, degC, Pa; pet mm/day.
    """
    from aef_dagster.basins.ingest import ingest_forcings

    world = home.open()
    reader = dataset.open()
    with bar("forcings", len(reader.gauge_ids()), "basins") as progress:
        report = ingest_forcings(
            reader, world.forcings, on_progress=lambda _gauge_id: progress.advance()
        )
    _record_exclusions(warehouse, "forcings", report)
    told = {"product": platform.forcing, "pet_method": report.pet_method}
    yield _ingested(report, {**told, "sample": reader.is_sample})
    yield _readable(readable_forcings, report)


@dg.asset(
    group_name=GROUP, deps=[basins], kinds={"parquet"}, code_version="1",
    check_specs=[readable_streamflow],
)  # fmt: skip
@told
def streamflow(home: HomeResource, dataset: DatasetResource, warehouse: WarehouseResource):
    """Daily flow at each gauge, one Parquet a basin.

    Contents: flow in mm/day over the gauged area (`area_gages2`), from cubic feet per second.
    Negative values, -999 among them, are missing. Short records stay short.
    Units: mm/day. Source: USGS, as distributed with CAMELS-US.
    """
    from aef_dagster.basins.ingest import ingest_streamflow

    world = home.open()
    reader = dataset.open()
    with bar("streamflow", len(reader.gauge_ids()), "basins") as progress:
        report = ingest_streamflow(
            reader,
            world.streamflow,
            reader.catalog(),
            on_progress=lambda _gauge_id: progress.advance(),
        )
    _record_exclusions(warehouse, "streamflow", report)
    ungauged = len(reader.gauge_ids()) - len(report.table) - len(report.errors)
    yield _ingested(report, {"without_file": ungauged, "sample": reader.is_sample})
    yield _readable(readable_streamflow, report)


@dg.asset(group_name=GROUP, deps=[basins, forcings], kinds={"duckdb"}, code_version="1")
@told
def attributes(
    home: HomeResource, dataset: DatasetResource, warehouse: WarehouseResource,
    platform: PlatformResource,
) -> dg.MaterializeResult:  # fmt: skip
    """What is known of each basin without satellites, one row a basin and attribute.

    Contents: the published attributes (`origin` published), and the nine CAMELS climate indices
    computed anew from the forcings of the training period only (`origin` training_period), so that
    nothing of the test years reaches a model.
    Units: as in Addor et al. (2017); climate in mm/day, days and fractions.
    """
    from aef_dagster.basins.climate import climate_from_cube
    from aef_dagster.basins.cube import load_cube
    from aef_dagster.basins.periods import default_periods

    world = home.open()
    periods = default_periods(platform.dataset)
    published = dataset.open().attributes()
    cube = load_cube(world.forcings, None)
    climate = climate_from_cube(cube, periods.train_start, periods.train_end)
    table = pd.concat([_long(published, "published"), _long(climate, "training_period")])
    warehouse.open().replace("attributes", table)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(table),
            "basins": len(published),
            "attributes": published.shape[1],
            "missing": int(published.isna().sum().sum()),
            "sample": platform.dataset == "sample",
            "climate_period": f"{periods.train_start}..{periods.train_end}",
            "climate_preview": metadata.preview(climate.reset_index()),
        }
    )


def build() -> list:
    """Assets of the group."""
    return [basins, forcings, streamflow, attributes]


def _ingested(report: IngestReport, extra: dict) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.fingerprint[:16]),
        metadata={
            "dagster/row_count": int(report.table["n_days"].sum()),
            "basins": len(report.table),
            "excluded": len(report.errors),
            "units": ", ".join(f"{name} {unit}" for name, unit in UNITS.items()),
            "preview": metadata.preview(report.table),
            **extra,
        },
    )


def _readable(spec: dg.AssetCheckSpec, report: IngestReport) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=not report.errors,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"excluded": len(report.errors), **dict(list(report.errors.items())[:20])},
    )


def _record_exclusions(warehouse: WarehouseResource, asset: str, report: IngestReport) -> None:
    excluded = pd.DataFrame(
        {
            "asset": asset,
            "gauge_id": list(report.errors),
            "reason": list(report.errors.values()),
        },
        dtype="str",
    )
    warehouse.open().replace("exclusions", excluded, asset=asset)


def _long(wide: pd.DataFrame, origin: str) -> pd.DataFrame:
    long = wide.rename_axis("gauge_id").reset_index().melt("gauge_id", var_name="attribute")
    value = pd.to_numeric(long["value"], errors="coerce")
    is_text = value.isna() & long["value"].notna()
    return pd.DataFrame(
        {
            "gauge_id": long["gauge_id"].astype(str),
            "attribute": long["attribute"].astype(str),
            "origin": origin,
            "value": value.astype(float),
            "category": long["value"].where(is_text).astype("str").where(is_text, None),
        }
    )
