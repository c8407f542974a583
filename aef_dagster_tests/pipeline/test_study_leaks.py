"""Canaries: one basin's flow is replaced, and nothing that was fitted without it may change.

For each design a model that tests the basin and never learned from it; for the way back, two that
did learn from it. All are trained once before and once after.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from aef_dagster.experiments.asks import RegionalAsk
from aef_dagster.experiments.designs import DESIGNS
from aef_dagster.experiments.sizes import SIZES
from aef_dagster.experiments.study import merged, plan_study
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.fusion import learned_vectors
from aef_dagster.models.jobs import TrainingJob
from aef_dagster.models.recipes import BUDGETS
from aef_dagster.models.statics import static_table
from aef_dagster.models.training import train
from aef_dagster.pipeline.config import TrainingChoice
from aef_dagster.pipeline.inputs import plan_basins, static_frames
from aef_dagster.pipeline.session import Session
from aef_dagster.pipeline.study_inputs import plan_regional, study_basins
from aef_dagster.pipeline.trust_inputs import Held, known_beforehand
from aef_dagster.pipeline.versions import frame_version
from aef_dagster.settings import load_settings

pytestmark = pytest.mark.slow

CANARY = "00902003"
HELD_OUT = sorted(set(DESIGNS) - {"gauged"})
SOFT, FEW = "donors, weighted", "donors, the nearest"
FUSED = "fusion"
LEARNED = ("gauged", "folds, as a donor")
# Made without flow: from outlines, places, weather and satellites.
TABLES = ("attributes", "basin_embedding", "basin_clusters", "similarity", "donors",
          "embedding_stability")  # fmt: skip
MAKERS = ["attributes", "basin_embedding", "basin_clusters", "embedding_stability",
          *(f"{kind}/{space}" for kind in ("similarity", "donors")
            for space in ("attributes", "aef", "distance", "random"))]  # fmt: skip


@dataclass(frozen=True)
class State:
    """The home with one version of the canary's flow: its models, tables and trust features."""

    home: Path
    models: dict[str, Checkpoint]
    tables: dict[str, str]
    features: pd.DataFrame
    fused: np.ndarray

    def fitted(self, name: str) -> dict[str, object]:
        """All that training settled; of the curve all but the clock."""
        folder = self.models[name].folder
        curve = json.loads((folder / "curve.json").read_text())
        return {
            "weights": (folder / "weights.safetensors").read_bytes(),
            "scaler": (folder / "scaler.json").read_bytes(),
            "curve": [{k: v for k, v in row.items() if k != "seconds"} for row in curve],
        }

    def simulated(self, name: str) -> pd.DataFrame:
        """Simulations of all targets, without what was observed."""
        return self.models[name].simulation()[["gauge_id", "date", "sim"]]

    def scores(self, name: str) -> pd.DataFrame:
        """Scores by target."""
        return pd.DataFrame(self.models[name].scores()).set_index("gauge_id")


@pytest.fixture(scope="module")
def states(prepared, tmp_path_factory):
    """Before and after the canary's flow is tripled, raised and turned round in time."""
    home = tmp_path_factory.mktemp("canary") / "var"
    shutil.copytree(prepared, home)
    with pytest.MonkeyPatch.context() as environment:
        for name in load_settings().model_dump():
            environment.setenv(f"AEF_{name.upper()}", "")
        environment.setenv("DAGSTER_HOME", "")
        brief = dataclasses.replace(BUDGETS["toy"], updates=60)
        environment.setitem(BUDGETS, "toy", brief)
        session = Session(load_settings(home=home))
        before = state_of(session)
        path = session.home.streamflow / f"{CANARY}.parquet"
        table = pd.read_parquet(path)
        flow = (table["streamflow"].to_numpy() * 3 + 1)[::-1].astype("float32")
        table.assign(streamflow=flow).to_parquet(path)
        yield before, state_of(session)


