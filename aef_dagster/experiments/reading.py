"""What an experiment found: the values that its page, its MLflow run and its tables are made of.

Here: plain frozen records, made by the experiments. Not here: how they are computed, nor how they
are shown (report/).
"""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Parameters
    ----------
    title
        What it shows, for people.
    frame
        A row a line. An index that has a name is shown as the first column, any other is not.
    note
        A sentence on how to read it.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Parameters
    ----------
    title
        What it shows, for people.
    content
        The bytes of a PNG file, or the text of an `<svg>` element.
    caption
        How to read it.
    """

    title: str
    content: bytes | str
    caption: str = ""


@dataclass(frozen=True)
class Check:
    """A check that ran.

    Parameters
    ----------
    name
        Its name in code.
    passed
        Its outcome.
    told
        What was seen, in a sentence.
    blocking
        Whether the findings are worthless if it failed.
    """

    name: str
    passed: bool
    told: str
    blocking: bool = False


@dataclass(frozen=True)
class Reading:
    """What an experiment found.

    Parameters
    ----------
    name
        Its name in code, as in `in_vs_out_of_sample`.
    title, question
        For people; the question is one sentence.
    findings
        Sentences computed from numbers; the first is the headline.
    numbers
        A number a name, for plots over time.
    estimates
        A long table: measure, of, against, design, k, n_basins, value, low, high, p.
    tables, pictures, checks
        In the order in which they are shown.
    """

    name: str
    title: str
    question: str
    findings: tuple[str, ...]
    numbers: dict[str, float]
    estimates: pd.DataFrame
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    checks: tuple[Check, ...] = ()
