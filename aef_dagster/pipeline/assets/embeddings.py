"""Group embeddings: AlphaEarth by year, and the vector that stands for a basin.

Here: the assets. Not here: routes and file formats, pooling (embeddings/).
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import pool_years
from aef_dagster.embeddings.sources import EmbeddingSource
from aef_dagster.embeddings.stability import year_to_year
from aef_dagster.embeddings.yearly import EmbeddingYear, refuse_unusable
from aef_dagster.errors import UserError
from aef_dagster.pipeline import metadata
from aef_dagster.pipeline.automation import SOURCE_VERSION, when_inputs_change
from aef_dagster.pipeline.choices import CHOICES, as_last_chosen, choices_of
from aef_dagster.pipeline.config import EmbeddingPooling, EmbeddingYears, chosen
from aef_dagster.pipeline.freshness import freshness_policy, newest_year, newest_year_result
from aef_dagster.pipeline.partitions import aef_years, asked_partitions
from aef_dagster.pipeline.resources import EmbeddingsResource, HomeResource, WarehouseResource
from aef_dagster.pipeline.telling import told
from aef_dagster.pipeline.versions import frame_version
from aef_dagster.progress import bar
from aef_dagster.settings import Settings
from aef_dagster.storage.tables import require_rows
from aef_dagster.storage.warehouse import Warehouse

GROUP = "embeddings"

# Of the real dataset a mean correlation of 0.963 between years is published (arXiv:2602.10354).
LEAST_MEDIAN_COSINE = 0.9

complete_year = dg.AssetCheckSpec(
    "complete_and_finite",
    asset="aef_embeddings",
    blocking=True,
    description="Every vector of the years fetched has 64 finite bands and a length that a mean of "
    "unit vectors can have; a year that has not is not stored.",
)
coverage = dg.AssetCheckSpec(
    "coverage", asset="aef_embeddings", description="Every basin of the catalog has a vector."
)
same_edition = dg.AssetCheckSpec(
    "same_edition",
    asset="aef_embeddings",
    description="All years are of one version of the dataset: vectors of others are not comparable "
    "to the last digit.",
)
like_its_neighbour = dg.AssetCheckSpec(
    "like_its_neighbour",
    asset="aef_embeddings",
    description="Each year is like the one before: the median cosine over basins is at least "
    f"{LEAST_MEDIAN_COSINE}. A lower one is a sign of another edition, or of mixed-up basins.",
)
unit_norm = dg.AssetCheckSpec(
    "unit_norm",
    asset="basin_embedding",
    blocking=True,
    description="Each basin's vector is finite, and of unit length unless the plain mean was asked "
    "for.",
)


@dg.asset(
    group_name=GROUP, deps=["basins"], partitions_def=aef_years, output_required=False,
    backfill_policy=dg.BackfillPolicy.single_run(), pool="earth_engine",
    kinds={"duckdb", "alphaearth"}, code_version="2",
    check_specs=[complete_year, coverage, same_edition, like_its_neighbour, newest_year],
)  # fmt: skip
@told
def aef_embeddings(
    context: dg.AssetExecutionContext, config: EmbeddingYears, home: HomeResource,
    embeddings: EmbeddingsResource, warehouse: WarehouseResource,
) -> Iterator:  # fmt: skip
    """AlphaEarth Foundations by basin and year, as the source gives it.

    Contents: A00..A63 (raw basin means, not normalised), their norm before normalisation (1 = a
    uniform basin), share of valid pixels, and where the row came from: route, file, sha256,
    dataset version. Written in one transaction a year; basins without a vector are listed, not
    filled with zeros.
    Cadence: yearly, 2017 onwards. Licence of AlphaEarth: CC-BY 4.0. The AlphaEarth Foundations
    Satellite Embedding dataset is produced by Google and Google DeepMind.
    """
    home.open()
    source, store = embeddings.open(), warehouse.open()
    years = [int(key) for key in asked_partitions(context, [str(year) for year in config.years])]
    gauge_ids = store.frame("SELECT gauge_id FROM basins ORDER BY gauge_id")["gauge_id"].tolist()
    bad: dict[str, str] = {}
    # Of the years before this one.
    basins_done, bytes_read = 0, 0

    def report(done: int, total: int, read: int) -> None:
        progress.at(basins_done + done, bytes_read=bytes_read + read)

    with bar("embeddings", len(years) * len(gauge_ids), "basins") as progress:
        for year in years:
            try:
                edition = source.version(year)
                fetched = source.fetch(year, gauge_ids, report)
                refuse_unusable(year, fetched)
            except UserError as error:  # one bad year does not cost the others
                bad[str(year)] = str(error)
                continue
            finally:
                basins_done += len(gauge_ids)
            stamped = fetched.frame.assign(fetched_at=datetime.now(UTC).replace(tzinfo=None))
            store.replace("aef_embeddings", stamped, year=year)
            bytes_read += int(fetched.frame["bytes_read"].fillna(0).sum())
            progress.at(basins_done, bytes_read=bytes_read)
            # The edition that was read: of several addresses another may have stood in.
            edition = str(fetched.provenance.get("edition", edition))
            yield _fetched_year(context.asset_key, year, fetched, edition)
    yield dg.AssetCheckResult(
        asset_key=context.asset_key,
        check_name=complete_year.name,
        passed=not bad,
        metadata={"years": len(years), **bad},
    )
    yield _coverage(context.asset_key, store, source.route)
    yield _same_edition(context.asset_key, store, source.route)
    yield _like_its_neighbour(context.asset_key, store, source.route)
    yield _newest_year(context.asset_key, store, source.route)
    if bad:
        raise dg.Failure(
            f"{len(bad)} of {len(years)} years failed, the others are kept. "
            + "; ".join(dict.fromkeys(bad.values())),
            allow_retries=False,
        )


@dg.asset(
    group_name=GROUP, kinds={"duckdb"}, code_version="1", check_specs=[unit_norm],
    automation_condition=when_inputs_change(),
    deps=[dg.AssetDep(aef_embeddings, partition_mapping=dg.AllPartitionMapping())],
)  # fmt: skip
@told
def basin_embedding(
    context: dg.AssetExecutionContext, config: EmbeddingPooling, home: HomeResource,
    embeddings: EmbeddingsResource, warehouse: WarehouseResource,
):  # fmt: skip
    """One vector per basin: the years pooled.

    Contents: by default the mean over years of unit vectors, made unit again (`unit_mean`); or the
    study's plain mean, a generalised mean, or the mean with the standard deviations over years
    beside it (`plain_mean`, `gem`, `mean_std`). A source that has no years (a finished multi-year
    mean) is taken as it is, and `years` says so.
    """
    home.open()
    config = as_last_chosen(context, config)
    store, source = warehouse.open(), embeddings.open()
    how = chosen(config.pooling)
    yearly = _years_of_source(store, source)
    origin = yearly.groupby("gauge_id").agg(
        surrogate=("surrogate", "any"),
        sample=("sample", "any"),
        route=("route", "first"),
        source_files=("source_file", lambda files: ", ".join(sorted(set(files)))),
    )
    pooled = pool_years(yearly, how=how, years=config.years or None)
    table = pooled.assign(pooling=how).merge(origin.reset_index(), on="gauge_id")
    store.replace("basin_embedding", table)
    length = np.linalg.norm(table[list(BANDS)].to_numpy(float), axis=1)
    finite = bool(np.isfinite(length).all())
    off = float(np.abs(length - 1).max()) if how != "plain_mean" else 0.0
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(frame_version(table)),
        metadata={
            "dagster/row_count": len(table),
            "years": ", ".join(sorted(table["years"].unique())),
            "pooling": how,
            CHOICES: choices_of(config),
            "route": ", ".join(sorted(table["route"].unique())),
            "source_files": ", ".join(sorted(set(yearly["source_file"]))),
            "source_sha256": ", ".join(sorted(set(yearly["source_sha256"]))),
            "surrogate": bool(table["surrogate"].any()),
            "sample": bool(table["sample"].any()),
            "preview": metadata.preview(table[["gauge_id", "years", "norm", *BANDS[:4]]]),
        },
    )
    yield dg.AssetCheckResult(
        asset_key="basin_embedding",
        check_name=unit_norm.name,
        passed=finite and off < 1e-4,
        metadata={"largest_deviation": off, "finite": finite},
    )


def build(settings: Settings) -> list:
    """Assets of the group; when embeddings are fresh depends on the route."""
    policy = freshness_policy(settings)
    if policy is None:
        return [aef_embeddings, basin_embedding]
    watched = aef_embeddings.map_asset_specs(
        lambda spec: spec.replace_attributes(freshness_policy=policy)
    )
    return [watched, basin_embedding]


def _years_of_source(store: Warehouse, source: EmbeddingSource) -> pd.DataFrame:
    """The stored years of the active source; what another one left in the table is not its."""
    yearly = store.frame("SELECT * FROM aef_embeddings WHERE route = ?", [source.route])
    if source.route == "table":
        # Tables lie at hand; the other routes would have to be asked over the network.
        offered = source.years()
        if not offered:
            gauge_ids = store.frame("SELECT gauge_id FROM basins")["gauge_id"].tolist()
            return source.fetch_mean(gauge_ids).frame
        yearly = yearly[yearly["year"].isin(offered)]
    require_rows(yearly, "aef_embeddings", "aef_embeddings")
    return yearly


def _fetched_year(
    key: dg.AssetKey, year: int, fetched: EmbeddingYear, edition: str
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key,
        partition=str(year),
        metadata={
            "dagster/partition_row_count": len(fetched.frame),
            "missing_basins": len(fetched.missing),
            "median_norm": float(fetched.frame["norm"].median()),
            "dataset_version": ", ".join(sorted(fetched.frame["dataset_version"].unique())),
            SOURCE_VERSION: edition,
            "surrogate": bool(fetched.frame["surrogate"].any()),
            "sample": bool(fetched.frame["sample"].any()),
            **{name: str(value) for name, value in fetched.provenance.items()},
        },
        tags={"dagster/data_version": frame_version(fetched.frame)},
    )


def _coverage(key: dg.AssetKey, store: Warehouse, route: str) -> dg.AssetCheckResult:
    """Of all years of the route, not only of those this run fetched."""
    missing = store.frame(
        "SELECT years.year, count(*) AS n, string_agg(gauge_id, ', ') AS basins "
        "FROM (SELECT DISTINCT year FROM aef_embeddings WHERE route = ?) years CROSS JOIN basins "
        "ANTI JOIN aef_embeddings USING (gauge_id, year) GROUP BY years.year ORDER BY years.year",
        [route],
    )
    told = {str(row.year): str(row.basins)[:200] for row in missing.itertuples()}
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=coverage.name,
        passed=missing.empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": int(missing["n"].sum()), **told},
    )


def _same_edition(key: dg.AssetKey, store: Warehouse, route: str) -> dg.AssetCheckResult:
    """Of all years of the route."""
    found = store.frame(
        "SELECT dataset_version, string_agg(DISTINCT year::VARCHAR, ', ') AS years "
        "FROM aef_embeddings WHERE route = ? GROUP BY ALL ORDER BY ALL",
        [route],
    )
    told = {str(row.dataset_version): str(row.years) for row in found.itertuples()}
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=same_edition.name,
        passed=len(found) == 1,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=told,
    )


def _like_its_neighbour(key: dg.AssetKey, store: Warehouse, route: str) -> dg.AssetCheckResult:
    """Of all years of the route that have the year before beside them."""
    frame = store.frame(
        f"SELECT gauge_id, year, {', '.join(BANDS)} FROM aef_embeddings WHERE route = ?", [route]
    )
    several = frame["year"].nunique() > 1
    steps = (
        year_to_year(frame) if several else pd.DataFrame({"year_to": [], "cosine": [], "gap": []})
    )
    cosines = steps[steps["gap"] == 1].groupby("year_to")["cosine"].median()
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=like_its_neighbour.name,
        passed=bool((cosines >= LEAST_MEDIAN_COSINE).all()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={str(year): round(float(value), 4) for year, value in cosines.items()},
    )


def _newest_year(key: dg.AssetKey, store: Warehouse, route: str) -> dg.AssetCheckResult:
    """Of all years of the route, today."""
    found = store.frame(
        "SELECT year, bool_or(sample OR surrogate) AS made_up FROM aef_embeddings "
        "WHERE route = ? GROUP BY year ORDER BY year",
        [route],
    )
    passed, told = newest_year_result(
        found["year"].tolist(),
        datetime.now(UTC).date(),
        made_up=bool(found["made_up"].tail(1).any()),
        route=route,
    )
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=newest_year.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=told,
    )
