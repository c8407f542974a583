"""What the tests of the route `cog` share: one small world of tiles, and servers for it."""

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from aef_dagster.embeddings.cog import CogSource, remote
from aef_dagster_tests.embeddings.cog.loopback import Loopback
from aef_dagster_tests.embeddings.tile_world import write_world

# South of this there are no data.
SHORE = 39.99


def lonlat(epsg, shape):
    """A shape given in metres of a UTM zone."""
    change = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform
    return shapely.transform(shape, lambda xy: np.column_stack(change(*xy.T)))


# In metres of zone 14N, whose four tiles begin at 753280, 4430080 and are 2560 m wide; the meridian
# to zone 15 is at some 756170.
BASINS = {
    # A triangle: nothing in it is the same after a flip.
    "00000001": shapely.Polygon([(753_500, 4_432_000), (754_700, 4_432_105), (753_607, 4_433_400)]),
    "00000002": shapely.Point(756_200, 4_432_700).buffer(1400),  # eight tiles, two zones
    "00000003": shapely.box(753_500, 4_430_500, 754_500, 4_431_900),  # half of it without data
    # With a hole, and an island in the hole.
    "00000004": shapely.Point(754_200, 4_433_700).buffer(700)
    - shapely.Point(754_300, 4_433_700).buffer(400)
    | shapely.Point(754_300, 4_433_700).buffer(99),
    "00000005": shapely.box(753_604, 4_433_003, 753_607, 4_433_008),  # within one pixel
    "00000006": shapely.box(753_300, 4_430_100, 753_500, 4_430_200),  # no data at all
    "00000007": shapely.box(700_000, 4_300_000, 700_500, 4_300_500),  # no tile
}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Two years of tiles of 256 pixels, with a shore."""
    folder = tmp_path_factory.mktemp("world")
    return write_world(folder, (2020, 2021), no_data=lambda lon, lat: lat < SHORE)


@pytest.fixture(scope="session")
def outlines(tmp_path_factory):
    """The outlines of BASINS as the asset writes them."""
    file = tmp_path_factory.mktemp("outlines") / "basins.parquet"
    shapes = [lonlat(32614, shape) for shape in BASINS.values()]
    gpd.GeoDataFrame({"gauge_id": list(BASINS)}, geometry=shapes, crs=4326).to_parquet(file)
    return file


@pytest.fixture
def server(world):
    """A server of the world that does what it should until told otherwise."""
    with Loopback(world.folder) as running:
        yield running


@pytest.fixture
def source(server, outlines, tmp_path, monkeypatch):
    """A source on the server, in a hurry."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("aef_dagster.embeddings.cog.source.INDEX_GOOD_FOR_S", 0.0)
    return CogSource(outlines, tmp_path / "scratch", addresses=[server.address], connections=4)
