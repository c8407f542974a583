"""Looking at pages: what Dagster says of runs and assets, waiting for it, and keeping pictures.

`AEF_TEST_PICTURES=docs/pictures` keeps the screenshots that README and docs show.
Not here: starting servers and the browser (conftest.py).
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aef_dagster.storage.home import Home
from aef_dagster_tests.deploy.processes import graphql

PATIENCE_S = 180
UNFINISHED = {"NOT_STARTED", "QUEUED", "STARTING", "STARTED", "MANAGED", "CANCELING"}
RUNS = "{ runsOrError(limit: 20) { ... on Runs { results { runId status } } } }"
LATEST = """query($key: AssetKeyInput!, $partitions: [String!]) { assetOrError(assetKey: $key) {
  ... on Asset { assetMaterializations(partitions: $partitions, limit: 1) { runId
    metadataEntries { label ... on FloatMetadataEntry { floatValue }
      ... on IntMetadataEntry { intValue } ... on UrlMetadataEntry { url }
      ... on PathMetadataEntry { path } } } } } }"""


@dataclass(frozen=True)
class Pages:
    """Addresses of a home's pages, without a slash at the end, and what Dagster says there."""

    dagster: str
    mlflow: str
    home: Home

    def ask(self, query: str, **variables) -> dict:
        """The answer of Dagster's GraphQL, which must hold no error."""
        return graphql(self.dagster, query, variables)

    def ended(self, run: str) -> tuple[str, str]:
        """Whole id and final status of a run of late, found by the beginning of its id."""

        def found() -> tuple[str, str] | None:
            for one in self.ask(RUNS)["runsOrError"]["results"]:
                if one["runId"].startswith(run) and one["status"] not in UNFINISHED:
                    return one["runId"], one["status"]
            return None

        return wait(f"the end of run {run}", found)

    def metadata(self, asset: str, partition: str | None = None) -> dict:
        """Numbers, addresses and paths that an asset's latest materialization came with."""
        chosen = [partition] if partition else None
        answer = self.ask(LATEST, key={"path": [asset]}, partitions=chosen)["assetOrError"]
        (latest,) = answer["assetMaterializations"]
        return {
            entry.pop("label"): next(iter(entry.values()), None)
            for entry in latest["metadataEntries"]
        }


def wait(what: str, happened: Callable[[], object], limit_s: float = PATIENCE_S):
    """What `happened` gives once it is true."""
    deadline = time.monotonic() + limit_s
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.5)
    return found


def at_partition(partition: str | None) -> str:
    """The tab of partitions of an asset's page, one of them chosen."""
    return f"?view=partitions&partition={partition}" if partition else ""


def keep(page, name: str) -> None:
    """A screenshot, where somebody asked for pictures."""
    folder = os.environ.get("AEF_TEST_PICTURES")
    if folder:
        time.sleep(2)  # animations
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")
