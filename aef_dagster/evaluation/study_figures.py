"""Pictures of the study: what its experiments found, as PNG files.

Here: distributions of skill, intervals, curves over k, scatter, bars. Numbers come in, bytes go
out, in the look of figure_style.py. Not here: hydrographs (figures.py), matrices (heatmaps.py),
maps (maps.py), the statistics that are drawn (statistics.py and others).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from aef_dagster.evaluation.figure_style import (
    CYCLE,
    cdf_line,
    colour,
    dashes,
    plain_axes,
    png_of,
    scale_ends,
    titled_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX"
_DASHES = ("--", ":", "-.", (0, (8, 3)), (0, (1, 3)))
_GREY = "#777777"


def cdf_panels_png(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    reference: Mapping[str, float] | None = None,
    metric: str = "NSE",
    *,
    title: str = "",
) -> bytes:
    """Share of basins below each score: a panel a design, a line a representation.

    Parameters
    ----------
    panels
        Design -> representation -> score of each basin, shape [basin]; NaN is left out. A
        representation has one colour in all panels. Medians are in the legend, numbers of basins
        too where lines of a panel differ in them.
    reference
        Name -> published median, drawn as an upright line in every panel.
    metric
        For the axis; efficiencies, drawn from -0.5 to 1. What lies below is in the curve's start.
    title
        Above the panels.

    Returns
    -------
    bytes
        A PNG file.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = titled_figure(3.5 * columns + (2.2 if columns == 1 else 0), 0.6 + 3.5 * rows, title)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (design, lines) in zip(grid.flat, panels.items(), strict=False):
        sizes = {_known(scores).size for scores in lines.values()}
        for label, scores in lines.items():
            known = _known(scores)
            n = f" (n = {known.size})" if len(sizes) > 1 else ""
            median = f"{np.median(known):.3f}" if known.size else "none"
            cdf_line(axes, known, names.index(label), f"{label}: {median}{n}")
        published = [
            axes.axvline(value, color=_GREY, lw=1.1, ls=_DASHES[i % len(_DASHES)])
            for i, value in enumerate((reference or {}).values())
        ]
        axes.axhline(0.5, color="#999999", lw=0.8, ls=":")
        n = f" (n = {sizes.pop()})" if len(sizes) == 1 else ""
        axes.set_title(f"{design}{n}", fontsize=10, loc="left")
        axes.set(xlim=(-0.5, 1), ylim=(0, 1), xticks=[-0.5, 0, 0.5, 1])
        axes.legend(loc="upper left", frameon=True, framealpha=0.85, edgecolor="none", fontsize=8,
                    title="median", title_fontsize=8, alignment="left")  # fmt: skip
        plain_axes(axes)
        axes.set_xlabel(metric)
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supylabel("share of basins with a lower score", fontsize=10)
    if reference:
        texts = [f"{name}: {value:.3f}" for name, value in reference.items()]
        figure.legend(published, texts, loc="outside lower center", ncols=columns, frameon=False,
                      fontsize=8)  # fmt: skip
    return png_of(figure)


def interval_plot_png(rows: pd.DataFrame, title: str, xlabel: str, *, zero: bool = True) -> bytes:
    """Estimates as dots with their intervals, one above the other.

    Parameters
    ----------
    rows
        label, value, low, high, and where there are several estimates a label: group, which gives
        the colour. The first row is drawn on top. A missing value leaves its line empty.
    title, xlabel
        Texts.
    zero
        Whether to draw a line at 0, "no difference".

    Returns
    -------
    bytes
        A PNG file.
    """
    labels = list(dict.fromkeys(rows["label"]))
    groups = list(dict.fromkeys(rows["group"])) if "group" in rows else [""]
    height = 1.2 + 0.36 * len(labels) + 0.13 * len(labels) * (len(groups) - 1)
    figure = titled_figure(6.6, height, title)
    axes = figure.subplots()
    for i, group in enumerate(groups):
        here = rows[rows["group"] == group] if "group" in rows else rows
        # Groups of a label lie side by side within 0.6 of the distance between labels.
        shift = 0.6 * ((i + 0.5) / len(groups) - 0.5)
        y = np.array([labels.index(label) for label in here["label"]]) + shift
        value, low, high = (here[name].to_numpy(float) for name in ("value", "low", "high"))
        axes.hlines(y, low, high, color=colour(i), lw=2.2, alpha=0.75)
        axes.plot(value, y, _MARKERS[i % len(_MARKERS)], color=colour(i), ms=6, mec="white",
                  mew=0.8, label=str(group))  # fmt: skip
    if zero:
        axes.axvline(0, color="#222222", lw=1)
    axes.set_yticks(range(len(labels)), [str(label) for label in labels])
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=xlabel)
    if len(groups) > 1:
        _legend_beside(axes)
    plain_axes(axes, grid="x")
    return png_of(figure)


