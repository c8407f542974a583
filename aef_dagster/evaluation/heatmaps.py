"""Heat-maps: a matrix in colour, of basins, years, bands or designs.

Here: the picture of a square of similarities and of a small matrix with its numbers, both as PNG;
years against years and bands against steps, as a matplotlib `Figure` for `png_of`.
Not here: maps of basins (maps.py), the look (figure_style.py), where the numbers come from
(embeddings/stability.py, similarity/, experiments/).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from aef_dagster.evaluation.figure_style import (
    COLOURS,
    MISSING,
    png_of,
    scale_ends,
    titled_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Up to so many columns or years, the numbers are written into the cells.
_WRITTEN_COLUMNS = 20
_WRITTEN_YEARS = 12
_EMPTY = "#d9d9d9"


def similarity_heatmap_png(
    matrix: ArrayLike, labels: Sequence[str] = (), *, title: str = ""
) -> bytes:
    """A matrix of similarities in colour, from -1 (brown) over 0 (white) to 1 (green).

    Parameters
    ----------
    matrix
        Similarities in [-1, 1], shape [n, n].
    labels
        Basins in the order of the matrix; written out where there is room (up to 45).
    title
        Above the picture.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix, dtype=np.float64)
    figure = Figure(figsize=(5.4, 4.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="BrBG", vmin=-1, vmax=1, interpolation="antialiased")
    figure.colorbar(image, ax=axes, shrink=0.85, label="similarity")
    axes.set_title(title, fontsize=11)
    if 0 < len(labels) <= 45:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        axes.set_yticks(range(len(labels)), labels, fontsize=6)
    else:
        axes.set(xlabel="basin", ylabel="basin")
    return png_of(figure)


def matrix_png(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    label: str,
    *,
    diverging: bool = False,
    xlabel: str = "",
    ylabel: str = "",
) -> bytes:
    """A matrix in colour with its numbers in the cells, such as trained on against tested on.

    Parameters
    ----------
    matrix
        Shape [row, column]; NaN is grey with a dash.
    rows, columns
        Names, shapes [row] and [column].
    title, label, xlabel, ylabel
        Texts; the label, with its unit, stands at the colour bar.
    diverging
        Colours from brown over white at 0 to green, as far to both sides.

    Returns
    -------
    bytes
        A PNG file. Numbers are left out beyond 20 columns.

    Raises
    ------
    ValueError
        Names do not fit the shape.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"matrix {matrix.shape} for {len(rows)} rows, {len(columns)} columns")
    low, high = scale_ends(matrix[np.isfinite(matrix)], diverging=diverging)
    figure = titled_figure(2.6 + 0.62 * max(len(columns), 4), 1.7 + 0.46 * len(rows), title)
    axes = figure.subplots()
    axes.set_facecolor(_EMPTY)
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap="BrBG" if diverging else COLOURS,
                        vmin=low, vmax=high, aspect="auto")  # fmt: skip
    figure.colorbar(image, ax=axes, label=label, shrink=0.9).outline.set_visible(False)
    turned = max((len(name) for name in columns), default=0) > 7
    axes.set_xticks(range(len(columns)), columns, rotation=35 if turned else 0,
                    ha="right" if turned else "center", rotation_mode="anchor")  # fmt: skip
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if len(columns) <= _WRITTEN_COLUMNS:
        # Brightness as the eye weighs it (ITU-R BT.709) decides between black and white digits.
        bright = image.to_rgba(np.nan_to_num(matrix))[..., :3] @ [0.2126, 0.7152, 0.0722] > 0.45
        for (row, column), value in np.ndenumerate(matrix):
            known = bool(np.isfinite(value))
            axes.text(column, row, f"{value:.2f}".replace("-", "−") if known else "–", ha="center",
                      va="center", fontsize=8,
                      color="#000000" if bright[row, column] or not known else "#ffffff",
                      )  # fmt: skip
    return png_of(figure)


def year_heatmap(
    matrix: ArrayLike, years: Sequence[int], *, title: str, label: str = "median cosine"
) -> "Figure":
    """Each year against each other year.

    Parameters
    ----------
    matrix
        A number for each two years, shape [year, year], as `stability.median_cosines` gives it.
        The diagonal, each year with itself, is left blank: it would take all colours. NaN = grey.
    years
        In the order of the matrix.
    title
        Above the picture.
    label
        Name and unit of the numbers, beside the colour bar.

    Returns
    -------
    Figure
        Numbers are written into the cells of up to twelve years.
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix, dtype=np.float64)
    n = len(years)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix has shape {matrix.shape} for {n} years")
    itself = np.eye(n, dtype=bool)
    low, high = scale_ends(matrix[~itself & ~np.isnan(matrix)])
    figure = Figure(figsize=(6.0, 4.8), dpi=100, layout="constrained")
    axes = figure.subplots()
    # White under the diagonal, grey under what is missing.
    axes.imshow(np.where(itself, 1.0, 0.0), cmap=_two_colours(MISSING, "#ffffff"))
    image = axes.imshow(
        np.ma.masked_invalid(np.where(itself, np.nan, matrix)), cmap=COLOURS, vmin=low, vmax=high
    )
    figure.colorbar(image, ax=axes, shrink=0.85, label=label)
    axes.set_xticks(range(n), [str(year) for year in years], rotation=90 if n > 12 else 0)
    axes.set_yticks(range(n), [str(year) for year in years])
    axes.tick_params(labelsize=8)
    axes.set_title(title, fontsize=11, loc="left")
    if n <= _WRITTEN_YEARS:
        for row, column in np.argwhere(~itself & ~np.isnan(matrix)):
            dark = matrix[row, column] < (low + high) / 2
            axes.text(column, row, f"{matrix[row, column]:.4f}", ha="center", va="center",
                      fontsize=6.5, color="#ffffff" if dark else "#000000")  # fmt: skip
    return figure


def band_heatmap(
    matrix: ArrayLike,
    bands: Sequence[str],
    pairs: Sequence[str],
    *,
    title: str,
    label: str = "correlation over basins",
) -> "Figure":
    """Each band at each step from one year to the next.

    Parameters
    ----------
    matrix
        Shape [band, pair]: the correlations of `stability.band_stability`; NaN = grey.
    bands
        "A00".. in the order of the rows.
    pairs
        "2017-2018".. in the order of the columns.
    title
        Above the picture.
    label
        Name and unit of the numbers, beside the colour bar.

    Returns
    -------
    Figure
        Bands run from left to right, pairs of years from top to bottom.
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (len(bands), len(pairs)):
        raise ValueError(
            f"matrix has shape {matrix.shape} for {len(bands)} bands and {len(pairs)} pairs"
        )
    known = ~np.isnan(matrix)
    low, high = scale_ends(matrix[known])
    figure = Figure(figsize=(11, 1.6 + 0.24 * len(pairs)), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(MISSING)
    image = axes.imshow(
        np.ma.masked_invalid(matrix.T), cmap=COLOURS, vmin=low, vmax=high, aspect="auto"
    )
    figure.colorbar(image, ax=axes, label=label, pad=0.01)
    axes.set_xticks(range(len(bands)), list(bands), rotation=90, fontsize=7)
    axes.set_yticks(range(len(pairs)), list(pairs), fontsize=8)
    axes.set_title(title, fontsize=11, loc="left")
    return figure


def _two_colours(low: str, high: str):
    from matplotlib.colors import ListedColormap

    return ListedColormap([low, high])
