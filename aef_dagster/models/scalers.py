"""Scaling of forcings, flow and static inputs, fitted on a job's donors and learnt days only.

Here: the statistics of one job, their use, and their JSON, which travels with the checkpoint.
Not here: choosing donors and periods (jobs.py), reading arrays (data.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.data import StaticTable
from aef_dagster.models.recipes import Scaling

# What `Scaling.log_sqrt` applies to: what falls or leaves in bursts, besides flow.
SKEWED = ("prcp", "pet")
# A class that no donor has, and a missing one, as a number.
NO_CLASS = -1

Numbers = TypeVar("Numbers", NDArray, Any)  # an array, or a tensor of torch

# A spread this small beside the values themselves is rounding of float32, not information.
ROUNDING = 1e-6


@dataclass(frozen=True)
class DonorStatistics:
    """What a job's scaler needs of one donor: hundreds of jobs share it, so it is found once.

    Parameters
    ----------
    forcing
        Days, mean and variance of each transformed variable.
    flow
        The same of the observed flow in its unit, transformed; None without any.
    flow_std
        Of the observed flow, mm/day; None without any.
    """

    forcing: tuple
    flow: tuple | None
    flow_std: float | None

    @classmethod
    def of(
        cls,
        scaling: Scaling,
        names: tuple[str, ...],
        forcing: NDArray[np.float32],
        flow: NDArray[np.float32],
        unit: np.float32,
    ) -> Self:
        """Of series over the training period, as `Scaler.fit` takes them."""
        weather = _transformed(forcing, names, scaling)
        known = (len(weather), weather.mean(0, np.float64), _variance(weather))
        flow = flow[np.isfinite(flow)]
        if not flow.size:
            return cls(known, None, None)
        scaled = log_sqrt(flow / unit) if scaling.log_sqrt else flow / unit
        observed = (flow.size, scaled.mean(dtype=np.float64), _variance(scaled))
        return cls(known, observed, float(np.sqrt(_variance(flow))))


@dataclass(frozen=True)
class Scaler:
    """Statistics of one job.

    Parameters
    ----------
    scaling
        The recipe's choices.
    forcing_names, forcing_mean, forcing_std
        Per variable, over all donors and training days. A constant variable has std 1.
    flow_mean, flow_std
        Over all observed training days of all donors: the scale of the network's output. In
        mm/day, unless the scaling divides by precipitation or takes logarithms first.
    donor_flow_std
        Per donor, mm/day: its weight in the loss. Donors without flow are absent.
    static_names, static_mean, static_std
        Per numeric static input, and class number, over donors. std 0 = constant among donors: the
        input is 0.
    categories
        Per categorical input the classes that occur among donors.

    Notes
    -----
    Scaled static inputs are cut off at plus and minus `scaling.static_limit`: no donor of a hundred
    lies beyond it but an outlier, so there the network knows nothing and, made of linear pieces,
    would extrapolate without bound; a target unlike its donors should get the answer of the edge.
    """

    scaling: Scaling
    forcing_names: tuple[str, ...]
    forcing_mean: tuple[float, ...]
    forcing_std: tuple[float, ...]
    flow_mean: float
    flow_std: float
    donor_flow_std: dict[str, float]
    static_names: tuple[str, ...]
    static_mean: tuple[float, ...]
    static_std: tuple[float, ...]
    categories: dict[str, tuple[str, ...]]

    @classmethod
    def fit(
        cls,
        scaling: Scaling,
        donors: tuple[str, ...],
        forcing_names: tuple[str, ...],
        forcing: Iterable[NDArray[np.float32]],
        streamflow: Iterable[NDArray[np.float32]],
        flow_units: NDArray[np.float32],
        statics: StaticTable,
    ) -> Self:
        """Statistics of donors over the training period.

        Parameters
        ----------
        scaling
            The recipe's choices.
        donors
            Gauge ids.
        forcing_names
            Names of the forcing variables.
        forcing
            Per donor an array [training day, variable], complete.
        streamflow
            Per donor an array [training day], mm/day; NaN = missing.
        flow_units
            Per donor what its flow is divided by, mm/day.
        statics
            Static inputs of the donors, in their order.

        Raises
        ------
        UserError
            No donor has flow in the training period.
        """
        names = tuple(forcing_names)
        described = [
            DonorStatistics.of(scaling, names, *series)
            for series in zip(forcing, streamflow, flow_units, strict=True)
        ]
        return cls.pooled(scaling, donors, names, described, statics)

    @classmethod
    def pooled(
        cls,
        scaling: Scaling,
        donors: tuple[str, ...],
        names: tuple[str, ...],
        described: Sequence[DonorStatistics],
        statics: StaticTable,
    ) -> Self:
        """As `fit`, from the statistics of each donor alone.

        Raises
        ------
        UserError
            No donor has flow in the training period.
        """
        mean, std = _pooled([each.forcing for each in described])
        observed = [each.flow for each in described if each.flow is not None]
        flow_std = {
            gauge_id: each.flow_std
            for gauge_id, each in zip(donors, described, strict=True)
            if each.flow_std is not None
        }
        if not observed:
            raise UserError(
                f"none of the {len(donors)} donors has observed flow in the training period: "
                "choose other donors or another period"
            )
        flow_mean, flow_scale = _pooled(observed)
        categories = {
            name: tuple(sorted({str(value) for value in statics.categories[:, i]} - {""}))
            for i, name in enumerate(statics.category_names)
        }
        numbers, static_names = statics.numeric, statics.numeric_names
        if not scaling.one_hot:
            numbers = np.concatenate([numbers, _class_numbers(statics, categories)], axis=1)
            static_names = (*static_names, *statics.category_names)
        static_mean, static_std = _static_statistics(numbers)
        return cls(
            scaling=scaling,
            forcing_names=names,
            forcing_mean=tuple(mean.tolist()),
            forcing_std=tuple(_divisor(std, scaling.smallest_std).tolist()),
            flow_mean=float(flow_mean),
            flow_std=float(_divisor(flow_scale, scaling.smallest_std)),
            donor_flow_std=flow_std,
            static_names=static_names,
            static_mean=tuple(static_mean.tolist()),
            static_std=tuple(static_std.tolist()),
            categories=categories,
        )

    @property
    def static_size(self) -> int:
        """Number of static inputs as the network takes them."""
        columns = len(self.static_names)
        if self.scaling.one_hot:
            columns += sum(len(classes) for classes in self.categories.values())
        return columns

    @property
    def no_flow(self) -> float:
        """The scaled value of a flow of 0."""
        nothing = float(log_sqrt(np.zeros(1))[0]) if self.scaling.log_sqrt else 0.0
        return (nothing - self.flow_mean) / self.flow_std

    def scale_forcing(self, forcing: NDArray[np.float32]) -> NDArray[np.float32]:
        """Z-scores of forcings, shape [..., variable] in and out."""
        mean = np.array(self.forcing_mean, dtype=np.float32)
        std = np.array(self.forcing_std, dtype=np.float32)
        return (_transformed(forcing, self.forcing_names, self.scaling) - mean) / std

    def scale_flow(
        self, flow: NDArray[np.float32], units: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Flow as the network gives it.

        Parameters
        ----------
        flow
            mm/day, the basin on the last axis; NaN = missing.
        units
            What each basin's flow is divided by, mm/day.
        """
        scaled = flow / units
        if self.scaling.log_sqrt:
            scaled = log_sqrt(scaled)
        return ((scaled - self.flow_mean) / self.flow_std).astype(np.float32)

    def unscale_flow(self, scaled: Numbers, units: Numbers) -> Numbers:
        """Flow in mm/day from what the network gave, of an array or of a tensor.

        The inverse of `scale_flow`. Where logarithms were taken it is never negative: below the
        scaled value of no flow the square would rise again, so it is cut off there. Without them
        it may be negative.
        """
        flow = scaled * self.flow_std + self.flow_mean
        if self.scaling.log_sqrt:
            flow = (10.0**flow - 0.1).clip(min=0.0) ** 2
        return flow * units

    def scale_statics(self, table: StaticTable) -> NDArray[np.float32]:
        """Static inputs of any basins as the network takes them.

        Parameters
        ----------
        table
            Unscaled, with the columns that the scaler was fitted on.

        Returns
        -------
        ndarray
            float32, shape [basin, static_size]: z-scores, then one column per donors' class, or
            z-scores of class numbers. Missing numbers are 0, the donors' mean; a class that no
            donor has is 0 everywhere, or the number -1.
        """
        names = table.numeric_names
        if not self.scaling.one_hot:
            names = (*names, *table.category_names)
        if (names, table.category_names) != (self.static_names, tuple(self.categories)):
            raise ValueError("the static table has other columns than the scaler was fitted on")
        numbers = table.numeric
        if not self.scaling.one_hot:
            numbers = np.concatenate([numbers, _class_numbers(table, self.categories)], axis=1)
        std, smallest = np.array(self.static_std), self.scaling.smallest_std
        # What is constant among donors tells nothing: 0 for any basin, unless the study's rule
        # for small numbers is wanted.
        used = _divisor(std, smallest) if smallest > 0 else np.where(std > 0, std, np.inf)
        scaled = np.nan_to_num((numbers - np.array(self.static_mean)) / used, nan=0.0)
        limit = self.scaling.static_limit
        if limit is not None:
            scaled = np.clip(scaled, -limit, limit)
        if not self.scaling.one_hot:
            return scaled.astype(np.float32)
        codes = [
            table.categories[:, i, None] == np.array(classes, dtype=np.str_)
            for i, classes in enumerate(self.categories.values())
            if classes
        ]
        return np.concatenate([scaled, *codes], axis=1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain values that `json` can write; floats survive unchanged."""
        # Field by field: `asdict` copies each of a thousand numbers by itself.
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return told | {"scaling": asdict(self.scaling), "categories": dict(self.categories)}

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> Self:
        """The scaler again, from what `to_json` gave."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in described.items()
        }
        values["categories"] = {k: tuple(v) for k, v in described["categories"].items()}
        values["scaling"] = Scaling(**described["scaling"])
        return cls(**values)


