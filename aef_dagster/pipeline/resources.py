"""Resources: what assets need from outside, each a small typed opener of a plain domain object.

Assets call `dataset.open()`, `warehouse.open()`, ... inside their body: opening is cheap, happens
only where it is used, and a missing folder fails the asset that needs it with its own sentence.

Not here: the objects themselves (basins, embeddings, storage).
Concept: https://docs.dagster.io/guides/build/external-resources
"""

import os
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from aef_dagster.basins.dataset import open_dataset, sample_folder
from aef_dagster.embeddings.sources import EmbeddingSource, SourceSettings, open_source
from aef_dagster.pipeline.liveness import PID_TAG, is_launched
from aef_dagster.settings import Settings
from aef_dagster.storage.home import Home
from aef_dagster.storage.tracking import Tracking, masked
from aef_dagster.storage.warehouse import Warehouse


class HomeResource(dg.ConfigurableResource):
    """The folder of everything made, claimed for one world before first use."""

    root: str
    dataset: str
    sample: str
    forcing: str

    def open(self) -> Home:
        """The home; refuses another dataset's."""
        home = Home(Path(self.root))
        home.claim(world_of(self.dataset, self.sample, self.forcing))
        return home


class WarehouseResource(dg.ConfigurableResource):
    """The DuckDB tables."""

    path: str

    def open(self) -> Warehouse:
        """The warehouse (no connection is held until it is read or written)."""
        return Warehouse(Path(self.path))


class DatasetResource(dg.ConfigurableResource):
    """The published files of the basins."""

    name: str
    data_dir: str | None
    forcing: str
    sample_dir: str
    sample_world: str

    def open(self):
        """The dataset's reader; writes the sample's files first where they are missing."""
        return open_dataset(
            self.name,
            data_dir=Path(self.data_dir) if self.data_dir else None,
            forcing=self.forcing,
            sample_dir=Path(self.sample_dir),
            sample_world=self.sample_world,
        )


class EmbeddingsResource(dg.ConfigurableResource):
    """The active route to AlphaEarth."""

    source: Literal["table", "cog", "earth_engine"]
    tables: str | None
    polygons: str
    scratch: str
    cog_addresses: list[str]
    cog_connections: int
    ee_project: str | None
    # The path of the key; what is in it is read when it is used, and never shown.
    ee_key_file: str | None
    ee_scale: float
    ee_url: str | None

    def open(self) -> EmbeddingSource:
        """The source: which years it has, and one year's vectors."""
        return open_source(
            SourceSettings(
                kind=self.source,
                tables=Path(self.tables) if self.tables else None,
                polygons=Path(self.polygons),
                scratch=Path(self.scratch),
                cog_addresses=tuple(self.cog_addresses),
                cog_connections=self.cog_connections,
                ee_project=self.ee_project,
                ee_key_file=Path(self.ee_key_file) if self.ee_key_file else None,
                ee_scale=self.ee_scale,
                ee_url=self.ee_url,
            )
        )


class TrackingResource(dg.ConfigurableResource):
    """MLflow, behind its outbox."""

    uri: str
    outbox: str
    artifacts: str
    page: str

    def open(self) -> Tracking:
        """The outbox and its client (no connection until something is sent)."""
        return Tracking(self.uri, Path(self.outbox), Path(self.artifacts), self.page)


class PlatformResource(dg.ConfigurableResource):
    """Settings that assets read as plain values."""

    dataset: str
    forcing: str
    device: str
    step_gpus: int
    precision: str
    dagster_url: str
    reference_dir: str | None

    def gpus(self, run: dg.DagsterRun) -> int | None:
        """Most GPUs that a run may train on; None = all that are free.

        A run out of the queue has a slot of the pool `training`, which is one step's share. A
        command has no slot.
        """
        own = run.tags.get(PID_TAG) == str(os.getpid()) and not is_launched(run)
        return None if own else self.step_gpus


def world_of(dataset: str, sample: str, forcing: str) -> dict[str, str]:
    """What a home is bound to; the sample's world counts only where the sample is used."""
    world = {"dataset": dataset, "forcing": forcing}
    return {**world, "sample": sample} if dataset == "sample" else world


def build_resources(settings: Settings) -> dict[str, Any]:
    """All resources, from the settings."""
    home = Home(settings.home)
    is_sample = settings.dataset == "sample"
    sample_root = sample_folder(home.sample, settings.sample)
    embeddings = sample_root / "aef_embeddings" if is_sample else settings.embeddings_dir
    return {
        "home": HomeResource(
            root=str(home.root),
            dataset=settings.dataset,
            sample=settings.sample,
            forcing=settings.forcing,
        ),
        "warehouse": WarehouseResource(path=str(home.warehouse)),
        "dataset": DatasetResource(
            name=settings.dataset,
            data_dir=str(settings.data_dir) if settings.data_dir else None,
            forcing=settings.forcing,
            sample_dir=str(home.sample),
            sample_world=settings.sample,
        ),
        "embeddings": EmbeddingsResource(
            # The sample has tables of its own, whatever the route to the real ones.
            source="table" if is_sample else settings.source,
            tables=str(embeddings) if embeddings else None,
            polygons=str(home.polygons),
            scratch=str(home.scratch),
            cog_addresses=[part.strip() for part in settings.cog_addresses.split(",")],
            cog_connections=settings.cog_connections,
            ee_project=settings.ee_project,
            ee_key_file=str(settings.ee_key_file) if settings.ee_key_file else None,
            ee_scale=settings.ee_scale,
            ee_url=settings.ee_url,
        ),
        "tracking": TrackingResource(
            uri=_without_secret(tracking_uri(settings)),
            outbox=str(home.outbox),
            artifacts=str(home.mlflow_artifacts),
            page=settings.mlflow_url,
        ),
        "platform": PlatformResource(
            dataset=settings.dataset,
            forcing=settings.forcing,
            device=settings.device,
            step_gpus=settings.step_gpus or 1,
            precision=settings.precision,
            dagster_url=settings.dagster_url,
            reference_dir=str(settings.reference_dir) if settings.reference_dir else None,
        ),
    }


def open_tracking(settings: Settings) -> Tracking:
    """MLflow of the settings, outside of a Dagster run."""
    home = Home(settings.home)
    return Tracking(tracking_uri(settings), home.outbox, home.mlflow_artifacts, settings.mlflow_url)


def tracking_uri(settings: Settings) -> str:
    """The MLflow store in force: the setting, or the SQLite file of the home."""
    return settings.tracking_uri or f"sqlite:///{Home(settings.home).mlflow_db}"


def _without_secret(uri: str) -> Any:
    """Resource config is shown in the pages: an address with a password is read at run time."""
    return dg.EnvVar("AEF_TRACKING_URI") if masked(uri) != uri else uri
