"""Two routes over one world: tiles read by byte ranges, and an engine that has the same pixels."""

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.cog import CogSource
from aef_dagster.embeddings.earth_engine import EarthEngineSource
from aef_dagster.embeddings.quantisation import dequantise
from aef_dagster_tests.embeddings.cog.loopback import Loopback
from aef_dagster_tests.embeddings.earth_engine.loopback_engine import SceneImage, running
from aef_dagster_tests.embeddings.field import field
from aef_dagster_tests.embeddings.tile_world import PIXEL_M, WorldTile, write_world


def vivid(lon, lat, year):
    """The field with its waves 60 times as short: basins of this small world are of many kinds."""
    return field(lon * 60, lat * 60, year)


def without_data(lon, lat):
    """A lake."""
    return (lon + 95.9885) ** 2 + (lat - 40.0) ** 2 < 0.004**2


def scene(tile: WorldTile, year: int) -> SceneImage:
    """A tile as an image of the collection, cut at its zone's meridian."""
    to_zone = pyproj.Transformer.from_crs(4326, tile.epsg, always_xy=True)
    east = 6.0 * tile.zone - 180

    def read(lon, lat):
        x, y = to_zone.transform(lon, lat)
        column = np.floor((np.asarray(x) - tile.west) / PIXEL_M).astype(int)
        row = np.floor((np.asarray(y) - tile.south) / PIXEL_M).astype(int)
        _, rows, columns = tile.pixels.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        inside &= (lon >= east - 6) & (lon < east)
        values = np.full((lon.size, 64), np.nan)
        values[inside] = dequantise(tile.pixels[:, row[inside], column[inside]]).T
        return values

    corners = shapely.box(tile.west, tile.south, tile.east, tile.north)
    back = pyproj.Transformer.from_crs(tile.epsg, 4326, always_xy=True)
    box = shapely.transform(corners, lambda xy: np.column_stack(back.transform(*xy.T))).bounds
    return SceneImage(year, box, {"DATASET_VERSION": "1.1"}, read)


BASINS = {
    "00000001": shapely.Point(-96.0, 40.0).buffer(0.009),  # in two zones
    "00000002": shapely.Point(-95.988, 40.0).buffer(0.007),  # with the lake
    "00000003": shapely.Point(-96.012, 39.996).buffer(0.007)
    - shapely.Point(-96.012, 39.996).buffer(0.003),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same year by both routes, at full resolution."""
    folder = tmp_path_factory.mktemp("world")
    world = write_world(folder / "tiles", (2020,), vectors=vivid, no_data=without_data)
    outlines = folder / "polygons.parquet"
    gpd.GeoDataFrame(
        {"gauge_id": list(BASINS)}, geometry=list(BASINS.values()), crs=4326
    ).to_parquet(outlines)
    with Loopback(world.folder) as server:
        tiles = CogSource(
            outlines, folder / "cog", addresses=[server.address], min_pixels=10**9
        ).fetch(2020, list(BASINS))
    images = [scene(tile, 2020) for tile in world.tiles[2020]]
    with running(images, folder / "bucket") as engine:
        asked = EarthEngineSource(
            outlines, folder / "ee", project="p", url=engine.url, scale_m=10.0
        ).fetch(2020, list(BASINS))
    return tiles.frame.set_index("gauge_id"), asked.frame.set_index("gauge_id")


def test_vectors_of_both_routes_agree(both):
    tiles, asked = both
    assert list(tiles.index) == list(asked.index) == list(BASINS)
    one, other = (frame[list(BANDS)].to_numpy(dtype=float) for frame in both)
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    # Measured: 4e-8 and 1e-4. The grids differ, and outlines were simplified on one side.
    assert (1 - cosine).max() < 2e-7
    assert tiles["norm"].to_numpy() == pytest.approx(asked["norm"].to_numpy(), abs=3e-4)
    assert tiles["norm"].max() < 0.9  # the pixels of a basin are not all alike


def test_shares_of_valid_pixels_agree(both):
    tiles, asked = both
    shares = tiles["valid_fraction"].to_numpy()
    assert shares == pytest.approx(asked["valid_fraction"].to_numpy(), abs=5e-4)
    assert shares[1] < 0.7 and shares[2] == pytest.approx(1)
    # A pixel of 10 m on a grid in degrees is narrower than 10 m by the cosine of its latitude.
    counts = tiles["pixel_count"].to_numpy() / asked["pixel_count"].to_numpy()
    assert counts == pytest.approx(np.cos(np.radians(40)), rel=0.05)
