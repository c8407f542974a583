"""Greenness of basins in the years of the flow records, and in those of the embeddings.

Here: what is asked of Earth Engine (`basin_ndvi`), and asking it batch by batch (`ndvi_change`).
Not here: signing in and sending (connection.py), outlines (outlines.py), what is concluded from it.

Flow was recorded from 1980 to 2008, AlphaEarth begins in 2017. A basin whose summer NDVI is what it
was has an embedding that may speak for the years of its record.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from aef_dagster.embeddings.earth_engine.outlines import (
    METRES_PER_DEGREE,
    Outline,
    bounds,
    in_batches,
    read_outlines,
)
from aef_dagster.embeddings.earth_engine.refusals import KEPT
from aef_dagster.embeddings.earth_engine.request import CRS, _feature
from aef_dagster.embeddings.earth_engine.source import EarthEngineSource, _keep, _kept
from aef_dagster.errors import UserError

if TYPE_CHECKING:
    import ee


@dataclass(frozen=True)
class Sensor:
    """A Landsat collection (Collection 2, Level 2, Tier 1) and its bands of red and near infrared.

    Parameters
    ----------
    collection
        Its name at Earth Engine.
    bands
        Names of red and near infrared.
    slopes, intercepts
        Of these two bands: surface reflectance as OLI would have seen it is
        `intercept + slope * reflectance`.
    """

    collection: str
    bands: tuple[str, str]
    slopes: tuple[float, float] = (1.0, 1.0)
    intercepts: tuple[float, float] = (0.0, 0.0)


# Roy et al. (2016), Remote Sensing of Environment 185, 57-70, table 2: surface reflectance of ETM+
# to OLI by least squares. TM's bands are ETM+'s nearly enough for these to be applied to it.
TM = Sensor("LANDSAT/LT05/C02/T1_L2", ("SR_B3", "SR_B4"), (0.9047, 0.8462), (0.0061, 0.0412))
OLI = Sensor("LANDSAT/LC08/C02/T1_L2", ("SR_B4", "SR_B5"))
OLI_2 = Sensor("LANDSAT/LC09/C02/T1_L2", ("SR_B4", "SR_B5"))

# First day, and the day after the last.
EARLY = ("1984-01-01", "1991-01-01")
RECENT = ("2017-01-01", "2025-01-01")
MONTHS = (6, 9)
MAX_CLOUD_COVER = 50.0  # percent of a scene
# USGS, Landsat Collection 2 Level 2: reflectance of a stored number.
GAIN, OFFSET = 0.0000275, -0.2
# QA_PIXEL: fill, dilated cloud, cloud, its shadow, snow. Cirrus (bit 2) is unknown to TM.
UNUSABLE = sum(1 << bit for bit in (0, 1, 3, 4, 5))
PIXEL_M = 30.0
# An aggregation tile 16 times as small, for the memory that a composite of many scenes takes.
TILE_SCALE = 4
# Some 1,400 km2 at 30 m and 40 degrees north. An answer may take five minutes, and each pixel is a
# composite of many scenes. A guess: what the service can answer was never tried.
BATCH_PIXELS = 2_000_000
# Columns of a row, and what Earth Engine calls them: the band, then the reducer's output.
PROPERTIES = {
    "ndvi_early": "early_mean",
    "ndvi_recent": "recent_mean",
    "change": "change_mean",
    "spread": "change_stdDev",
    "p25": "change_p25",
    "p75": "change_p75",
    "pixels_early": "early_count",
    "pixels_recent": "recent_count",
    "pixels_both": "change_count",
}
COUNTS = ("pixels_early", "pixels_recent", "pixels_both")
_TOO_LARGE = re.compile(r"memory limit|too many pixels|timed out|deadline exceeded", re.IGNORECASE)


def basin_ndvi(outlines: Sequence[Outline], scale_m: float) -> "ee.FeatureCollection":
    """One feature per basin, without geometry: gauge_id and the values of `PROPERTIES`.

    Of each period, the median over time of red and of near infrared, pixel by pixel; NDVI of these
    two; and the difference of both periods where both have one. A pixel with a negative
    reflectance has no NDVI. Means and standard deviations are weighted by the share of each pixel
    within the basin. Where a basin has no pixel, they are absent.

    Parameters
    ----------
    outlines
        Basins.
    scale_m
        Side of a pixel, metres.
    """
    import ee

    box = ee.Geometry.Rectangle(list(bounds(outlines)), CRS, False)
    early = _ndvi(_clear(TM, EARLY, box))
    recent = _ndvi(_clear(OLI, RECENT, box).merge(_clear(OLI_2, RECENT, box)))
    image = (
        early.rename("early")
        .addBands(recent.rename("recent"))
        .addBands(recent.subtract(early).rename("change"))
    )
    # One pass for all numbers: the composite is what costs.
    reducer = ee.Reducer.mean()
    for other in (ee.Reducer.stdDev(), ee.Reducer.percentile([25, 75]), ee.Reducer.count()):
        reducer = reducer.combine(other, sharedInputs=True)
    reduced = image.reduceRegions(
        collection=ee.FeatureCollection([_feature(outline) for outline in outlines]),
        reducer=reducer,
        scale=scale_m,
        crs=CRS,
        tileScale=TILE_SCALE,
    )
    return reduced.select(["gauge_id", *PROPERTIES.values()], None, False)


def ndvi_change(
    source: EarthEngineSource,
    gauge_ids: Sequence[str],
    *,
    scale_m: float = PIXEL_M,
    report: Callable[[int, int, int], None] = lambda done, total, bytes_read: None,
) -> pd.DataFrame:
    """Summer NDVI of basins in 1984-1990 and in 2017-2024, by Earth Engine.

    Finished batches are kept in the source's scratch folder, by all that was asked in them.

    Parameters
    ----------
    source
        Where, who, outlines and scratch folder. Its scale is that of embeddings, and not used.
    gauge_ids
        Basins wanted, padded to 8 digits.
    scale_m
        Side of the pixels, metres: Landsat's are 30. Above, Earth Engine composes its own coarser
        copies of the scenes.
    report
        Told after each batch: basins done, basins in all, bytes read so far.

    Returns
    -------
    pandas.DataFrame
        One row a basin, in the order asked: gauge_id; ndvi_early, ndvi_recent (means over the
        pixels that each period has); change (recent - early, over pixels that both have), spread
        (its standard deviation within the basin), p25, p75 (its quartiles); pixels_early,
        pixels_recent, pixels_both (numbers of pixels, unweighted). All are missing where a basin
        has no outline; where nothing clear was seen of it the counts are 0, the others missing.

    Raises
    ------
    UserError
        A scale below 30 m, no outlines, or a refusal of Earth Engine.
    """
    if scale_m < PIXEL_M:
        raise UserError(f"NDVI at {scale_m:g} m: Landsat's pixels are 30 m; use 30 or more")
    outlines = read_outlines(source.polygons, gauge_ids, scale_m)
    parts: list[pd.DataFrame] = []
    with source.connected() as transport:
        for batch in _batches(outlines, source.batch_vertices, scale_m):
            expression = basin_ndvi(batch, scale_m)
            asked = hashlib.sha256(expression.serialize().encode()).hexdigest()[:24]
            piece = source.scratch / "ndvi" / f"{asked}.parquet"
            part = _kept(piece, batch)
            if part is None:
                part = _asked(expression, batch, scale_m, source.page_size)
                _keep(part, piece)
            parts.append(part)
            report(sum(map(len, parts)), len(outlines), transport.bytes_read)
    rows = pd.concat(parts).set_index("gauge_id").reindex(list(gauge_ids))
    return rows.rename_axis("gauge_id").reset_index()


def _clear(sensor: Sensor, period: tuple[str, str], box: "ee.Geometry") -> "ee.ImageCollection":
    """Reflectance `red`, `nir` of a sensor's summer scenes, masked where it cannot be used."""
    import ee

    def usable(scene: "ee.Image") -> "ee.Image":
        clear = scene.select("QA_PIXEL").bitwiseAnd(UNUSABLE).eq(0)
        unsaturated = scene.select("QA_RADSAT").eq(0)
        reflectance = scene.select(list(sensor.bands), ["red", "nir"]).multiply(GAIN).add(OFFSET)
        return (
            reflectance.multiply(ee.Image.constant(list(sensor.slopes)))
            .add(ee.Image.constant(list(sensor.intercepts)))
            .updateMask(clear.And(unsaturated))
        )

    scenes = (
        ee.ImageCollection(sensor.collection)
        .filterBounds(box)
        .filterDate(*period)
        .filter(ee.Filter.calendarRange(*MONTHS, "month"))
        .filter(ee.Filter.lt("CLOUD_COVER", MAX_CLOUD_COVER))
    )
    return scenes.map(usable)


