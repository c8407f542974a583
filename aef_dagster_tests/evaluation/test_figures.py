"""Figures: they parse, show what they were given, stay small, and leave no global state."""

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from aef_dagster.evaluation import figures

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def flow():
    dates = np.arange("2004-10-01", "2008-10-01", dtype="datetime64[D]")
    rng = np.random.default_rng(0)
    obs = 2 + np.sin(np.arange(dates.size) / 58) + rng.gamma(0.3, 1, dates.size)
    return dates, obs, obs * rng.uniform(0.7, 1.3, dates.size), rng.gamma(0.3, 9, dates.size)


def texts(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def lines(svg, colour):
    paths = ElementTree.fromstring(svg).iter(f"{SVG}path")
    return [p.get("d") for p in paths if p.get("stroke") == colour and p.get("fill") == "none"]


def steps(path):
    return len(re.findall(r"-?[\d.]+ -?[\d.]+", path.partition("l")[2]))


def test_svg_shows_one_water_year_and_its_texts(flow):
    dates, obs, sim, _ = flow
    title = "01013500 Fish & <River>: NSE 0.71"
    svg = figures.hydrograph_svg(dates, obs, sim, title=title, note="aef, k = 100")
    assert {
        title,
        "aef, k = 100",
        "observed",
        "simulated",
        "mm/day",
        "Oct 2007",
        "Jan 2008",
    } <= set(texts(svg))
    assert "Jul" in texts(svg)
    assert steps(lines(svg, figures.OBSERVED)[-1]) == 365  # 366 days of a leap year
    assert len(svg) < 10_000


def test_svg_with_everything_stays_small(flow):
    dates, obs, sim, prcp = flow
    svg = figures.hydrograph_svg(dates, obs, sim, title="x", note="y", sim_std=0.2 * sim, prcp=prcp)
    assert len(svg) < 15_000
    assert "simulated ± 1 sd" in texts(svg)
    assert any("precipitation" in text for text in texts(svg))
    assert 'fill-opacity="0.2"' in svg


def test_svg_lines_stay_inside_the_frame_and_end_where_they_should(flow):
    dates, obs, sim, _ = flow
    svg = figures.hydrograph_svg(dates, obs, sim, title="x", width=600, height=200)
    for colour in (figures.OBSERVED, figures.SIMULATED):
        path = lines(svg, colour)[-1]
        numbers = np.array(re.findall(r"-?[\d.]+", path), dtype=float).reshape(-1, 2)
        x, y = numbers.cumsum(axis=0).T
        assert x[-1] == pytest.approx(600 - 12, abs=0.1)  # no drift from adding rounded steps
        assert y.min() >= 38
        assert y.max() <= 200 - 24


def test_svg_breaks_lines_at_gaps_and_keeps_lone_days(flow):
    dates, obs, sim, _ = flow
    obs = obs.copy()
    obs[-100:-90] = obs[-50] = obs[-48] = np.nan
    path = lines(figures.hydrograph_svg(dates, obs, sim, title="x"), figures.OBSERVED)[-1]
    assert path.count("M") == 4
    assert "l0 0" in path


def test_svg_shows_the_last_year_that_has_observations(flow):
    dates, obs, sim, _ = flow
    obs = obs.copy()
    obs[-600:] = np.nan
    assert "Oct 2005" in texts(figures.hydrograph_svg(dates, obs, sim, title="x"))


def test_svg_without_any_observation_shows_the_simulation(flow):
    dates, obs, sim, _ = flow
    svg = figures.hydrograph_svg(dates, np.full(obs.size, np.nan), sim, title="x")
    assert lines(svg, figures.OBSERVED)[-1] == ""
    assert steps(lines(svg, figures.SIMULATED)[-1]) == 364


@pytest.mark.parametrize("level", [0.0, 1e-4, 900.0])
def test_svg_of_dry_and_of_huge_rivers(level):
    dates = np.arange("2007-10-01", "2008-10-01", dtype="datetime64[D]")
    flow = np.full(dates.size, level)
    svg = figures.hydrograph_svg(dates, flow, flow, title="x", prcp=np.full(dates.size, np.nan))
    assert "nan" not in svg
    assert "inf" not in svg


def png(content):
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return image


def test_all_water_years_have_a_row_each_on_one_scale(flow):
    dates, obs, sim, _prcp = flow
    svg = figures.water_years_svg(dates, obs, sim, title="x <y>")
    rows = svg.split("<g transform=")[1:]
    years = range(int(str(dates[0])[:4]) + 1, int(str(dates[-1])[:4]) + 1)
    assert all(f"water year {year}" in row for year, row in zip(years, rows, strict=True))
    assert "x &lt;y&gt;" in rows[0] and "x &lt;y&gt;" not in rows[1]
    ticks = [re.findall(r'text-anchor="end">([\d.]+)<', row) for row in rows]
    assert all(row == ticks[0] and len(row) > 2 for row in ticks)
    assert len(svg) < 40_000 * len(rows)
    ElementTree.fromstring(svg)


def test_skill_cdf_takes_missing_and_empty_scores():
    scores = {"aef": [0.2, 0.5, np.nan, 0.9], "random": [np.nan, np.nan]}
    assert png(figures.skill_cdf_png(scores)).width > 300
    assert png(figures.skill_cdf_png(scores, metric="rmse")).width > 300


def test_no_pyplot_and_nothing_heavy_on_import():
    code = (
        "import sys; from aef_dagster.evaluation import figures, metrics, statistics, splits\n"
        "assert not {'matplotlib', 'scores', 'xarray', 'scipy', 'PIL'} & set(sys.modules)\n"
        "figures.skill_cdf_png({'a': [0.1, 0.2]})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
