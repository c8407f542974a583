"""Telling a person how far long work has come.

Here: one bar for a terminal (rate and time left), and for everything else a line at most every
few seconds through `logging`, so that a log file or the Dagster page stays readable.
Not here: what the work is. Rooms take a plain callback and know nothing of this module.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("aef_dagster")

SECONDS_BETWEEN_LINES = 5.0
FORESEEABLE = 0.03  # below this share the time left is a guess at start-up times


class Bar:
    """Progress of one piece of work, `advance`d by its worker."""

    def __init__(self, title: str, total: float, unit: str, sink, scale: float = 1.0):
        self.title, self.total, self.unit, self.scale = title, total, unit, scale
        self.done = 0.0
        self.bytes_read = 0
        self._started = self._told = time.monotonic()
        self._sink = sink
        self._task = sink.add_task(title, total=total, rate="") if sink else None

    def advance(self, amount: float = 1.0) -> None:
        """Count `amount` more units as done."""
        self.at(self.done + amount)

    def at(self, done: float, total: float | None = None, bytes_read: int = 0) -> None:
        """Set what is done so far, the total where it became known, bytes read where it is told."""
        self.bytes_read = bytes_read
        self.done, self.total = done, total if total is not None else self.total
        now = time.monotonic()
        if self._sink is not None:
            self._sink.update(self._task, completed=done, total=self.total, rate=self._rate(now))
        elif now - self._told > SECONDS_BETWEEN_LINES and done < self.total:
            self._told = now
            share = done / self.total
            told = f"{self.title}: {share:.0%}, {self._rate(now)}"
            if share > FORESEEABLE:
                told += f", {(now - self._started) * (1 - share) / share:.0f} s left"
            logger.info(told)

    def _rate(self, now: float) -> str:
        seconds = max(now - self._started, 1e-6)
        told = f"{_short(self.done / seconds)} {self.unit}/s"
        return told + (f", {_short(self.bytes_read / seconds)}B/s" if self.bytes_read else "")


def _short(value: float) -> str:
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


@contextmanager
def bar(title: str, total: float, unit: str = "") -> Iterator[Bar]:
    """Show the progress of a piece of work while the block runs.

    Parameters
    ----------
    title
        What is being done, as a short noun phrase.
    total
        Amount of work in `unit`.
    unit
        Name of what is counted, for the rate: "basins", "basin-days".
    """
    if not total:
        yield Bar(title, 0, unit, None)
        return
    if not sys.stderr.isatty():
        progress = Bar(title, total, unit, None)
        yield progress
        elapsed = time.monotonic() - progress._started
        logger.info("%s: done in %.1f s, %s", title, elapsed, progress._rate(time.monotonic()))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]:>22}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(),
    )
    with Progress(*columns, console=Console(stderr=True)) as sink:
        yield Bar(title, total, unit, sink)
