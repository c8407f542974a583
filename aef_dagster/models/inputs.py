"""What one job sees of the data: its donors, its targets, its spans of days, its scaler.

Here: the step from (job, data) to the arrays an engine trains on; every check that needs both.
Not here: engines. All of them start from `prepare`, so nothing can leak in one and not in another.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.data import TrainingData
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.scalers import DonorStatistics, Scaler


@dataclass(frozen=True, eq=False)
class JobInputs:
    """Arrays and positions of one job, for one of its networks.

    Series stay unscaled and whole, as they lie in the shared file: scaling a batch costs less
    than a scaled copy per process would in memory.

    Parameters
    ----------
    job, scaler
        The job and the statistics of its donors.
    forcing, streamflow
        Those of the data: float32 [basin, date, variable] and [basin, date].
    donor_rows, target_rows
        Rows of the job's donors and targets in these arrays.
    donor_statics, target_statics
        Scaled static inputs, float32 [donor or target, static].
    donor_flow_units, target_flow_units
        What flow is divided by before it is scaled, float32 [donor or target], mm/day: 1, or mean
        precipitation of the training period, as the recipe wants.
    first
        Position of the first day with weather of all the job's basins: nothing earlier is used,
        whatever other basins lie beside them.
    train, valid, test
        Positions of the three periods; `train` reaches to the end of `valid` where the recipe
        learns from the validation years.
    network
        Which of the model's networks, counted from 0. It alone tells them apart.
    """

    job: TrainingJob
    scaler: Scaler
    forcing: NDArray[np.float32]
    streamflow: NDArray[np.float32]
    donor_rows: NDArray[np.int64]
    target_rows: NDArray[np.int64]
    donor_statics: NDArray[np.float32]
    target_statics: NDArray[np.float32]
    donor_flow_units: NDArray[np.float32]
    target_flow_units: NDArray[np.float32]
    first: int
    train: slice
    valid: slice
    test: slice
    network: int = 0

    @property
    def random_key(self) -> int:
        """Seed of all that is random in the training of this network."""
        return self.job.random_key(self.network)

    def of_networks(self) -> list[Self]:
        """The same for each of the model's networks."""
        return [replace(self, network=number) for number in range(self.job.budget.networks)]

    def with_spinup(self, days: slice) -> slice:
        """A span lengthened by the days before it that fill the network's memory.

        Where the record begins later than that, by as many as there are.
        """
        return self.before(days, self.job.recipe.spinup_days + 1)

    def before(self, days: slice, window: int) -> slice:
        """A span lengthened so that its first day is the last of a window of so many days.

        Where the record begins later than that, by as many days as there are.
        """
        return slice(max(self.first, days.start - window + 1), days.stop)


def prepare(job: TrainingJob, data: TrainingData) -> JobInputs:
    """Find a job's basins and days, fit its scaler, scale its static inputs.

    Raises
    ------
    UserError
        A basin, a day, a static table or a forcing value is missing, or no donor has flow.
    """
    donors, targets = data.rows(job.donors), data.rows(job.targets)
    periods, table = job.periods, data.representation(job.representation)
    recipe = job.recipe
    train = data.span(periods.train_start, job.learned_until)
    test = data.span(periods.test_start, periods.test_end)
    basins = np.union1d(donors, targets)
    # Not beyond the training period: a basin whose record begins later has a gap, and is named.
    first = min(max(first_day(data, row) for row in basins), train.start)
    earliest = train.start - recipe.warmup_days(job.budget.window)
    refuse_gaps(data, basins, slice(max(first, earliest), test.stop))
    units = [flow_units(job, data, rows) for rows in (donors, targets)]
    scaler = donors_scaler(job, data)
    return JobInputs(
        job=job,
        scaler=scaler,
        forcing=data.forcing,
        streamflow=data.streamflow,
        donor_rows=donors,
        target_rows=targets,
        donor_statics=scaler.scale_statics(table.take(donors)),
        target_statics=scaler.scale_statics(table.take(targets)),
        donor_flow_units=units[0],
        target_flow_units=units[1],
        first=first,
        train=train,
        valid=data.span(periods.valid_start, periods.valid_end),
        test=test,
    )


def flow_units(
    job: TrainingJob, data: TrainingData, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What a job divides the flow of some basins by, mm/day, shape [row].

    Mean precipitation comes from weather alone, so a river without a gauge has it as well.

    Raises
    ------
    UserError
        It is wanted, and the data have no precipitation, or none has fallen.
    """
    if not job.recipe.scaling.flow_by_prcp:
        return np.ones(len(rows), dtype=np.float32)
    if "prcp" not in data.forcing_names:
        raise UserError(
            f"recipe {job.recipe.name!r} divides flow by precipitation, and there is no forcing "
            "prcp: take another recipe"
        )
    column = data.forcing_names.index("prcp")
    days = data.span(job.periods.train_start, job.periods.train_end)
    units = np.array([data.forcing[row, days, column].mean(dtype=np.float64) for row in rows])
    if np.isnan(units).any():
        gap = data.gauge_ids[rows[int(np.argmax(np.isnan(units)))]]
        raise UserError(
            f"basin {gap}: precipitation is missing on a day from {job.periods.train_start} to "
            f"{job.periods.train_end}, and recipe {job.recipe.name!r} divides flow by its mean: "
            "fill the gap or take another recipe"
        )
    if not (units > 0).all():
        dry = data.gauge_ids[rows[int(np.argmin(units > 0))]]
        raise UserError(
            f"basin {dry}: no precipitation in the training period, and recipe "
            f"{job.recipe.name!r} divides flow by it: take another recipe or leave the basin out"
        )
    return units.astype(np.float32)


def donors_scaler(job: TrainingJob, data: TrainingData) -> Scaler:
    """The scaler of a job, from its donors and the days it learns from alone.

    Raises
    ------
    UserError
        As `flow_units`; or no donor has flow.
    """
    donors, scaling = data.rows(job.donors), job.recipe.scaling
    train = data.span(job.periods.train_start, job.learned_until)
    described = []
    for row, unit in zip(donors.tolist(), flow_units(job, data, donors), strict=True):
        key = (scaling, train.start, train.stop, row, float(unit))
        if key not in data.found:
            series = data.forcing[row, train], data.streamflow[row, train]
            data.found[key] = DonorStatistics.of(scaling, data.forcing_names, *series, unit)
        described.append(data.found[key])
    table = data.representation(job.representation).take(donors)
    return Scaler.pooled(scaling, job.donors, data.forcing_names, described, table)


def first_day(data: TrainingData, row: int) -> int:
    """Position of a basin's first day with all forcings; 0 without any (`refuse_gaps` says so)."""
    key = ("first", int(row))
    if key not in data.found:
        data.found[key] = int(np.argmax(np.isfinite(data.forcing[row]).all(axis=1)))
    return data.found[key]


def refuse_gaps(data: TrainingData, rows: NDArray[np.int64], days: slice) -> None:
    """Stop at the first missing forcing value of some rows and days, naming basin and date."""
    for row in rows:
        missing = ~np.isfinite(data.forcing[row, days])
        if missing.any():
            day, variable = np.argwhere(missing)[0]
            raise UserError(
                f"basin {data.gauge_ids[row]}: forcing {data.forcing_names[variable]} is missing "
                f"on {data.dates[days][day]} ({int(missing.any(1).sum())} days in all); an LSTM "
                "needs every day: fill the gap or leave the basin out"
            )
