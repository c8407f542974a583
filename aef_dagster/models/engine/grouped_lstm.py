"""An LSTM over days for a stack of models, each with its own weights, forward and backward.

Here: the arithmetic of the recurrence, written out, and the rule by which autograd calls it.
Not here: the layers before and after it (grouped_network.py).

`nn.LSTM` takes one model. A batched product takes a stack of small matrices and fills a GPU with
them, where one model of 64 to 256 units leaves most of it idle. The products that do not wait for
the day before (inputs, weight gradients) are one for all days; each day then costs a product
[window, hidden] x [hidden, 4 hidden] per model, and one pass for gates and states.

All arrays are [model, day, window, unit]: a day of a stack is a stack of matrices as it lies, and
so is the whole span. Gates are in torch's order: input, forget, cell, output.
"""

from typing import Any

import torch

from aef_dagster.models.engine.kernels import one_kernel

Tensor = torch.Tensor


class GroupedLSTM(torch.autograd.Function):
    """One LSTM layer per model, from an empty memory.

    `GroupedLSTM.apply(inputs, input_weight, recurrent_weight, bias, skip, dtype)`:

    Parameters
    ----------
    inputs
        Shape [model, day, window, input].
    input_weight, recurrent_weight, bias
        Shapes [model, 4 hidden, input], [model, 4 hidden, hidden] and [model, 4 hidden]; torch's
        two biases added up.
    skip
        Days at the start whose states nobody needs.
    dtype
        Of what is multiplied and kept for the way back: that of the inputs, or bfloat16. Sums,
        cell states and gradients of weights have the dtype of the inputs in either case.

    Returns
    -------
    Tensor
        Hidden states in the dtype of the inputs, shape [model, day - skip, window, hidden].
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        skip: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """See the class."""
        models, days, windows, _ = inputs.shape
        empty = inputs.new_zeros(models, windows, recurrent_weight.shape[2])
        inputs, input_weight, recurrent_weight = (
            each.to(dtype) for each in (inputs, input_weight, recurrent_weight)
        )
        from_inputs = input_products(inputs, input_weight, bias)
        gates, hidden, cells = run_days(from_inputs, recurrent_weight, empty, empty)
        states = torch.stack(hidden, dim=1)
        ctx.save_for_backward(inputs, input_weight, recurrent_weight, states, *gates, *cells)
        ctx.skip = skip
        return states[:, skip + 1 :].to(bias.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients from the last day to the first, then those of the weights for all days."""
        inputs, input_weight, recurrent_weight, states, *by_day = ctx.saved_tensors
        (gradient,) = gradients
        days, skip = inputs.shape[1], ctx.skip
        gates, cells = by_day[:days], by_day[days:]
        backward_one = one_kernel(day_backward, inputs.device.type)
        nothing = torch.zeros_like(cells[0])
        of_hidden, of_cell, of_gates = nothing, nothing, []
        for day in reversed(range(days)):
            given = gradient[:, day - skip] if day >= skip else nothing
            of_gate, of_cell = backward_one(
                given, of_hidden, of_cell, gates[day], cells[day], cells[day + 1]
            )
            of_hidden = product(of_gate, recurrent_weight)
            of_gates.append(of_gate)
        flat = torch.stack(of_gates[::-1], dim=1).flatten(1, 2)
        # A span's states of the day before: as it lies, but for the last day of each model.
        before = states[:, :days].flatten(1, 2)
        return (
            product(flat, input_weight).view(*inputs.shape),
            product(flat.mT, inputs.flatten(1, 2)),
            product(flat.mT, before),
            flat.sum(1, dtype=cells[0].dtype),
            None,
            None,
        )


def input_products(inputs: Tensor, input_weight: Tensor, bias: Tensor) -> Tensor:
    """What inputs and bias give to the gates of all days, [model, day, window, 4 hidden]."""
    models, days, windows, size = inputs.shape
    products = torch.baddbmm(
        bias[:, None].to(inputs.dtype), inputs.reshape(models, -1, size), input_weight.mT
    )
    return products.view(models, days, windows, -1)


def run_days(
    from_inputs: Tensor, recurrent_weight: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The recurrence over a span of days.

    Parameters
    ----------
    from_inputs
        What `input_products` gave.
    recurrent_weight
        Shape [model, 4 hidden, hidden].
    hidden, cell
        States before the first day, shape [model, window, hidden].

    Returns
    -------
    gates, hidden, cells : list of Tensor
        Gates of each day, [model, window, 4 hidden]; states before the first day and after each,
        [model, window, hidden]. Cell states have the dtype of `cell`, the others that of
        `from_inputs`.
    """
    forward_one = one_kernel(day_forward, from_inputs.device.type)
    transposed = recurrent_weight.mT
    gates, states, cells = [], [hidden.to(from_inputs.dtype)], [cell]
    for day in range(from_inputs.shape[1]):
        recurrent = product(states[-1], transposed)
        gate, cell, hidden = forward_one(recurrent, from_inputs[:, day], cell)
        gates.append(gate)
        states.append(hidden)
        cells.append(cell)
    return gates, states, cells


def product(left: Tensor, right: Tensor) -> Tensor:
    """Products of two stacks of matrices, summed and given in float32 where they are bfloat16."""
    if left.dtype != torch.bfloat16:
        return torch.bmm(left, right)
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def day_forward(
    recurrent: Tensor, from_input: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates, new cell state and new hidden state of a day."""
    enter, forget, candidate, leave = (from_input + recurrent).chunk(4, dim=-1)
    enter, forget, leave = torch.sigmoid(enter), torch.sigmoid(forget), torch.sigmoid(leave)
    candidate = torch.tanh(candidate)
    new_cell = forget * cell + enter * candidate
    hidden = leave * torch.tanh(new_cell)
    gates = torch.cat([enter, forget, candidate, leave], dim=-1)
    return gates.to(from_input.dtype), new_cell, hidden.to(from_input.dtype)


def day_backward(
    given: Tensor, of_hidden: Tensor, of_cell: Tensor, gates: Tensor, cell: Tensor, new_cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of what went into the gates of a day, and of the cell state before it.

    From those of the hidden state, as the loss gave it and as the next day did.
    """
    of_hidden = of_hidden + given
    enter, forget, candidate, leave = gates.to(cell.dtype).chunk(4, dim=-1)
    bounded = torch.tanh(new_cell)
    through = of_cell + of_hidden * leave * (1.0 - bounded.square())
    of_gates = torch.cat(
        [
            through * candidate * enter * (1.0 - enter),
            through * cell * forget * (1.0 - forget),
            through * enter * (1.0 - candidate.square()),
            of_hidden * bounded * leave * (1.0 - leave),
        ],
        dim=-1,
    )
    return of_gates.to(gates.dtype), through * forget
