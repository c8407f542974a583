"""Basin means of all basins from tiles on loopback, beside a plain rasterio-mask loop.

Tiles: a made-up world in the published form and the shape of the real extent, one file for each
square of 81.92 km that a basin touches, 8192 pixels a side in blocks of 1024. Only the overviews
that basins need hold data (other levels are there, empty), and they are noisy enough to pack to
about half, as published ones do. The loop opens each tile of each basin with GDAL, masks the same
overview with the same outline (whole pixels, by their centres) and takes the mean, one request at a
time, for every tenth basin, and is scaled to all. Both read from one server on loopback, which
takes its time from the same cores.

`ratio` = basins a second, ours over the loop's, with a server that answers at once; `ratio_20ms` =
the same with answers 20 ms late, as those of a bucket on the same continent are. `seconds`, `mb`
and `peak_mb` are ours at once: all basins, megabytes read, largest resident memory. Unpacking takes
most of our time and all cores, so one core more or less tells in `ratio`.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

# Imported before the clock starts, as rasterio is for the loop.
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet  # noqa: F401
import pyproj
import shapely
import urllib3  # noqa: F401

from aef_dagster.basins.dataset import open_dataset
from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.cog import CogSource
from aef_dagster.embeddings.quantisation import NO_DATA, dequantise, quantise
from aef_dagster.errors import UserError
from benchmarks.measuring import Cost, in_fresh_process, print_table, real_settings

YEAR = 2020
TILE_M, SIDE, BLOCK = 81_920.0, 8192, 1024
EVERY = 10
DELAY_S = 0.02
SERVER = "aef_dagster_tests.embeddings.cog.loopback"
LEVELS = 14


def run() -> dict[str, object]:
    """Make the world, measure, print, and return the RESULT."""
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as name:
        world = in_fresh_process("benchmarks.cog", "make_world", folder=name)
        near, far = (_both(name, delay) for delay in (0.0, DELAY_S))
    basins = near[0].answer["basins"]
    print_table(
        f"{basins} basins from {world.answer['tiles']} tiles ({world.answer['mb']:.0f} MB)",
        ("", "basins", "s", "basins/s", "CPU s", "MB read", "requests", "peak MB"),
        [
            (
                title,
                cost.answer["basins"],
                f"{cost.answer['seconds']:.1f}",
                f"{_rate(cost):.2f}",
                f"{cost.cpu_s:.1f}",
                f"{cost.answer.get('mb', 0):.0f}",
                cost.answer.get("requests", ""),
                f"{cost.peak_mb:.0f}",
            )
            for late, pair in (("", near), (f", {DELAY_S * 1e3:.0f} ms late", far))
            for title, cost in zip((f"cog{late}", f"loop{late}"), pair[:2], strict=True)
        ],
    )
    print(f"smallest cosine between the two, basin by basin: {near[2]:.5f}")
    ours = near[0]
    return {
        "ratio": f"{_rate(ours) / _rate(near[1]):.1f}",
        "seconds": f"{ours.answer['seconds']:.1f}",
        "mb": f"{ours.answer['mb']:.0f}",
        "peak_mb": f"{ours.peak_mb:.0f}",
        "ratio_20ms": f"{_rate(far[0]) / _rate(far[1]):.1f}",
    }


def _both(folder: str, delay_s: float) -> tuple[Cost, Cost, float]:
    """Ours and the loop on one server, and the smallest cosine between their means."""
    with served(Path(folder) / "tiles", delay_s) as address:
        cog = in_fresh_process("benchmarks.cog", "ours", folder=folder, address=address)
        # GDAL would otherwise look for files beside each tile.
        plain = in_fresh_process(
            "benchmarks.cog",
            "loop",
            folder=folder,
            address=address,
            environment={"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"},
        )
    return cog, plain, _worst_cosine(Path(folder))


def _rate(cost: Cost) -> float:
    return cost.answer["basins"] / cost.answer["seconds"]


def make_world(folder: str) -> dict[str, float]:
    """Outlines, tiles and index."""
    from aef_dagster.embeddings.cog.levels import overview_level
    from aef_dagster_tests.embeddings.tile_world import outline_row, write_index, write_tile

    settings = real_settings()
    dataset = open_dataset("camels_us", data_dir=settings.data_dir, forcing=settings.forcing)
    outlines = dataset.polygons()
    outlines.to_parquet(Path(folder) / "outlines.parquet")
    areas = outlines.to_crs(6933).area / 1e6  # equal-area
    needed: dict[tuple[int, int, int], set[int]] = {}
    for outline, area in zip(outlines.geometry, areas, strict=True):
        west, _, east, _ = outline.bounds
        for zone in range(int((west + 180) // 6) + 1, int((east + 180) // 6) + 2):
            strip = shapely.make_valid(outline) & shapely.box(6 * zone - 186, 0, 6 * zone - 180, 90)
            if strip.is_empty:
                continue
            change = pyproj.Transformer.from_crs(4326, 32600 + zone, always_xy=True).transform
            shape = shapely.transform(strip, lambda xy, c=change: np.column_stack(c(*xy.T)))
            left, low, right, high = (int(v // TILE_M) for v in shape.bounds)
            for column in range(left, right + 1):
                for row in range(low, high + 1):
                    if shapely.intersects(shape, _square(column, row)):
                        # Two levels: the area in UTM may fall on the other side of a limit.
                        needed.setdefault((zone, column, row), set()).update(
                            overview_level(area * factor) for factor in (0.99, 1.01)
                        )
    patterns = {level: _pattern(SIDE >> level, level) for level in {*range(3, 7)}}
    rows = []
    for i, ((zone, column, row), levels) in enumerate(sorted(needed.items())):
        name = f"{YEAR}/{zone}N/xbench-{row:010d}-{column:010d}.tiff"
        bounds = _square(column, row).bounds
        write_tile(
            Path(folder) / "tiles" / name,
            [patterns[level] if level in levels else None for level in range(LEVELS)],
            epsg=32600 + zone, west=bounds[0], south=bounds[1], size=SIDE, block=BLOCK,
        )  # fmt: skip
        rows.append(outline_row(i, name, 32600 + zone, bounds))
    write_index(Path(folder) / "tiles", rows)
    mb = sum(file.stat().st_size for file in Path(folder).rglob("*.tiff")) / 1e6
    return {"tiles": len(rows), "mb": mb}


def ours(folder: str, address: str) -> dict[str, float]:
    """All basins by the route `cog`."""
    gauge_ids = _outlines(folder)["gauge_id"].tolist()
    source = CogSource(
        Path(folder) / "outlines.parquet", Path(folder) / "scratch", addresses=[address]
    )
    started = time.perf_counter()
    got = source.fetch(YEAR, gauge_ids)
    seconds = time.perf_counter() - started
    if got.missing:
        raise UserError(f"{len(got.missing)} basins have no mean")
    got.frame.to_parquet(Path(folder) / "ours.parquet")
    read, requests = got.provenance["bytes_read"], got.provenance["requests"]
    return {
        "basins": len(got.frame), "seconds": seconds, "mb": int(str(read)) / 1e6,
        "requests": int(str(requests)),
    }  # fmt: skip


def loop(folder: str, address: str) -> dict[str, float]:
    """Every tenth basin, as a short script would do it."""
    import rasterio
    import rasterio.mask

    levels = pd.read_parquet(Path(folder) / "ours.parquet").set_index("gauge_id")["resolution_m"]
    index = pd.read_parquet(Path(folder) / "tiles" / "aef_index.parquet")
    outlines = _outlines(folder).iloc[::EVERY].set_index("gauge_id")
    # Each zone's share of each basin, else ground near a meridian counts twice; not timed.
    zones = {crs: _within(outlines, int(crs[-2:])).to_crs(crs) for crs in index["crs"].unique()}
    vectors = {}
    started = time.perf_counter()
    for gauge_id in outlines.index:
        overview = round(np.log2(levels[gauge_id] / 10)) - 1
        west, south, east, north = outlines.geometry[gauge_id].bounds
        near = index[
            (index["wgs84_west"] <= east) & (index["wgs84_east"] >= west)
            & (index["wgs84_south"] <= north) & (index["wgs84_north"] >= south)
        ]  # fmt: skip
        total, count = np.zeros(len(BANDS)), 0
        for tile in near.itertuples():
            shape = zones[tile.crs].get(gauge_id)
            if shape is None:
                continue
            url = f"/vsicurl/{address}/{'/'.join(tile.path.split('/')[-3:])}"
            with rasterio.open(url, overview_level=overview) as file:
                try:
                    pixels, _ = rasterio.mask.mask(file, [shape], crop=True, nodata=NO_DATA)
                except ValueError:  # the box of the basin touches the tile, the basin does not
                    continue
            inside = pixels[:, pixels[0] != NO_DATA]
            total += dequantise(inside).sum(axis=1)
            count += inside.shape[1]
        vectors[gauge_id] = total / max(count, 1)
    seconds = time.perf_counter() - started
    pd.DataFrame(vectors).T.to_parquet(Path(folder) / "loop.parquet")
    return {"basins": len(vectors), "seconds": seconds}


@contextmanager
def served(folder: Path, delay_s: float):
    """A server in a process of its own; its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", SERVER, str(folder), str(delay_s)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def _pattern(side: int, seed: int) -> np.ndarray:
    """Stored vectors of nearly unit length, [64, side, side]: one landscape, patches, noise.

    As much of each as makes them pack to about half.
    """
    random = np.random.default_rng(seed)
    values = random.normal(size=(len(BANDS), 1, 1)) / 8
    patches = values + random.normal(scale=0.02, size=(len(BANDS), 16, 16))
    stored = quantise(patches / np.linalg.norm(patches, axis=0))
    stored = np.repeat(np.repeat(stored, side // 16, axis=1), side // 16, axis=2)
    noise = np.rint(random.normal(scale=4.0, size=stored.shape).astype(np.float32))
    return np.clip(stored + noise.astype(np.int8), -120, 120).astype(np.int8)


def _square(column: int, row: int):
    return shapely.box(column * TILE_M, row * TILE_M, (column + 1) * TILE_M, (row + 1) * TILE_M)


def _within(outlines, zone: int):
    """What of each outline lies in a UTM zone."""
    strip = shapely.box(6 * zone - 186, 0, 6 * zone - 180, 90)
    cut = outlines.geometry.make_valid().intersection(strip)
    return cut[~cut.is_empty]


def _outlines(folder: str):
    return gpd.read_parquet(Path(folder) / "outlines.parquet")


def _worst_cosine(folder: Path) -> float:
    loop = pd.read_parquet(folder / "loop.parquet")
    ours = pd.read_parquet(folder / "ours.parquet").set_index("gauge_id").loc[loop.index]
    a, b = loop.to_numpy(), ours[list(BANDS)].to_numpy()
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())
