"""What somebody chose in the Launchpad, remembered for runs that nobody asked for.

Here: choices written into an asset's metadata, and read back by a run that automation started.
Without this a new year would put the defaults in place of a pooling that was chosen on purpose.
Not here: what there is to choose (config.py), when assets refresh (automation.py).
"""

from typing import TypeVar

import dagster as dg

# Name in the metadata.
CHOICES = "choices"
# Dagster's mark of runs that a condition asked for.
AUTOMATIC = "dagster/from_automation_condition"

Config = TypeVar("Config", bound=dg.Config)


def choices_of(config: dg.Config) -> dg.MetadataValue:
    """A config as metadata."""
    return dg.MetadataValue.json(config.model_dump(mode="json"))


def as_last_chosen(context: dg.AssetExecutionContext, config: Config) -> Config:
    """The config to obey: the run's own, or in a run by automation that of the last run before it.

    Parameters
    ----------
    context
        Says which asset, and who asked for the run.
    config
        What the run was given: the defaults where automation asked.
    """
    if AUTOMATIC not in context.run.tags:
        return config
    event = context.instance.get_latest_materialization_event(context.asset_key)
    told = event.asset_materialization if event is not None else None
    kept = told.metadata.get(CHOICES) if told is not None else None
    return type(config)(**kept.value) if kept is not None else config  # type: ignore[arg-type]
