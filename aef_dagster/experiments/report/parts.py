"""Tables, pictures and checks of a reading as HTML.

Here: functions from a record to an element; every text is escaped. Not here: the page around them
(page.py), how they look (style.css), what a click does (script.js).
"""

import base64
import re
import struct
from html import escape
from urllib.parse import quote

import numpy as np
import pandas as pd

from aef_dagster.experiments.reading import Check, Picture, Table

# From so many rows on, a table scrolls inside its box under a header that stays.
_LONG = 16

# From this ratio of width to height on, a picture takes the whole width of the page.
_WIDE = 1.75

# Pixels of a PNG for one of the page, at least: sharp on fine screens, and letters of one size.
_SHARP = 1.4

# A text column with longer texts than this is broken into lines.
_SENTENCE = 36

_PNG = b"\x89PNG\r\n\x1a\n"

# Left as they are in a data: address; all else is percent-encoded. Base64 would be longer.
_SAFE = "-_.!~*()/:;=,?@+$"

_MISSING_NUMBER, _MISSING_TEXT = '<td class="none num">–</td>', '<td class="none">–</td>'


def table_html(table: Table, file_name: str) -> str:
    """A table with its title, its note and a link that saves it as CSV.

    Parameters
    ----------
    table
        Columns of numbers are aligned right and rounded to at least three digits; the CSV file
        has them whole.
    file_name
        Of the CSV file.

    Returns
    -------
    str
        A `<section>` element. Cells of numbers carry the number in `data-v`, for sorting.
    """
    frame = _with_index(table.frame)
    is_number = [_is_number(frame.iloc[:, i]) for i in range(frame.shape[1])]
    head = "".join(
        f'<th scope="col"{" class=num" if number else ""}>'
        f"{escape(str(name).replace('_', ' '))}</th>"
        for name, number in zip(frame.columns, is_number, strict=True)
    )
    columns = [
        _number_cells(frame.iloc[:, i]) if number else _text_cells(frame.iloc[:, i])
        for i, number in enumerate(is_number)
    ]
    rows = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))
    title, long = escape(table.title), " long" if len(frame) >= _LONG else ""
    note = f'<p class="note">{words(table.note)}</p>' if table.note else ""
    body = rows or f'<tr><td colspan="{max(len(columns), 1)}" class="none">no rows</td></tr>'
    csv = text_address("text/csv", frame.to_csv(index=False))
    return (
        f'<section class="table"><div class="over"><h3>{title}</h3>'
        f'<a class="csv" download="{escape(file_name)}" href="{csv}" '
        f'aria-label="Save {title} as CSV">CSV</a></div>{note}'
        f'<div class="box{long}" tabindex="0" role="region" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div></section>"
    )


def picture_html(picture: Picture) -> str:
    """A picture with its title and caption.

    An SVG becomes an image too: so its ids cannot clash with those of another, and nothing in it
    can run.

    Returns
    -------
    str
        A `<figure>` element.

    Raises
    ------
    ValueError
        The content is neither a PNG file nor the text of an SVG.
    """
    content, title = picture.content, escape(picture.title)
    if isinstance(content, bytes) and content.startswith(_PNG):
        width, height = struct.unpack(">II", content[16:24])
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    elif isinstance(content, str) and "<svg" in content:
        width, height = _svg_size(content)
        source = text_address("image/svg+xml", content)
    else:
        raise ValueError(f"picture {picture.title!r} is neither a PNG file nor an SVG text")
    # Before it is loaded, a picture takes the room it will need, so that the text stays in place.
    size = f' width="{width:.0f}" height="{height:.0f}"' if width else ""
    kind = ' class="wide"' if width >= _WIDE * height > 0 else ""
    if isinstance(content, bytes):
        kind += f' style="max-width:{width / _SHARP:.0f}px"'
    caption = f"<span>{words(picture.caption)}</span>" if picture.caption else ""
    return (
        f'<figure{kind}><div class="card"><img alt="{title}" src="{source}"{size}></div>'
        f"<figcaption><strong>{title}</strong>{caption}</figcaption></figure>"
    )


def check_html(check: Check) -> str:
    """A check as a row: its outcome in a word, its name, what was seen."""
    outcome, sign, kind = ("Passed", "✓", "good") if check.passed else ("Failed", "✗", "bad")
    blocking = " (blocking)" if check.blocking and not check.passed else ""
    return (
        f'<li><span class="outcome {kind}"><span aria-hidden="true">{sign}</span> '
        f"{outcome}{blocking}</span><span><b>{escape(check.name.replace('_', ' '))}</b> "
        f"{words(check.told)}</span></li>"
    )


def words(text: str) -> str:
    """A sentence, escaped and set: `names` as code, true minus signs, no line end before %."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "−", escape(text)).replace(" %", "\u00a0%")
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def text_address(kind: str, text: str) -> str:
    """A text as a data: address that can stand in an attribute."""
    return f"data:{kind};charset=utf-8,{quote(text, safe=_SAFE)}"


def slug(text: str) -> str:
    """A text as a part of an id or of a file name: small letters, digits, hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "untitled"


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the named levels of its index as columns, unless they are columns already."""
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    return (frame.reset_index(level=named) if named else frame).infer_objects()


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _number_cells(column: pd.Series) -> list[str]:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = values[np.isfinite(values)]
    whole = bool((finite == np.round(finite)).all())
    return [
        _MISSING_NUMBER
        if np.isnan(value)
        else f'<td data-v="{value:.9g}">{_number(value, whole)}</td>'
        for value in values
    ]


def _number(value: float, whole: bool) -> str:
    """A number for people: at least three digits, a true minus sign."""
    size = abs(value)
    if np.isinf(size):
        text = "∞" if value > 0 else "-∞"
    elif whole:
        # A thin space in numbers of five digits and more; a year stays as it is.
        text = f"{value:,.0f}".replace(",", "\u202f") if size >= 10_000 else f"{value:.0f}"
    elif 0 < size < 0.0005:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0}f}"
    return text.replace("-", "−")


def _text_cells(column: pd.Series) -> list[str]:
    yes_no = {True: "yes", False: "no"}
    texts = [
        None if pd.isna(value) else yes_no[value] if isinstance(value, bool) else str(value)
        for value in column.tolist()
    ]
    # Sentences may break into lines, names and ids may not.
    kind = " class=prose" if any(len(text) > _SENTENCE for text in texts if text) else ""
    return [_MISSING_TEXT if text is None else f"<td{kind}>{escape(text)}</td>" for text in texts]


def _svg_size(text: str) -> tuple[float, float]:
    """Width and height of an SVG by its viewBox; zeros where it has none."""
    found = re.search(r'<svg[^>]*\bviewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', text)
    return (float(found[1]), float(found[2])) if found else (0.0, 0.0)
