"""Partitions: one key per basin, one per AlphaEarth year, one per design and representation.

All are known without a database: basins from the dataset's own list (static), years from the
calendar (the running year closes itself in January), designs from the study's plans. Settings
such as space, k or seed are config, not partitions: 671 basins x 4 spaces x 7 k would be a grid
nobody can read.

A run of many keys takes neighbours, so their order decides what a run costs. Designs are ordered so
that groups of equal count cost alike (`even_order`). Basins stay in the order of their ids: a model
of a basin makes the fixed number of updates of its budget, whatever the basin.

Not here: asset logic. Concept: https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

from aef_dagster.basins.dataset import basin_ids
from aef_dagster.errors import UserError
from aef_dagster.experiments.study import regional_keys
from aef_dagster.settings import Settings

FIRST_AEF_YEAR = "2017"

aef_years = dg.TimeWindowPartitionsDefinition(
    start=FIRST_AEF_YEAR, fmt="%Y", cron_schedule="0 0 1 1 *"
)


def asked_partitions(context: dg.AssetExecutionContext, named: list[str]) -> list[str]:
    """Keys a run is for: its partitions, or those named in its config.

    Config can name any keys for one run; Dagster itself can ask for one or for a range.

    Raises
    ------
    UserError
        Both are given and differ, a key is no partition, or neither is given.
    """
    partitions = context.assets_def.partitions_def
    of_run = list(context.partition_keys) if context.has_partition_key_range else []
    if context.has_partition_key:
        of_run = [context.partition_key]
    if of_run and named and set(of_run) != set(named):
        raise UserError(
            f"the run was asked for {_some(of_run)}, but its config names {_some(named)}: leave "
            "one of them out"
        )
    keys = named or of_run
    unknown = set(keys).difference(partitions.get_partition_keys() if partitions else ())
    if unknown or not keys:
        raise UserError(
            f"{_some(sorted(unknown))} is no partition of this asset"
            if unknown
            else "nothing was asked for: choose partitions, or name them in the config"
        )
    return keys


def basin_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """Partition keys are gauge ids; none where the dataset's list is not found.

    An empty set still loads, so that the page opens and `basins` can say what is missing.
    """
    return dg.StaticPartitionsDefinition(list(basin_ids(settings.dataset, settings.data_dir)))


def regional_partitions() -> dg.StaticPartitionsDefinition:
    """Partition keys `design/representation`, for all that a study of any size asks for.

    In an order whose groups of equal count cost alike.
    """
    return dg.StaticPartitionsDefinition(list(regional_keys()))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
