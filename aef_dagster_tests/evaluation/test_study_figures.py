"""Pictures of the study: what they draw, that odd numbers are drawn too, and their size."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.evaluation import study_figures
from aef_dagster_tests.evaluation.pictures import keeping_figures, legend_of, opened, texts


@pytest.fixture
def drawn(monkeypatch):
    return keeping_figures(monkeypatch, study_figures)


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
