"""Estimates: each a number with its interval, in one long table of one shape.

Here: rows of medians and of paired differences, and how they are said in a sentence. Not here: the
statistics (evaluation/statistics.py), which comparisons are made (each experiment).
"""

from typing import Any

import numpy as np
import pandas as pd

from aef_dagster.evaluation.statistics import bootstrap_median, paired_difference, summarise

# For readers of a table of differences.
DIFFERENCES_NOTE = (
    "Median over basins of the difference. The interval holds the middle 95 % of the medians of "
    "resampled HUC-2 regions (of resampled basins, where there are fewer than eight regions), "
    "while p is Wilcoxon's signed-rank test, which ranks how far each basin differs and takes "
    "neighbouring basins for independent: so p may be small where the interval includes 0, and "
    "`higher` or `lower` is said by the interval alone. p is not corrected for the number of "
    "comparisons."
)

COLUMNS = [
    "measure", "of", "against", "design", "k", "n_basins", "value", "low", "high", "p",
]  # fmt: skip


# Below so many groups, resampling whole groups tells nothing.
FEWEST_GROUPS = 8
# A bootstrap of so few basins is far too narrow: better no interval than a wrong one.
FEWEST_BASINS = 8


class Estimates:
    """Rows as they are found.

    Parameters
    ----------
    groups
        Region of each basin, indexed by gauge_id: neighbouring basins are not independent, so whole
        regions are resampled for an interval (plain resampling of basins covers far too little).
        Where there are fewer than eight regions, as in the sample, basins are resampled.
    """

    def __init__(self, groups: pd.Series | None = None) -> None:
        self._rows: list[dict[str, Any]] = []
        self._groups = groups

    def groups(self, index: pd.Index) -> pd.Series | None:
        """Regions of some basins, in their order; None where basins are resampled."""
        if self._groups is None:
            return None
        found = self._groups.reindex(index)
        return found if found.nunique() >= FEWEST_GROUPS else None

    def add(self, measure: str, of: str, value: float, **others: Any) -> dict[str, Any]:
        """Any number: `others` are columns of the table."""
        row = dict.fromkeys(COLUMNS) | {"measure": measure, "of": of, "value": float(value)}
        row |= others
        self._rows.append(row)
        return row

    def median(self, values: pd.Series, of: str, design: str, **others: Any) -> dict[str, Any]:
        """Median NSE over basins with its bootstrap interval."""
        value, low, high = bootstrap_median(values, groups=self.groups(values.index))
        n = int(values.notna().sum())
        if n < FEWEST_BASINS:
            low = high = np.nan
        return self.add("median NSE", of, value, design=design, n_basins=n, low=low, high=high,
                        **others)  # fmt: skip

    def summary(self, values: pd.Series, of: str, design: str) -> dict[str, float]:
        """Median as `median`; mean, quartiles and share below 0 as rows of their own."""
        found = summarise(values)
        self.median(values, of, design)
        for name, measure in (("mean", "mean NSE"), ("q25", "lower quartile of NSE"),
                              ("q75", "upper quartile of NSE"),
                              ("share_below_0", "share of basins with NSE below 0")):  # fmt: skip
            self.add(measure, of, found[name], design=design, n_basins=found["n"])
        return found

    def difference(
        self,
        a: pd.Series,
        b: pd.Series,
        of: str,
        against: str,
        design: str,
        *,
        measure: str = "paired difference of NSE",
        **others: Any,
    ) -> dict[str, Any]:
        """Median over basins of a - b, with its interval and the Wilcoxon p."""
        a, b = a.align(b, join="inner")
        found = paired_difference(a, b, groups=self.groups(a.index))
        if found["n"] < FEWEST_BASINS:
            found |= {"low": np.nan, "high": np.nan}
        return self.add(
            measure, of, found["median_difference"], against=against, design=design,
            n_basins=found["n"], low=found["low"], high=found["high"], p=found["wilcoxon_p"],
            **others,
        )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """The long table."""
        frame = pd.DataFrame(self._rows, columns=COLUMNS)
        numbers = {name: "float64" for name in ("value", "low", "high", "p")}
        return frame.astype({**numbers, "k": "Int32", "n_basins": "Int32"})


def interval(row: dict[str, Any], digits: int = 3, *, signed: bool = False) -> str:
    """`0.612 (0.590 to 0.633)`; `+0.012 (-0.003 to +0.020)` where signed."""
    sign = "+" if signed else ""
    value = f"{row['value']:{sign}.{digits}f}"
    if row["low"] is None or not np.isfinite(row["low"]):
        return value
    return f"{value} ({row['low']:{sign}.{digits}f} to {row['high']:{sign}.{digits}f})"


def verdict(row: dict[str, Any]) -> str:
    """What the interval of a difference allows to say."""
    if row["low"] is None or not np.isfinite(row["low"]):
        return "too few basins for an interval"
    if row["low"] > 0:
        return "higher"
    if row["high"] < 0:
        return "lower"
    return "not told apart"
