"""Scaling of forcings, flow and static inputs, fitted on a job's donors and training period only.

Here: the statistics of one job, their use, and their JSON, which travels with the checkpoint.
Not here: choosing donors and periods (jobs.py), reading arrays (data.py).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.data import StaticTable

# A spread this small beside the values themselves is rounding of float32, not information.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Scaler:
    """Statistics of one job.

    Parameters
    ----------
    forcing_names, forcing_mean, forcing_std
        Per variable, over all donors and training days. A constant variable has std 1.
    flow_mean, flow_std
        Over all observed training days of all donors, mm/day: the scale of the network's output.
    donor_flow_std
        Per donor, mm/day: its weight in the loss. Donors without flow are absent.
    static_names, static_mean, static_std
        Per numeric static input, over donors. std 0 = constant among donors: the input is 0.
    categories
        Per categorical input the classes that occur among donors.
    static_limit
        Scaled static inputs are cut off at plus and minus this. No donor of a hundred lies beyond
        it but an outlier, so there the network knows nothing and, made of linear pieces, would
        extrapolate without bound; a target unlike its donors should get the answer of the edge.
    """

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
    static_limit: float

    @classmethod
    def fit(
        cls,
        donors: tuple[str, ...],
        forcing_names: tuple[str, ...],
        forcing: Iterable[NDArray[np.float32]],
        streamflow: Iterable[NDArray[np.float32]],
        statics: StaticTable,
        static_limit: float,
    ) -> Self:
        """Statistics of donors over the training period.

        Parameters
        ----------
        donors
            Gauge ids.
        forcing_names
            Names of the forcing variables.
        forcing
            Per donor an array [training day, variable], complete.
        streamflow
            Per donor an array [training day], mm/day; NaN = missing.
        statics
            Static inputs of the donors, in their order.
        static_limit
            See the class.

        Raises
        ------
        UserError
            No donor has flow in the training period.
        """
        mean, std = _pooled([(len(f), f.mean(0, np.float64), _variance(f)) for f in forcing])
        flow_std, observed = {}, []
        for gauge_id, flow in zip(donors, streamflow, strict=True):
            flow = flow[np.isfinite(flow)]
            if flow.size:
                variance = _variance(flow)
                flow_std[gauge_id] = float(np.sqrt(variance))
                observed.append((flow.size, flow.mean(dtype=np.float64), variance))
        if not observed:
            raise UserError(
                f"none of the {len(donors)} donors has observed flow in the training period: "
                "choose other donors or another period"
            )
        flow_mean, flow_scale = _pooled(observed)
        static_mean, static_std = _static_statistics(statics.numeric)
        return cls(
            forcing_names=tuple(forcing_names),
            forcing_mean=tuple(mean.tolist()),
            forcing_std=tuple(np.where(std > 0, std, 1.0).tolist()),
            flow_mean=float(flow_mean),
            flow_std=float(flow_scale) if flow_scale > 0 else 1.0,
            donor_flow_std=flow_std,
            static_names=statics.numeric_names,
            static_mean=tuple(static_mean.tolist()),
            static_std=tuple(static_std.tolist()),
            categories={
                name: tuple(sorted({str(value) for value in statics.categories[:, i]} - {""}))
                for i, name in enumerate(statics.category_names)
            },
            static_limit=static_limit,
        )

    @property
    def static_size(self) -> int:
        """Number of static inputs after one-hot coding."""
        return len(self.static_names) + sum(len(classes) for classes in self.categories.values())

    def scale_forcing(self, forcing: NDArray[np.float32]) -> NDArray[np.float32]:
        """Z-scores of forcings, shape [..., variable] in and out."""
        mean = np.array(self.forcing_mean, dtype=np.float32)
        std = np.array(self.forcing_std, dtype=np.float32)
        return (forcing - mean) / std

    def scale_statics(self, table: StaticTable) -> NDArray[np.float32]:
        """Static inputs of any basins as the network takes them.

        Parameters
        ----------
        table
            Unscaled, with the columns that the scaler was fitted on.

        Returns
        -------
        ndarray
            float32, shape [basin, static_size]: z-scores, then one column per donors' class.
            Missing numbers are 0, the donors' mean; a class that no donor has is 0 everywhere.
        """
        if (table.numeric_names, table.category_names) != (
            self.static_names,
            tuple(self.categories),
        ):
            raise ValueError("the static table has other columns than the scaler was fitted on")
        std = np.array(self.static_std)
        used = np.where(std > 0, std, np.inf)
        scaled = (table.numeric - np.array(self.static_mean)) / used
        scaled = np.clip(np.nan_to_num(scaled, nan=0.0), -self.static_limit, self.static_limit)
        codes = [
            table.categories[:, i, None] == np.array(classes, dtype=np.str_)
            for i, classes in enumerate(self.categories.values())
            if classes
        ]
        return np.concatenate([scaled, *codes], axis=1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain values that `json` can write; floats survive unchanged."""
        return asdict(self)

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> Self:
        """The scaler again, from what `to_json` gave."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in described.items()
        }
        values["categories"] = {k: tuple(v) for k, v in described["categories"].items()}
        return cls(**values)


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
