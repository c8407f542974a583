"""Partitions: one key per basin, one per AlphaEarth year.

Both are known without a database: basins from the dataset's own list (static), years from the
calendar (the running year closes itself in January). Settings such as space, k or seed are config,
not partitions: 671 basins x 4 spaces x 7 k would be a grid nobody can read.

Not here: asset logic. Concept: https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

from aef_dagster.basins.dataset import basin_ids
from aef_dagster.settings import Settings

FIRST_AEF_YEAR = "2017"

aef_years = dg.TimeWindowPartitionsDefinition(
    start=FIRST_AEF_YEAR, fmt="%Y", cron_schedule="0 0 1 1 *"
)


def basin_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """Partition keys are gauge ids; none where the dataset's list is not found.

    An empty set still loads, so that the page opens and `basins` can say what is missing.
    """
    return dg.StaticPartitionsDefinition(list(basin_ids(settings.dataset, settings.data_dir)))
