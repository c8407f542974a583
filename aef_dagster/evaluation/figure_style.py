"""The look that all pictures share, and the one form in which they are written.

Here: colours, a figure with its title, plain axes, the ends of a scale, PNG files.
Not here: any picture (figures.py, study_figures.py, heatmaps.py, maps.py). Figures are made through
matplotlib's objects, never pyplot: its global state is not safe in a process that draws for many
basins, and it keeps every figure open.
"""

import io
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = "#e3e3e3"
# Told apart by all common kinds of colour vision (Okabe and Ito) and in grey.
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222")
# A dash pattern beside the colour, once colours repeat.
DASHES = ("-", "--", ":")
# What has no value.
MISSING = "#bbbbbb"
# Even steps in brightness, and told apart by all common kinds of colour vision.
COLOURS = "viridis"


def titled_figure(width: float, height: float, title: str) -> "Figure":
    """An empty figure, inches; sharp where a page shows it at two thirds of its pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def plain_axes(axes: "Axes", grid: Literal["both", "x"] = "both") -> None:
    """No frame but the two axes, thin grid lines below what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    if grid == "x":
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)


def colour(i: int) -> str:
    """The colour of the line with this number."""
    return CYCLE[i % len(CYCLE)]


def dashes(i: int) -> str:
    """The dash pattern of the line with this number."""
    return DASHES[i // len(CYCLE) % len(DASHES)]


def cdf_line(axes: "Axes", known: NDArray, i: int, label: str) -> None:
    """Draw the share of values below each value.

    Parameters
    ----------
    axes
        Where to.
    known
        The values, ascending, none missing; may be empty.
    i
        Number of the line: gives its colour.
    label
        For the legend.
    """
    axes.step(
        np.concatenate([[-np.inf], known, [np.inf]]),
        np.append(np.arange(known.size + 1), known.size) / max(known.size, 1),
        where="post", lw=1.8, color=colour(i), ls=dashes(i), label=label,
    )  # fmt: skip


def scale_ends(
    values: NDArray, tail: float = 0.0, *, diverging: bool = False
) -> tuple[float, float]:
    """Values at the ends of a scale, apart from each other even if all values are equal.

    Parameters
    ----------
    values
        Finite numbers, any number of them.
    tail
        Share of the values beyond each end.
    diverging
        As far to both sides of 0.
    """
    low, high = np.quantile(values, [tail, 1 - tail]).tolist() if values.size else (0.0, 1.0)
    if diverging:
        largest = max(abs(low), abs(high)) or 1.0
        return -largest, largest
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def png_of(figure: "Figure") -> bytes:
    """The figure as PNG with a palette: a third of the size, for pictures that are stored often."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    Image.open(full).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()
