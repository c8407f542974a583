"""The course of one training: how far it is, what it scored, which weights are kept, when it ends.

Here: what both engines decide alike, and the state that either can go on from.
Not here: numbers on a device (cpu.py, groups.py), how weights are scored (validation.py).
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.jobs import TrainingJob

RECORDED = {
    "update", "finished", "engine", "curve", "best_score", "best_update", "worse_in_a_row",
    "loss_sum", "losses", "seconds",
}  # fmt: skip

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class State:
    """A training half done: all that is needed to go on as if it had never stopped.

    Parameters
    ----------
    arrays
        Weights, their running average, the best ones, and Adam's two moments, each by
        `<part>.<name of the parameter>`.
    record
        What JSON can hold: updates made, the curve, the best score and the loss so far. Random
        numbers need none: they are counted by update (draws.py).
    """

    arrays: Weights
    record: dict[str, Any]

    def check(self) -> None:
        """Raise a ValueError where something is missing."""
        absent = RECORDED - set(self.record)
        parts = {name.split(".", 1)[0] for name in self.arrays}
        absent |= {"weights", "moment1", "moment2"} - parts
        if absent:
            raise ValueError(f"it has no {', '.join(sorted(absent))}")

    @property
    def update(self) -> int:
        """Updates made."""
        return self.record["update"]

    @property
    def seconds(self) -> float:
        """Seconds spent."""
        return self.record["seconds"]

    def part(self, prefix: str) -> Weights:
        """One of the parts of `arrays`, by name of the parameter."""
        start = f"{prefix}."
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}


@dataclass(frozen=True, eq=False)
class Trained:
    """What training one job gave.

    Parameters
    ----------
    weights
        The parameters that are kept, by name.
    curve
        Per validation: update, basin_days (an epoch's last batch taken for a full one),
        learning_rate, train_loss (mean since the last one),
        valid_nse (median over the validated donors in the validation years, which some recipes
        learn from as well; NaN without any), seconds since the start; valid_loss where the recipe
        picks by it.
    updates
        Updates made.
    best_update
        Updates made when these weights were kept.
    seconds
        Spent on it, before it was resumed as well. In a group, those of the group meanwhile.
    simulation
        Targets over the test period, float32 [target, day], mm/day.
    donors_left_out
        Donors without any flow to learn from.
    """

    weights: Weights
    curve: list[dict[str, Any]]
    updates: int
    best_update: int
    seconds: float
    simulation: NDArray[np.float32]
    donors_left_out: int


def joined(**parts: Weights) -> Weights:
    """Parts as a state's `arrays` have them."""
    return {f"{part}.{name}": a for part, arrays in parts.items() for name, a in arrays.items()}


class Course:
    """What is known of a training besides its numbers.

    Parameters
    ----------
    job
        What is trained.
    windows
        How many windows training may see.
    scorable
        Whether there is flow to validate on. Without any the last weights are kept.
    engine
        Who trains: "cpu" or "gpu".

    Attributes
    ----------
    update, updates
        Updates made, and how many there will be at most.
    finished
        Whether the last validation has been.
    curve
        A row per validation, see `Trained`.
    best, best_update
        The weights that are kept (empty before the first validation), and the updates made then.
    per_epoch
        Updates that see every window once; None where windows are drawn at random.
    """

    def __init__(self, job: TrainingJob, windows: int, scorable: bool, engine: str):
        self._job, self._last_are_kept = job, job.recipe.learn_validation_years or not scorable
        self.per_epoch: int | None = None
        self.updates = job.budget.updates
        if job.recipe.sampling == "epochs":
            self.per_epoch = -(-windows // job.budget.batch)
            if job.recipe.max_epochs is not None:
                self.updates = min(self.updates, job.recipe.max_epochs * self.per_epoch)
        self._engine = engine
        self._marks = validation_marks(self.updates, job.recipe.validations, self.per_epoch)
        self.update = 0
        self.finished = False
        self.curve: list[dict[str, Any]] = []
        self.best: Weights = {}
        self.best_update = 0
        self._best_score = -math.inf
        self._worse_in_a_row = 0
        self._losses = 0
        self._seconds_before, self._started = 0.0, time.monotonic()

    def learning_rate(self, update: int) -> float:
        """Learning rate of an update, counted from 0."""
        epoch = update // self.per_epoch if self.per_epoch else 0
        return self._job.recipe.learning_rate_at(update, self.updates, epoch)

    def count_update(self) -> None:
        """An update has been made."""
        self.update += 1
        self._losses += 1

    @property
    def validation_is_due(self) -> bool:
        """Whether a validation should come before the next update."""
        done = bool(self.curve) and self.curve[-1]["update"] == self.update
        return self.update in self._marks and not done

    def train_loss(self, loss_sum: float) -> float:
        """Mean loss since the last validation.

        Raises
        ------
        UserError
            Training diverged.
        """
        mean = loss_sum / max(1, self._losses)
        if not math.isfinite(mean):
            recipe = self._job.recipe
            raise UserError(
                f"training diverged before update {self.update} of {self.updates}: lower the "
                f"learning rate of recipe {recipe.name!r} ({recipe.learning_rate})"
            )
        return mean

    def judge(self, train_loss: float, validated: dict[str, float], weights: Weights) -> None:
        """Note a validation, keep its weights if they are to be kept, end the training if so.

        Parameters
        ----------
        train_loss
            Mean loss since the last validation.
        validated
            What `Validation` gave.
        weights
            What was validated.
        """
        recipe, budget = self._job.recipe, self._job.budget
        self._losses = 0
        self.curve.append(
            {
                "update": self.update,
                "basin_days": self.update * budget.batch * budget.window,
                "learning_rate": self.learning_rate(self.update - 1),
                "train_loss": train_loss,
                "seconds": round(self.seconds, 2),
            }
            | validated
        )
        score = -validated["valid_loss"] if recipe.loss == "rmse" else validated["valid_nse"]
        if self._last_are_kept or score > self._best_score:
            self._best_score, self.best_update, self.best = score, self.update, weights
            self._worse_in_a_row = 0
        else:
            self._worse_in_a_row += 1
        tired = recipe.patience is not None and self._worse_in_a_row >= recipe.patience
        self.finished = tired or self.update >= self.updates

    def refuse_if_diverged(self) -> None:
        """Raise a UserError where no validation gave weights to keep."""
        if self.best_update == 0:
            raise UserError(
                f"training diverged: no validation of job {self._job.hash} gave a number"
            )

    def record(self, loss_sum: float) -> dict[str, Any]:
        """What a state says of it, `loss_sum` being that since the last validation."""
        return {
            "update": self.update,
            "finished": self.finished,
            "engine": self._engine,
            "curve": list(self.curve),
            "best_score": self._best_score if math.isfinite(self._best_score) else None,
            "best_update": self.best_update,
            "worse_in_a_row": self._worse_in_a_row,
            "loss_sum": loss_sum if math.isfinite(loss_sum) else None,
            "losses": self._losses,
            "seconds": self.seconds,
        }

    def resume(self, state: State) -> float:
        """Go on where another training of the job was; the sum of losses that it had."""
        record = state.record
        self.update, self.finished = record["update"], record["finished"]
        self.curve, self.best = list(record["curve"]), state.part("best")
        score, loss_sum = record["best_score"], record["loss_sum"]
        self._best_score = -math.inf if score is None else score
        self.best_update = record["best_update"]
        self._worse_in_a_row, self._losses = record["worse_in_a_row"], record["losses"]
        self._seconds_before, self._started = record["seconds"], time.monotonic()
        return math.nan if loss_sum is None else loss_sum

    @property
    def seconds(self) -> float:
        """Seconds spent on it, before it was resumed as well."""
        return self._seconds_before + time.monotonic() - self._started


def validation_marks(updates: int, validations: int, per_epoch: int | None) -> frozenset[int]:
    """Updates after which a run is validated; the last one is among them.

    After each epoch where there are any; else evenly spread.
    """
    if per_epoch is not None:
        return frozenset([*range(per_epoch, updates, per_epoch), updates])
    count = max(1, min(validations, updates))
    return frozenset(round(updates * (i + 1) / count) for i in range(count))
