"""The routes without a table, from the setting to donors: real servers of the tests, real assets.

The basins are the sample's files, read as what they look like: CAMELS-US.
"""

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.cog import remote
from aef_dagster.errors import UserError
from aef_dagster.pipeline.session import Session
from aef_dagster.settings import load_settings
from aef_dagster_tests.embeddings.cog.loopback import Loopback
from aef_dagster_tests.embeddings.earth_engine.loopback_engine import SceneImage, running
from aef_dagster_tests.embeddings.field import field
from aef_dagster_tests.embeddings.tile_world import write_world
from aef_dagster_tests.pipeline.conftest import isolated

YEARS = (2020, 2021)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("tiles"), YEARS)


@pytest.fixture
def opened(prepared, tmp_path, monkeypatch):
    """A session with some settings, its basins read."""
    isolated(monkeypatch)
    (data,) = {path.parent.parent for path in (prepared / "sample").rglob("camels_name.txt")}

    def opened(read: bool = True, **settings) -> Session:
        session = Session(
            load_settings(dataset="camels_us", data_dir=data, home=tmp_path / "var", **settings)
        )
        if read:
            session._run(["basins"])
        return session

    return opened


def moved_into(world, session) -> dict[str, tuple[float, float]]:
    """Let some basins lie where the tiles are; centres of these, in degrees."""
    file = session.home.polygons
    outlines = gpd.read_parquet(file)
    tiles = world.tiles[YEARS[0]]
    centres = {}
    for row, tile in zip(range(6), tiles, strict=False):
        to_degrees = pyproj.Transformer.from_crs(tile.epsg, 4326, always_xy=True).transform
        x, y = (tile.west + tile.east) / 2, (tile.south + tile.north) / 2
        shape = shapely.Point(x, y).buffer(600)
        corners = np.column_stack(to_degrees(*np.array(shape.exterior.coords).T))
        outlines.loc[row, "geometry"] = shapely.Polygon(corners)
        centres[outlines["gauge_id"][row]] = to_degrees(x, y)
    outlines.to_parquet(file)
    return centres


def stored(session, year):
    frame = session.warehouse.frame("SELECT * FROM aef_embeddings WHERE year = ?", [year])
    return frame.set_index("gauge_id").sort_index()


def fetch(session):
    session._run(["aef_embeddings"], {"aef_embeddings": {"years": list(YEARS)}})


def test_public_tiles_become_donors(opened, world, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    with Loopback(world.folder) as server:
        session = opened(source="cog", cog_addresses=server.address)
        centres = moved_into(world, session)
        fetch(session)
        asked = len(server.asked())
        first = stored(session, 2020)
        fetch(session)  # what is here is not read again, but for what the index may say
        assert len(server.asked()) - asked < asked / 4
    assert set(first["route"]) == {"cog"}
    assert sorted(centres) == first.index.tolist()  # the others have no tile, and no zeros
    for gauge_id, (lon, lat) in centres.items():
        vector = first.loc[gauge_id, list(BANDS)].to_numpy(float)
        truth = field(lon, lat, 2020)
        assert vector @ truth / np.linalg.norm(vector) > 0.999
        assert first.loc[gauge_id, "valid_fraction"] == pytest.approx(1, abs=0.01)
    assert (first["bytes_read"] > 0).any()
    again = stored(session, 2020)
    assert again["content_hash"].tolist() == first["content_hash"].tolist()
    session._run(["basin_embedding", "similarity/aef", "donors/aef"])
    donors = session.warehouse.frame("SELECT * FROM donors WHERE space = 'aef'")
    assert len(donors) == len(centres) * (len(centres) - 1)


def test_a_tile_that_fails_costs_its_year_and_a_later_run_goes_on(opened, world, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    with Loopback(world.folder) as server:
        session = opened(source="cog", cog_addresses=server.address)
        moved_into(world, session)
        (broken, *_) = world.tiles[2021]
        file = next(world.folder.rglob(f"2021/**/{broken.name.rsplit('/', 1)[-1]}*"))
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 3])
        with pytest.raises(UserError, match="1 of 2 years failed"):
            fetch(session)
        assert len(stored(session, 2020)) > 0
        assert stored(session, 2021).empty  # a year is stored whole or not at all
        file.write_bytes(whole)
        fetch(session)
        assert len(stored(session, 2021)) == len(stored(session, 2020))


@pytest.mark.slow
def test_earth_engine_becomes_donors(opened, tmp_path):
    def image(year):
        return SceneImage(
            year, (-180.0, -90.0, 180.0, 90.0), {"DATASET_VERSION": "1.1", "MODEL_VERSION": "2.1"},
            lambda lon, lat: field(lon, lat, year),
        )  # fmt: skip

    with running([image(year) for year in YEARS], tmp_path / "bucket") as engine:
        session = opened(source="earth_engine", ee_project="p", ee_url=engine.url, ee_scale=5000.0)
        fetch(session)
    first = stored(session, 2020)
    assert set(first["route"]) == {"earth_engine"}
    assert set(first["dataset_version"]) == {"1.1"}
    assert len(first) == len(session.basins)
    outlines = gpd.read_parquet(session.home.polygons).set_index("gauge_id")
    for gauge_id in first.index[:3]:
        inside = outlines.geometry[gauge_id]
        west, south, east, north = inside.bounds
        lon, lat = (a.ravel() for a in np.meshgrid(np.linspace(west, east, 60),
                                                   np.linspace(south, north, 60)))  # fmt: skip
        within = shapely.contains_xy(inside, lon, lat)
        truth = field(lon[within], lat[within], 2020).mean(axis=0)
        vector = first.loc[gauge_id, list(BANDS)].to_numpy(float)
        assert vector @ truth / np.linalg.norm(vector) / np.linalg.norm(truth) > 0.999
    session._run(["basin_embedding", "similarity/aef", "donors/aef"])
    assert session.warehouse.count("donors") == len(first) * (len(first) - 1)


@pytest.mark.slow
def test_prepare_from_nothing_asks_earth_engine_once_the_basins_are_read(opened, tmp_path):
    """Its years depend on where the basins are, which nobody knows before."""
    image = SceneImage(
        2020, (-180.0, -90.0, 180.0, 90.0), {"DATASET_VERSION": "1.1", "MODEL_VERSION": "2.1"},
        lambda lon, lat: field(lon, lat, 2020),
    )  # fmt: skip
    with running([image], tmp_path / "bucket") as engine:
        session = opened(
            source="earth_engine", ee_project="p", ee_url=engine.url, ee_scale=5000.0, read=False
        )
        session.prepare()
    assert set(stored(session, 2020)["route"]) == {"earth_engine"}
    assert session.warehouse.count("donors") > 0


@pytest.mark.slow
def test_without_a_project_earth_engine_says_what_to_set(opened):
    session = opened(source="earth_engine")
    with pytest.raises(UserError, match="AEF_EE_PROJECT"):
        fetch(session)
