"""The code inside a registered bundle: daily weather and descriptors of basins in, mm/day out.

MLflow copies this file into each bundle and runs it when MLflow loads the bundle ("models from
code"), so that nothing is pickled. It needs the package `aef_dagster` beside it. `load_bundle`
(registry.py) runs this file of the package, never the copy.

Here: reading a user's table, and simulating its basins with all the bundle's checkpoints.
Not here: making, registering and loading bundles (bundle.py).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import StaticTable, TrainingData
from aef_dagster.models.inputs import flow_units, refuse_gaps
from aef_dagster.models.jobs import CODE_VERSION, TrainingJob


class Bundle(PythonModel):
    """The trained models of a study, as one that simulates any basin."""

    def load_context(self, context) -> None:
        """Read what the bundle holds.

        Raises
        ------
        UserError
            It was made by training code that simulates otherwise.
        """
        about = json.loads(Path(context.artifacts["about"]).read_text(encoding="utf-8"))
        if about["code_version"] != CODE_VERSION:
            raise UserError(
                f"the bundle {about['title']!r} was made with version {about['code_version']} of "
                f"the training code, and this is {CODE_VERSION}: install the aef_dagster it was "
                "made with, or register a new bundle"
            )
        self._about = about
        root = Path(context.artifacts["checkpoints"])
        self._checkpoints = [Checkpoint.open(root, name) for name in about["checkpoints"]]
        self._jobs = [checkpoint.job() for checkpoint in self._checkpoints]

    def predict(
        self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Simulate the basins of a table, each over the days it has.

        A basin that checkpoints of the bundle were made for is simulated by these (in a study of
        ungauged basins: by those that never saw its flow), any other by all of them; the result
        is their mean.

        Recipes that divide flow by the basin's mean precipitation take that of the training period
        if the table covers it, and of all days given if not: a wet or a dry year alone then gives
        too much or too little flow, in proportion, so give as many years as there are.

        Parameters
        ----------
        model_input
            A row per basin and day, in any order, without gaps: gauge_id, date, the forcings, and
            the static inputs, which are the same on all days of a basin. Units are those of the
            training data. A missing static input (NaN, or "" for a class) is taken for the
            donors' mean.

        Returns
        -------
        DataFrame
            gauge_id, date, sim (mm/day), a row for each row given and in its order. sim is NaN on
            the first days of each basin (`spinup_days` of the bundle), which fill the memory of
            the networks.

        Raises
        ------
        UserError
            A column, a day or a value is missing, a day comes twice, a static input changes, or
            no day is left after the spin-up.
        """
        table = model_input.reset_index(drop=True)
        wanted = ["gauge_id", "date", *self._about["forcings"], *self._statics]
        absent = [name for name in wanted if name not in table.columns]
        if absent:
            raise UserError(
                f"the table lacks {', '.join(absent[:5])} ({len(absent)} columns absent): give "
                "gauge_id, date, all forcings and all static inputs of the bundle"
            )
        if table[["gauge_id", "date"]].isna().any(axis=None):
            raise UserError("a row of the table has no gauge_id or no date: fill or drop it")
        table["date"] = pd.to_datetime(table["date"]).to_numpy("datetime64[D]")
        flow = np.full(len(table), np.nan)
        for gauge_id, days in table.groupby("gauge_id", sort=False):
            days = days.sort_values("date")
            flow[days.index] = self._simulate(str(gauge_id), days)
        return pd.DataFrame(
            {"gauge_id": table["gauge_id"], "date": model_input["date"].to_numpy(), "sim": flow}
        )

    @property
    def _statics(self) -> list[str]:
        return [*self._about["numeric"], *self._about["categories"]]

    def _simulate(self, gauge_id: str, days: pd.DataFrame) -> NDArray[np.float64]:
        """Flow of one basin, mm/day, shape [day]; NaN during the spin-up."""
        spinup = self._about["spinup_days"]
        if len(days) <= spinup:
            raise UserError(
                f"basin {gauge_id}: {len(days)} days are given, and the first {spinup} only fill "
                "the memory of the networks: give earlier days as well"
            )
        data = self._data(gauge_id, days)
        pairs = list(zip(self._checkpoints, self._jobs, strict=True))
        own = [(checkpoint, job) for checkpoint, job in pairs if gauge_id in job.targets]
        flows = [_run(checkpoint, job, data) for checkpoint, job in own or pairs]
        flow = np.mean(flows, axis=0)
        flow[:spinup] = np.nan
        return flow

    def _data(self, gauge_id: str, days: pd.DataFrame) -> TrainingData:
        """One basin as the models' code takes it."""
        dates = days["date"].to_numpy().astype("datetime64[D]")
        steps = np.diff(dates).astype(int)
        if (steps != 1).any():
            at = int(np.argmax(steps != 1))
            fault = "comes twice" if steps[at] == 0 else "is not followed by the next day"
            raise UserError(f"basin {gauge_id}: {dates[at]} {fault}: give each day once")
        statics = days[self._statics]
        changing = [name for name in self._statics if statics[name].nunique(dropna=False) > 1]
        if changing:
            raise UserError(
                f"basin {gauge_id}: {', '.join(changing[:5])} changes from day to day, but a "
                "static input has one value a basin: repeat it on every row"
            )
        names = tuple(self._about["numeric"]), tuple(self._about["categories"])
        classes = [
            "" if pd.isna(value) else str(value) for value in statics[list(names[1])].iloc[0]
        ]
        table = StaticTable(
            (gauge_id,),
            statics[list(names[0])].iloc[:1].to_numpy(np.float32),
            names[0],
            np.array([classes], dtype=np.str_).reshape(1, len(classes)),
            names[1],
        )
        forcings = tuple(self._about["forcings"])
        return TrainingData(
            gauge_ids=(gauge_id,),
            dates=dates,
            forcing_names=forcings,
            forcing=days[list(forcings)].to_numpy(np.float32)[None],
            streamflow=np.full((1, len(dates)), np.nan, dtype=np.float32),
            statics={self._about["representation"]: table},
        )


