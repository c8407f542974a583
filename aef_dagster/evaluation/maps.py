"""Pictures of basins on a map, and of years and bands side by side.

Here: functions that draw numbers as a matplotlib `Figure`, and two that turn a figure into bytes
of a PNG or text of an SVG. Figures are made without pyplot, as in figures.py: none stays open.
Not here: hydrographs and scores (figures.py), where the numbers come from
(embeddings/stability.py), where a picture is shown.
"""

import base64
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aef_dagster.evaluation.figures import CYCLE, GRID, png_of

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = "#bbbbbb"

# Even steps in brightness, and told apart by all common kinds of colour vision.
COLOURS = "viridis"

# Up to so many years, the numbers are written into the cells.
_WRITTEN_YEARS = 12

_IMAGE = re.compile(r'"data:image/png;base64,([^"]+)"')


def basin_map(
    lon: ArrayLike,
    lat: ArrayLike,
    values: ArrayLike,
    *,
    title: str,
    label: str,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """The gauges of all basins, each coloured by a value.

    Degrees of longitude are shortened by the cosine of the middle latitude, so that shapes and
    distances are right there (equirectangular projection). A graticule of 5 or 10 degrees says
    where it is; there is no coast, which would need a file or a network.

    Parameters
    ----------
    lon, lat
        Degrees east and north, shape [basin].
    values
        Shape [basin]; NaN = missing, drawn as a red ring and counted in the legend.
    title
        Above the picture.
    label
        Name and unit of the values, beside the colour bar.
    limits
        Ends of the colours; by default the 2nd and 98th percentile of the values, so that one
        basin does not take all colours. Pointed ends of the bar say that values lie beyond.

    Returns
    -------
    Figure
        As wide as a page, 7.6 inches. The points are one image inside an SVG.
    """
    from matplotlib.figure import Figure

    lon, lat, values = (np.asarray(numbers, dtype=np.float64) for numbers in (lon, lat, values))
    if not lon.shape == lat.shape == values.shape:
        raise ValueError(f"shapes differ: lon {lon.shape}, lat {lat.shape}, values {values.shape}")
    known = ~np.isnan(values)
    low, high = limits or _limits(values[known], 0.02)
    figure = Figure(figsize=(7.6, 4.1), dpi=110, layout="constrained")
    axes = figure.subplots()
    if not known.all():
        rings = f"no value ({(~known).sum()} basins)"
        axes.scatter(lon[~known], lat[~known], s=14, facecolors="none", edgecolors="#d00000",
                     linewidths=0.8, zorder=3, label=rings, rasterized=True)  # fmt: skip
        axes.legend(loc="lower left", frameon=False, fontsize=8)
    points = axes.scatter(lon[known], lat[known], c=values[known], s=14, cmap=COLOURS, vmin=low,
                          vmax=high, edgecolors="#333333", linewidths=0.2,
                          rasterized=True)  # fmt: skip
    figure.colorbar(
        points, ax=axes, shrink=0.8, label=label, extend=_beyond(values[known], low, high)
    )
    axes.set_title(title, fontsize=11, loc="left")
    _graticule(axes, lon, lat)
    return figure


def polygon_map(
    outlines: "gpd.GeoDataFrame",
    values: "pd.Series",
    title: str,
    label: str,
    categorical: bool = False,
    diverging: bool = False,
) -> "Figure":
    """The areas of all basins, each filled with the colour of a value.

    Projection and graticule are those of `basin_map`. Larger basins lie below smaller ones, so
    that a basin inside another can be seen. Basins too small to be seen get a dot as well.

    Parameters
    ----------
    outlines
        Polygons in EPSG:4326 with the gauge_id as index; simplified here to what can be seen.
    values
        gauge_id -> value. Outlines without a value, or with a missing one, are grey and counted in
        the legend; a value without an outline is not drawn.
    title
        Above the picture.
    label
        Name and unit of the values, beside the colour bar or above the legend.
    categorical
        Values are names of groups, each with a colour of its own, sorted in the legend.
    diverging
        Colours from brown over white at 0 to green, as far to both sides: for differences.

    Returns
    -------
    Figure
        As wide as a page, 7.6 inches; the areas are one image inside an SVG.

    Raises
    ------
    ValueError
        More groups than there are colours to tell them apart (21).
    """
    from matplotlib.figure import Figure

    west, south, east, north = outlines.total_bounds
    # A basin is a dot too if it is narrower than 0.7 % of the map, some 4 points of the picture.
    seen = 0.007 * max(east - west, north - south, 1.0)
    outlines = outlines.assign(area_deg2=_areas(outlines)).sort_values("area_deg2", ascending=False)
    found = values.reindex(outlines.index)
    known = found.notna().to_numpy()
    figure = Figure(figsize=(7.6, 4.1), dpi=140, layout="constrained")
    axes = figure.subplots()
    if categorical:
        colours, legend = _group_colours(found)
        axes.legend(handles=legend, title=label, loc="upper left", bbox_to_anchor=(1, 1),
                    frameon=False, fontsize=8, title_fontsize=8, alignment="left",
                    ncols=1 + len(legend) // 16)  # fmt: skip
    else:
        colours, scale, extend = _value_colours(found, diverging)
        figure.colorbar(scale, ax=axes, shrink=0.8, label=label, extend=extend)
        if not known.all():
            axes.legend(handles=[_patch(MISSING, f"no value ({(~known).sum()} basins)")],
                        loc="lower left", frameon=False, fontsize=8)  # fmt: skip
    shapes = outlines.geometry.simplify(seen / 20)
    small = (outlines["area_deg2"] < seen**2).to_numpy()
    for order, here in enumerate((~known, known)):
        _draw_areas(axes, shapes[here], colours[here], zorder=2 + 2 * order)
        dots = outlines.geometry[here & small].representative_point()
        axes.scatter(dots.x, dots.y, c=colours[here & small], s=9, edgecolors="#333333",
                     linewidths=0.25, zorder=3 + 2 * order, rasterized=True)  # fmt: skip
    axes.set_title(title, fontsize=11, loc="left")
    _graticule(axes, np.array([west, east]), np.array([south, north]))
    return figure


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
    low, high = _limits(matrix[~itself & ~np.isnan(matrix)], 0.0)
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
    low, high = _limits(matrix[known], 0.0)
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


def png_bytes(figure: "Figure") -> bytes:
    """A figure as a PNG file with a palette, the way figures.py writes them."""
    return png_of(figure)


def svg_text(figure: "Figure") -> str:
    """A figure as an `<svg>` element."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    text = drawn.getvalue()
    return _IMAGE.sub(_with_palette, text[text.index("<svg") :])


def _with_palette(image: re.Match) -> str:
    """An image inside an SVG with a palette: a third of the size, as for a PNG of its own."""
    from PIL import Image

    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(image[1]))) as full:
        # The one method of Pillow that keeps what is transparent.
        palette = full.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE)
        palette.save(small, format="png", optimize=True)
    return f'"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"'


def _limits(values: NDArray, tail: float) -> tuple[float, float]:
    """Values at both tails, apart from each other even if all values are equal."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(values, [tail, 1 - tail])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _beyond(values: NDArray, low: float, high: float) -> str:
    below, above = bool((values < low).any()), bool((values > high).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
        (below, above), "both"
    )


def _graticule(axes: "Axes", lon: NDArray, lat: NDArray) -> None:
    """Extent, proportions and lines of latitude and longitude."""
    # A margin, so that no gauge lies on the frame, and a lone one has a map around it.
    west, east = lon.min() - 1.5, lon.max() + 1.5
    south, north = lat.min() - 1.5, lat.max() + 1.5
    step = 10 if max(east - west, north - south) > 60 else 5
    meridians = np.arange(np.ceil(west / step) * step, east, step)
    parallels = np.arange(np.ceil(south / step) * step, north, step)
    axes.set_xticks(meridians, [_degrees(degree, "W", "E") for degree in meridians])
    axes.set_yticks(parallels, [_degrees(degree, "S", "N") for degree in parallels])
    axes.set(xlim=(west, east), ylim=(south, north))
    axes.set_aspect(1 / np.cos(np.radians((south + north) / 2)))
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor="#555555")
    axes.spines[:].set_color("#999999")


def _degrees(degree: float, negative: str, positive: str) -> str:
    side = negative if degree < 0 else positive if degree > 0 else ""
    return f"{abs(degree):.0f}°{side}"


def _two_colours(low: str, high: str):
    from matplotlib.colors import ListedColormap

    return ListedColormap([low, high])


def _areas(outlines: "gpd.GeoDataFrame") -> NDArray:
    """In square degrees: they order basins and tell small ones, no more is asked of them."""
    from shapely import area

    return area(outlines.geometry.to_numpy())


def _value_colours(values: "pd.Series", diverging: bool):
    """Colour of each value (grey if missing), the scale for a colour bar, and its pointed ends."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    numbers = values.to_numpy(dtype=np.float64)
    known = numbers[~np.isnan(numbers)]
    low, high = _limits(known, 0.02)
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    colours = colormaps["BrBG" if diverging else COLOURS].with_extremes(bad=MISSING)
    scale = ScalarMappable(Normalize(low, high), colours)
    return scale.to_rgba(np.ma.masked_invalid(numbers)), scale, _beyond(known, low, high)


def _group_colours(values: "pd.Series"):
    """Colour of each basin's group (grey if missing), and the patches of a legend."""
    from matplotlib.colors import to_rgb, to_rgba_array

    pure = np.array([to_rgb(colour) for colour in CYCLE])
    # Full, pale and dark: 21 in all.
    shades = np.concatenate([pure, 0.5 + 0.5 * pure, 0.55 * pure])
    counts = values.value_counts().sort_index()
    if len(counts) > len(shades):
        raise ValueError(f"{len(counts)} groups, but a map tells {len(shades)} apart at most")
    colour_of = dict(zip(counts.index, shades, strict=False))
    legend = [_patch(colour_of[name], f"{name} ({n})") for name, n in counts.items()]
    if values.isna().any():
        legend.append(_patch(MISSING, f"no value ({values.isna().sum()})"))
    grey = to_rgb(MISSING)
    return to_rgba_array([colour_of.get(name, grey) for name in values]), legend


def _patch(colour, label: str):
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="#333333", linewidth=0.3, label=label)


def _draw_areas(axes: "Axes", shapes: "gpd.GeoSeries", colours: NDArray, zorder: int) -> None:
    """Polygons with their holes, as one collection of paths."""
    import shapely
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    # Shells one way round and holes the other: so the inside of a hole stays free.
    turned = shapely.orient_polygons(shapes.to_numpy())
    paths = [
        Path.make_compound_path(*map(Path, map(shapely.get_coordinates, shapely.get_rings(shape))))
        for shape in turned
    ]
    axes.add_collection(
        PathCollection(
            paths,
            facecolors=colours,
            edgecolors="#333333",
            linewidths=0.2,
            zorder=zorder,
            rasterized=True,
        )  # fmt: skip
    )
