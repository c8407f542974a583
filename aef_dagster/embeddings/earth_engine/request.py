"""What is asked of Earth Engine, as expressions that it computes on its side.

Here: years on offer, what the images of a year are, and means over basins.
Not here: sending (connection.py), outlines (outlines.py).

An expression is made by the client library and is nothing but text until it is sent.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.earth_engine.outlines import Outline

if TYPE_CHECKING:
    import ee

COLLECTION = "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"
# A mosaic has no pixel grid of its own, so one is always given; degrees are what a scale alone
# amounts to. A pixel is narrower than its height by the cosine of latitude, which hardly changes
# within a basin.
CRS = "EPSG:4326"
# Properties of an image that tell which making of the data it belongs to.
VERSIONS = ("DATASET_VERSION", "MODEL_VERSION", "PROCESSING_SOFTWARE_VERSION")


def offered(box: tuple[float, float, float, float]) -> "ee.ComputedObject":
    """Starts of the years that have images within a box, milliseconds since 1970."""
    return _images(box).aggregate_array("system:time_start").distinct()


def described(years: Sequence[int], box: tuple[float, float, float, float]) -> "ee.ComputedObject":
    """By year: the number of images within a box, and how many of them have each version."""
    import ee

    told = {}
    for year in years:
        images = _of_year(_images(box), year)
        versions: dict[str, Any] = {name: images.aggregate_histogram(name) for name in VERSIONS}
        told[str(year)] = {"images": images.size(), **versions}
    return ee.Dictionary(told)


def basin_means(year: int, outlines: Sequence[Outline], scale_m: float) -> "ee.FeatureCollection":
    """One feature per basin, without geometry: gauge_id, A00..A63, valid_fraction, pixel_count.

    A00..A63 are means over valid pixels, weighted by the share of each pixel that lies within the
    basin. `valid_fraction` is the mean of the mask, weighted alike: the share of the basin's area
    that has data. `pixel_count` counts valid pixels whose centre lies within, unweighted: a basin
    smaller than a pixel may have a mean and a count of 0. Where nothing is valid, the bands are
    absent.

    Parameters
    ----------
    year
        The year.
    outlines
        Basins.
    scale_m
        Side of a pixel, metres.
    """
    import ee

    pixels = _of_year(ee.ImageCollection(COLLECTION), year).mosaic().select(list(BANDS))
    valid = pixels.select(BANDS[0]).mask().rename("valid_fraction")
    basins = ee.FeatureCollection([_feature(outline) for outline in outlines])
    means = pixels.addBands(valid).reduceRegions(
        collection=basins, reducer=ee.Reducer.mean(), scale=scale_m, crs=CRS
    )
    counted = pixels.select(BANDS[0]).reduceRegions(
        collection=means,
        reducer=ee.Reducer.count().setOutputs(["pixel_count"]),
        scale=scale_m,
        crs=CRS,
    )
    columns = ["gauge_id", *BANDS, "valid_fraction", "pixel_count"]
    return counted.select(columns, None, False)


def _images(box: tuple[float, float, float, float]) -> "ee.ImageCollection":
    import ee

    region = ee.Geometry.Rectangle(list(box), CRS, False)
    return ee.ImageCollection(COLLECTION).filterBounds(region)


def _of_year(images: "ee.ImageCollection", year: int) -> "ee.ImageCollection":
    return images.filterDate(f"{year}-01-01", f"{year + 1}-01-01")


def _feature(outline: Outline) -> "ee.Feature":
    import ee
    import shapely

    # Straight in degrees, as the polygon file means it, not along great circles.
    geometry = ee.Geometry(shapely.geometry.mapping(outline.geometry), geodesic=False)
    return ee.Feature(geometry, {"gauge_id": outline.gauge_id})
