"""What the engine of loopback_engine.py must know besides for composites of many scenes.

Here: arithmetic of images, medians over time, filters by month and by property, reducers with
several outputs. `taught()` adds them to the engine while it lasts.
Not here: the scenes (test_ndvi.py).
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aef_dagster_tests.embeddings.earth_engine.loopback_engine import (
    DEGREE_M,
    FUNCTIONS,
    Feature,
    Raster,
    Refusal,
    Walk,
    cells,
)

# values [n], weights [n] -> number
Statistic = Callable[[NDArray, NDArray], float]


def constant(walk: Walk, value: Any) -> Raster:
    numbers = np.atleast_1d(np.asarray(value, dtype=float))
    walk.note(constants=numbers.tolist())
    names = tuple(f"constant_{i}" for i in range(numbers.size))
    return Raster(names, lambda lon, lat: np.tile(numbers, (lon.size, 1)))


def pixelwise(compute: Callable[[NDArray, NDArray], NDArray]) -> Callable[..., Raster]:
    """An operation on two images, band by band; masked where either is."""

    def operate(walk: Walk, image1: Raster, image2: Raster) -> Raster:
        if len(image2.bands) not in (1, len(image1.bands)):
            raise Refusal(f"{len(image1.bands)} bands do not go with {len(image2.bands)}")

        def read(lon: NDArray, lat: NDArray) -> NDArray:
            one, other = np.broadcast_arrays(image1.read(lon, lat), image2.read(lon, lat))
            found = np.full(one.shape, np.nan)
            there = ~(np.isnan(one) | np.isnan(other))
            found[there] = compute(one[there], other[there])
            return found

        return Raster(image1.bands, read)

    return operate


def update_mask(walk: Walk, image: Raster, mask: Raster) -> Raster:
    def read(lon: NDArray, lat: NDArray) -> NDArray:
        return np.where(mask.read(lon, lat) > 0, image.read(lon, lat), np.nan)

    return replace(image, read=read)


def median(walk: Walk, collection: list[Raster]) -> Raster:
    if not collection:
        return Raster((), lambda lon, lat: np.empty((lon.size, 0)))

    def read(lon: NDArray, lat: NDArray) -> NDArray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # pixels that are masked in all
            return np.nanmedian([scene.read(lon, lat) for scene in collection], axis=0)

    return Raster(collection[0].bands, read)


def normalized_difference(walk: Walk, input: Raster, bandNames: list[str]) -> Raster:
    at = [input.bands.index(name) for name in bandNames]

    def read(lon: NDArray, lat: NDArray) -> NDArray:
        one, other = input.read(lon, lat)[:, at].T
        usable = (one >= 0) & (other >= 0)
        return np.where(usable, (one - other) / (one + other), np.nan)[:, None]

    return Raster(("nd",), read)


def calendar_range(walk: Walk, start: int, end: int, field: str) -> Callable[[Any], bool]:
    if field != "month":
        raise Refusal(f"this engine knows months, not {field}")
    walk.note(months=(start, end))
    return lambda image: (
        start <= datetime.fromtimestamp(image.value("system:time_start") / 1000, UTC).month <= end
    )


def less_than(walk: Walk, leftField: str, rightValue: float) -> Callable[[Any], bool]:
    return lambda image: image.value(leftField) < rightValue


def reducer(name: str, statistic: Statistic) -> Callable[..., dict[str, Statistic]]:
    return lambda walk: {name: statistic}


def spread(values: NDArray, weights: NDArray) -> float:
    mean = np.average(values, weights=weights)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def percentile(walk: Walk, percentiles: list[int]) -> dict[str, Statistic]:
    def at(share: int) -> Statistic:
        return lambda values, weights: float(np.percentile(values, share))

    return {f"p{share}": at(share) for share in percentiles}


def reduce_regions(
    walk: Walk,
    image: Raster,
    collection: list[Feature],
    reducer: dict[str, Statistic],
    scale: float,
    crs: str,
    tileScale: float,
) -> list[Feature]:
    walk.note(scale=scale, crs=crs, tile_scale=tileScale)
    made = []
    for feature in collection:
        lon, lat, share, _ = cells(feature.geometry, scale / DEGREE_M)
        values = image.read(lon, lat)
        found: dict[str, float] = {}
        for name, band in zip(image.bands, values.T, strict=True):
            there = ~np.isnan(band)
            for output, statistic in reducer.items():
                if there.any():
                    found[f"{name}_{output}"] = statistic(band[there], share[there])
        made.append(replace(feature, properties={**feature.properties, **found}))
    return made


OPERATIONS: dict[str, Callable[..., Any]] = {
    "ImageCollection.merge": lambda walk, collection1, collection2: [*collection1, *collection2],
    "reduce.median": median,
    "Filter.calendarRange": calendar_range,
    "Filter.lessThan": less_than,
    "Image.constant": constant,
    "Image.add": pixelwise(np.add),
    "Image.subtract": pixelwise(np.subtract),
    "Image.multiply": pixelwise(np.multiply),
    "Image.eq": pixelwise(np.equal),
    "Image.and": pixelwise(np.logical_and),
    "Image.bitwiseAnd": pixelwise(lambda one, other: one.astype(int) & other.astype(int)),
    "Image.updateMask": update_mask,
    "Image.normalizedDifference": normalized_difference,
    "Image.reduceRegions": reduce_regions,
    "Reducer.mean": reducer("mean", lambda values, weights: np.average(values, weights=weights)),
    "Reducer.stdDev": reducer("stdDev", spread),
    "Reducer.count": reducer("count", lambda values, weights: values.size),
    "Reducer.percentile": percentile,
    "Reducer.combine": lambda walk, reducer1, reducer2, sharedInputs: {**reducer1, **reducer2},
}


@contextmanager
def taught() -> Iterator[None]:
    """Engines know these operations within."""
    before = dict(FUNCTIONS)
    FUNCTIONS.update(OPERATIONS)
    try:
        yield
    finally:
        FUNCTIONS.clear()
        FUNCTIONS.update(before)
