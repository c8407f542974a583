"""One model of a stack, as the host knows it: what it trains on, how far it is, what is kept.

Here: everything of a training but its numbers on the device; the state that both engines share.
Not here: the stack (groups.py), the order of things (gpu.py).
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.engine.averages import Weights
from aef_dagster.models.engine.cpu import State, validation_marks
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.losses import masked_rmse_loss, nse_by_basin
from aef_dagster.models.engine.running import new_network
from aef_dagster.models.engine.validation import VALIDATED_AT_ONCE, Validation
from aef_dagster.models.engine.windows import Windows
from aef_dagster.models.inputs import JobInputs

# Adam's, as torch has them.
BETA_1, BETA_2 = 0.9, 0.999


@dataclass(frozen=True, eq=False)
class Numbers:
    """A model's numbers on the device, as they come to the host.

    Parameters
    ----------
    weights, average, moment1, moment2
        By name, see `cpu.State`.
    loss_sum
        Sum of the losses since the last validation.
    """

    weights: Weights
    average: Weights
    moment1: Weights
    moment2: Weights
    loss_sum: float


class Member:
    """One model in training.

    Parameters
    ----------
    index
        Which of the jobs it is.
    inputs
        What `inputs.prepare` made of the job.
    unfinished
        Where an earlier training of the job was left, by this engine or the CPU's.

    Attributes
    ----------
    update, updates
        Updates made, and how many there will be at most.
    finished
        Whether there is nothing left but to simulate.
    best, best_update
        The weights that are kept, and the updates made when they were.
    curve
        A row per validation, see `cpu.Trained`.
    kept
        The state to go back to if something goes wrong; None = the beginning.

    Raises
    ------
    UserError
        There is nothing to learn from.
    """

    def __init__(self, index: int, inputs: JobInputs, unfinished: State | None = None):
        job = inputs.job
        self.index, self.inputs, self.kept = index, inputs, unfinished
        self.draws = Draws(job.random_key)
        self.windows = Windows(
            (inputs.streamflow[row] for row in inputs.donor_rows),
            inputs.train,
            inputs.first,
            job.budget.window,
            job.recipe.warmup_days(job.budget.window),
        )
        self.validation = HostValidation(inputs, self.draws)
        self.per_epoch: int | None = None
        self.updates = job.budget.updates
        if job.recipe.sampling == "epochs":
            self.per_epoch = -(-self.windows.starts.size // job.budget.batch)
            if job.recipe.max_epochs is not None:
                self.updates = min(self.updates, job.recipe.max_epochs * self.per_epoch)
        self._marks = validation_marks(self.updates, job.recipe.validations, self.per_epoch)
        record = {} if unfinished is None else unfinished.record
        self.update: int = record.get("update", 0)
        self.finished: bool = record.get("finished", False)
        self.curve: list[dict[str, Any]] = list(record.get("curve", []))
        best_score = record.get("best_score")
        self._best_score = -np.inf if best_score is None else best_score
        self.best_update: int = record.get("best_update", 0)
        self.best: Weights = {}
        self._worse_in_a_row: int = record.get("worse_in_a_row", 0)
        self._loss_count: int = record.get("loss_count", 0)
        self._seconds_before = record.get("seconds", 0.0)
        self._started = time.monotonic()

    def start(self) -> Numbers:
        """Its numbers before the next update: new ones, or those it was left with."""
        if self.kept is None:
            job = self.inputs.job
            network = new_network(self.inputs.scaler, job.recipe, job.budget.hidden)
            network.initialise(job.recipe.forget_bias, self.draws)
            weights = {name: p.detach().numpy() for name, p in network.named_parameters()}
            self.best = weights
            nothing = {name: np.zeros_like(values) for name, values in weights.items()}
            return Numbers(weights, weights, nothing, nothing, 0.0)
        weights, best, moment1, moment2 = (
            _part(prefix, self.kept.arrays) for prefix in ("weights", "best", "moment1", "moment2")
        )
        self.best = best
        average = _part("average", self.kept.arrays) if self.averaged else weights
        loss_sum = self.kept.record["loss_sum"]
        return Numbers(
            weights, average, moment1, moment2, math.nan if loss_sum is None else loss_sum
        )

    def keep(self, numbers: Numbers) -> State:
        """Its state, as the CPU engine has it; remembered, to go back to."""
        arrays = {
            **_prefixed("weights", numbers.weights),
            **_prefixed("average", numbers.average if self.averaged else {}),
            **_prefixed("best", self.best),
            **_prefixed("moment1", numbers.moment1),
            **_prefixed("moment2", numbers.moment2),
        }
        record = {
            "update": self.update,
            "finished": self.finished,
            "curve": list(self.curve),
            "best_score": _plain(self._best_score),
            "best_update": self.best_update,
            "worse_in_a_row": self._worse_in_a_row,
            "loss_sum": _plain(numbers.loss_sum),
            "loss_count": self._loss_count,
            "seconds": self._seconds(),
        }
        self.kept = State(arrays, record)
        return self.kept

    @property
    def averaged(self) -> bool:
        """Whether its weights are averaged."""
        return self.inputs.job.recipe.averaging > 0

    @property
    def average_share(self) -> float:
        """What the weights after an update are in their average; 1 where none is wanted."""
        job = self.inputs.job
        return 1.0 / max(1.0, job.recipe.averaging * job.budget.updates)

    def adam_numbers(self) -> tuple[float, float]:
        """The next update's step and what the root of the second moment is divided by.

        Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, both corrections of the bias included.
        """
        made = self.update + 1
        step = self._learning_rate(self.update) / (1.0 - BETA_1**made)
        return step, math.sqrt(1.0 - BETA_2**made)

    def count_update(self) -> None:
        """An update has been made."""
        self.update += 1
        self._loss_count += 1

    @property
    def validation_is_due(self) -> bool:
        """Whether `judge` should come before the next update."""
        done = bool(self.curve) and self.curve[-1]["update"] == self.update
        return self.update in self._marks and not done

    def judge(self, scaled: NDArray[np.float32], loss_sum: float, weights: Weights) -> None:
        """Score weights on donors' validation years; keep them if they are to be kept.

        Parameters
        ----------
        scaled
            What the network gave for the validated donors, [donor, validation day].
        loss_sum
            Sum of the losses since the last validation.
        weights
            What gave it.

        Raises
        ------
        UserError
            Training diverged.
        """
        recipe, budget = self.inputs.job.recipe, self.inputs.job.budget
        train_loss = loss_sum / max(1, self._loss_count)
        if not np.isfinite(train_loss):
            raise UserError(
                f"training diverged before update {self.update} of {self.updates}: lower the "
                f"learning rate of recipe {recipe.name!r} ({recipe.learning_rate})"
            )
        self._loss_count = 0
        validated = self.validation.scores(scaled)
        self.curve.append(
            {
                "update": self.update,
                "basin_days": self.update * budget.batch * budget.window,
                "learning_rate": self._learning_rate(self.update - 1),
                "train_loss": train_loss,
                "seconds": round(self._seconds(), 2),
            }
            | validated
        )
        score = -validated["valid_loss"] if recipe.loss == "rmse" else validated["valid_nse"]
        # Where no donor has flow in the validation years, the last weights are taken.
        last_are_kept = recipe.learn_validation_years or not self.validation.basins
        if last_are_kept or score > self._best_score:
            self._best_score, self.best_update, self.best = score, self.update, weights
            self._worse_in_a_row = 0
        else:
            self._worse_in_a_row += 1
        tired = recipe.patience is not None and self._worse_in_a_row >= recipe.patience
        self.finished = tired or self.update >= self.updates

    def _learning_rate(self, update: int) -> float:
        job = self.inputs.job
        epoch = update // self.per_epoch if self.per_epoch else 0
        return job.recipe.learning_rate_at(update, self.updates, epoch)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


class HostValidation(Validation):
    """A validation whose network runs elsewhere: who is run, and the score of what came out."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Validated donors, as rows of the data."""
        return self._inputs.donor_rows[self._donors]

    @property
    def statics(self) -> NDArray[np.float32]:
        """Their scaled static inputs, [donor, static]."""
        return self._inputs.donor_statics[self._donors]

    def scores(self, scaled: NDArray[np.float32]) -> dict[str, float]:
        """As `Validation.score`, from what the network gave, [donor, day]."""
        scaler, by_loss = self._inputs.scaler, self._inputs.job.recipe.loss == "rmse"
        if not self.basins:
            return {"valid_nse": math.nan} | ({"valid_loss": math.nan} if by_loss else {})
        units = self._inputs.donor_flow_units[self._donors]
        simulated = scaler.unscale_flow(scaled, units[:, None]).clip(min=0.0)
        scores = {"valid_nse": float(np.median(nse_by_basin(simulated, self._observed)))}
        if by_loss:
            wanted = torch.from_numpy(scaler.scale_flow(self._observed.T, units))
            given = torch.from_numpy(np.ascontiguousarray(scaled.T))
            pairs = zip(
                given.split(VALIDATED_AT_ONCE, dim=1),
                wanted.split(VALIDATED_AT_ONCE, dim=1),
                strict=True,
            )
            scores["valid_loss"] = float(np.mean([float(masked_rmse_loss(*p)) for p in pairs]))
        return scores


def _prefixed(prefix: str, arrays: Weights) -> Weights:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _part(prefix: str, arrays: Weights) -> Weights:
    start = f"{prefix}."
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _plain(value: float) -> float | None:
    """A number as JSON has it: nothing for infinity and NaN."""
    return float(value) if math.isfinite(value) else None
