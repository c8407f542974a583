"""Pictures of basins on a map.

Here: gauges as points, and basins as areas, coloured by a value; each as a matplotlib `Figure` for
`png_of`.
Not here: matrices in colour (heatmaps.py), the look (figure_style.py), where the numbers come from,
where a picture is shown.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aef_dagster.evaluation.figure_style import COLOURS, CYCLE, GRID, MISSING, scale_ends

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        As wide as a page, 7.6 inches.
    """
    from matplotlib.figure import Figure

    lon, lat, values = (np.asarray(numbers, dtype=np.float64) for numbers in (lon, lat, values))
    if not lon.shape == lat.shape == values.shape:
        raise ValueError(f"shapes differ: lon {lon.shape}, lat {lat.shape}, values {values.shape}")
    known = ~np.isnan(values)
    low, high = limits or scale_ends(values[known], 0.02)
    figure = Figure(figsize=(7.6, 4.1), dpi=110, layout="constrained")
    axes = figure.subplots()
    if not known.all():
        rings = f"no value ({(~known).sum()} basins)"
        axes.scatter(lon[~known], lat[~known], s=14, facecolors="none", edgecolors="#d00000",
                     linewidths=0.8, zorder=3, label=rings)  # fmt: skip
        axes.legend(loc="lower left", frameon=False, fontsize=8)
    points = axes.scatter(lon[known], lat[known], c=values[known], s=14, cmap=COLOURS, vmin=low,
                          vmax=high, edgecolors="#333333", linewidths=0.2)  # fmt: skip
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
        As wide as a page, 7.6 inches.

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
                     linewidths=0.25, zorder=3 + 2 * order)  # fmt: skip
    axes.set_title(title, fontsize=11, loc="left")
    _graticule(axes, np.array([west, east]), np.array([south, north]))
    return figure


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
    low, high = scale_ends(known, 0.02, diverging=diverging)
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
        )  # fmt: skip
    )
