"""The periods of a training job: what is trained on, what validates, what is scored.

Here: the frozen value that every job carries, its checks, and the defaults by dataset.
Not here: spatial splits (evaluation/splits.py).
"""

from dataclasses import dataclass
from datetime import date

from aef_dagster.errors import UserError


@dataclass(frozen=True)
class Periods:
    """Three spans of days, both ends included, in the order train, validation, test, disjoint.

    `train` gives gradients and all statistics; `valid`, of donors only, picks the weights or is
    learnt from as well, as the recipe says; `test` is scored. Dates are ISO strings, so that a job
    hashes and prints alike everywhere.
    """

    train_start: str
    train_end: str
    valid_start: str
    valid_end: str
    test_start: str
    test_end: str

    def __post_init__(self):
        days = [date.fromisoformat(value) for value in self.as_tuple()]
        if days != sorted(set(days)):
            raise UserError(
                "periods must not overlap and must run train < validation < test; got "
                f"train {self.train_start}..{self.train_end}, validation "
                f"{self.valid_start}..{self.valid_end}, test {self.test_start}..{self.test_end}"
            )

    def as_tuple(self) -> tuple[str, str, str, str, str, str]:
        """The six dates in order."""
        return (
            self.train_start,
            self.train_end,
            self.valid_start,
            self.valid_end,
            self.test_start,
            self.test_end,
        )


# Maurer ends in 2008, so one set of periods serves all four forcings: 15 + 4 years to learn from,
# 9 water years to score. The first nine months of 1980 are the warm-up of the first window.
CAMELS_US = Periods(
    "1980-10-01", "1995-09-30", "1995-10-01", "1999-09-30", "1999-10-01", "2008-09-30"
)
SAMPLE = Periods("1990-10-01", "1996-09-30", "1996-10-01", "1998-09-30", "1998-10-01", "2003-09-30")


def default_periods(dataset: str) -> Periods:
    """Periods used when nobody says otherwise: one choice per dataset, never per basin."""
    return {"camels_us": CAMELS_US, "sample": SAMPLE}[dataset]
