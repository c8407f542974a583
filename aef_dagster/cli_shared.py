"""What the commands share: a session of the settings in force, tables and words for a person.

Not here: arguments and what is printed by whom (cli.py and its neighbours).
"""

from aef_dagster.errors import UserError

# Columns of a table are kept whole up to this width; longer ones are folded.
LONGEST_WHOLE = 28


def open_session(*, existing: bool = False, **overrides):
    """A session; with `existing`, only on a home that is there."""
    from aef_dagster.pipeline.session import Session
    from aef_dagster.settings import load_settings

    settings = load_settings(**overrides)
    if existing and not (settings.home / "world.json").exists():
        raise UserError(f"{settings.home} is no home yet; run `aef prepare` first, or set AEF_HOME")
    return Session(settings)


def folded(text: str) -> str:
    """A paragraph in lines that a terminal shows whole, without Markdown's quotes."""
    import textwrap

    return textwrap.fill(text.replace("`", ""), 100, subsequent_indent="  ")


def number(value) -> str:
    """A number as tables show it, `-` where it is missing."""
    return "-" if value is None or value != value else f"{value:.2f}"


def print_table(frame, title: str) -> None:
    """Print a frame."""
    rows = [tuple(str(value) for value in row) for row in frame.to_numpy()]
    print_rows(tuple(frame.columns), rows, title)


def print_rows(heads, rows, title: str) -> None:
    """Print rows under heads; the last column may be folded."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=escaped(title), title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for place, head in enumerate(heads):
        # Names and numbers stay whole; only the last column, a sentence, may be folded.
        last = place == len(heads) - 1
        longest = max((len(str(row[place])) for row in rows), default=0)
        table.add_column(
            str(head), overflow="fold", no_wrap=not last and longest <= LONGEST_WHOLE,
            min_width=None if last else min(longest, LONGEST_WHOLE),
        )  # fmt: skip
    for row in rows:
        table.add_row(*(escaped(str(cell)) for cell in row))
    console = Console()
    # A log file has no width; 80 columns would cut the tables.
    console.width = console.width if console.is_terminal else max(console.width, 120)
    console.print(table)


def stderr():
    """The terminal for what is no result."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


def escaped(text: str) -> str:
    """Text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)