def state_of(session: Session) -> State:
    """Materialize what needs no flow, plan, train, look."""
    made = session.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey.from_user_string(name) for name in MAKERS],
        instance=session.instance,
    )
    assert made.success
    store = session.warehouse
    jobs = jobs_of(session)
    models = {name: Checkpoint.open(session.home.checkpoints, job.hash)
              for name, job in jobs.items()}  # fmt: skip
    members = [("folds", 0), ("folds, another seed", 1)]
    rows = pd.concat(
        pd.DataFrame({"gauge_id": jobs[name].targets, "job_hash": jobs[name].hash,
                      "fold": 0, "seed": seed, "n_members": 1})
        for name, seed in members
    )  # fmt: skip
    features = known_beforehand(session.home, store)(Held("regional_models", "folds", rows))
    representation = jobs[FUSED].representation
    told = static_table(representation, [CANARY], **static_frames(store, [representation]))
    return State(
        home=session.home.root,
        models=models,
        tables={name: frame_version(store.frame(f"SELECT * FROM {name}")) for name in TABLES},
        features=features,
        fused=learned_vectors(models[FUSED], told),
    )


def jobs_of(session: Session) -> dict[str, TrainingJob]:
    """One job a design, as the study plans them today; all of them trained."""
    home, store, size = session.home, session.warehouse, SIZES["sample"]
    planned = list(merged(plan_study(study_basins(home, store, "sample"), size)))
    asks = {}
    for design in HELD_OUT:
        told = "attributes17" if design == "climates" else "aef"
        asks[design] = first(planned, design, told)
    asks["folds, another seed"] = dataclasses.replace(asks["folds"], seed=1)
    asks[FUSED] = first(planned, "folds", "attributes+aef")
    asks["gauged"] = first(planned, "gauged", "aef")
    asks["folds, as a donor"] = first(planned, "folds", "aef", tested=False)
    plan = plan_regional(home, store, list(asks.values()), size, "sample", "daymet", "fp32")
    jobs = {name: job for name, (_ask, job) in zip(asks, plan.jobs, strict=True)}
    finish(list(jobs.values()), plan.data, home.checkpoints)
    for name, space in ((SOFT, "soft_aef"), (FEW, "aef")):
        choice = TrainingChoice(space=space, k=4, representation="aef+climate", recipe="strong",
                                budget="toy", seeds=1, workers=None)  # fmt: skip
        basin_plan = plan_basins(home, store, choice, [CANARY], "sample", "daymet", "fp32")
        (jobs[name],) = basin_plan.jobs[CANARY]
        finish([jobs[name]], basin_plan.data, home.checkpoints)
    return jobs


def first(
    planned: list[RegionalAsk], design: str, representation: str, *, tested: bool = True
) -> RegionalAsk:
    """The first planned model of a design that tests the canary, or learns from it."""
    return next(
        ask
        for ask in planned
        if (ask.split.design, ask.representation, ask.recipe) == (design, representation, "strong")
        and CANARY in (ask.split.targets if tested else ask.split.donors)
    )


def finish(jobs, data, checkpoints) -> None:
    failed = [told.error for told in train(jobs, data, checkpoints, device="cpu") if told.error]
    assert not failed


@pytest.mark.parametrize("name", [*HELD_OUT, FUSED, SOFT, FEW])
def test_the_flow_of_a_target_reaches_its_scores_only(states, name):
    before, after = states
    job = after.models[name].job()
    assert CANARY in job.targets
    assert CANARY not in job.donors
    assert before.models[name].hash != after.models[name].hash
    assert before.fitted(name) == after.fitted(name)
    pd.testing.assert_frame_equal(before.simulated(name), after.simulated(name))
    scored = before.scores(name), after.scores(name)
    assert abs(scored[0].loc[CANARY, "nse"] - scored[1].loc[CANARY, "nse"]) > 0.01
    others = [table.drop(CANARY) for table in scored]
    pd.testing.assert_frame_equal(*others)


@pytest.mark.parametrize("name", LEARNED)
def test_the_flow_of_a_donor_reaches_the_weights(states, name):
    """The way back: a canary that nothing can wake would be worth nothing."""
    before, after = states
    assert CANARY in after.models[name].job().donors
    fitted = before.fitted(name), after.fitted(name)
    for part in ("weights", "scaler", "curve"):
        assert fitted[0][part] != fitted[1][part], part
    assert not before.simulated(name)["sim"].equals(after.simulated(name)["sim"])


@pytest.mark.parametrize("table", TABLES)
def test_what_is_made_without_flow_does_not_change(states, table):
    before, after = states
    assert before.tables[table] == after.tables[table]


def test_features_of_trust_and_the_learned_vector_do_not_change(states):
    before, after = states
    assert before.features.loc[CANARY].notna().all()
    pd.testing.assert_frame_equal(before.features, after.features)
    np.testing.assert_array_equal(before.fused, after.fused)
