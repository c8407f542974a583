"""Maps: what they show, their size, and pictures that open."""

import io

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from PIL import Image
from shapely.geometry import box

from aef_dagster.evaluation import maps
from aef_dagster.evaluation.figure_style import MISSING, png_of
from aef_dagster_tests.evaluation.pictures import legend_of, opened, texts


@pytest.fixture(scope="module")
def gauges():
    rng = np.random.default_rng(0)
    return rng.uniform(-124, -68, 671), rng.uniform(27, 49, 671), rng.normal(size=671)


def test_map_has_graticule_proportions_and_its_texts(gauges):
    figure = maps.basin_map(*gauges, title="SURROGATE: drift", label="1 - cosine")
    axes, bar = figure.axes
    assert axes.get_title(loc="left") == "SURROGATE: drift"
    assert bar.get_ylabel() == "1 - cosine"
    assert "100°W" in texts(axes.get_xticklabels())
    assert "40°N" in texts(axes.get_yticklabels())
    # A degree of longitude at 38 degrees north is 0.79 of one of latitude.
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.radians(38)), rel=1e-3)
    assert axes.get_legend() is None


def test_map_colours_leave_out_the_tails_and_rings_show_what_is_missing(gauges):
    lon, lat, _ = gauges
    values = np.arange(671.0)
    values[[3, 5]] = np.nan
    figure = maps.basin_map(lon, lat, values, title="x", label="y")
    axes = figure.axes[0]
    rings, points = axes.collections
    np.testing.assert_allclose(rings.get_offsets(), np.column_stack([lon, lat])[[3, 5]])
    assert len(points.get_offsets()) == 669
    known = values[~np.isnan(values)]
    np.testing.assert_allclose(points.get_clim(), np.quantile(known, [0.02, 0.98]))
    assert texts(axes.get_legend().get_texts()) == ["no value (2 basins)"]
    assert points.colorbar.extend == "both"
    whole = maps.basin_map(lon, lat, values, title="x", label="y", limits=(0, 670))
    assert whole.axes[0].collections[1].colorbar.extend == "neither"


@pytest.mark.parametrize("values", [[0.5, 0.5], [np.nan, np.nan]])
def test_map_of_equal_or_missing_values_is_drawn(values):
    figure = maps.basin_map([0.0, 0.0], [-1.0, 1.0], values, title="x", label="y")
    assert Image.open(io.BytesIO(png_of(figure))).size == (836, 451)
    assert {"0°", "5°S", "5°N"} >= set(texts(figure.axes[0].get_yticklabels())) >= {"0°"}


def test_map_files_are_small_and_open(gauges):
    figure = maps.basin_map(*gauges, title="x", label="y")
    png = png_of(figure)
    Image.open(io.BytesIO(png)).verify()
    assert len(png) < 60_000


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        maps.basin_map([1.0], [1.0, 2.0], [1.0], title="x", label="y")


@pytest.fixture
def outlines():
    hollow = box(-100, 38, -96, 42).difference(box(-99, 39, -97, 41))
    shapes = [box(-98.5, 39.5, -98, 40), hollow, box(-80, 35, -79.99, 35.01)]
    index = pd.Index(["00000001", "00000002", "00000003"], name="gauge_id")
    return gpd.GeoDataFrame(geometry=shapes, index=index, crs="EPSG:4326")


def areas_of(axes):
    """Basins and dots of a map, those without a value first."""
    drawn = [item for item in axes.collections if isinstance(item, PathCollection)]
    return sorted(drawn, key=lambda item: item.zorder)


def test_polygons_are_filled_and_a_small_one_gets_a_dot(outlines):
    values = pd.Series({"00000002": 0.2, "00000003": 0.8, "99999999": 5.0})
    figure = maps.polygon_map(outlines, values, "SAMPLE: NSE", "NSE")
    axes, bar = figure.axes
    grey_areas, grey_dots, areas, dots = areas_of(axes)
    assert len(grey_areas.get_paths()) == 1
    assert len(grey_dots.get_offsets()) == 0
    np.testing.assert_allclose(grey_areas.get_facecolor()[0], to_rgba(MISSING), atol=0.01)
    assert len(areas.get_paths()) == 2
    np.testing.assert_allclose(dots.get_offsets(), [[-79.995, 35.005]], atol=1e-6)
    np.testing.assert_allclose(dots.get_facecolor()[0], areas.get_facecolor()[1])
    assert legend_of(axes) == ["no value (1 basins)"]
    assert (axes.get_title(loc="left"), bar.get_ylabel()) == ("SAMPLE: NSE", "NSE")
    assert "80°W" in texts(axes.get_xticklabels())
    opened(png_of(figure))


def test_differences_are_white_at_zero(outlines):
    values = pd.Series([-0.1, 0.0, 0.4], outlines.index)
    figure = maps.polygon_map(outlines, values, "t", "NSE", diverging=True)
    *_, areas, _dots = areas_of(figure.axes[0])
    np.testing.assert_allclose(figure.axes[1].get_ylim(), np.array([-1, 1]) * 0.384)
    large, lower, higher = (areas.get_facecolor()[i][:3] for i in (0, 1, 2))
    assert min(large) > 0.95  # the second outline is the largest, and its value is 0
    assert lower[0] > lower[2]  # brown
    assert higher[1] > higher[0]  # green


def test_the_hole_of_a_polygon_stays_free(outlines):
    figure = maps.polygon_map(outlines.iloc[[1]], pd.Series({"00000002": 1.0}), "t", "NSE")
    picture = np.asarray(opened(png_of(figure)).convert("RGB")).astype(int)
    axes, height = figure.axes[0], picture.shape[0]

    def colour_at(lon, lat):
        x, y = axes.transData.transform((lon, lat)).astype(int)
        return picture[height - y, x]

    assert np.ptp(colour_at(-98.3, 40.3)) < 8  # white
    assert colour_at(-98.3, 40.3).min() > 240
    assert np.ptp(colour_at(-99.6, 40.3)) > 30


def test_groups_have_a_colour_each_and_are_counted(outlines):
    groups = pd.Series({"00000001": "b", "00000002": "a", "00000003": "b"})
    figure = maps.polygon_map(outlines, groups, "t", "cluster", categorical=True)
    assert len(figure.axes) == 1
    assert legend_of(figure.axes[0]) == ["a (1)", "b (2)"]
    *_, areas, _dots = areas_of(figure.axes[0])
    large, middle, small = areas.get_facecolor()
    np.testing.assert_array_equal(middle, small)
    assert not np.array_equal(large, middle)
    partly = maps.polygon_map(outlines, groups.iloc[:2], "t", "cluster", categorical=True)
    assert legend_of(partly.axes[0]) == ["a (1)", "b (1)", "no value (1)"]


def test_more_groups_than_colours_are_refused():
    shapes = [box(i, 0, i + 1, 1) for i in range(22)]
    outlines = gpd.GeoDataFrame(geometry=shapes, index=[f"{i:08d}" for i in range(22)], crs=4326)
    groups = pd.Series(range(22), index=outlines.index)
    with pytest.raises(ValueError, match="22 groups, but a map tells 21 apart"):
        maps.polygon_map(outlines, groups, "t", "cluster", categorical=True)
    assert maps.polygon_map(outlines, groups.iloc[:21], "t", "c", categorical=True)


@pytest.mark.parametrize("categorical", [False, True])
def test_a_map_where_no_basin_has_a_value(outlines, categorical):
    figure = maps.polygon_map(outlines, pd.Series(dtype=float), "t", "NSE", categorical)
    assert "no value (3" in legend_of(figure.axes[0])[0]
    opened(png_of(figure))
