"""The study's report: what it says, that it loads nothing, and how it behaves in a real browser."""

import base64
import csv
import hashlib
import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aef_dagster.evaluation.figures import hydrograph_svg, skill_cdf_png
from aef_dagster.experiments.reading import Check, Picture, Reading, Table
from aef_dagster.experiments.report import Heading, render_report
from aef_dagster_tests.chromium import chromium

EVIL = "<script>alert(1)</script> & \"quoted\" 'text'"
SAMPLE = "Made-up sample data: says nothing about real rivers"
SURROGATE = "Stand-in embeddings (surrogate): says nothing about AlphaEarth"
SMALL = "A small run to see that everything works, not the study's answer"

SCORES = pd.DataFrame(
    {
        "gauge_id": ["01013500", "01022500", "01030500", "01031500"],
        "nse": [0.61234567, np.nan, -30.25, 0.0000412],
        "k": [100, 670, 200, 15321],
        "river": [EVIL, "b", None, "c"],
        "held_out": [True, False, True, True],
    }
)


class Reader(HTMLParser):
    """The elements of a page and its text, for questions of the tests."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def reading(name="in_vs_out_of_sample", **changes) -> Reading:
    days = np.arange("2007-10-01", "2008-10-01", dtype="datetime64[D]")
    fields = {
        "title": "In and out of sample",
        "question": "Do embeddings help where there is no gauge?",
        "findings": ("The median NSE is 0.612.", "It covers 80 % of basins."),
        "numbers": {"median_nse": 0.612},
        "estimates": pd.DataFrame({"measure": ["median"], "value": [0.612]}),
        "tables": (Table("Scores", SCORES, "One row a basin."),),
        "pictures": (
            Picture("Skill", skill_cdf_png({"aef": [0.1, 0.5, 0.9]}), "A line is a space."),
            Picture("Flow", hydrograph_svg(days, np.ones(366), np.ones(366), title="x")),
        ),
        "checks": (Check("leak_free", True, "No target was its own donor.", blocking=True),),
    }
    return Reading(name, **(fields | changes))


def heading(**changes) -> Heading:
    fields = {"title": "Do embeddings help?", "size": "full", "dataset": "CAMELS-US",
              "made_on": "2026-11-23", "facts": {"basins": "671"},
              "notes": ("Data: N. et al.",)}  # fmt: skip
    return Heading(**(fields | changes))


def test_the_heading_says_what_the_numbers_say_nothing_about():
    small = Reader(render_report([reading()], heading(size="small", marks=("sample", "surrogate"))))
    assert all(sentence in small.text for sentence in (SAMPLE, SURROGATE, SMALL))
    assert small.text.index(SAMPLE) < small.text.index("The median NSE")
    # Again in the title of the window and beside the title of each section.
    assert small.text.count("sample data, stand-in embeddings, small run") == 2
    full = Reader(render_report([reading()], heading()))
    assert not any(sentence in full.text for sentence in (SAMPLE, SURROGATE, SMALL))
    assert all(word in full.text for word in ("671", "CAMELS-US", "2026-11-23", "Data: N. et al."))


def test_a_mark_without_words_is_refused():
    with pytest.raises(ValueError, match="made_up"):
        heading(marks=("made_up",))


def test_findings_come_first_and_lead_to_their_sections():
    page = Reader(render_report([reading(), reading("donor_scaling", title="Donors")], heading()))
    assert page.text.index("The median NSE is 0.612.") < page.text.index("Experiment 1")
    links = [link["href"] for link in page.all("a") if link["href"].startswith("#")]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"#in-vs-out-of-sample", "#donor-scaling", "#findings"} == set(links)
    assert set(links) <= {f"#{name}" for name in ids}
    assert "It covers 80\u00a0% of basins." in page.text


def test_sentences_are_set_as_they_should_be():
    told = "`aef` less `attributes17`: -0.020 (-0.085 to +0.048) in HUC-2, 1980-10-01"
    source = render_report([reading(findings=(told,))], heading())
    assert "<code>aef</code> less <code>attributes17</code>: −0.020 (−0.085 to +0.048)" in source
    assert "in HUC-2, 1980-10-01" in source


def test_readings_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        render_report([reading(), reading()], heading())


def test_a_page_without_readings_says_so():
    assert "No experiment has results yet." in Reader(render_report([], heading())).text


def test_failed_checks_stand_at_the_headline():
    failed = Check("noise_floor", False, "One seed only.")
    page = Reader(render_report([reading(checks=(failed, *reading().checks))], heading())).text
    assert page.count("1 of 2 checks failed.") == 2
    assert "do not rely" not in page
    assert "Failed" in page
    assert "Passed" in page
    blocking = Check("noise_floor", False, "One seed only.", blocking=True)
    page = Reader(render_report([reading(checks=(blocking,))], heading())).text
    assert page.index("do not rely on this") < page.index("Experiment 1")
    assert "Failed (blocking)" in page
    assert "checks failed" not in Reader(render_report([reading()], heading())).text


def test_every_text_is_escaped():
    marked = reading(
        title=EVIL, question=EVIL, findings=(EVIL, EVIL), checks=(Check(EVIL, False, EVIL),),
        tables=(Table(EVIL, pd.DataFrame({EVIL: [EVIL]}, index=pd.Index([1], name=EVIL)), EVIL),),
        pictures=(Picture(EVIL, skill_cdf_png({"a": [0.1]}), EVIL),),
        estimates=pd.DataFrame({EVIL: [EVIL]}),
    )  # fmt: skip
    source = render_report(
        [marked], heading(title=EVIL, dataset=EVIL, made_on=EVIL, facts={EVIL: EVIL}, notes=(EVIL,))
    )
    page = Reader(source)
    assert source.count("<script") == len(page.all("script")) == 1
    assert page.text.count(EVIL) >= 18
    assert page.all("img")[0]["alt"] == EVIL


def test_the_policy_forbids_all_but_the_one_script_and_nothing_points_outside():
    source = render_report([reading()], heading())
    page = Reader(source)
    policy = next(
        meta["content"] for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    script = re.search(r"<script>(.*)</script>", source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert {"default-src 'none'", "img-src data:", f"script-src 'sha256-{digest}'"} <= set(
        policy.split("; ")
    )
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]  # fmt: skip
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:", re.search("<style>.*</style>", source, re.S)[0])
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]


def test_tables_show_rounded_numbers_and_save_whole_ones():
    source = render_report([reading()], heading())
    cells = re.findall(r"<td[^>]*>(.*?)</td>", source)[:20]
    assert cells[1::5] == ["0.612", "–", "−30.25", "4.1e−05"]
    assert cells[2::5] == ["100", "670", "200", "15\u202f321"]
    assert cells[0] == "01013500"
    assert cells[3::5][1:] == ["b", "–", "c"]
    assert cells[4::5] == ["yes", "no", "yes", "yes"]
    assert '<td data-v="0.61234567">' in source
    link = next(link for link in Reader(source).all("a") if "download" in link)
    assert link["download"] == "in-vs-out-of-sample-scores.csv"
    rows = list(csv.reader(io.StringIO(unquote(link["href"].partition(",")[2]))))
    assert rows[0] == list(SCORES.columns)
    assert rows[1] == ["01013500", "0.61234567", "100", EVIL, "True"]


def test_an_index_with_a_name_is_a_column_and_an_empty_table_says_so():
    named = Table("a", SCORES.set_index("gauge_id")[["nse"]])
    both = Table("c", SCORES[["gauge_id", "k"]].set_index("gauge_id", drop=False))
    empty = Table("b", SCORES.iloc[:0])
    page = Reader(render_report([reading(tables=(named, both, empty))], heading()))
    assert page.text.count("gauge id") == 3  # once a table
    assert page.text.count("01022500") == 2
    assert "no rows" in page.text


def test_pictures_lie_in_the_page_with_their_size():
    content = reading().pictures[0].content
    picture, drawing = Reader(render_report([reading()], heading())).all("img")
    assert base64.b64decode(picture["src"].partition(",")[2]) == content
    assert picture["alt"] == "Skill"
    assert (picture["width"], picture["height"]) == ("704", "462")
    assert unquote(drawing["src"].partition(",")[2]) == reading().pictures[1].content
    assert (drawing["width"], drawing["height"]) == ("680", "220")


@pytest.mark.parametrize("content", [b"GIF89a", "no picture"])
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(ValueError, match="'Odd' is neither a PNG file nor an SVG"):
        render_report([reading(pictures=(Picture("Odd", content),))], heading())


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    wide = pd.DataFrame({f"number_{i}": np.arange(40) / 7 for i in range(14)})
    readings = [
        reading(tables=(Table("Scores", SCORES.iloc[:3]), Table("Wide", wide))),
        *[reading(f"other_{i}", title=f"Another experiment, number {i}") for i in range(8)],
    ]
    path = tmp_path_factory.mktemp("report") / "index.html"
    page = render_report(readings, heading(size="small", marks=("sample", "surrogate")))
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page; at the end nothing may be on the console or have asked a network."""
    told, asked, contexts = [], [], []

    def open_page(width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []
    assert [url for url in asked if not url.startswith(("data:", address))] == []


def background(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.browser
def test_tables_sort_by_click_and_by_keyboard(opened):
    page = opened()
    table = page.locator("table").first

    def order():
        return table.locator("tbody td:first-child").all_inner_texts()

    head = table.locator("th", has_text="nse")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert order() == ["01030500", "01013500", "01022500"]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert order() == ["01013500", "01030500", "01022500"]  # what is missing stays last
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert table.locator("th[aria-sort]").all_inner_texts() == ["k"]
    assert order() == ["01013500", "01030500", "01022500"]
    align = "cell => getComputedStyle(cell).textAlign"
    assert table.locator("td[data-v]").first.evaluate(align) == "right"


@pytest.mark.browser
@pytest.mark.parametrize("script", [True, False])
def test_a_phone_scrolls_boxes_and_never_the_page(opened, script):
    from playwright.sync_api import expect

    page = opened(390, java_script_enabled=script)
    shown = page.get_by_text(SAMPLE)
    assert shown.is_visible()
    assert shown.bounding_box()["y"] < 800
    # What hangs out of the window must hang inside a box that scrolls.
    overflow = page.locator("body").evaluate(
        "() => [document.documentElement.scrollWidth, innerWidth]"
    )
    assert overflow[0] <= overflow[1] == 390
    box = page.locator(".box").nth(1)
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    link = page.locator("nav a").last
    link.click()
    expect(page.get_by_role("heading", name="Another experiment, number 7")).to_be_in_viewport()
    assert page.locator("#theme").is_visible() == script


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_edge_tells_of_columns_to_the_right_until_they_are_seen(opened, scheme):
    page = opened(390, color_scheme=scheme)
    box = page.locator(".box").nth(1)

    def shades():
        """Shades of grey from top to bottom, close to the right edge and further inside."""
        with Image.open(io.BytesIO(box.screenshot())) as image:
            grey = np.asarray(image.convert("L")).astype(int)
        return [np.median(grey[60:-60, -place]) for place in (4, 60)]

    edge, inside = shades()
    assert abs(edge - inside) > 20
    box.evaluate("box => box.scrollLeft = box.scrollWidth")
    edge, inside = shades()
    assert edge == inside


@pytest.mark.browser
def test_dark_colours_by_the_system_and_by_the_button(opened):
    light, dark = (opened(color_scheme=scheme) for scheme in ("light", "dark"))
    assert background(light) == "rgb(251, 250, 247)"
    assert background(dark) == "rgb(20, 24, 28)"
    assert dark.locator(".card").first.evaluate(
        "card => getComputedStyle(card).backgroundColor"
    ) == "rgb(255, 255, 255)"  # fmt: skip
    button = light.get_by_role("button", name="Dark colours")
    button.click()
    assert background(light) == background(dark)
    light.reload()
    assert background(light) == background(dark), "the choice is kept"
    light.get_by_role("button", name="Light colours").click()
    assert background(light) == "rgb(251, 250, 247)"
    light.emulate_media(media="print", color_scheme="dark")
    assert background(light) == "rgb(255, 255, 255)"
    assert not light.locator("nav").is_visible()


@pytest.mark.browser
def test_pictures_load_and_open_at_their_own_size(opened):
    page = opened(390)
    assert all(page.locator("img").evaluate_all("all => all.map(i => i.alt && i.complete)")[:2])
    assert (
        page.locator(".card img").evaluate_all("all => Math.min(...all.map(i => i.naturalWidth))")
        > 300
    )
    page.get_by_role("button", name="Enlarge: Skill").first.click()
    large = page.locator("dialog img")
    assert large.is_visible()
    assert large.bounding_box()["width"] == 704
    page.keyboard.press("Escape")
    assert not large.is_visible()


@pytest.mark.browser
def test_a_table_is_saved_as_csv(opened):
    page = opened()
    with page.expect_download() as saving:
        page.get_by_role("link", name="Save Wide as CSV").click()
    assert saving.value.suggested_filename == "in-vs-out-of-sample-wide.csv"
    saved = pd.read_csv(saving.value.path())
    assert saved.shape == (40, 14)
    assert saved["number_3"].iloc[1] == 1 / 7
