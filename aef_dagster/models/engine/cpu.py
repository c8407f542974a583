"""The CPU engine: trains one network of one job.

Here: a training that can be stepped, stopped and taken up again. Arrays in, arrays out, the same
bits every time.
Not here: what an update sees (batches.py), what is validated (validation.py), running a network
(running.py), processes (worker.py, training.py), files (checkpoints.py, unfinished.py). Numpy and
torch only, so that it runs wherever a torch does. No result depends on torch's global random
state.
"""

import time
from collections.abc import Callable

import torch

from aef_dagster.errors import UserError
from aef_dagster.models.engine.averages import WeightAverage
from aef_dagster.models.engine.batches import Batches
from aef_dagster.models.engine.course import Course, State, Trained, Weights, joined
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.network import arrays_of, load_arrays
from aef_dagster.models.engine.running import new_network, simulate_targets
from aef_dagster.models.engine.validation import Validation
from aef_dagster.models.inputs import JobInputs

# Names in a state, and Adam's.
MOMENTS = {"moment1": "exp_avg", "moment2": "exp_avg_sq"}

Report = Callable[[str, int, int], None]


def train(
    inputs: JobInputs,
    report: Report = lambda phase, update, updates: None,
    unfinished: State | None = None,
    keep: Callable[[State], None] | None = None,
    keep_every_s: float = 20.0,
) -> Trained:
    """Train one network of a job and simulate its targets over the test period.

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
    course = training.course
    if unfinished is not None:
        training.resume(unfinished)
    kept = time.monotonic()
    while not course.finished:
        training.step()
        report("train", course.update, course.updates)
        if course.validation_is_due:
            report("validate", course.update, course.updates)
            training.validate()
        if keep is not None and time.monotonic() - kept >= keep_every_s:
            keep(training.state())
            kept = time.monotonic()
    windowed = inputs.job.recipe.evaluation == "windowed"
    if keep is not None and (windowed or inputs.job.budget.networks > 1):
        keep(training.state())  # what comes now, the simulation or other networks, takes minutes

    def alive(done: int = 0, days: int = 0) -> None:
        report("simulate", course.update, course.updates)

    alive()
    return training.result(alive)


def has_bf16_products() -> bool:
    """Whether this processor multiplies bfloat16 itself; others only imitate it, slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Training:
    """One model in training, an update at a time.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the job.

    Attributes
    ----------
    network
        As it is after the last update.
    course
        How far it is.
    """

    def __init__(self, inputs: JobInputs):
        job = inputs.job
        self._inputs, self._recipe = inputs, job.recipe
        torch.set_num_threads(job.threads)
        draws = Draws(inputs.random_key)
        self.network = new_network(inputs.scaler, job.recipe, job.budget.hidden)
        self.network.initialise(job.recipe.forget_bias, draws)
        self.network.bf16 = job.precision == "bf16"
        if self.network.bf16 and not has_bf16_products():
            raise UserError(
                "precision bf16: this processor has no products of bfloat16, it would be slower "
                "than fp32; set AEF_PRECISION=fp32"
            )
        # Fused: one pass over all parameters instead of a dozen small operations on each.
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=job.recipe.learning_rate, fused=True
        )
        self._batches = Batches(inputs, draws)
        self._validation = Validation(inputs, draws)
        self.course = Course(job, self._batches.windows, self._validation.scorable, "cpu")
        self._average = WeightAverage(self.network, job.recipe.averaging * self.course.updates)
        self._loss_sum = torch.zeros((), dtype=torch.float64)

    def step(self) -> None:
        """Make one update."""
        optimiser, recipe, course = self._optimiser, self._recipe, self.course
        optimiser.param_groups[0]["lr"] = course.learning_rate(course.update)
        loss = self._batches.loss(self.network, course.update)
        optimiser.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        optimiser.step()
        self._average.add(self.network)
        self._loss_sum += loss.detach()
        course.count_update()

    def validate(self) -> None:
        """Score the weights on donors' validation years; keep them if they are to be kept.

        Raises
        ------
        UserError
            Training diverged.
        """
        train_loss = self.course.train_loss(float(self._loss_sum))
        self._loss_sum.zero_()
        with self._average.in_place_of(self.network):
            validated = self._validation.run(self.network)
            self.course.judge(train_loss, validated, arrays_of(self.network))

    def state(self) -> State:
        """All that `resume` needs."""
        moments: dict[str, Weights] = {moment: {} for moment in MOMENTS}
        for name, parameter in self.network.named_parameters():
            kept = self._optimiser.state[parameter]
            for moment, adam in MOMENTS.items():
                # Adam has none before its first step.
                values = kept[adam] if kept else torch.zeros_like(parameter)
                moments[moment][name] = values.detach().numpy().copy()
        arrays = joined(
            weights=arrays_of(self.network),
            average=self._average.arrays(),
            best=self.course.best,
            **moments,
        )
        return State(arrays, self.course.record(float(self._loss_sum)))

    def resume(self, state: State) -> None:
        """Go on where another training of the same job was when it gave this state."""
        load_arrays(self.network, state.part("weights"))
        self._average.load(state.part("average"))
        moments = {adam: state.part(moment) for moment, adam in MOMENTS.items()}
        for name, parameter in self.network.named_parameters():
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(state.update)),
                **{adam: torch.from_numpy(part[name].copy()) for adam, part in moments.items()},
            }
        self._loss_sum = torch.tensor(self.course.resume(state), dtype=torch.float64)

    def result(self, report: Callable[[int, int], None] = lambda done, days: None) -> Trained:
        """Simulate the targets over the test period with the weights that are kept.

        Parameters
        ----------
        report
            Called now and then in a windowed simulation, which takes long.
        """
        course = self.course
        course.refuse_if_diverged()
        load_arrays(self.network, course.best)
        return Trained(
            course.best,
            course.curve,
            course.update,
            course.best_update,
            course.seconds,
            simulate_targets(self.network, self._inputs, report),
            self._batches.donors_left_out,
        )
