"""What a home needs before anything runs: is it there, and if not, where must it go.

Here: looking, without making anything. Not here: printing (cli.py).
"""

from collections.abc import Iterator
from typing import NamedTuple

from aef_dagster.basins.dataset import SAMPLE_FORCING, open_dataset
from aef_dagster.errors import UserError
from aef_dagster.pipeline.alert_channels import NotSentError, Summary, open_channels
from aef_dagster.pipeline.build import build_defs
from aef_dagster.pipeline.instance import missing_variables
from aef_dagster.pipeline.resources import build_resources
from aef_dagster.settings import Settings
from aef_dagster.storage.home import Home

OK, MISSING, LATER = "ok", "MISSING", "later"
NOBODY = "nobody: set AEF_ALERT_WEBHOOK, or AEF_ALERT_EMAIL_TO and AEF_ALERT_SMTP"


class Finding(NamedTuple):
    """One thing that is needed: its state, and where it is or what to do."""

    what: str
    state: str
    told: str


def examine(settings: Settings) -> list[Finding]:
    """Everything that the settings in force need."""
    return [*_dataset(settings), *_embeddings(settings), *_running(settings)]


def try_channels(settings: Settings) -> list[str]:
    """Send a test message by every way that failures are told; what took it.

    Raises
    ------
    UserError
        No way is set, or one of them did not take it.
    """
    channels = open_channels(settings)
    if not channels:
        raise UserError(f"failures are told to {NOBODY}")
    test = Summary(
        "aef: a test message",
        f"`aef doctor --alert` was called for {settings.home}. Failures will be told here.",
        {"kind": "test"},
    )
    refused = []
    for channel in channels:
        try:
            channel.send(test)
        except NotSentError as error:
            refused.append(f"{channel.name}: {error}")
    if refused:
        raise UserError("; ".join(refused))
    return [channel.name for channel in channels]


def _dataset(settings: Settings) -> Iterator[Finding]:
    try:
        if settings.dataset == "sample" and settings.forcing == SAMPLE_FORCING:
            yield Finding("sample", OK, "made up on first use; nothing to download")
            return
        reader = open_dataset(
            settings.dataset, data_dir=settings.data_dir, forcing=settings.forcing,
            sample_dir=Home(settings.home).sample,
        )  # fmt: skip
        for item in reader.layout():
            place = f"{item.path}" + (f" ({item.hint})" if item.hint else "")
            yield Finding(item.what, OK if item.found else MISSING, place)
    except UserError as error:
        yield Finding("basins", MISSING, str(error))


def _embeddings(settings: Settings) -> Iterator[Finding]:
    if settings.source == "earth_engine" and not Home(settings.home).polygons.exists():
        later = "asked once `aef prepare` has read the basins, whose outlines it needs"
        yield Finding("embeddings by earth_engine", LATER, later)
    elif settings.dataset != "sample":
        try:
            years = build_resources(settings)["embeddings"].open().years()
        except UserError as error:
            yield Finding("embeddings", MISSING, str(error))
            return
        told = f"years {', '.join(map(str, years))}" if years else "a finished mean"
        if settings.source == "table":
            stand_in = "surrogate" in str(settings.embeddings_dir).lower()
            told += "; a stand-in (surrogate), not AlphaEarth" if stand_in else ""
            told = f"{settings.embeddings_dir}: {told}"
        yield Finding(f"embeddings by {settings.source}", OK, told)


def _running(settings: Settings) -> Iterator[Finding]:
    missing = missing_variables(settings)
    if missing:
        told = f"AEF_DAGSTER_STORAGE=postgres needs {', '.join(missing)} in the environment"
        yield Finding("Dagster's history", MISSING, told)
    try:
        build_defs(settings)
        if settings.executor == "ray":
            from aef_dagster.pipeline.executors.on_ray import reach

            reach(settings.ray_address)
        yield Finding(f"executor {settings.executor}", OK, "")
    except UserError as error:
        yield Finding(f"executor {settings.executor}", MISSING, str(error))
    ways = [channel.name for channel in open_channels(settings)]
    told = f"{' and '.join(ways)}; `aef doctor --alert` sends a test message" if ways else NOBODY
    yield Finding("failures are told to", OK if ways else "-", told)
