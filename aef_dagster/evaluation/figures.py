"""Pictures of simulations and scores.

Here: a hydrograph as a compact SVG for the pages of a run, and the distribution of scores as PNG.
Numbers come in, text or bytes go out; the background is white, so that they read on dark pages too.
Not here: what experiments found (study_figures.py), matrices (heatmaps.py), maps (maps.py), the
look they share (figure_style.py), where a picture is shown or stored.
"""

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aef_dagster.evaluation.figure_style import GRID, cdf_line, plain_axes, png_of

OBSERVED, SIMULATED, RAIN = "#222222", "#d55e00", "#8fbfdc"

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 38, 24  # margins of the SVG, px
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def hydrograph_svg(
    dates: ArrayLike,
    obs: ArrayLike,
    sim: ArrayLike,
    *,
    title: str,
    note: str = "",
    width: int = 680,
    height: int = 220,
    sim_std: ArrayLike | None = None,
    prcp: ArrayLike | None = None,
    top: float | None = None,
) -> str:
    """Observed and simulated flow of the last water year that has observations.

    One year keeps it near 10 kB, so that it can stand inside a page; `water_years_svg` shows all.

    Parameters
    ----------
    dates
        The days, shape [time], ascending.
    obs, sim
        Flow, mm/day, shape [time]; NaN = missing, drawn as a gap.
    title, note
        First line (bold) and the end of the second one (grey).
    width, height
        Pixels.
    sim_std
        Standard deviation of the ensemble, mm/day, drawn as a band of one to each side.
    prcp
        Precipitation, mm/day, drawn as bars that hang from the top on a scale of their own.
    top
        Flow that the axis reaches at least, mm/day; by default the largest shown.

    Returns
    -------
    str
        An `<svg>` element.
    """
    days, observed = _days(dates), _floats(obs)
    shown = _last_observed_year(days, observed)
    days, observed, simulated = days[shown], observed[shown], _floats(sim)[shown]
    rain = None if prcp is None else _floats(prcp)[shown]
    # Room above the flow for the rain that hangs there.
    top = (_largest(observed, simulated) if top is None else top) * (1.0 if rain is None else 1.3)
    step = _nice_step(top)
    y_max = max(step, np.ceil(top / step) * step)
    right, bottom = width - _RIGHT, height - _BOTTOM
    since_first = (days - days[0]).astype(float)
    x = _LEFT + (right - _LEFT) * since_first / max(since_first[-1], 1.0)

    def y(flow):
        return bottom - (bottom - _TOP) * flow / y_max

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica,Arial,sans-serif" font-size="11" '
        'fill="#555">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_flow_axis(np.arange(0, y_max + step / 2, step), y, right),
        *_month_axis(days, x, bottom),
    ]
    if rain is not None:
        parts.append(_hanging_bars(x, rain, (bottom - _TOP) * 0.3))
    if sim_std is not None:
        std = _floats(sim_std)[shown]
        low, high = np.maximum(simulated - std, 0), np.minimum(simulated + std, y_max)
        parts.append(_band(x, y(low), y(high)))
    parts += [_line(x, y(observed), OBSERVED), _line(x, y(simulated), SIMULATED)]
    legend = {
        "observed": OBSERVED,
        "simulated" if sim_std is None else "simulated ± 1 sd": SIMULATED,
    }
    if rain is not None:
        legend[f"precipitation ≤ {np.nanmax(rain, initial=0.0):.0f} mm/day"] = RAIN
    parts += _heading(title, note, legend, right, (_TOP + bottom) / 2)
    return "".join([*parts, "</svg>"])


def water_years_svg(
    dates: ArrayLike,
    obs: ArrayLike,
    sim: ArrayLike,
    *,
    title: str,
    width: int = 900,
    height: int = 200,
) -> str:
    """Observed and simulated flow of the whole period, a row a water year, on one scale.

    An SVG: matplotlib takes 400 ms of CPU for such a picture, this 20, and each trained basin gets
    one.

    Parameters
    ----------
    dates, obs, sim, title
        As for `hydrograph_svg`.
    width, height
        Pixels of a row.

    Returns
    -------
    str
        An `<svg>` element.
    """
    days, observed, simulated = _days(dates), _floats(obs), _floats(sim)
    water_year, top = _water_year(days), _largest(observed, simulated)
    rows: list[str] = []
    for year in np.unique(water_year):
        here = water_year == year
        picture = hydrograph_svg(
            days[here], observed[here], simulated[here], title="" if rows else title,
            note=f"water year {year}", width=width, height=height, top=top,
        )  # fmt: skip
        rows.append(f'<g transform="translate(0 {height * len(rows)})">{picture}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(rows)}" '
        f'viewBox="0 0 {width} {height * len(rows)}">{"".join(rows)}</svg>'
    )


