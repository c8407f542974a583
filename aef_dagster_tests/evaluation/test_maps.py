"""Maps and heat-maps: what they show, their size, and pictures that open."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from aef_dagster.evaluation import maps


@pytest.fixture(scope="module")
def gauges():
    rng = np.random.default_rng(0)
    return rng.uniform(-124, -68, 671), rng.uniform(27, 49, 671), rng.normal(size=671)


def labels(ticks):
    return [tick.get_text() for tick in ticks]


def test_map_has_graticule_proportions_and_its_texts(gauges):
    figure = maps.basin_map(*gauges, title="SURROGATE: drift", label="1 - cosine")
    axes, bar = figure.axes
    assert axes.get_title(loc="left") == "SURROGATE: drift"
    assert bar.get_ylabel() == "1 - cosine"
    assert "100°W" in labels(axes.get_xticklabels())
    assert "40°N" in labels(axes.get_yticklabels())
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
    assert labels(axes.get_legend().get_texts()) == ["no value (2 basins)"]
    assert points.colorbar.extend == "both"
    whole = maps.basin_map(lon, lat, values, title="x", label="y", limits=(0, 670))
    assert whole.axes[0].collections[1].colorbar.extend == "neither"


@pytest.mark.parametrize("values", [[0.5, 0.5], [np.nan, np.nan]])
def test_map_of_equal_or_missing_values_is_drawn(values):
    figure = maps.basin_map([0.0, 0.0], [-1.0, 1.0], values, title="x", label="y")
    assert Image.open(io.BytesIO(maps.png_bytes(figure))).size == (836, 451)
    assert {"0°", "5°S", "5°N"} >= set(labels(figure.axes[0].get_yticklabels())) >= {"0°"}


def test_map_files_are_small_and_open(gauges):
    figure = maps.basin_map(*gauges, title="x", label="y")
    png, svg = maps.png_bytes(figure), maps.svg_text(figure)
    Image.open(io.BytesIO(png)).verify()
    assert len(png) < 60_000
    assert len(svg.encode()) < 120_000
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    # The points lie in one image, with a palette and with nothing painted between them.
    inside = max(re.findall(r'data:image/png;base64,([^"]+)', svg), key=len)
    image = Image.open(io.BytesIO(base64.b64decode(inside)))
    assert image.mode == "P"
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert 0.5 < (alpha == 0).mean() < 0.95


def test_years_are_written_and_the_diagonal_takes_no_colour():
    matrix = np.array([[1.0, 0.98, np.nan], [0.98, 1.0, 0.97], [np.nan, 0.97, 1.0]])
    figure = maps.year_heatmap(matrix, [2017, 2018, 2020], title="SURROGATE: years")
    axes = figure.axes[0]
    assert labels(axes.get_xticklabels()) == labels(axes.get_yticklabels()) == [
        "2017", "2018", "2020",
    ]  # fmt: skip
    assert sorted(labels(axes.texts)) == ["0.9700"] * 2 + ["0.9800"] * 2
    assert axes.images[-1].get_clim() == (0.97, 0.98)
    np.testing.assert_array_equal(
        np.ma.getmaskarray(axes.images[-1].get_array()), np.isnan(matrix) | np.eye(3, dtype=bool)
    )
    assert axes.get_title(loc="left") == "SURROGATE: years"


def test_many_years_are_colours_only():
    figure = maps.year_heatmap(np.eye(13), range(2017, 2030), title="x")
    assert not figure.axes[0].texts
    assert len(maps.png_bytes(figure)) < 30_000


def test_bands_run_across_and_pairs_of_years_down():
    matrix = np.linspace(0.9, 1, 64 * 8).reshape(64, 8)
    matrix[5, 2] = np.nan
    bands = [f"A{i:02d}" for i in range(64)]
    pairs = [f"{y}-{y + 1}" for y in range(2017, 2025)]
    figure = maps.band_heatmap(matrix, bands, pairs, title="SURROGATE: bands")
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (8, 64)
    assert shown[7, 0] == matrix[0, 7]
    assert np.argwhere(np.ma.getmaskarray(shown)).tolist() == [[2, 5]]
    assert labels(axes.get_xticklabels()) == bands
    assert labels(axes.get_yticklabels()) == pairs
    assert len(maps.png_bytes(figure)) < 40_000
    assert len(maps.svg_text(figure).encode()) < 120_000


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        maps.basin_map([1.0], [1.0, 2.0], [1.0], title="x", label="y")
    with pytest.raises(ValueError, match="for 3 years"):
        maps.year_heatmap(np.eye(2), [1, 2, 3], title="x")
    with pytest.raises(ValueError, match="for 2 bands and 1 pairs"):
        maps.band_heatmap(np.eye(2), ["A00", "A01"], ["2017-2018"], title="x")
