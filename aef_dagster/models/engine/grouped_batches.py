"""What an update of a stack of models sees, all of it made on the device.

Here: the data that lie there once for all models, the tables of each model, the losses of a stack.
The counterpart of batches.py, draw for draw.
Not here: the network (grouped_network.py), which model is at which place (groups.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.engine.device_draws import DeviceDraws, limit_of
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.grouped_network import Parameters, forward
from aef_dagster.models.engine.losses import donor_weights
from aef_dagster.models.engine.windows import Windows
from aef_dagster.models.inputs import JobInputs
from aef_dagster.models.scalers import SKEWED, log_sqrt

Tensor = torch.Tensor


class DeviceData:
    """Forcings and flow of all basins, on the device once for all models.

    Parameters
    ----------
    inputs
        Jobs on the same data.
    device
        Where they shall lie.
    memory_limit
        Bytes that they may take; None = what there is.

    Attributes
    ----------
    days
        Days of the record.
    flow
        mm/day, float32 [basin and day].
    forcing
        By whether the skewed ones are logarithms, as `Scaler.scale_forcing` has them: forcings
        before their z-scores, float32 [basin and day, variable]. Only what the jobs ask for.
    size
        Bytes that all this takes.

    Raises
    ------
    UserError
        The memory does not hold them.
    ValueError
        The jobs read different arrays.
    """

    def __init__(
        self, inputs: Sequence[JobInputs], device: torch.device, memory_limit: int | None = None
    ):
        first = inputs[0]
        if any(
            each.forcing is not first.forcing or each.streamflow is not first.streamflow
            for each in inputs
        ):
            raise ValueError("models that train together must read the same arrays")
        wanted = sorted({each.job.recipe.scaling.log_sqrt for each in inputs})
        self.device, self.days = device, first.forcing.shape[1]
        self.size = 4 * (first.streamflow.size + len(wanted) * first.forcing.size)
        try:
            if memory_limit is not None and self.size > memory_limit:
                raise torch.OutOfMemoryError(f"the limit is {memory_limit} bytes")
            self.flow = torch.tensor(first.streamflow, device=device).flatten()
            self.forcing = {
                logarithms: torch.from_numpy(_unscaled_forcing(first, logarithms)).to(device)
                for logarithms in wanted
            }
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"weather and flow of {len(first.streamflow)} basins take {self.size / 2**20:.1f} "
                f"MiB on device {device}, and so much is not free: end what else runs there, "
                "train with fewer basins, or set AEF_DEVICE=cpu"
            ) from error


def _unscaled_forcing(inputs: JobInputs, logarithms: bool) -> NDArray[np.float32]:
    """Forcings of all basins before their z-scores, [basin and day, variable]."""
    values = inputs.forcing.astype(np.float32)
    if logarithms:
        for column, name in enumerate(inputs.scaler.forcing_names):
            if name in SKEWED:
                values[..., column] = log_sqrt(values[..., column])
    return values.reshape(-1, values.shape[-1])


@dataclass(frozen=True)
class Alike:
    """What models must have in common to be a stack: sizes, and the steps of an update.

    All else (donors, periods, seed, learning rate, dropout and so on) is each model's own.
    """

    hidden: int
    batch: int
    window: int
    warmup: int
    forcings: int
    static_layers: tuple[int, ...]
    softplus: bool
    log_sqrt: bool
    sampling: str
    loss: str
    dropout: bool
    static_noise: bool
    weighted: bool

    @classmethod
    def of(cls, inputs: JobInputs) -> "Alike":
        """What a job has in common with others."""
        recipe, budget = inputs.job.recipe, inputs.job.budget
        return cls(
            hidden=budget.hidden,
            batch=budget.batch,
            window=budget.window,
            warmup=recipe.warmup_days(budget.window),
            forcings=len(inputs.scaler.forcing_names),
            # A network that is told nothing about its basins has no such layers: `BasinLSTM`.
            static_layers=recipe.static_layers if inputs.scaler.static_size else (),
            softplus=recipe.softplus,
            log_sqrt=recipe.scaling.log_sqrt,
            sampling=recipe.sampling,
            loss=recipe.loss,
            dropout=recipe.dropout > 0,
            static_noise=recipe.static_noise > 0,
            weighted=bool(inputs.job.donor_weights),
        )


@dataclass(frozen=True)
class Widths:
    """Sizes of the tables of a stack: the largest of all models that may come to it."""

    donors: int
    windows: int
    statics: int

    @classmethod
    def of(cls, inputs: Sequence[JobInputs]) -> "Widths":
        """Sizes that hold each of these jobs."""
        return cls(
            donors=max(len(each.donor_rows) for each in inputs),
            # Donors times days on which a window could begin: at least as many as there are.
            windows=max(len(each.donor_rows) * each.train.stop for each in inputs),
            statics=max(each.donor_statics.shape[1] for each in inputs),
        )


class ModelTables:
    """Each model's scaling, a row of each table per place in the stack.

    Parameters
    ----------
    size
        Places.
    alike
        What the models have in common.
    device
        Where the tables lie.
    """

    def __init__(self, size: int, alike: Alike, device: torch.device):
        self.forcing_mean = torch.zeros(size, 1, 1, alike.forcings, device=device)
        self.forcing_std = torch.ones(size, 1, 1, alike.forcings, device=device)
        self.flow_mean = torch.zeros(size, 1, 1, device=device)
        self.flow_std = torch.ones(size, 1, 1, device=device)
        self.floor = torch.zeros(size, device=device) if alike.softplus else None

    def load(self, place: int, inputs: JobInputs) -> None:
        """Fill the row of a place."""
        scaler = inputs.scaler
        self.forcing_mean[place] = torch.tensor(scaler.forcing_mean)
        self.forcing_std[place] = torch.tensor(scaler.forcing_std)
        self.flow_mean[place], self.flow_std[place] = scaler.flow_mean, scaler.flow_std
        if self.floor is not None:
            self.floor[place] = scaler.no_flow


class GroupBatches:
    """Batches of a stack of models, and their losses.

    Parameters
    ----------
    data
        The data.
    alike, widths
        What the models have in common, and how large their tables are.
    size
        Models in the stack.
    """

    def __init__(self, data: DeviceData, alike: Alike, widths: Widths, size: int):
        device = data.device
        self._data, self._alike, self._device = data, alike, device
        self._draws = DeviceDraws(size, device)
        self.tables = ModelTables(size, alike, device)

        def table(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(size, *shape, dtype=dtype, device=device)

        # Per donor.
        self._row = table(widths.donors)
        self._statics = table(widths.donors, widths.statics, dtype=torch.float32)
        self._unit = table(widths.donors, dtype=torch.float32)
        self._weight = table(widths.donors, dtype=torch.float32)
        # Per donor that has windows.
        self._basin, self._count, self._offset = (table(widths.donors) for _ in range(3))
        # Beyond any draw, so that the search for a basin by its share ends.
        self._shares_up_to = table(widths.donors if alike.weighted else 0, dtype=torch.float64) + 2
        # Per window: its first day and, where windows come in epochs, who is drawn when.
        self._start = table(widths.windows, dtype=torch.int32)
        self._order = table(widths.windows if alike.sampling == "epochs" else 0, dtype=torch.int32)
        # Per model.
        # A place where nobody ever was has one window, so that nothing is divided by 0.
        self._basins, self._windows, self._per_epoch = (table() + 1 for _ in range(3))
        self._own_statics = table()
        self._noise, self._share_kept = (table(dtype=torch.float32) for _ in range(2))
        self._limit = table(dtype=torch.int16)
        self._epochs = [-1] * size

    def load(self, place: int, inputs: JobInputs, windows: Windows) -> None:
        """Put a job at a place of the stack."""
        job, recipe = inputs.job, inputs.job.recipe
        donors, own_statics = inputs.donor_statics.shape
        self._draws.load(place, inputs.random_key)
        self.tables.load(place, inputs)
        self._fill(self._row, place, inputs.donor_rows)
        self._statics[place] = 0.0
        self._statics[place, :donors, :own_statics] = torch.from_numpy(inputs.donor_statics)
        self._fill(self._unit, place, inputs.donor_flow_units)
        # A donor without flow is never drawn, but a row of nobody's may stand for one.
        self._fill(self._weight, place, np.nan_to_num(donor_weights(inputs), nan=0.0))
        self._fill(self._basin, place, windows.basins)
        self._fill(self._count, place, windows.counts)
        # Behind the last one: beyond any window, so that the search for a window's basin ends.
        self._offset[place] = torch.iinfo(torch.int64).max
        self._fill(self._offset, place, windows.offsets)
        if windows.shares_up_to is not None:
            self._shares_up_to[place] = 2.0
            self._fill(self._shares_up_to, place, windows.shares_up_to)
        self._fill(self._start, place, windows.starts)
        self._basins[place], self._windows[place] = windows.basins.size, windows.starts.size
        self._per_epoch[place] = -(-windows.starts.size // job.budget.batch)
        self._own_statics[place] = own_statics
        self._noise[place] = recipe.static_noise
        self._share_kept[place] = 1.0 - recipe.dropout
        self._limit[place] = limit_of(1.0 - recipe.dropout)
        self._epochs[place] = -1

    def begin_epoch(self, place: int, epoch: int, draws: Draws, windows: int) -> None:
        """Lay down the order of an epoch's windows, where it has not been done."""
        if epoch != self._epochs[place]:
            seed = int(draws.bits("epoch", epoch, 1)[0])
            order = np.random.default_rng(seed).permutation(windows)
            self._fill(self._order, place, order)
            self._epochs[place] = epoch

    def losses(self, parameters: Parameters, update: Tensor, dtype: torch.dtype) -> Tensor:
        """Loss of each model's batch of its own update, shape [model].

        Parameters
        ----------
        parameters
            What `Layout.views` gave.
        update
            Each model's update, counted from 0, int64 [model].
        dtype
            Of the LSTM's products.
        """
        alike, data, tables = self._alike, self._data, self.tables
        donors, starts, drawn = self.draw(update)
        first = torch.gather(self._row, 1, donors) * data.days + starts
        day = torch.arange(alike.window, device=self._device)
        position = first[:, None, :] + day[:, None]
        forcing = data.forcing[alike.log_sqrt]
        weather = forcing.index_select(0, position.flatten()).view(*position.shape, -1)
        weather = (weather - tables.forcing_mean) / tables.forcing_std
        observed = data.flow[position[:, alike.warmup :]]
        # Where an epoch's last batch is smaller, what fills it up counts for nothing.
        window = torch.arange(alike.batch, device=self._device)
        observed = observed.masked_fill((window >= drawn[:, None])[:, None], torch.nan)
        scaled = forward(
            parameters,
            weather,
            self._noisy_statics(donors, drawn, update),
            tables.floor,
            alike.warmup,
            self._dropped(drawn, update),
            self._share_kept,
            dtype,
        )
        units = torch.gather(self._unit, 1, donors)[:, None]
        if alike.loss == "rmse":
            return _rmse(scaled, self._scaled_flow(observed, units))
        weights = torch.gather(self._weight, 1, donors)[:, None]
        return _nse(unscaled_flow(scaled, tables, alike, units), observed, weights)

    def draw(self, update: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of each model's update: those of windows.py.

        Returns
        -------
        donors, starts, drawn : Tensor
            Donors and first days, int64 [model, batch], and how many of them are windows of the
            update, int64 [model]: the rest only fill the batch.
        """
        batch = self._alike.batch
        if self._alike.sampling == "epochs":
            first = update % self._per_epoch * batch
            drawn = (self._windows - first).clamp(max=batch)
            position = first[:, None] + torch.arange(batch, device=self._device)
            position = torch.minimum(position, self._windows[:, None] - 1)
            window = torch.gather(self._order, 1, position).long()
            chosen = torch.searchsorted(self._offset, window, right=True) - 1
        else:
            uniform = self._draws.uniform("windows", update, 2 * batch)
            if self._alike.weighted:
                drawn_shares = uniform[:, :batch].contiguous()
                chosen = torch.searchsorted(self._shares_up_to, drawn_shares, right=True)
            else:
                chosen = (uniform[:, :batch] * self._basins[:, None]).long()
            counts = torch.gather(self._count, 1, chosen)
            within = (uniform[:, batch:] * counts).long()
            window = torch.gather(self._offset, 1, chosen) + within
            drawn = torch.full_like(update, batch)
        donors = torch.gather(self._basin, 1, chosen)
        return donors, torch.gather(self._start, 1, window).long(), drawn

    def _noisy_statics(self, donors: Tensor, drawn: Tensor, update: Tensor) -> Tensor:
        index = donors[:, :, None].expand(-1, -1, self._statics.shape[2])
        statics = torch.gather(self._statics, 1, index)
        if self._alike.static_noise:
            shape = (statics.shape[1], statics.shape[2])
            noise = self._draws.normal("statics", update, drawn, self._own_statics, shape)
            statics = statics + self._noise[:, None, None] * noise
        return statics

    def _dropped(self, drawn: Tensor, update: Tensor) -> Tensor | None:
        alike = self._alike
        if not alike.dropout:
            return None
        shape = (alike.window - alike.warmup, alike.batch, alike.hidden)
        return self._draws.dropped("dropout", update, drawn, shape, self._limit)

    def _scaled_flow(self, observed: Tensor, units: Tensor) -> Tensor:
        """`Scaler.scale_flow` of each model."""
        scaled = observed / units
        if self._alike.log_sqrt:
            scaled = torch.log10(torch.sqrt(torch.abs(scaled)) + 0.1)
        return (scaled - self.tables.flow_mean) / self.tables.flow_std

    def _fill(self, table: Tensor, place: int, values: NDArray) -> None:
        table[place, : len(values)] = torch.from_numpy(values).to(table.dtype)


def unscaled_flow(scaled: Tensor, tables: ModelTables, alike: Alike, units: Tensor) -> Tensor:
    """`Scaler.unscale_flow` of each model: mm/day, shapes [model, day, window]."""
    flow = scaled * tables.flow_std + tables.flow_mean
    if alike.log_sqrt:
        flow = (10.0**flow - 0.1).clamp(min=0.0).square()
    return flow * units


def _nse(simulated: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """`masked_nse_loss` of each model."""
    missing = torch.isnan(observed)
    error = (simulated - torch.nan_to_num(observed)).masked_fill(missing, 0.0)
    return (error.square() * weights).sum((1, 2)) / (~missing).sum((1, 2)).clamp(min=1)


def _rmse(simulated: Tensor, observed: Tensor) -> Tensor:
    """`masked_rmse_loss` of each model."""
    missing = torch.isnan(observed)
    error = (simulated - torch.nan_to_num(observed)).masked_fill(missing, 0.0)
    return (error.square().sum((1, 2)) / (~missing).sum((1, 2))).sqrt()