def skill_cdf_png(scores: Mapping[str, ArrayLike], metric: str = "nse") -> bytes:
    """Share of basins below each score, a line per label, medians in the legend.

    Parameters
    ----------
    scores
        Label -> score of each basin; NaN is left out of the curve and counted in the legend.
    metric
        Name of the metric, for the axis. Efficiencies are drawn from -0.5 to 1.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, (label, values) in enumerate(scores.items()):
        values = np.asarray(values, dtype=np.float64)
        known = np.sort(values[~np.isnan(values)])
        missing = f", {values.size - known.size} missing" if known.size < values.size else ""
        median = f"{np.median(known):.3f}" if known.size else "none"
        cdf_line(axes, known, i, f"{label}: median {median} (n = {known.size}{missing})")
    axes.axhline(0.5, color="#999999", lw=0.8, ls=":")
    if metric in ("nse", "kge", "kge_2012", "pearson_r"):
        axes.set_xlim(-0.5, 1)
    axes.set(ylim=(0, 1), xlabel=metric, ylabel="share of basins with a lower score")
    plain_axes(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return png_of(figure)


def _days(dates: ArrayLike) -> NDArray[np.datetime64]:
    return np.asarray(dates, dtype="datetime64[D]")


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _last_observed_year(dates: NDArray, obs: NDArray) -> slice:
    """The last water year with observations on half of its days; else the last 365 days."""
    water_year = _water_year(dates)
    for year in np.unique(water_year)[::-1]:
        first, last = np.searchsorted(water_year, [year, year + 1])
        if np.count_nonzero(~np.isnan(obs[first:last])) >= 183:
            return slice(first, last)
    return slice(max(0, dates.size - 365), dates.size)


def _water_year(dates: NDArray) -> NDArray[np.int64]:
    """The year in which the water year (October to September) of each day ends."""
    return (dates.astype("datetime64[M]").astype(np.int64) + 3) // 12 + 1970


def _largest(*series: NDArray) -> float:
    """The largest value of some series, 0 if they have none."""
    finite = np.concatenate([values[np.isfinite(values)] for values in series])
    return float(finite.max(initial=0.0))


def _nice_step(top: float) -> float:
    """A round distance between ticks, for about four of them up to `top`."""
    if top <= 0:
        return 1.0
    rough = top / 4
    power = 10.0 ** np.floor(np.log10(rough))
    return power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)


def _flow_axis(ticks: NDArray, y, right: float) -> list[str]:
    lines = "".join(f"M{_LEFT} {y(tick):.1f}H{right}" for tick in ticks)
    labels = [
        f'<text x="{_LEFT - 5}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:.4g}</text>'
        for tick in ticks
    ]
    return [f'<path d="{lines}" stroke="{GRID}" fill="none"/>', *labels]


def _month_axis(dates: NDArray, x: NDArray, bottom: float) -> list[str]:
    """A tick at the first of each month; names of every third one, the year where it is new."""
    months = dates.astype("datetime64[M]")
    firsts = np.flatnonzero(dates == months.astype("datetime64[D]"))
    ticks = "".join(f"M{x[i]:.1f} {bottom}v4" for i in firsts)
    parts = [f'<path d="M{_LEFT} {bottom}H{x[-1]:.1f}{ticks}" stroke="#777" fill="none"/>']
    year_written = None
    for i in firsts[::3]:
        year, month = divmod(int(months[i].astype(int)), 12)
        label = _MONTHS[month] if year == year_written else f"{_MONTHS[month]} {year + 1970}"
        year_written = year
        anchor = "start" if x[i] - _LEFT < 20 else "middle"
        parts.append(
            f'<text x="{x[i]:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{label}</text>'
        )
    return parts


def _runs(known: NDArray) -> list[slice]:
    """Stretches without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]])))
    return [slice(*pair) for pair in edges.reshape(-1, 2)]


def _path(x: NDArray, y: NDArray, parts_of_pixel: int = 10) -> str:
    """A line through points as SVG path data, in steps: a third shorter than positions."""
    # Whole numbers first, steps after: so no rounding error adds up along the line.
    whole = np.round(parts_of_pixel * np.stack([x, y], axis=1)).astype(int)
    start, steps = whole[0] / parts_of_pixel, np.diff(whole, axis=0) / parts_of_pixel
    # One call for all numbers: a picture of ten years has 7,000.
    line = " ".join(["%g %g"] * len(steps)) % tuple(steps.ravel())
    # With round ends, a step of 0 shows a lone day as a dot.
    return f"M{start[0]:g} {start[1]:g}l{line or '0 0'}"


def _line(x: NDArray, y: NDArray, colour: str) -> str:
    path = "".join(_path(x[run], y[run]) for run in _runs(np.isfinite(y)))
    return (
        f'<path d="{path}" stroke="{colour}" stroke-width="1.3" fill="none" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _band(x: NDArray, y_low: NDArray, y_high: NDArray) -> str:
    """The area between two curves, to whole pixels: it is pale, and half the size so."""
    path = ""
    for run in _runs(np.isfinite(y_low) & np.isfinite(y_high)):
        there_and_back = np.append(y_high[run], y_low[run][::-1])
        path += _path(np.append(x[run], x[run][::-1]), there_and_back, parts_of_pixel=1) + "z"
    return f'<path d="{path}" fill="{SIMULATED}" fill-opacity="0.2"/>'


def _hanging_bars(x: NDArray, prcp: NDArray, depth: float) -> str:
    """Precipitation as bars from the top; what is under a pixel is left out."""
    length = np.nan_to_num(prcp) * depth / max(np.nanmax(prcp, initial=0.0), 1.0)
    bars = "".join(f"M{x[i]:.1f} {_TOP}v{length[i]:.1f}" for i in np.flatnonzero(length > 1))
    return f'<path d="{bars}" stroke="{RAIN}" stroke-width="1.4" fill="none"/>'


def _heading(
    title: str, note: str, legend: Mapping[str, str], right: float, middle: float
) -> list[str]:
    parts = [
        f'<text x="{_LEFT}" y="15" font-size="13" font-weight="bold" fill="#222">'
        f"{escape(title)}</text>",
        f'<text x="{right}" y="31" text-anchor="end">{escape(note)}</text>',
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">mm/day</text>',
    ]
    x = _LEFT
    for label, colour in legend.items():
        parts.append(
            f'<path d="M{x} 27h16" stroke="{colour}" stroke-width="2.5"/>'
            f'<text x="{x + 21}" y="31">{label}</text>'
        )
        x += 40 + 6 * len(label)
    return parts
