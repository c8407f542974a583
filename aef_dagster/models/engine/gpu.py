"""The GPU engine: trains many models at once, in groups of like ones.

Here: which models are a group, who takes the place of a finished one, and what happens when memory
runs out. It trains what cpu.py trains, with the same random numbers, and its states can be
taken up by either.
Not here: a group's update (groups.py), one model's course (members.py), files and processes.
Numpy and torch only. On a CPU it is right but slow: that is for tests.
"""

import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aef_dagster.errors import UserError
from aef_dagster.models.engine.course import State, Trained
from aef_dagster.models.engine.grouped_batches import Alike, DeviceData, Widths
from aef_dagster.models.engine.grouped_network import DTYPES
from aef_dagster.models.engine.groups import Group, bytes_of_model, refuse
from aef_dagster.models.engine.members import Member
from aef_dagster.models.engine.network import load_arrays
from aef_dagster.models.engine.running import new_network, simulate_targets
from aef_dagster.models.inputs import JobInputs

logger = logging.getLogger(__name__)

# A day is a matrix product per model, and this is more of them than an H100 has multiprocessors.
LARGEST_GROUP = 256
# Of the free memory; the rest is for what an estimate forgets.
SHARE_OF_MEMORY = 0.8

Report = Callable[[int, str, int, int], None]
Keep = Callable[[int, State], None]


@dataclass(frozen=True, eq=False)
class GroupTrained(Trained):
    """What training one job in a group gave.

    Parameters
    ----------
    run
        How: engine, device, precision, the size of the group that finished it, and how often
        groups were halved for want of memory before.
    """

    run: dict[str, Any]


def train_jobs(
    inputs: Sequence[JobInputs],
    device: str,
    report: Report = lambda index, phase, update, updates: None,
    *,
    group: int | None = None,
    precision: str = "fp32",
    unfinished: Mapping[int, State] | None = None,
    keep: Keep | None = None,
    keep_every_s: float = 20.0,
    memory_limit: int | None = None,
) -> Iterator[tuple[int, GroupTrained | UserError]]:
    """Train the models of many jobs, and yield each as it is finished.

    Parameters
    ----------
    inputs
        What `inputs.prepare` made of the jobs, all from the same data.
    device
        "cuda", or "cpu" for tests.
    report
        Called with a job's place in `inputs`, the phase ("train", "validate", "simulate"), the
        updates made so far and those there will be; with "simulate" again while a simulation goes
        on that gives each day a window of its own.
    group
        Models trained at once; by default as many as the memory holds, 256 at most.
    precision
        "fp32", or "bf16": products of the LSTM in training in bfloat16; states, sums, gradients,
        the optimiser, validations and simulations in float32 as ever.
    unfinished
        By place in `inputs`: where an earlier training was left.
    keep
        Takes a job's place in `inputs` and its state now and then.
    keep_every_s
        How often, in seconds. Where memory runs out, what was done since is done again.
    memory_limit
        Bytes of the device's memory that data and models may take; by default what is free.

    Yields
    ------
    tuple
        A job's place in `inputs`, and what training gave, or why that job alone failed.

    Raises
    ------
    UserError
        There is no such device or precision, the device has no products of that precision, or its
        memory does not hold the data and one model.
    """
    if precision not in DTYPES:
        raise UserError(f"unknown precision {precision!r}: choose one of {', '.join(DTYPES)}")
    if group is not None and group < 1:
        raise UserError(f"a group needs at least one model, not {group}")
    found = usable_device(device)
    if precision == "bf16":
        refuse_without_bf16(found)
    return _Training(
        inputs, found, report, group, precision, dict(unfinished or {}), keep, keep_every_s,
        memory_limit,
    ).results()  # fmt: skip


