"""Outlines as they are sent to Earth Engine: simplified within 1 % of the area, in batches."""

import geopandas as gpd
import numpy as np
import pytest
import shapely

from aef_dagster.basins.camels_us import CamelsUS
from aef_dagster.embeddings.earth_engine.outlines import (
    MAX_AREA_ERROR,
    Outline,
    bounds,
    in_batches,
    read_outlines,
    simplified,
)
from aef_dagster.errors import UserError


def ragged(radius: float, vertices: int = 4000):
    """A round basin at 45 N whose edge trembles by a hundredth of its radius."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = radius * (1 + 0.01 * np.sin(angle * 500))
    return shapely.Polygon(
        np.column_stack([-100 + reach * np.cos(angle), 45 + reach * np.sin(angle)])
    )


def changed_share(sent, drawn) -> float:
    metric = [gpd.GeoSeries([shape], crs=4326).to_crs(6933)[0] for shape in (sent, drawn)]
    return metric[0].symmetric_difference(metric[1]).area / metric[1].area


@pytest.mark.parametrize(("radius", "scale"), [(1.0, 1000), (0.1, 1000), (0.01, 1000), (0.1, 100)])
def test_simplified_within_one_percent_of_the_area(radius, scale):
    drawn = ragged(radius)
    outline = simplified("01013500", drawn, scale)
    assert outline.area_error <= MAX_AREA_ERROR
    # In a projection of equal area, not the one that the tolerance was applied in.
    assert changed_share(outline.geometry, drawn) == pytest.approx(outline.area_error, abs=2e-4)
    assert outline.vertices == shapely.get_num_coordinates(outline.geometry) < 4000
    assert outline.geometry.is_valid


def test_a_finer_scale_keeps_more_vertices():
    kept = [simplified("01013500", ragged(0.3), scale).vertices for scale in (10, 300, 3000)]
    assert kept == sorted(kept, reverse=True) and kept[0] > 2 * kept[-1]


def test_a_hole_stays_a_hole_and_parts_stay_parts():
    ring = ragged(0.3) - shapely.Point(-100, 45).buffer(0.1)
    both = shapely.MultiPolygon([ring, shapely.box(-99, 45, -98.9, 45.1)])
    sent = simplified("01013500", both, 1000).geometry
    assert len(sent.geoms) == 2 and len(sent.geoms[0].interiors) == 1


def test_an_outline_that_crosses_itself_is_mended():
    bow = shapely.Polygon([(-100, 45), (-99, 46), (-99, 45), (-100, 46)])
    outline = simplified("01013500", bow, 1000)
    assert outline.geometry.is_valid and outline.geometry.area == pytest.approx(0.5)
    spike = shapely.Polygon([(-100, 45), (-99, 45), (-98, 45), (-99, 45), (-99, 46)])
    assert simplified("01013500", spike, 1000).geometry.area == pytest.approx(0.5)


@pytest.mark.parametrize(
    "nothing", [shapely.Polygon(), shapely.Polygon([(0, 0), (1, 1), (2, 2)]), shapely.Point(0, 0)]
)
def test_an_outline_without_area_is_named(nothing):
    with pytest.raises(UserError, match="basin 01013500: its outline encloses no area"):
        simplified("01013500", nothing, 1000)


def test_batches_hold_their_budget_of_vertices():
    sizes = [40, 40, 40, 300, 10, 90, 1]
    outlines = [Outline(f"{i}", None, size, 0.0) for i, size in enumerate(sizes)]
    batches = in_batches(outlines, 100)
    assert [[outline.vertices for outline in batch] for batch in batches] == [
        [40, 40], [40], [300], [10, 90], [1],
    ]  # fmt: skip
    assert in_batches([], 100) == []


def test_the_box_of_all_outlines():
    outlines = [simplified("1", shapely.box(-100, 40, -99, 41), 1000),
                simplified("2", shapely.box(-98, 38, -97, 39), 1000)]  # fmt: skip
    assert bounds(outlines) == pytest.approx((-100, 38, -97, 41))


@pytest.mark.real_data
def test_real_outlines_fit_a_dozen_requests(real_data, tmp_path):
    shapes = CamelsUS(real_data / "camels_us", forcing="daymet").polygons()
    path = tmp_path / "polygons.parquet"
    shapes.to_parquet(path)
    outlines = read_outlines(path, shapes["gauge_id"].tolist(), 1000)
    assert len(outlines) == 671
    assert max(outline.area_error for outline in outlines) <= MAX_AREA_ERROR
    batches = in_batches(outlines, 10_000)
    assert 5 < len(batches) < 20
    assert max(sum(outline.vertices for outline in batch) for batch in batches) <= 10_000
