"""The commands `aef embeddings ...`: what a source has, downloads, exports, NDVI then and now.

Here: arguments and words. Not here: the routes (embeddings/), storing years (`aef prepare`, or the
asset `aef_embeddings`).
"""

from pathlib import Path
from typing import Annotated

import typer

from aef_dagster.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    help="AlphaEarth embeddings: what the source has, the published table, exports of Earth "
    "Engine. Which source is used is the setting AEF_SOURCE; docs/embeddings.md compares them.",
)


@app.command()
def years() -> None:
    """Ask the source which years it has, and say which of them are stored here."""
    from aef_dagster.settings import load_settings
    from aef_dagster.storage.home import Home
    from aef_dagster.storage.warehouse import Warehouse

    settings = load_settings()
    offered = _source(settings).years()
    warehouse = Warehouse(Home(settings.home).warehouse)
    stored = {}
    if warehouse.count("aef_embeddings"):
        counts = warehouse.frame(
            "SELECT year, count(*) AS basins FROM aef_embeddings GROUP BY year"
        )
        stored = dict(zip(counts["year"], counts["basins"], strict=True))
    for year in sorted({*offered, *stored}):
        here = f"{stored[year]} basins here" if year in stored else "not here"
        print(f"{year}  {here}{'' if year in offered else ', no longer offered by the source'}")
    if not offered:
        print("the source has a finished mean only, no years")


@app.command()
def download(
    folder: Annotated[Path, typer.Argument(help="Where to; then AEF_EMBEDDINGS_DIR.")],
    url: Annotated[
        str | None, typer.Option(help="Address of a table or a zip; default: the study's record.")
    ] = None,
) -> None:
    """Download the study's published table (Zenodo 19159031), or any other by its address.

    What that record holds could not be seen when this was written. Sizes and checksums are checked,
    and noted beside each file; run it again to go on after a break.
    """
    from aef_dagster.embeddings.download import download_table
    from aef_dagster.embeddings.zenodo import download_published
    from aef_dagster.progress import bar

    with bar("download", 1, "files") as progress:

        def told(done: int, total: int | None) -> None:
            progress.at(done / total if total else 0.0, bytes_read=done)

        found = (
            download_table(url, folder, told=told) if url else download_published(folder, told=told)
        )
    for path in found:
        print(path)
    print(f"go on with AEF_SOURCE=table AEF_EMBEDDINGS_DIR={folder}, then `aef prepare`")


@app.command()
def export(
    years: Annotated[list[int], typer.Argument(help="Years to export.")],
    bucket: Annotated[str, typer.Option(help="Cloud Storage bucket that the account may write.")],
) -> None:
    """Have Earth Engine export years as CSV, for pixels too many to wait for.

    Set AEF_SOURCE=earth_engine and AEF_EE_SCALE (10 = the data's own pixels). The tasks run at
    Google for hours; copy the files from the bucket to a folder when they are done, and read them
    with AEF_SOURCE=table.
    """
    from aef_dagster.embeddings.earth_engine import EarthEngineSource, export_year
    from aef_dagster.pipeline.session import Session
    from aef_dagster.settings import load_settings

    settings = load_settings()
    if settings.source != "earth_engine":
        raise UserError(f"AEF_SOURCE={settings.source}: set AEF_SOURCE=earth_engine to export")
    if settings.dataset == "sample":
        raise UserError("the sample has tables of its own: set AEF_DATASET=camels_us to export")
    session, source = Session(settings), _source(settings)
    assert isinstance(source, EarthEngineSource)
    for year in years:
        for task in export_year(source, year, session.basins, bucket=bucket):
            print(f"{year}  {task.state}  {task.id}")
    print(f"when they are done: copy gs://{bucket}/alphaearth/*.csv to a folder, then "
          "AEF_SOURCE=table AEF_EMBEDDINGS_DIR=that folder, `aef prepare`")  # fmt: skip


@app.command()
def ndvi(
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV to write.")],
    scale: Annotated[float, typer.Option(help="Pixel size, metres; Landsat's are 30.")] = 30.0,
) -> None:
    """Ask Earth Engine how green the basins were when flow was recorded, and are now.

    Summer NDVI by Landsat, 1984-1990 and 2017-2024: one row a basin. It takes the account of the
    settings AEF_EE_..., whatever AEF_SOURCE is, and the outlines that `aef prepare` wrote.
    """
    from aef_dagster.embeddings.earth_engine import EarthEngineSource
    from aef_dagster.embeddings.earth_engine.ndvi import ndvi_change
    from aef_dagster.pipeline.session import Session
    from aef_dagster.progress import bar
    from aef_dagster.settings import load_settings

    settings = load_settings()
    if settings.dataset == "sample":
        raise UserError("the sample's basins are no real places: set AEF_DATASET=camels_us")
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output.absolute().parent} does not exist: make that folder first")
    session = Session(settings)
    source = _source(settings.model_copy(update={"source": "earth_engine"}))
    assert isinstance(source, EarthEngineSource)
    with bar("NDVI", len(session.basins), "basins") as progress:

        def told(done: int, total: int, bytes_read: int) -> None:
            progress.at(done, total, bytes_read)

        try:
            rows = ndvi_change(source, session.basins, scale_m=scale, report=told)
        except UserError as error:
            # Refusals name the setting of the embeddings' pixels; here they are an option.
            raise UserError(str(error).replace("AEF_EE_SCALE", "--scale")) from None
    partial = output.with_suffix(output.suffix + ".tmp")
    rows.to_csv(partial, index=False, float_format="%.5f")
    partial.replace(output)
    seen = rows["change"].notna().sum()
    print(f"{output}: {len(rows)} basins, {seen} of them seen in both periods")


def _source(settings):
    from aef_dagster.pipeline.resources import build_resources

    resource = build_resources(settings)["embeddings"]
    if settings.dataset == "sample" and not Path(resource.tables).exists():
        raise UserError("the sample is not made yet: run `aef prepare` or `aef demo` first")
    return resource.open()