def log_sqrt(values: NDArray) -> NDArray:
    """log10(sqrt(x) + 0.1): what torchhydro does to what is skewed like rain."""
    return np.log10(np.sqrt(np.abs(values)) + 0.1)


def _transformed(
    forcing: NDArray[np.float32], names: tuple[str, ...], scaling: Scaling
) -> NDArray[np.float32]:
    """Forcings before their z-scores, shape [..., variable]."""
    if not scaling.log_sqrt:
        return forcing
    forcing = forcing.copy()
    for column, name in enumerate(names):
        if name in SKEWED:
            forcing[..., column] = log_sqrt(forcing[..., column])
    return forcing


def _class_numbers(table: StaticTable, categories: dict[str, tuple[str, ...]]) -> NDArray:
    """Each class's place in the alphabet of the donors' classes, shape [basin, category]."""
    numbers = np.full(table.categories.shape, NO_CLASS, dtype=np.float32)
    for column, classes in enumerate(categories.values()):
        for number, name in enumerate(classes):
            numbers[table.categories[:, column] == name, column] = number
    return numbers


def _divisor(std: NDArray, smallest: float) -> NDArray:
    """A standard deviation to divide by: 1 where it is 0, or smaller than wanted."""
    return np.where((std > 0) & (std >= smallest), std, 1.0)


def _variance(values: NDArray[np.float32]) -> NDArray[np.float64]:
    # By range first: the variance of a constant in floating point is not always 0.
    varies = values.max(0) > values.min(0)
    return np.where(varies, values.var(0, dtype=np.float64), 0.0)


def _pooled(parts: list[tuple]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the union, from (count, mean, variance) of each part."""
    counts = np.array([count for count, _, _ in parts], dtype=np.float64)
    means = np.array([mean for _, mean, _ in parts])
    variances = np.array([variance for _, _, variance in parts])
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(0)
    return mean, np.sqrt((weights * (variances + (means - mean) ** 2)).sum(0))


def _static_statistics(numeric: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation per column over the donors that have a value."""
    known = np.isfinite(numeric)
    count = np.maximum(known.sum(0), 1)
    values = np.where(known, numeric, 0.0).astype(np.float64)
    mean = values.sum(0) / count
    std = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(0) / count)
    return mean, np.where(std > ROUNDING * np.abs(values).max(0, initial=0.0), std, 0.0)
