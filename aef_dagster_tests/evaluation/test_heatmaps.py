"""Heat-maps: what they show, their size, and pictures that open."""

import numpy as np
import pytest

from aef_dagster.evaluation import heatmaps
from aef_dagster.evaluation.figure_style import png_of
from aef_dagster_tests.evaluation.pictures import keeping_figures, opened, texts


@pytest.fixture
def drawn(monkeypatch):
    return keeping_figures(monkeypatch, heatmaps)


def test_heatmap_with_and_without_names():
    matrix = np.eye(5)
    assert opened(heatmaps.similarity_heatmap_png(matrix, list("abcde"), title="aef")).width > 300
    large = np.random.default_rng(0).uniform(-1, 1, (300, 300))
    assert opened(heatmaps.similarity_heatmap_png(large)).width > 300


def test_matrix_writes_its_numbers(drawn):
    matrix = [[0.1, np.nan, -0.5], [0.3, 0.2, 0.0]]
    opened(heatmaps.matrix_png(matrix, ["a", "b"], ["c", "d", "e"], "t", "NSE", diverging=True))
    axes = drawn[0].axes[0]
    assert texts(axes.texts) == ["0.10", "–", "−0.50", "0.30", "0.20", "0.00"]
    assert axes.images[0].get_clim() == (-0.5, 0.5)
    # Digits are white on the darkest cell and black on the white one.
    assert [axes.texts[i].get_color() for i in (2, 5)] == ["#ffffff", "#000000"]
    heatmaps.matrix_png(np.full((1, 21), np.nan), ["a"], ["c"] * 21, "t", "NSE")
    assert not drawn[1].axes[0].texts
    with pytest.raises(ValueError, match=r"matrix \(2, 3\) for 1 rows, 3 columns"):
        heatmaps.matrix_png(matrix, ["a"], ["c", "d", "e"], "t", "NSE")


def test_years_are_written_and_the_diagonal_takes_no_colour():
    matrix = np.array([[1.0, 0.98, np.nan], [0.98, 1.0, 0.97], [np.nan, 0.97, 1.0]])
    figure = heatmaps.year_heatmap(matrix, [2017, 2018, 2020], title="SURROGATE: years")
    axes = figure.axes[0]
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == [
        "2017", "2018", "2020",
    ]  # fmt: skip
    assert sorted(texts(axes.texts)) == ["0.9700"] * 2 + ["0.9800"] * 2
    assert axes.images[-1].get_clim() == (0.97, 0.98)
    np.testing.assert_array_equal(
        np.ma.getmaskarray(axes.images[-1].get_array()), np.isnan(matrix) | np.eye(3, dtype=bool)
    )
    assert axes.get_title(loc="left") == "SURROGATE: years"


def test_many_years_are_colours_only():
    figure = heatmaps.year_heatmap(np.eye(13), range(2017, 2030), title="x")
    assert not figure.axes[0].texts
    assert len(png_of(figure)) < 30_000


def test_bands_run_across_and_pairs_of_years_down():
    matrix = np.linspace(0.9, 1, 64 * 8).reshape(64, 8)
    matrix[5, 2] = np.nan
    bands = [f"A{i:02d}" for i in range(64)]
    pairs = [f"{y}-{y + 1}" for y in range(2017, 2025)]
    figure = heatmaps.band_heatmap(matrix, bands, pairs, title="SURROGATE: bands")
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (8, 64)
    assert shown[7, 0] == matrix[0, 7]
    assert np.argwhere(np.ma.getmaskarray(shown)).tolist() == [[2, 5]]
    assert texts(axes.get_xticklabels()) == bands
    assert texts(axes.get_yticklabels()) == pairs
    assert len(png_of(figure)) < 40_000


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="for 3 years"):
        heatmaps.year_heatmap(np.eye(2), [1, 2, 3], title="x")
    with pytest.raises(ValueError, match="for 2 bands and 1 pairs"):
        heatmaps.band_heatmap(np.eye(2), ["A00", "A01"], ["2017-2018"], title="x")