def usable_device(name: str) -> torch.device:
    """The device of a name.

    Raises
    ------
    UserError
        It is not known, or there is none.
    """
    device = torch.device(name) if name in ("cpu", "cuda") else None
    if device is None:
        raise UserError(f"unknown device {name!r}: choose cuda or cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "no GPU is found" if torch.version.cuda else "this PyTorch is built without CUDA"
        raise UserError(
            f"device cuda: {built}; set AEF_DEVICE=cpu, or install a PyTorch for this machine's GPU"
        )
    return device


def refuse_without_bf16(device: torch.device) -> None:
    """Raise a UserError where a GPU only imitates products of bfloat16, slowly."""
    # A CPU imitates them too, but there this engine is for tests.
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            "precision bf16: this GPU has no products of bfloat16, it would be slower than fp32; "
            "set AEF_PRECISION=fp32"
        )


class _Training:
    """A call of `train_jobs`; its arguments, checked."""

    def __init__(
        self,
        inputs: Sequence[JobInputs],
        device: torch.device,
        report: Report,
        group: int | None,
        precision: str,
        states: dict[int, State],
        keep: Keep | None,
        keep_every_s: float,
        memory_limit: int | None,
    ):
        self._inputs, self._device, self._report = inputs, device, report
        self._group, self._precision, self._memory_limit = group, precision, memory_limit
        self._states, self._keep, self._keep_every_s = states, keep, keep_every_s
        self._halved = 0

    def results(self) -> Iterator[tuple[int, GroupTrained | UserError]]:
        """Jobs that are alike together, one set of them after another."""
        groups: dict[Alike, list[int]] = {}
        for index, inputs in enumerate(self._inputs):
            try:
                refuse(inputs)
                groups.setdefault(Alike.of(inputs), []).append(index)
            except UserError as error:
                yield index, error
        if groups:
            data = DeviceData(self._inputs, self._device, self._memory_limit)
            if self._memory_limit is not None:
                self._memory_limit -= data.size
            for alike, indices in groups.items():
                yield from self._train_alike(data, alike, indices)

    def _train_alike(
        self, data: DeviceData, alike: Alike, indices: list[int]
    ) -> Iterator[tuple[int, GroupTrained | UserError]]:
        """Groups of like jobs, each smaller than the one before, until all are trained."""
        widths = Widths.of([self._inputs[index] for index in indices])
        waiting = deque(indices)
        size = min(len(waiting), self._group or self._size_that_fits(alike, widths))
        while waiting:
            size = min(size, len(waiting))
            short_of_memory = ""
            try:
                yield from self._train_group(data, alike, widths, size, waiting)
            except torch.OutOfMemoryError as error:
                short_of_memory = str(error).strip().splitlines()[0]
            if short_of_memory:
                # Out of the handler: until it ends, the error holds on to the group's memory.
                size = self._halve(size, short_of_memory)

    def _train_group(
        self, data: DeviceData, alike: Alike, widths: Widths, size: int, waiting: deque[int]
    ) -> Iterator[tuple[int, GroupTrained | UserError]]:
        """Train what waits, each finished model's place going to the next.

        Where the group breaks off, those in it wait again, first of all, with the states that were
        kept: when memory runs out, or when nobody waits and half of the places are empty.
        """
        members: dict[int, Member] = {}
        try:
            group = Group(
                data, alike, widths, size, self._precision, self._memory_limit
            )  # fmt: skip
            kept = time.monotonic()
            while True:
                yield from self._fill_places(group, members, waiting)
                done = {place: m for place, m in members.items() if m.course.finished}
                if done:
                    if any(m.inputs.job.recipe.evaluation == "windowed" for m in done.values()):
                        # What comes now takes minutes, and the others wait for it.
                        self._keep_states(group, members)
                        kept = time.monotonic()
                    results = self._finish(group, done)
                    for place in done:
                        del members[place]
                    yield from results
                    continue
                if not waiting and len(members) <= size // 2:
                    self._keep_states(group, members)
                    return
                group.step(members)
                for member in members.values():
                    self._report(member.index, "train", member.course.update, member.course.updates)
                yield from self._validate(group, members)
                if time.monotonic() - kept >= self._keep_every_s:
                    self._keep_states(group, members)
                    kept = time.monotonic()
        finally:
            for member in reversed(members.values()):
                waiting.appendleft(member.index)

    def _fill_places(
        self, group: Group, members: dict[int, Member], waiting: deque[int]
    ) -> Iterator[tuple[int, UserError]]:
        """Give empty places to those who wait; yields those that cannot be trained."""
        for place in range(group.size):
            while waiting and place not in members:
                index = waiting.popleft()
                try:
                    member = Member(index, self._inputs[index], self._states.get(index))
                except UserError as error:
                    yield index, error
                    continue
                members[place] = member
                group.load(place, member)

    def _validate(
        self, group: Group, members: dict[int, Member]
    ) -> Iterator[tuple[int, UserError]]:
        """Judge who is due; yields those that diverged, whose places are empty then."""
        due = {place: m for place, m in members.items() if m.course.validation_is_due}
        if not due:
            return
        for member in due.values():
            self._report(member.index, "validate", member.course.update, member.course.updates)
        for place, error in group.validate(due).items():
            yield members.pop(place).index, error

    def _finish(
        self, group: Group, done: dict[int, Member]
    ) -> list[tuple[int, GroupTrained | UserError]]:
        results: list[tuple[int, GroupTrained | UserError]] = []
        for member in done.values():
            self._report(member.index, "simulate", member.course.update, member.course.updates)
        flows = group.simulate(
            {
                place: m
                for place, m in done.items()
                if m.course.best_update > 0 and m.inputs.job.recipe.evaluation == "streaming"
            }
        )
        run = {
            "engine": "gpu",
            "device": str(self._device),
            "precision": self._precision,
            "group": group.size,
            "halved": self._halved,
        }
        for place, member in done.items():
            self._states.pop(member.index, None)
            try:
                member.course.refuse_if_diverged()
            except UserError as error:
                results.append((member.index, error))
                continue
            flow = flows[place] if place in flows else self._simulate_on_cpu(member)
            course = member.course
            trained = GroupTrained(
                course.best, course.curve, course.update, course.best_update, course.seconds, flow,
                member.windows.basins_left_out, run,
            )  # fmt: skip
            results.append((member.index, trained))
        return results

    def _simulate_on_cpu(self, member: Member) -> np.ndarray:
        """Flow of a model's targets, a window a day: rare, and left to the CPU."""
        inputs, course = member.inputs, member.course
        network = new_network(inputs.scaler, inputs.job.recipe, inputs.job.budget.hidden)
        load_arrays(network, course.best)

        def report(done: int, days: int) -> None:
            self._report(member.index, "simulate", course.update, course.updates)

        return simulate_targets(network, inputs, report)

    def _keep_states(self, group: Group, members: dict[int, Member]) -> None:
        for place, numbers in group.numbers(members).items():
            member = members[place]
            state = member.keep(numbers)
            self._states[member.index] = state
            if self._keep is not None:
                self._keep(member.index, state)

    def _size_that_fits(self, alike: Alike, widths: Widths) -> int:
        memory = self._memory_limit
        if memory is None and self._device.type == "cuda":
            memory = int(SHARE_OF_MEMORY * torch.cuda.mem_get_info(self._device)[0])
        if memory is None:
            return LARGEST_GROUP
        return max(1, min(LARGEST_GROUP, memory // bytes_of_model(alike, widths)))

    def _halve(self, size: int, reason: str) -> int:
        if size == 1:
            raise UserError(
                f"the memory of device {self._device} does not hold one model of this budget "
                f"({reason}): choose a smaller batch, window or hidden size, or device cpu"
            )
        self._halved += 1
        logger.warning(
            "out of memory with %d models at once, going on with %d: %s", size, size // 2, reason
        )
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return size // 2
