"""The CPU engine: trains one model of one job.

Here: a training that can be stepped, stopped and taken up again. Arrays in, arrays out, the same
bits every time.
Not here: what an update sees (batches.py), what is validated (validation.py), running a network
(running.py), processes (worker.py, training.py), files (checkpoints.py, unfinished.py). Numpy and
torch only, so that it runs wherever a torch does. No result depends on torch's global random
state.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.engine.averages import WeightAverage
from aef_dagster.models.engine.batches import Batches
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.engine.running import new_network, simulate, simulate_windowed
from aef_dagster.models.engine.validation import Validation
from aef_dagster.models.inputs import JobInputs

# Names in a state, and Adam's.
MOMENTS = {"moment1": "exp_avg", "moment2": "exp_avg_sq"}

Report = Callable[[str, int, int], None]
Weights = dict[str, NDArray[np.float32]]


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
        valid_nse (median over the validated donors; NaN without any), seconds since the start;
        valid_loss where the recipe picks by it.
    updates
        Updates made.
    best_update
        Updates made when these weights were kept.
    simulation
        Targets over the test period, float32 [target, day], mm/day.
    donors_left_out
        Donors without any flow to learn from.
    """

    weights: Weights
    curve: list[dict[str, Any]]
    updates: int
    best_update: int
    simulation: NDArray[np.float32]
    donors_left_out: int


@dataclass(frozen=True, eq=False)
class State:
    """A training half done: all that is needed to go on as if it had never stopped.

    Parameters
    ----------
    arrays
        Weights, their running average, the best ones, and Adam's two moments, by name.
    record
        What JSON can hold: updates made, the curve, the best score and the loss so far. Random
        numbers need none: they are counted by update (draws.py).
    """

    arrays: Weights
    record: dict[str, Any]

    @property
    def update(self) -> int:
        """Updates made."""
        return self.record["update"]

    @property
    def seconds(self) -> float:
        """Seconds spent."""
        return self.record["seconds"]


def train(
    inputs: JobInputs,
    report: Report = lambda phase, update, updates: None,
    unfinished: State | None = None,
    keep: Callable[[State], None] | None = None,
    keep_every_s: float = 20.0,
) -> Trained:
    """Train the model of a job and simulate its targets over the test period.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the job.
    report
        Called with the phase ("train", "validate", "simulate"), the updates made so far and those
        there will be.
    unfinished
        Where an earlier training of this job was left.
    keep
        Takes the state now and then.
    keep_every_s
        How often, in seconds.

    Raises
    ------
    UserError
        Training diverged, or there is nothing to learn from.
    """
    training = Training(inputs)
    if unfinished is not None:
        training.resume(unfinished)
    kept = time.monotonic()
    while not training.finished:
        training.step()
        report("train", training.update, training.updates)
        if training.validation_is_due:
            report("validate", training.update, training.updates)
            training.validate()
        if keep is not None and time.monotonic() - kept >= keep_every_s:
            keep(training.state())
            kept = time.monotonic()
    report("simulate", training.update, training.updates)
    return training.result()


