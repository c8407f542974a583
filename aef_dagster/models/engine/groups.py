"""A stack of models in training on one device: an update of all of them at once.

Here: their weights, optimiser and averages as matrices [place, parameter]; putting a model at a
place and reading it back; one update, on a GPU recorded once and replayed as a CUDA graph.
Not here: who comes to which place and when (gpu.py), what an update sees
(grouped_batches.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from aef_dagster.errors import UserError
from aef_dagster.models.engine.course import Weights
from aef_dagster.models.engine.grouped_batches import Alike, DeviceData, GroupBatches, Widths
from aef_dagster.models.engine.grouped_network import DTYPES, Layout
from aef_dagster.models.engine.grouped_runs import Span, run_spans
from aef_dagster.models.engine.members import BETA_1, BETA_2, Member, Numbers
from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.inputs import JobInputs

ADAM_EPSILON = 1e-8
# As torch.nn.utils.clip_grad_norm_ has it.
CLIP_EPSILON = 1e-6
# Updates before the recording, in which libraries choose their kernels and take their memory.
WARM_UPDATES = 3
# Numbers that an update holds at once, per hidden unit and basin-day: inputs of the LSTM and what
# they come from (2), its gates (8 with their products), states (4), and gradients of most of these.
NUMBERS_PER_UNIT = 24


class Group:
    """Places for models that are `Alike`, which train in step.

    Parameters
    ----------
    data
        The data, which say where the models train.
    alike, widths
        What they have in common, and how large their tables must be.
    size
        Places.
    precision
        "fp32", or "bf16" for the products of the LSTM in training. Validation and simulation are in
        float32 always.
    memory_limit
        Bytes that the group may take; None = what there is.

    Raises
    ------
    torch.OutOfMemoryError
        It takes more than that.
    """

    def __init__(
        self,
        data: DeviceData,
        alike: Alike,
        widths: Widths,
        size: int,
        precision: str = "fp32",
        memory_limit: int | None = None,
    ):
        needed = size * bytes_of_model(alike, widths)
        if memory_limit is not None and needed > memory_limit:
            raise torch.OutOfMemoryError(
                f"{size} models take {needed >> 20} MiB, and the limit is {memory_limit >> 20} MiB"
            )
        device = data.device
        self.size, self._device, self._dtype = size, device, DTYPES[precision]
        self._data, self._alike = data, alike
        self._layout = layout_of(alike, widths)
        self._batches = GroupBatches(data, alike, widths, size)
        self._weights, self._average, self._moment1, self._moment2 = (
            torch.zeros(size, self._layout.size, device=device) for _ in range(4)
        )
        self._loss_sum = torch.zeros(size, dtype=torch.float64, device=device)
        self._clip = torch.full((size,), torch.inf, device=device)
        self._average_share = torch.ones(size, 1, device=device)
        self._update_number = torch.zeros(size, dtype=torch.int64, device=device)
        # Of Adam: the step, and what the root of the second moment is divided by.
        self._adam = torch.ones(2, size, 1, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def load(self, place: int, member: Member) -> None:
        """Put a model at a place, as it was left or new."""
        numbers = member.start()
        self._batches.load(place, member.inputs, member.windows)
        for rows, weights in (
            (self._weights, numbers.weights),
            (self._average, numbers.average),
            (self._moment1, numbers.moment1),
            (self._moment2, numbers.moment2),
        ):
            rows[place] = torch.from_numpy(self._layout.row(weights))
        self._loss_sum[place] = numbers.loss_sum
        clip = member.inputs.job.recipe.clip_norm
        self._clip[place] = torch.inf if clip is None else clip
        self._average_share[place] = member.average_share

    def numbers(self, members: Mapping[int, Member]) -> dict[int, Numbers]:
        """The numbers of models by their place."""
        on_device = (self._weights, self._average, self._moment1, self._moment2)
        stacks = [rows.cpu().numpy() for rows in on_device]
        losses = self._loss_sum.tolist()
        found = {}
        for place, member in members.items():
            statics = member.inputs.donor_statics.shape[1]
            weights, average, moment1, moment2 = (
                self._layout.weights(rows[place], statics) for rows in stacks
            )
            found[place] = Numbers(weights, average, moment1, moment2, losses[place])
        return found

    def step(self, members: Mapping[int, Member]) -> None:
        """Make one update of each model, given by its place. Other places count for nothing."""
        update = np.zeros(self.size, dtype=np.int64)
        adam = np.zeros((2, self.size, 1))
        adam[1] = 1.0
        for place, member in members.items():
            update[place] = member.course.update
            adam[:, place, 0] = member.adam_numbers()
            per_epoch = member.course.per_epoch
            if per_epoch is not None:
                epoch, windows = member.course.update // per_epoch, member.windows.starts.size
                self._batches.begin_epoch(place, epoch, member.draws, windows)
        self._update_number.copy_(torch.from_numpy(update))
        self._adam.copy_(torch.from_numpy(adam))
        if self._device.type == "cuda":
            self._replay()
        else:
            self._update()
        for member in members.values():
            member.course.count_update()

    def validate(self, members: Mapping[int, Member]) -> dict[int, UserError]:
        """Let models be judged on their validation years; which of them failed, and why."""
        spans = {}
        for place, member in members.items():
            if member.validation.scorable:
                inputs, validation = member.inputs, member.validation
                days = inputs.with_spinup(inputs.valid)
                spans[place] = Span(place, validation.rows, validation.statics, days, inputs.valid)
        flows = dict(zip(spans, self._run(self._average, list(spans.values())), strict=True))
        losses: list[float] = self._loss_sum.tolist()
        failed: dict[int, UserError] = {}
        nothing = np.zeros((0, 0), dtype=np.float32)
        for place, member in members.items():
            try:
                weights = self._weights_of(self._average, place, member)
                member.judge(flows.get(place, nothing), losses[place], weights)
            except UserError as error:
                failed[place] = error
            self._loss_sum[place] = 0.0
        return failed

    def simulate(self, members: Mapping[int, Member]) -> dict[int, np.ndarray]:
        """Flow of the models' targets over their test periods with the weights that are kept.

        Returns
        -------
        dict
            By place: float32 [target, day], mm/day.
        """
        rows, spans = self._weights.clone(), []
        for place, member in members.items():
            rows[place] = torch.from_numpy(self._layout.row(member.course.best))
            inputs = member.inputs
            days = inputs.with_spinup(inputs.test)
            spans.append(Span(place, inputs.target_rows, inputs.target_statics, days, inputs.test))
        found = {}
        for (place, member), scaled in zip(members.items(), self._run(rows, spans), strict=True):
            units = member.inputs.target_flow_units[:, None]
            flow = member.inputs.scaler.unscale_flow(scaled, units)
            found[place] = flow.clip(min=0.0)
        return found

    def _run(self, rows: torch.Tensor, spans: Sequence[Span]) -> list[np.ndarray]:
        return run_spans(
            self._layout, rows, self._batches.tables, self._data, self._alike, spans
        )  # fmt: skip

    def _weights_of(self, rows: torch.Tensor, place: int, member: Member) -> Weights:
        row = rows[place].cpu().numpy()
        return self._layout.weights(row, member.inputs.donor_statics.shape[1])

    def _update(self) -> None:
        """Loss, gradient, clipping, Adam and average of all places, without a word to the host."""
        parameters = {
            name: part.detach().requires_grad_()
            for name, part in self._layout.views(self._weights).items()
        }
        losses = self._batches.losses(parameters, self._update_number, self._dtype)
        # Each loss depends on its own model's parameters only: the gradient of the sum is theirs.
        parts = torch.autograd.grad(losses.sum(), list(parameters.values()))
        gradient = torch.cat([part.reshape(self.size, -1) for part in parts], dim=1)
        norm = torch.linalg.vector_norm(gradient, dim=1)
        gradient *= (self._clip / (norm + CLIP_EPSILON)).clamp(max=1.0)[:, None]
        step, root = self._adam
        self._moment1.lerp_(gradient, 1.0 - BETA_1)
        self._moment2.mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
        self._weights -= step * self._moment1 / (self._moment2.sqrt() / root + ADAM_EPSILON)
        self._average.lerp_(self._weights, self._average_share)
        self._loss_sum += losses.detach()

    def _replay(self) -> None:
        # TF32 would round the one-model LSTM's products to 10 bits, and fp32 was asked for.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if self._graph is None:
                self._record()
            assert self._graph is not None
            self._graph.replay()

    def _record(self) -> None:
        """Record an update, without making one."""
        changed = (
            self._weights, self._average, self._moment1, self._moment2, self._loss_sum
        )  # fmt: skip
        before = [tensor.clone() for tensor in changed]
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPDATES):
                self._update()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        for tensor, values in zip(changed, before, strict=True):
            tensor.copy_(values)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._update()
        self._graph = graph


def layout_of(alike: Alike, widths: Widths) -> Layout:
    """Where the parameters of models of a group lie."""
    floor = 0.0 if alike.softplus else None
    return Layout.of(
        BasinLSTM(alike.forcings, widths.statics, alike.hidden, alike.static_layers, floor)
    )


def bytes_of_model(alike: Alike, widths: Widths) -> int:
    """About what one place takes on the device."""
    basin_days = alike.window * alike.batch
    learned = (alike.window - alike.warmup) * alike.batch
    tables = widths.windows * (8 if alike.sampling == "epochs" else 4)
    # Dropout's random bits, made three copies of at most: 8 bytes for 4 outputs.
    masks = learned * alike.hidden * 7 if alike.dropout else 0
    parameters = 4 * 8 * layout_of(alike, widths).size
    return 4 * NUMBERS_PER_UNIT * basin_days * alike.hidden + tables + masks + parameters


def refuse(inputs: JobInputs) -> None:
    """Refuse what this engine cannot train.

    Raises
    ------
    UserError
        A hidden size that is no multiple of 4, or another architecture than the default one.
    """
    budget, recipe = inputs.job.budget, inputs.job.recipe
    if recipe.architecture != "one_layer":
        raise UserError(
            f"recipe {recipe.name!r}: groups of models have no architecture "
            f"{recipe.architecture!r}: train it on device cpu"
        )
    if budget.hidden % 4:
        raise UserError(
            f"budget {budget.name!r}: on a GPU the hidden size must be a multiple of 4, not "
            f"{budget.hidden}: choose another size or device cpu"
        )
