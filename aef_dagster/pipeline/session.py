"""What the `aef` commands do, as calls: one session is one home, its instance, its definitions.

Here: the order in which assets are materialized for a person at a terminal, and the tables they
want to see afterwards. Not here: printing (cli.py), assets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg
import pandas as pd

from aef_dagster.basins.dataset import SAMPLE_FORCING, basin_ids
from aef_dagster.errors import UserError
from aef_dagster.experiments.donor_scaling import FUSED, require_donors
from aef_dagster.experiments.donor_scaling import NAME as DONORS
from aef_dagster.experiments.reading import Reading
from aef_dagster.experiments.readings_folder import load_reading
from aef_dagster.experiments.sizes import Size
from aef_dagster.experiments.study import chosen, merged, plan_study
from aef_dagster.experiments.trust import NAME as TRUST
from aef_dagster.models.requests import asking_moment
from aef_dagster.pipeline.build import build_defs
from aef_dagster.pipeline.config import TrainingConfig
from aef_dagster.pipeline.instance import (
    bury_dead_runs,
    materialize,
    open_pools,
    quiet_dagster,
    render_instance,
)
from aef_dagster.pipeline.mending import read_mended, terminal
from aef_dagster.pipeline.partitions import aef_years
from aef_dagster.pipeline.regional_training import study_key
from aef_dagster.pipeline.resources import build_resources, open_tracking, world_of
from aef_dagster.pipeline.scores import asked_since, trained_hashes
from aef_dagster.pipeline.servers import led_to_open_pages, warn_of_open_passwords
from aef_dagster.pipeline.study_inputs import study_basins
from aef_dagster.settings import Settings
from aef_dagster.similarity.donors import unknown_basin
from aef_dagster.similarity.spaces import SPACES
from aef_dagster.storage.home import Home
from aef_dagster.storage.registry import CHAMPION, REGISTERED, champion_tags
from aef_dagster.storage.tables import marks
from aef_dagster.storage.tracking import Drained, Tracking
from aef_dagster.storage.warehouse import Warehouse

BASIN_ASSETS = ("basins", "forcings", "streamflow", "attributes")
FUSED_KEY = f"folds/{FUSED}"


@dataclass(frozen=True)
class StudyRun:
    """What a study found, and what it cost: models asked for, and those of them there before."""

    readings: list[Reading]
    page: Path
    bundle: str
    jobs: int
    reused: int
    marks: tuple[str, ...]


class Session:
    """One home in use by one command.

    Parameters
    ----------
    settings
        Settings in force; exported to the environment, for worker processes.
    """

    def __init__(self, settings: Settings):
        settings = led_to_open_pages(settings)
        self.settings = settings
        self.home = Home(settings.home)
        self._require_dataset()
        self.home.claim(world_of(settings.dataset, settings.sample, settings.forcing))
        settings.export()
        warn_of_open_passwords(settings)
        render_instance(settings)
        quiet_dagster()

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """The home's Dagster instance; opening it marks dead runs and gives pools their slots."""
        instance = dg.DagsterInstance.get()
        bury_dead_runs(instance)
        open_pools(instance, self.settings)
        return instance

    @cached_property
    def definitions(self) -> dg.Definitions:
        """The code location, as the UI loads it."""
        return build_defs(self.settings)

    @cached_property
    def warehouse(self) -> Warehouse:
        """The home's tables."""
        return Warehouse(self.home.warehouse)

    @cached_property
    def tracking(self) -> Tracking:
        """MLflow, behind its outbox."""
        return open_tracking(self.settings)

    @property
    def basins(self) -> tuple[str, ...]:
        """Gauge ids of the dataset."""
        return basin_ids(self.settings.dataset, self.settings.data_dir)

    def prepare(self) -> pd.DataFrame:
        """Everything up to donors, with all years that the source has; a table of what is there."""
        # A table that is not there is told at once. The sample's are written with its basins, and
        # what Earth Engine has depends on where these are.
        if self.settings.dataset != "sample" and self.settings.source == "table":
            self._source().years()
        self._run(BASIN_ASSETS)
        source = self._source()
        # The running year has no partition yet: its layer cannot be finished.
        finished = aef_years.get_partition_keys()
        years = [year for year in source.years() if str(year) in finished]
        if years:
            self._run(["aef_embeddings"], {"aef_embeddings": {"years": years}})
        pairs = [f"{kind}/{space}" for space in SPACES for kind in ("similarity", "donors")]
        self._run(["basin_embedding", *pairs])
        return self.contents()

    def train(self, gauge_ids: Sequence[str], config: TrainingConfig) -> pd.DataFrame:
        """Train basins, then score everything trained; the scores of these basins.

        Parameters
        ----------
        gauge_ids
            Targets, padded or not.
        config
            What to train; its `basins` are replaced by the targets.

        Raises
        ------
        UserError
            An unknown basin, k larger than the set, or a basin that failed (the others are kept).
        """
        targets = self.known(gauge_ids)
        choice = config.resolve(self.settings.dataset)
        if choice.k > len(self.basins) - 1:
            raise UserError(
                f"k = {choice.k} donors asked for, but the dataset has {len(self.basins)} basins: "
                f"choose k from 1 to {len(self.basins) - 1}"
            )
        self._require_prepared(choice.space)
        values = config.model_dump(exclude_none=True) | {"basins": targets}
        values = {name: getattr(value, "value", value) for name, value in values.items()}
        failure = None
        try:
            self._run(["basin_models"], {"basin_models": values})
        except UserError as error:
            failure = error
        self._run(["basin_scores"])
        if failure is not None:
            raise failure
        return self.scores(targets, choice)

    def study(self, size: Size, only: Sequence[str], on_step: Callable[[str], None]) -> StudyRun:
        """Train what the study of a size asks for, read it, and write the report.

        What is done is reused, so a study that was stopped goes on.

        Parameters
        ----------
        size
            How large it is.
        only
            Names of experiments; empty = all.
        on_step
            Told, in a few words, what comes next.

        Raises
        ------
        UserError
            An unknown experiment, nothing is prepared, or a training or a reading failed (the
            others are kept).
        """
        chosen(only)
        self._require_prepared("aef")
        on_step("clusters of basins")
        self._run(["basin_clusters"])
        resources = build_resources(self.settings)
        reference = resources["platform"].reference_dir
        basins = read_mended(
            lambda: study_basins(self.home, self.warehouse, self.settings.dataset, reference),
            self.home, resources["dataset"], terminal,
        )  # fmt: skip
        plans = plan_study(basins, size, only)
        if DONORS in plans:
            require_donors(basins, size)  # now, not after hours of training
        before = trained_hashes(self.home.checkpoints)
        asked_at = asking_moment(self.home.checkpoints)
        study = {"size": size.name}
        keys = sorted({ask.partition for plan in plans.values() for ask in plan.regional})
        on_step(f"{len(merged(plans))} regional models, in {len(keys)} designs and representations")
        self._run(["regional_models"], {"regional_models": {
            **study, "experiments": list(plans), "partitions": keys}})  # fmt: skip
        self._run(["regional_scores"])
        donors = [ask for plan in plans.values() for ask in plan.donors]
        if FUSED_KEY in keys:
            self._run(["similarity/fusion", "donors/fusion"],
                      {"similarity__fusion": {"budget": size.budget}})  # fmt: skip
        for ask in donors:
            on_step(f"donor models: {len(ask.targets)} targets, {ask.space}, k = {ask.k}")
            self._run(["basin_models"], {"basin_models": {
                "basins": list(ask.targets), "space": ask.space, "k": ask.k,
                "representation": ask.representation, "budget": size.budget, "seeds": ask.seeds,
                "study": study_key(size.name, ask.experiment)}})  # fmt: skip
        if donors:
            self._run(["basin_scores"])
        if not self.warehouse.count("embedding_stability"):
            self._run(["embedding_stability"])
        names = [name for name in plans if not only or name in only]
        self.read(names, size, on_step)
        on_step("trust, and the report")
        self._run(["trust"], {"trust": study})
        self._run(["study_report"], {"study_report": study})
        bundle = ""
        if any(key.startswith("folds/") for key in keys):
            on_step("the bundle of trained models")
            self._run(["study_bundle"], {"study_bundle": study})
            told = champion_tags(self.tracking.uri) or {}
            bundle = f"models:/{REGISTERED}@{CHAMPION} in MLflow, version {told.get('version')}"
        asked = asked_since(self.home.checkpoints, asked_at)
        folder = self.home.study / size.name
        return StudyRun(
            readings=[load_reading(folder / name) for name in (*names, TRUST)],
            page=self.home.report(size.name),
            bundle=bundle,
            jobs=len(asked),
            reused=len(asked & before),
            marks=tuple(name for name, yes in marks(self.warehouse, "aef").items() if yes),
        )

    def read(self, names: Sequence[str], size: Size, on_step: Callable[[str], None]) -> None:
        """Read experiments whose models are trained; one that fails does not stop the next.

        Parameters
        ----------
        names
            Names of experiments.
        size
            Of the study.
        on_step
            As of `study`.

        Raises
        ------
        UserError
            Some failed: which, and why. The others are kept.
        """
        failed = []
        for name in names:
            on_step(f"reading {name}")
            try:
                self._run([name], {name: {"size": size.name}})
            except UserError as error:  # which begins with the name
                failed.append(str(error))
        if failed:
            raise UserError(
                f"{len(failed)} of {len(names)} readings failed, the others are kept; "
                "mend the cause and run the same study again:\n" + "\n".join(failed)
            )

    def scores(self, targets: Sequence[str], choice) -> pd.DataFrame:
        """Scores in force of some basins under one choice: ensembles where there are seeds."""
        table = self.warehouse.frame(
            "SELECT * FROM scores LEFT JOIN (SELECT gauge_id, name FROM basins) USING (gauge_id) "
            "WHERE asset = 'basin_models' AND current AND space = ? AND k = ? "
            "AND representation = ? AND recipe = ? AND budget = ? AND n_members = ? "
            "AND (n_members > 1 OR seed = 0)",
            [choice.space, choice.k, choice.representation, choice.recipe, choice.budget,
             choice.seeds],
        )  # fmt: skip
        latest = table.set_index("gauge_id")
        return latest.loc[[target for target in targets if target in latest.index]].reset_index()

    def contents(self) -> pd.DataFrame:
        """What the home holds: place, rows."""
        tables = ("basins", "attributes", "aef_embeddings", "basin_embedding", "similarity",
                  "donors", "scores")  # fmt: skip
        rows = [(f"warehouse: {table}", f"{self.warehouse.count(table):,} rows")
                for table in tables]  # fmt: skip
        for name, folder in (
            ("forcings", self.home.forcings),
            ("streamflow", self.home.streamflow),
        ):
            rows.append((f"lake: {name}", f"{len(list(folder.glob('*.parquet'))):,} basins"))
        return pd.DataFrame(rows, columns=["what", "there"])

    def sync(self) -> Drained:
        """Send what waits in the outbox."""
        return self.tracking.drain()

    def known(self, gauge_ids: Sequence[str]) -> list[str]:
        """Gauge ids padded to 8 digits, each once, in the order given.

        Raises
        ------
        UserError
            One of them is not in the dataset.
        """
        padded = list(dict.fromkeys(gauge_id.zfill(8) for gauge_id in gauge_ids))
        for gauge_id in padded:
            if gauge_id not in self.basins:
                raise unknown_basin(gauge_id, self.basins)
        return padded

    def _require_dataset(self) -> None:
        """Refuse settings without data before the home is bound to them."""
        settings = self.settings
        if settings.dataset == "sample" and settings.forcing != SAMPLE_FORCING:
            raise UserError(
                f"the sample has the forcing {SAMPLE_FORCING} only: set AEF_FORCING="
                f"{SAMPLE_FORCING}, or AEF_DATASET=camels_us for real basins"
            )
        if not self.basins:
            where = f"in AEF_DATA_DIR={settings.data_dir}" if settings.data_dir else (
                "anywhere: AEF_DATA_DIR is not set"
            )  # fmt: skip
            raise UserError(
                f"no basins: camels_name.txt was not found {where}; `aef doctor` says what must go "
                "where"
            )

    def _run(self, selection, config: dict | None = None) -> None:
        materialize(
            self.definitions, self.instance, selection, config=config, tags={"aef/command": "cli"}
        )

    def _require_prepared(self, space: str) -> None:
        if not self.warehouse.count("donors"):
            raise UserError(f"no donors in {self.home.root} yet; run `aef prepare` first")

    def _source(self):
        return build_resources(self.settings)["embeddings"].open()
