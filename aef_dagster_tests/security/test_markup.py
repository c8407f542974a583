"""Names from data on pages: shown letter by letter, never as markup."""

from html.parser import HTMLParser

import pandas as pd
import pytest

from aef_dagster.experiments.reading import Check, Reading, Table
from aef_dagster.experiments.report import Heading, render_report
from aef_dagster.pipeline.metadata import escaped, markdown_table, preview

NAMES = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![x](http://192.0.2.1/x.png)",
    "[click](javascript:alert(1))", "`code`", "a | b", "two\nlines", "\\", "</td></table>",
    "&lt;b&gt;",
    "\" onmouseover=\"alert(1)", "' autofocus onfocus='alert(1)", "<!-- ", "]]>", "<https://x.org>",
]  # fmt: skip


class Page(HTMLParser):
    """Elements and attributes of a page, and its text outside of scripts and styles."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)


def page(name: str) -> Page:
    """A report in which everything that can come from data is called so."""
    frame = pd.DataFrame({"gauge_id": ["01013500"], "name": [name], name: [1.0]})
    reading = Reading(
        name="x", title=name, question=name, findings=(name, name), numbers={name: 1.0},
        estimates=frame, tables=(Table(name, frame, name),), pictures=(),
        checks=(Check("leak_free", True, name), Check(name, False, name)),
    )  # fmt: skip
    heading = Heading(title=name, size="sample", dataset=name, facts={name: name}, notes=(name,))
    return Page(render_report([reading], heading))


@pytest.mark.parametrize("name", NAMES)
def test_the_report_has_the_elements_of_a_plain_name(name):
    plain, found = page("River"), page(name)
    # A word between backticks is set as code; nothing else may add an element.
    assert [tag for tag in found.tags if tag != "code"] == plain.tags
    assert {key for key, _value in found.attributes} == {key for key, _value in plain.attributes}
    assert [
        v for k, v in found.attributes if k in ("href", "src") and v and "javascript:" in v[:20]
    ] == []
    if "`" not in name and "-" not in name:
        assert " ".join(name.split()) in " ".join(" ".join(found.text).split())


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_of_markdown_is_text(name):
    """A table keeps its two columns and two rows, and each mark that means something is escaped."""
    table = markdown_table(pd.DataFrame({"name": [name], "nse": [0.5]}))
    lines = table.splitlines()
    assert len(lines) == 3
    bare = lines[2].replace("\\\\", "")
    for mark in "|`*<>&[]~":
        bare = bare.replace(f"\\{mark}", "")
    assert bare.count("|") == 3
    assert not set(bare) & set("`*<>&[]~\\")
    assert lines[2] in preview(pd.DataFrame({"name": [name], "nse": [0.5]})).value


def test_plain_names_stay_as_they_are():
    for name in ("Fish River near Fort Kent, Maine", "pbias %", "aef+climate", "flv_log", "-0.5"):
        assert escaped(name) == name
