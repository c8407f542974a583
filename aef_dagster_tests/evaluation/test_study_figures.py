"""Pictures of the study: what they draw, that odd numbers are drawn too, and their size."""

import io

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from PIL import Image
from shapely.geometry import box

from aef_dagster.evaluation import maps, study_figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were turned into PNGs, in order."""
    figures, png_of = [], study_figures.png_of

    def kept(figure):
        figures.append(figure)
        return png_of(figure)

    monkeypatch.setattr(study_figures, "png_of", kept)
    return figures


def opened(content: bytes) -> Image.Image:
    assert len(content) < 150_000
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # readable on a dark page
    return image


def texts(artists):
    return [artist.get_text() for artist in artists]


def legend_of(axes):
    return texts(axes.get_legend().get_texts())


def test_cdf_panels_keep_colours_and_name_medians_and_published_lines(drawn):
    rng = np.random.default_rng(0)
    aef, attributes = rng.normal(0.5, 0.2, 100), rng.normal(0.4, 0.2, 100)
    short = np.where(np.arange(100) < 10, np.nan, aef)
    opened(
        study_figures.cdf_panels_png(
            {
                "gauged": {"attributes": attributes, "aef": aef},
                "regions out": {"aef": short},
                "folds": {"aef": short, "attributes": attributes},
                "empty": {"aef": [np.nan]},
            },
            {"published": 0.612},
            title="SAMPLE: skill",
        )  # fmt: skip
    )
    (figure,) = drawn
    gauged, regions, folds, empty = figure.axes[:4]
    assert gauged.get_title(loc="left") == "gauged (n = 100)"
    assert legend_of(gauged) == [
        f"attributes: {np.median(attributes):.3f}", f"aef: {np.median(aef):.3f}",
    ]  # fmt: skip
    assert regions.get_title(loc="left") == "regions out (n = 90)"
    assert legend_of(folds)[0].endswith("(n = 90)")
    assert legend_of(empty) == ["aef: none"]
    assert gauged.lines[1].get_color() == regions.lines[0].get_color() == folds.lines[0].get_color()
    # Half of the basins lie below the median.
    x, y = gauged.lines[1].get_data()
    assert y[np.searchsorted(x, np.median(aef), side="right") - 1] == 0.5
    assert [0.612, 0.612] in [list(line.get_xdata()) for line in regions.lines]
    assert texts(figure.legends[0].get_texts()) == ["published: 0.612"]
    assert figure.get_suptitle() == "SAMPLE: skill"


def test_intervals_stand_at_their_values_side_by_side(drawn):
    rows = pd.DataFrame(
        {"label": ["a", "a", "b"], "group": ["x", "y", "x"], "value": [0.1, -0.2, np.nan],
         "low": [0.0, -0.3, np.nan], "high": [0.2, -0.1, np.nan]}
    )  # fmt: skip
    opened(study_figures.interval_plot_png(rows, "t", "NSE"))
    axes = drawn[0].axes[0]
    x, y = axes.collections[0].get_segments()[0].T
    np.testing.assert_allclose(x, [0.0, 0.2])
    assert y[0] < axes.collections[1].get_segments()[0][0, 1] < 0.5
    assert texts(axes.get_yticklabels()) == ["a", "b"]
    assert legend_of(axes) == ["x", "y"]
    assert axes.yaxis_inverted()
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)

    opened(
        study_figures.interval_plot_png(rows.iloc[:1].drop(columns="group"), "t", "NSE", zero=False)
    )
    alone = drawn[1].axes[0]
    assert alone.get_legend() is None
    assert alone.collections[0].get_segments()[0][0, 1] == 0
    assert not any(list(line.get_xdata()) == [0, 0] for line in alone.lines)


def test_scaling_curves_run_over_ascending_k(drawn):
    curves = pd.DataFrame(
        {"space": ["aef"] * 3 + ["random"], "k": [400, 100, 200, 100],
         "value": [0.4, 0.1, 0.2, 0.0], "low": [0.3, 0.0, 0.1, -0.1], "high": [0.5, 0.2, 0.3, 0.1]}
    )  # fmt: skip
    opened(study_figures.scaling_curves_png(curves, "t"))
    axes = drawn[0].axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[100, 0.1], [200, 0.2], [400, 0.4]])
    assert legend_of(axes) == ["aef", "random"]
    assert list(axes.get_xticks()) == [100, 200, 400]


def test_matrix_writes_its_numbers(drawn):
    matrix = [[0.1, np.nan, -0.5], [0.3, 0.2, 0.0]]
    opened(
        study_figures.matrix_png(matrix, ["a", "b"], ["c", "d", "e"], "t", "NSE", diverging=True)
    )
    axes = drawn[0].axes[0]
    assert texts(axes.texts) == ["0.10", "–", "−0.50", "0.30", "0.20", "0.00"]
    assert axes.images[0].get_clim() == (-0.5, 0.5)
    # Digits are white on the darkest cell and black on the white one.
    assert [axes.texts[i].get_color() for i in (2, 5)] == ["#ffffff", "#000000"]
    study_figures.matrix_png(np.full((1, 21), np.nan), ["a"], ["c"] * 21, "t", "NSE")
    assert not drawn[1].axes[0].texts
    with pytest.raises(ValueError, match=r"matrix \(2, 3\) for 1 rows, 3 columns"):
        study_figures.matrix_png(matrix, ["a"], ["c", "d", "e"], "t", "NSE")


def test_scatter_tells_the_rank_correlation_and_keeps_one_basin_from_flattening_the_rest(drawn):
    x = np.linspace(0, 1, 300)
    y = np.where(np.arange(300) == 150, -30.0, 2 * x + 1)
    y[7] = np.nan
    opened(study_figures.scatter_png(x, y, "x", "NSE", "t"))
    figure = drawn[0]
    axes = figure.axes[0]
    assert figure.get_suptitle() == "t\nSpearman's rho = 0.99 (n = 299)"
    assert 0.8 < axes.get_ylim()[0] < 1.1
    inside, beyond, line = axes.lines
    assert len(inside.get_xdata()) == 298
    assert legend_of(axes) == ["beyond the axes (1)", "Theil-Sen line"]
    assert beyond.get_xdata()[0] == x[150]
    slope = np.diff(line.get_ydata()) / np.diff(line.get_xdata())
    assert slope == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("y", [[], [1.0, 1.0, 1.0], [np.nan] * 3])
def test_scatter_without_anything_to_correlate(drawn, y):
    opened(study_figures.scatter_png(np.arange(len(y)), y, "x", "y", "t"))
    assert "rho = undefined" in drawn[0].get_suptitle()


def test_bars_and_their_intervals(drawn):
    opened(study_figures.bars_png(["a", "b"], [0.5, np.nan], [0.4, np.nan], [0.6, np.nan],
                                  title="t", xlabel="R2"))  # fmt: skip
    axes = drawn[0].axes[0]
    assert axes.patches[0].get_width() == 0.5
    np.testing.assert_allclose(axes.collections[0].get_segments()[0], [[0.4, 0], [0.6, 0]])
    opened(study_figures.bars_png(["a"], [1.0], title="t", xlabel="R2"))
    assert not drawn[1].axes[0].collections


def test_distributions_are_shares_of_their_own_values(drawn):
    samples = {"aef": [0.0, 0.0, 0.5, 1.0, np.nan], "random": [0.5] * 9, "none": []}
    opened(study_figures.distributions_png(samples, title="t", xlabel="cosine"))
    axes = drawn[0].axes[0]
    shares = [patch.get_data().values for patch in axes.patches]
    assert [float(share.sum()) for share in shares] == pytest.approx([1, 1, 0])
    assert shares[0][0] == 0.5
    assert legend_of(axes) == ["aef: median 0.25", "random: median 0.50", "none: median none"]


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
    np.testing.assert_allclose(grey_areas.get_facecolor()[0], to_rgba(maps.MISSING), atol=0.01)
    assert len(areas.get_paths()) == 2
    np.testing.assert_allclose(dots.get_offsets(), [[-79.995, 35.005]], atol=1e-6)
    np.testing.assert_allclose(dots.get_facecolor()[0], areas.get_facecolor()[1])
    assert legend_of(axes) == ["no value (1 basins)"]
    assert (axes.get_title(loc="left"), bar.get_ylabel()) == ("SAMPLE: NSE", "NSE")
    assert "80°W" in texts(axes.get_xticklabels())
    opened(maps.png_bytes(figure))


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
    picture = np.asarray(opened(maps.png_bytes(figure)).convert("RGB")).astype(int)
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
    opened(maps.png_bytes(figure))