class Training:
    """One model in training, an update at a time.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the job.

    Attributes
    ----------
    update, updates
        Updates made, and how many there will be at most.
    finished
        Whether there is nothing left but `result`: the last validation says so.
    curve
        A row per validation, see `Trained`.
    """

    def __init__(self, inputs: JobInputs):
        job = inputs.job
        self._inputs, self._recipe, self._budget = inputs, job.recipe, job.budget
        torch.set_num_threads(job.threads)
        draws = Draws(job.random_key)
        self.network = new_network(inputs.scaler, job.recipe, job.budget.hidden)
        self.network.initialise(job.recipe.forget_bias, draws)
        # Fused: one pass over all parameters instead of a dozen small operations on each.
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=job.recipe.learning_rate, fused=True
        )
        self._average = WeightAverage(self.network, job.recipe.averaging * job.budget.updates)
        self._batches = Batches(inputs, draws)
        self._validation = Validation(inputs, draws)
        self._per_epoch = self._batches.updates_per_epoch
        self.updates = job.budget.updates
        if job.recipe.max_epochs is not None and self._per_epoch is not None:
            self.updates = min(self.updates, job.recipe.max_epochs * self._per_epoch)
        self._marks = validation_marks(self.updates, job.recipe.validations, self._per_epoch)
        self.update = 0
        self.finished = False
        self.curve: list[dict[str, Any]] = []
        self._best_score, self._best_update, self._best = -np.inf, 0, self._weights()
        self._worse_in_a_row = 0
        self._loss_sum, self._loss_count = torch.zeros((), dtype=torch.float64), 0
        self._seconds_before, self._started = 0.0, time.monotonic()

    def step(self) -> None:
        """Make one update."""
        optimiser, recipe = self._optimiser, self._recipe
        optimiser.param_groups[0]["lr"] = self._learning_rate(self.update)
        loss = self._batches.loss(self.network, self.update)
        optimiser.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        optimiser.step()
        self._average.add(self.network)
        self._loss_sum += loss.detach()
        self._loss_count += 1
        self.update += 1

    @property
    def validation_is_due(self) -> bool:
        """Whether `validate` should come before the next step."""
        done = bool(self.curve) and self.curve[-1]["update"] == self.update
        return self.update in self._marks and not done

    def validate(self) -> float:
        """Score the weights on donors' validation years; keep them if they are to be kept.

        Returns
        -------
        float
            Median NSE of the validated donors, NaN without any.

        Raises
        ------
        UserError
            Training diverged.
        """
        recipe, budget = self._recipe, self._budget
        train_loss = float(self._loss_sum) / max(1, self._loss_count)
        if not np.isfinite(train_loss):
            raise UserError(
                f"training diverged before update {self.update} of {self.updates}: lower the "
                f"learning rate of recipe {recipe.name!r} ({recipe.learning_rate})"
            )
        self._loss_sum.zero_()
        self._loss_count = 0
        with self._average.in_place_of(self.network):
            validated = self._validation.score(self.network)
            weights = self._weights()
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
        last_are_kept = recipe.learn_validation_years or not self._validation.basins
        if last_are_kept or score > self._best_score:
            self._best_score, self._best_update, self._best = score, self.update, weights
            self._worse_in_a_row = 0
        else:
            self._worse_in_a_row += 1
        tired = recipe.patience is not None and self._worse_in_a_row >= recipe.patience
        self.finished = tired or self.update >= self.updates
        return validated["valid_nse"]

    def state(self) -> State:
        """All that `resume` needs."""
        moments = {}
        for name, parameter in self.network.named_parameters():
            kept = self._optimiser.state[parameter]
            for moment, adam in MOMENTS.items():
                # Adam has none before its first step.
                array = kept[adam].numpy().copy() if kept else np.zeros(tuple(parameter.shape))
                moments[f"{moment}.{name}"] = array.astype(np.float32)
        arrays = {
            **_prefixed("weights", self._weights()),
            **_prefixed("average", self._average.arrays()),
            **_prefixed("best", self._best),
            **moments,
        }
        record = {
            "update": self.update,
            "finished": self.finished,
            "curve": list(self.curve),
            "best_score": _plain(self._best_score),
            "best_update": self._best_update,
            "worse_in_a_row": self._worse_in_a_row,
            "loss_sum": _plain(float(self._loss_sum)),
            "loss_count": self._loss_count,
            "seconds": self._seconds(),
        }
        return State(arrays, record)

    def resume(self, state: State) -> None:
        """Go on where another training of the same job was when it gave this state."""
        arrays, record = state.arrays, state.record
        _load(self.network, _part("weights", arrays))
        self._average.load(_part("average", arrays))
        self._best = _part("best", arrays)
        for name, parameter in self.network.named_parameters():
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(record["update"])),
            } | {
                adam: torch.from_numpy(arrays[f"{moment}.{name}"].copy())
                for moment, adam in MOMENTS.items()
            }
        self.update, self.finished = record["update"], record["finished"]
        self.curve = list(record["curve"])
        self._best_score = -np.inf if record["best_score"] is None else record["best_score"]
        self._best_update = record["best_update"]
        self._worse_in_a_row = record["worse_in_a_row"]
        loss_sum = np.nan if record["loss_sum"] is None else record["loss_sum"]
        self._loss_sum = torch.tensor(loss_sum, dtype=torch.float64)
        self._loss_count = record["loss_count"]
        self._seconds_before, self._started = record["seconds"], time.monotonic()

    def result(self) -> Trained:
        """Simulate the targets over the test period with the weights that are kept."""
        inputs = self._inputs
        if self._best_update == 0:
            raise UserError(
                f"training diverged: no validation of job {inputs.job.hash} gave a number"
            )
        _load(self.network, self._best)
        run, days = simulate, inputs.with_spinup(inputs.test)
        if self._recipe.evaluation == "windowed":
            run, days = simulate_windowed, inputs.before(inputs.test, self._budget.window)
        simulation = run(
            self.network,
            inputs.scaler,
            inputs.forcing,
            inputs.target_rows,
            inputs.target_statics,
            inputs.target_flow_units,
            days,
            inputs.test,
        )
        return Trained(
            self._best,
            self.curve,
            self.update,
            self._best_update,
            simulation,
            self._batches.donors_left_out,
        )

    def _learning_rate(self, update: int) -> float:
        epoch = update // self._per_epoch if self._per_epoch else 0
        return self._recipe.learning_rate_at(update, self.updates, epoch)

    def _weights(self) -> Weights:
        return {
            name: tensor.detach().numpy().copy()
            for name, tensor in self.network.state_dict().items()
        }

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def validation_marks(updates: int, validations: int, per_epoch: int | None) -> frozenset[int]:
    """Updates after which a run is validated; the last one is among them.

    After each epoch where there are any; else evenly spread.
    """
    if per_epoch is not None:
        return frozenset([*range(per_epoch, updates, per_epoch), updates])
    count = max(1, min(validations, updates))
    return frozenset(round(updates * (i + 1) / count) for i in range(count))


def _load(network: BasinLSTM, weights: Weights) -> None:
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})


def _prefixed(prefix: str, arrays: Weights) -> Weights:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _part(prefix: str, arrays: Weights) -> Weights:
    start = f"{prefix}."
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _plain(value: float) -> float | None:
    """A number as JSON has it: nothing for infinity and NaN."""
    return float(value) if np.isfinite(value) else None
