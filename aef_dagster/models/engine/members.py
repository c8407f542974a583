"""One model of a stack, as the host knows it: what it trains on, how far it is, what is kept.

Here: everything of a training but its numbers on the device; the state that both engines share.
Not here: the stack (groups.py), the order of things (gpu.py).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aef_dagster.models.engine.course import Course, State, Weights, joined
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.network import arrays_of
from aef_dagster.models.engine.running import new_network
from aef_dagster.models.engine.validation import Validation
from aef_dagster.models.engine.windows import windows_of
from aef_dagster.models.inputs import JobInputs

# Adam's, as torch has them.
BETA_1, BETA_2 = 0.9, 0.999


@dataclass(frozen=True, eq=False)
class Numbers:
    """A model's numbers on the device, as they come to the host.

    Parameters
    ----------
    weights, average, moment1, moment2
        By name, see `course.State`.
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
    course
        How far it is.
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
        self.draws = Draws(inputs.random_key)
        self.windows = windows_of(inputs)
        self.validation = Validation(inputs, self.draws)
        self.course = Course(job, self.windows.starts.size, self.validation.scorable, "gpu")
        if unfinished is not None:
            self.course.resume(unfinished)

    def start(self) -> Numbers:
        """Its numbers before the next update: new ones, or those it was left with."""
        if self.kept is None:
            job = self.inputs.job
            network = new_network(self.inputs.scaler, job.recipe, job.budget.hidden)
            network.initialise(job.recipe.forget_bias, self.draws)
            weights = arrays_of(network)
            nothing = {name: np.zeros_like(values) for name, values in weights.items()}
            return Numbers(weights, weights, nothing, nothing, 0.0)
        weights = self.kept.part("weights")
        return Numbers(
            weights,
            self.kept.part("average") if self.averaged else weights,
            self.kept.part("moment1"),
            self.kept.part("moment2"),
            self.course.resume(self.kept),
        )

    def keep(self, numbers: Numbers) -> State:
        """Its state, as the CPU engine has it; remembered, to go back to."""
        arrays = joined(
            weights=numbers.weights,
            average=numbers.average if self.averaged else {},
            best=self.course.best,
            moment1=numbers.moment1,
            moment2=numbers.moment2,
        )
        self.kept = State(arrays, self.course.record(numbers.loss_sum))
        return self.kept

    @property
    def averaged(self) -> bool:
        """Whether its weights are averaged."""
        return self.inputs.job.recipe.averaging > 0

    @property
    def average_share(self) -> float:
        """What the weights after an update are in their average; 1 where none is wanted."""
        return 1.0 / max(1.0, self.inputs.job.recipe.averaging * self.course.updates)

    def adam_numbers(self) -> tuple[float, float]:
        """The next update's step and what the root of the second moment is divided by.

        Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, both corrections of the bias included.
        """
        made = self.course.update + 1
        step = self.course.learning_rate(self.course.update) / (1.0 - BETA_1**made)
        return step, math.sqrt(1.0 - BETA_2**made)

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
        train_loss = self.course.train_loss(loss_sum)
        self.course.judge(train_loss, self.validation.scores(scaled), weights)
