"""Metadata as the Dagster pages show it: previews, pictures, links, flags.

Here: conversions of plain values. Numbers under fixed names become plots over time and over
partitions by themselves. Not here: what an asset reports (its own body).
"""

import base64
import math
import re
from collections.abc import Mapping

import dagster as dg
import pandas as pd

PREVIEW_ROWS = 10
SHOWN_DIGITS = 4
# Names of basins come from files, and a page that draws Markdown would fetch their pictures.
_MARKS = re.compile(r"[\\`*<>&\[\]|~]")


def preview(frame: pd.DataFrame, rows: int = PREVIEW_ROWS) -> dg.MetadataValue:
    """First rows of a frame as a table."""
    return dg.MetadataValue.md(markdown_table(frame.head(rows)))


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, numbers short."""
    head = "| " + " | ".join(escaped(name) for name in frame.columns) + " |"
    rule = "|" + "---|" * len(frame.columns)
    rows = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in frame.to_numpy()]
    return "\n".join([head, rule, *rows])


def picture(svg: str) -> dg.MetadataValue:
    """A small SVG, shown inline."""
    encoded = base64.b64encode(svg.encode()).decode()
    return dg.MetadataValue.md(f"![](data:image/svg+xml;base64,{encoded})")


def png(data: bytes, title: str) -> dg.MetadataValue:
    """A small PNG, shown inline."""
    encoded = base64.b64encode(data).decode()
    return dg.MetadataValue.md(f"![{escaped(title)}](data:image/png;base64,{encoded})")


def heatmap(matrix, title: str) -> dg.MetadataValue:
    """A matrix of similarities as a picture, shown inline."""
    from aef_dagster.evaluation.heatmaps import similarity_heatmap_png

    return png(similarity_heatmap_png(matrix, title=title), title)


def numbers(values: dict) -> dict[str, float]:
    """Finite numbers only, for people: Dagster plots cannot hold NaN, and pages show each digit."""
    return {
        name: round(float(value), SHOWN_DIGITS)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def marked(made_of: Mapping[str, bool]) -> str:
    """Prefix of a title: what the picture is made of, where that is not published data."""
    found = [name for name, yes in made_of.items() if yes]
    return f"[{', '.join(found)}] " if found else ""


def escaped(value: object) -> str:
    """A text from data as Markdown shows it: letter by letter, without links, pictures or tags."""
    return _MARKS.sub(r"\\\g<0>", " ".join(str(value).split()))


def _cell(value) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return escaped(value)