def _run(checkpoint: Checkpoint, job: TrainingJob, data: TrainingData) -> NDArray[np.float64]:
    """What a checkpoint simulates for the one basin of some data, mm/day, shape [day]."""
    from aef_dagster.models.engine.running import simulate, simulate_windowed
    from aef_dagster.models.simulate import load_networks

    row, span = np.zeros(1, dtype=np.int64), slice(0, len(data.dates))
    refuse_gaps(data, row, span)
    units = _flow_units(job, data, row)
    table = data.representation(job.representation)
    members = []
    for name in checkpoint.members():
        model = Checkpoint.open(checkpoint.root, name)
        scaler = model.scaler()
        basin = data.forcing, row, scaler.scale_statics(table), units
        flows = [
            simulate_windowed(network, scaler, *basin, span, span, job.budget.window)
            if job.recipe.evaluation == "windowed"
            else simulate(network, scaler, *basin, span, span)
            for network in load_networks(model)
        ]
        members.append(np.stack(flows).mean(axis=0, dtype=np.float64)[0])
    return np.stack(members).mean(axis=0)


def _flow_units(
    job: TrainingJob, data: TrainingData, row: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What flow is divided by: of the training period if the data cover it, else of all days."""
    periods = job.periods
    first, last = np.datetime64(periods.train_start, "D"), np.datetime64(periods.train_end, "D")
    if not job.recipe.scaling.flow_by_prcp or (data.dates[0] <= first and last <= data.dates[-1]):
        return flow_units(job, data, row)
    mean = data.forcing[0, :, data.forcing_names.index("prcp")].mean(dtype=np.float64)
    if not mean > 0:
        raise UserError(
            f"basin {data.gauge_ids[0]}: no precipitation on the days given, and the model "
            "divides flow by its mean: give more days"
        )
    return np.array([mean], dtype=np.float32)


set_model(Bundle())