def _ndvi(scenes: "ee.ImageCollection") -> "ee.Image":
    return scenes.median().normalizedDifference(["nir", "red"])


def _batches(outlines: Sequence[Outline], vertices: int, scale_m: float) -> list[list[Outline]]:
    """Runs of outlines within both limits, vertices and `BATCH_PIXELS`; a larger one goes alone."""
    batches: list[list[Outline]] = []
    for run in in_batches(outlines, vertices):
        room = 0.0
        for outline in run:
            # The grid is one of degrees, so areas in degrees count its pixels.
            pixels = outline.geometry.area * (METRES_PER_DEGREE / scale_m) ** 2
            if outline is run[0] or pixels > room:
                batches.append([])
                room = BATCH_PIXELS
            batches[-1].append(outline)
            room -= pixels
    return batches


def _asked(
    expression: "ee.FeatureCollection", batch: Sequence[Outline], scale_m: float, page_size: int
) -> pd.DataFrame:
    import ee

    names = [outline.gauge_id for outline in batch]
    try:
        answer = ee.data.computeFeatures(
            {
                "expression": expression,
                "pageSize": page_size,
                "fileFormat": "PANDAS_DATAFRAME",  # asks for page after page
            }
        )
    except ee.EEException as error:
        if not _TOO_LARGE.search(str(error)):
            raise
        raise UserError(
            f"NDVI of {_named(names)} at {scale_m:g} m is too large for Earth Engine to answer at "
            f"once: ask with coarser pixels, such as {2 * scale_m:g} m; {KEPT}"
        ) from None
    table = answer.reindex(columns=["gauge_id", *PROPERTIES.values()])
    if sorted(table["gauge_id"].astype(str)) != sorted(names):
        raise UserError(
            f"Earth Engine answered {len(table)} basins of {len(names)}, or others than asked; run "
            f"again, {KEPT}"
        )
    table.columns = pd.Index(["gauge_id", *PROPERTIES])
    numbers = table[list(PROPERTIES)].astype("float64")
    counts = numbers[list(COUNTS)].fillna(0).round().astype("Int64")
    return numbers.assign(**counts).assign(gauge_id=table["gauge_id"])


def _named(gauge_ids: Sequence[str]) -> str:
    if len(gauge_ids) == 1:
        return f"basin {gauge_ids[0]}"
    return f"{len(gauge_ids)} basins ({gauge_ids[0]} to {gauge_ids[-1]})"
