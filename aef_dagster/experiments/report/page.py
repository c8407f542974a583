"""The page: its heading, the findings, a section an experiment.

Here: what stands where on the page, and the policy that keeps it off the network. Not here:
tables, pictures and checks (parts.py).
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from aef_dagster.experiments.reading import Reading, Table
from aef_dagster.experiments.report.parts import (
    check_html,
    picture_html,
    slug,
    table_html,
    text_address,
    words,
)

# What a reader must know before any number: as a sentence on top, and in short beside each title.
MARKS = {
    "sample": ("Made-up sample data: says nothing about real rivers", "sample data"),
    "surrogate": (
        "Stand-in embeddings (surrogate): says nothing about AlphaEarth",
        "stand-in embeddings",
    ),
}
SMALL = ("A small run to see that everything works, not the study's answer", "small run")

# A storm and its recession, schematic: the mark of the page and its icon.
_FLOW = "M1 26C9 26 10 25 13 22S17 4 20 4s5 10 9 14 9 7 18 8"


@dataclass(frozen=True)
class Heading:
    """What stands above the findings and below the last section.

    Parameters
    ----------
    title
        Of the page.
    size
        Of the study: "full", or the name of a smaller one, which the page then says.
    dataset
        Name of the basins' dataset, for people.
    marks
        "sample", "surrogate": what the numbers say nothing about.
    made_on
        Day and time, as text.
    facts
        Name -> text: basins, trainings, budget, code version.
    notes
        Attribution lines, at the end of the page.

    Raises
    ------
    ValueError
        A mark that the page has no words for.
    """

    title: str
    size: str
    dataset: str
    marks: tuple[str, ...] = ()
    made_on: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        unknown = [mark for mark in self.marks if mark not in MARKS]
        if unknown:
            raise ValueError(f"marks {unknown} are none of {list(MARKS)}")

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Sentence and short form of all that limits what the numbers mean."""
        return [MARKS[mark] for mark in self.marks] + ([SMALL] if self.size != "full" else [])


def render_report(readings: Sequence[Reading], heading: Heading) -> str:
    """All readings as one HTML page, which loads nothing and can be read without scripts.

    Parameters
    ----------
    readings
        In the order of their sections; names differ.
    heading
        What stands around them.

    Returns
    -------
    str
        A whole document, to be written as UTF-8. A picture takes 4/3 of its size, a row of a table
        some 40 bytes a number.

    Raises
    ------
    ValueError
        Two readings have one name, or a picture is neither PNG nor SVG.
    """
    ids = [slug(reading.name) for reading in readings]
    if len(set(ids)) < len(ids):
        raise ValueError(f"readings with one name: {ids}")
    style, script = _resource("style.css"), _resource("script.js")
    icon = text_address(
        "image/svg+xml",
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -8 48 44"><path fill="none" '
        f'stroke="#1779ad" stroke-width="5" stroke-linecap="round" d="{_FLOW}"/></svg>',
    )
    tags = ", ".join(short for _, short in heading.warnings)
    title = escape(f"{heading.title} ({tags})" if tags else heading.title)
    sections = "\n".join(
        _section(number, reading, tags) for number, reading in enumerate(readings, 1)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="{icon}">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#findings">Skip to the findings</a>
{_nav(readings)}
<main>
{_header(heading)}
{_findings(readings)}
{sections}
{_footer(heading)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing from anywhere: pictures inside the page, its style, and this one script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _nav(readings: Sequence[Reading]) -> str:
    links = "".join(
        f'<li><a href="#{slug(reading.name)}"><i>{number}</i>{escape(reading.title)}</a></li>'
        for number, reading in enumerate(readings, 1)
    )
    return (
        '<nav aria-label="Contents"><ul><li><a href="#findings"><i></i>Findings</a></li>'
        f'{links}</ul><button type="button" id="theme" hidden></button></nav>'
    )


def _header(heading: Heading) -> str:
    warnings = "".join(f"<li>{escape(sentence)}.</li>" for sentence, _ in heading.warnings)
    banner = f'<ul class="banner" aria-label="Warnings">{warnings}</ul>' if warnings else ""
    told = {"dataset": heading.dataset, "size": heading.size} | heading.facts
    if heading.made_on:
        told["made on"] = heading.made_on
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in told.items()
    )
    return (
        '<header><svg class="flow" viewBox="0 0 48 30" aria-hidden="true">'
        f'<path d="{_FLOW}"/></svg><h1>{escape(heading.title)}</h1>'
        f'{banner}<dl class="facts">{facts}</dl></header>'
    )


def _findings(readings: Sequence[Reading]) -> str:
    rows = "".join(
        f'<li><a href="#{slug(reading.name)}">{escape(reading.title)}</a>'
        f"<p>{words(_headline(reading))}</p>{_failed(reading)}</li>"
        for reading in readings
    )
    body = f"<ol>{rows}</ol>" if rows else "<p>No experiment has results yet.</p>"
    return f'<section id="findings"><h2>Findings</h2>{body}</section>'


def _headline(reading: Reading) -> str:
    return reading.findings[0] if reading.findings else "Nothing found yet."


def _failed(reading: Reading) -> str:
    """A line under a headline that must not be read without it."""
    failed = [check for check in reading.checks if not check.passed]
    if not failed:
        return ""
    blocking = any(check.blocking for check in failed)
    rest = " A blocking one is among them: do not rely on this." if blocking else ""
    return f'<p class="failed">{len(failed)} of {len(reading.checks)} checks failed.{rest}</p>'


def _section(number: int, reading: Reading, tags: str) -> str:
    name = slug(reading.name)
    more = "".join(f"<li>{words(sentence)}</li>" for sentence in reading.findings[1:])
    parts = [
        f'<section class="experiment" id="{name}" aria-labelledby="{name}-title">',
        f'<p class="eyebrow">Experiment {number}'
        + (f' <span class="tag">{escape(tags)}</span>' if tags else "")
        + "</p>",
        f'<h2 id="{name}-title">{escape(reading.title)}</h2>',
        f'<p class="question">{words(reading.question)}</p>',
        f'<p class="headline">{words(_headline(reading))}</p>{_failed(reading)}',
        f'<ul class="more">{more}</ul>' if more else "",
    ]
    if reading.pictures:
        parts.append(f'<div class="pictures">{"".join(map(picture_html, reading.pictures))}</div>')
    parts += [table_html(table, f"{name}-{slug(table.title)}.csv") for table in reading.tables]
    if len(reading.estimates):
        every = Table("All estimates", reading.estimates, "Every number behind this section.")
        parts.append(
            f"<details><summary>All {len(reading.estimates)} estimates</summary>"
            f"{table_html(every, f'{name}-estimates.csv')}</details>"
        )
    if reading.checks:
        rows = "".join(map(check_html, reading.checks))
        parts.append(f'<h3>Checks</h3><ul class="checks">{rows}</ul>')
    return "".join([*parts, "</section>"])


def _footer(heading: Heading) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in heading.notes)
    return f"<footer>{notes}<p>This page is one file and loads nothing from elsewhere.</p></footer>"
