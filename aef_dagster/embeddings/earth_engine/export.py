"""Full resolution by batch export: Earth Engine writes a table of its own in the background.

Here: starting the tasks of a year and asking how far they are.
Not here: fetching what they wrote. It lies in a Cloud Storage bucket as CSV; copied from there to
AEF_EMBEDDINGS_DIR, it is read by the `table` route.

A basin of 25,000 km2 has 250 million pixels of 10 m: too many for the five minutes of a direct
answer, none for a task. Tasks run about two at a time in a project.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.earth_engine import request
from aef_dagster.embeddings.earth_engine.outlines import bounds, in_batches
from aef_dagster.embeddings.earth_engine.source import EarthEngineSource, dataset_version

# At about 50 bytes a vertex, 5 MB of the 10 MB that a request may have.
TASK_VERTICES = 100_000
SELECTORS = (
    *("gauge_id", "year", *BANDS),
    *("valid_fraction", "pixel_count", "dataset_version", "resolution_m"),
)


@dataclass(frozen=True)
class ExportTask:
    """A task that Earth Engine has taken on.

    Parameters
    ----------
    id
        Its name at Earth Engine.
    state
        "READY", "RUNNING", "COMPLETED", "FAILED", "CANCELLED".
    file
        Address of the CSV that it writes; there once it is completed.
    basins
        How many basins it has.
    """

    id: str
    state: str
    file: str
    basins: int


def export_year(
    source: EarthEngineSource,
    year: int,
    gauge_ids: Sequence[str],
    *,
    bucket: str,
    folder: str = "alphaearth",
) -> list[ExportTask]:
    """Start the export of a year at the source's scale, to Cloud Storage.

    Parameters
    ----------
    source
        Where, who and at which scale.
    year
        The year.
    gauge_ids
        Basins wanted, padded to 8 digits; those without a valid pixel get no row.
    bucket
        A Cloud Storage bucket that the account may write to.
    folder
        Folder in it.

    Returns
    -------
    list of ExportTask
        As many as the outlines need. Their files together are the year.

    Raises
    ------
    UserError
        The year has no images, or Earth Engine refuses.
    """
    import ee

    outlines = source.outlines(gauge_ids)
    tasks = []
    with source.connected():
        version = dataset_version(source.described(year, bounds(outlines)))
        facts = {"year": year, "dataset_version": version, "resolution_m": source.scale_m}
        for number, batch in enumerate(in_batches(outlines, TASK_VERTICES), start=1):
            means = request.basin_means(year, batch, source.scale_m)
            # The table route takes no row without a vector.
            rows = means.filter(ee.Filter.notNull([BANDS[0]])).map(lambda basin: basin.set(facts))
            name = f"BasinEmbeddings_{year}_{source.scale_m:g}m_{number}"
            task = ee.batch.Export.table.toCloudStorage(
                rows,
                description=name,
                bucket=bucket,
                fileNamePrefix=f"{folder}/{name}",
                fileFormat="CSV",
                selectors=list(SELECTORS),
            )
            task.start()
            address = f"gs://{bucket}/{folder}/{name}.csv"
            tasks.append(ExportTask(str(task.id), str(task.status()["state"]), address, len(batch)))
    return tasks


def export_state(source: EarthEngineSource, task: ExportTask) -> ExportTask:
    """The task as it stands now.

    Raises
    ------
    UserError
        Earth Engine does not know it, or refuses.
    """
    from dataclasses import replace

    import ee

    with source.connected():
        state = ee.data.getTaskStatus(task.id)[0]["state"]
    return replace(task, state=str(state))