def scaling_curves_png(
    curves: pd.DataFrame, title: str, *, xlabel: str = "donors (k)", ylabel: str = "median NSE"
) -> bytes:
    """Skill over the number of donors, a line a space.

    Parameters
    ----------
    curves
        space, k, value, low, high; rows in any order. The interval is a band.
    title, xlabel, ylabel
        Texts.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = titled_figure(6.6, 4.2, title)
    axes = figure.subplots()
    for i, (space, curve) in enumerate(curves.groupby("space", sort=False)):
        curve = curve.sort_values("k")
        k, value, low, high = (
            curve[name].to_numpy(float) for name in ("k", "value", "low", "high")
        )
        axes.fill_between(k, low, high, color=colour(i), alpha=0.13, lw=0)
        axes.plot(k, value, marker=_MARKERS[i % len(_MARKERS)], color=colour(i), lw=1.8, ms=5.5,
                  mec="white", mew=0.7, label=str(space))  # fmt: skip
    ks = np.unique(curves["k"])
    if ks.size <= 10:
        axes.set_xticks(ks)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _legend_beside(axes)
    plain_axes(axes)
    return png_of(figure)


def scatter_png(
    x: ArrayLike, y: ArrayLike, xlabel: str, ylabel: str, title: str, *, line: bool = True
) -> bytes:
    """Two numbers a basin against each other, with Spearman's rank correlation in the title.

    What lies more than three interquartile ranges beyond the quartiles (Tukey's outer fences) is a
    triangle at the edge, so that one basin with an NSE of -30 does not flatten the rest.

    Parameters
    ----------
    x, y
        Shape [basin]; basins where either is NaN are left out.
    xlabel, ylabel, title
        Texts.
    line
        Whether to draw the line of Theil and Sen (Sen 1968, doi:10.1080/01621459.1968.10480934),
        the median of all slopes, which few odd basins do not turn.

    Returns
    -------
    bytes
        A PNG file.
    """
    from scipy.stats import spearmanr, theilslopes

    pairs = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    across, up = pairs[:, np.isfinite(pairs).all(axis=0)]
    varied = across.size > 2 and np.ptp(across) > 0 and np.ptp(up) > 0
    rho = f"{spearmanr(across, up).statistic:.2f}".replace("-", "−") if varied else "undefined"
    figure = titled_figure(5.4, 4.4, f"{title}\nSpearman's rho = {rho} (n = {across.size})")
    axes = figure.subplots()
    (west, east), (south, north) = _middle(across), _middle(up)
    inside = (across >= west) & (across <= east) & (up >= south) & (up <= north)
    axes.plot(across[inside], up[inside], "o", ms=4.5, color=CYCLE[0], alpha=0.55, mew=0)
    if not inside.all():
        edge = np.clip(across[~inside], west, east), np.clip(up[~inside], south, north)
        axes.plot(*edge, "^", ms=6, mfc="none", mec=CYCLE[1], clip_on=False,
                  label=f"beyond the axes ({(~inside).sum()})")  # fmt: skip
    if line and varied:
        slope, intercept, *_ = theilslopes(up, across)
        ends = np.array([across[inside].min(), across[inside].max()])
        axes.plot(ends, intercept + slope * ends, color="#222222", lw=1.4, label="Theil-Sen line")
    axes.set(xlim=(west, east), ylim=(south, north), xlabel=xlabel, ylabel=ylabel)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=8)
    plain_axes(axes)
    return png_of(figure)


def bars_png(
    labels: Sequence[str],
    values: ArrayLike,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    *,
    title: str,
    xlabel: str,
) -> bytes:
    """A number a name as lying bars, with intervals where given.

    Parameters
    ----------
    labels
        Names, shape [bar]; the first is on top.
    values, low, high
        Shape [bar]; NaN = missing, no bar.
    title, xlabel
        Texts.

    Returns
    -------
    bytes
        A PNG file.
    """
    values = np.asarray(values, dtype=np.float64)
    figure = titled_figure(6.6, 1.1 + 0.27 * len(labels), title)
    axes = figure.subplots()
    y = np.arange(len(labels))
    axes.barh(y, values, height=0.72, color=CYCLE[4])
    if low is not None and high is not None:
        axes.hlines(y, np.asarray(low, dtype=float), np.asarray(high, dtype=float),
                    color="#222222", lw=1.3)  # fmt: skip
    axes.axvline(0, color="#222222", lw=1)
    axes.set_yticks(y, labels)
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=xlabel)
    plain_axes(axes, grid="x")
    return png_of(figure)


def distributions_png(samples: Mapping[str, ArrayLike], *, title: str, xlabel: str) -> bytes:
    """Distributions as the outlines of histograms with common bins.

    Parameters
    ----------
    samples
        Label -> values, shape [n]; NaN is left out. Each is drawn as shares of its own values.
    title, xlabel
        Texts.

    Returns
    -------
    bytes
        A PNG file.
    """
    known = {label: _known(values) for label, values in samples.items()}
    every = np.concatenate([*known.values(), np.empty(0)])
    low, high = scale_ends(every)
    edges = np.linspace(low, high, 51)
    figure = titled_figure(6.6, 4.0, title)
    axes = figure.subplots()
    for i, (label, values) in enumerate(known.items()):
        shares = np.histogram(values, edges)[0] / max(values.size, 1)
        median = f"{np.median(values):.2f}".replace("-", "−") if values.size else "none"
        axes.stairs(shares, edges, color=colour(i), lw=1.8, label=f"{label}: median {median}",
                    ls=dashes(i))  # fmt: skip
    axes.set(xlim=(low, high), xlabel=xlabel, ylabel="share of values in a bin")
    axes.set_ylim(bottom=0)
    _legend_beside(axes)
    plain_axes(axes)
    return png_of(figure)


def _legend_beside(axes: "Axes") -> None:
    """Right of the axes, where it hides no line."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def _known(values: ArrayLike) -> NDArray[np.float64]:
    """What is finite, ascending."""
    values = np.asarray(values, dtype=np.float64).ravel()
    return np.sort(values[np.isfinite(values)])


def _middle(values: NDArray) -> tuple[float, float]:
    """Ends of an axis: the values inside the outer fences, and a little room."""
    if values.size:
        low, high = np.quantile(values, [0.25, 0.75])
        fence = 3 * (high - low)
        if fence > 0:
            values = values[(values >= low - fence) & (values <= high + fence)]
    least, largest = scale_ends(values)
    room = 0.04 * (largest - least)
    return least - room, largest + room
