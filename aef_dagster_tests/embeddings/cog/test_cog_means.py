"""What comes out: held against the exact mean of the tiles' pixels, computed with other tools."""

import geopandas as gpd
import numpy as np
import pytest
import shapely

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.cog import CogSource
from aef_dagster.embeddings.cog.levels import overview_level
from aef_dagster.embeddings.cog.outlines import read_outlines
from aef_dagster.embeddings.quantisation import dequantise
from aef_dagster.errors import UserError
from aef_dagster_tests.embeddings.cog.conftest import BASINS, lonlat
from aef_dagster_tests.embeddings.cog.loopback import Loopback
from aef_dagster_tests.embeddings.tile_world import PIXEL_M, write_world

EVERYTHING = 10**12  # pixels that no basin has: full resolution


def exact_mean(tiles, outline):
    """Area-weighted mean over full-resolution pixels, each cut with the outline by GEOS.

    Ground belongs to the zone on whose side of 96 W it lies. Also the share of the area that has
    data, and the number of pixels.
    """
    import pyproj

    total, area, count, all_area = np.zeros(64), 0.0, 0, 0.0
    for zone, strip in ((14, shapely.box(-102, 0, -96, 90)), (15, shapely.box(-96, 0, -90, 90))):
        piece = shapely.segmentize(shapely.intersection(outline, strip), 0.02)
        if piece.is_empty:
            continue
        change = pyproj.Transformer.from_crs(4326, 32600 + zone, always_xy=True).transform
        piece = shapely.transform(piece, lambda xy, c=change: np.column_stack(c(*xy.T)))
        all_area += piece.area
        for tile in (t for t in tiles if t.zone == zone):
            side = tile.pixels.shape[1]
            column, row = np.meshgrid(np.arange(side), np.arange(side))
            x, y = tile.west + PIXEL_M * column, tile.south + PIXEL_M * row
            pixels = shapely.box(x, y, x + PIXEL_M, y + PIXEL_M)
            shapely.prepare(piece)
            weight = np.where(shapely.contains_properly(piece, pixels), PIXEL_M**2, 0.0)
            edge = (weight == 0) & shapely.intersects(piece, pixels)
            weight[edge] = shapely.area(shapely.intersection(piece, pixels[edge]))
            values = dequantise(tile.pixels).astype(float)
            valid = ~np.isnan(values[0]) & (weight > 1e-7)
            total += values[:, valid] @ weight[valid]
            area += weight[valid].sum()
            count += int(valid.sum())
    return total / max(area, 1e-300), area / all_area, count


@pytest.fixture(scope="module")
def full(world, outlines, tmp_path_factory):
    """All basins at full resolution."""
    scratch = tmp_path_factory.mktemp("scratch")
    told = []
    with Loopback(world.folder) as server:
        source = CogSource(outlines, scratch, addresses=[server.address], min_pixels=EVERYTHING)
        got = source.fetch(2020, list(BASINS), lambda *words: told.append(words))
        asked = server.asked(".tiff")
    return got, told, asked


@pytest.mark.parametrize("gauge_id", list(BASINS)[:5])
def test_full_resolution_is_the_exact_mean(full, world, outlines, gauge_id):
    row = full[0].frame.set_index("gauge_id").loc[gauge_id]
    outline = read_outlines(outlines, [gauge_id])[gauge_id]
    vector, fraction, count = exact_mean(world.tiles[2020], outline)
    np.testing.assert_allclose(row[list(BANDS)].to_numpy(dtype=float), vector, atol=2e-7)
    assert row["norm"] == pytest.approx(np.linalg.norm(vector), abs=1e-6)
    assert row["valid_fraction"] == pytest.approx(fraction, abs=1e-6)
    assert row["pixel_count"] == count
    assert row["resolution_m"] == 10


def test_provenance_of_a_row(full, world):
    got, told, asked = full
    frame = got.frame.set_index("gauge_id")
    assert got.missing == ("00000006", "00000007")
    assert 0.3 < frame.loc["00000003", "valid_fraction"] < 0.8
    assert frame.loc["00000005", "pixel_count"] == 1
    assert frame.loc["00000002", "source_file"].count(".tiff") == 8
    assert set(frame["dataset_version"]) == {"unknown"}
    assert set(frame["reducer"]) == {"area-weighted mean"}
    assert got.provenance["address"].startswith("http://127.0.0.1")
    # One call a basin, and nothing counted that was not read.
    assert [words[:2] for words in told] == [(i + 1, len(BASINS)) for i in range(len(BASINS))]
    sizes = {t.name: (world.folder / t.name).stat().st_size for t in world.tiles[2020]}
    index = (world.folder / "aef_index.parquet").stat().st_size
    read = sum(min(a.stop, sizes[a.path[1:]]) - a.start for a in asked) + index
    assert got.provenance["bytes_read"] == read
    assert frame["bytes_read"].sum() < read


def test_no_byte_of_pixels_is_asked_for_twice(full):
    asked = [a for a in full[2] if a.start > 0]
    assert len(asked) == len({(a.path, a.start) for a in asked})
    headers = [a.path for a in full[2] if a.start == 0]
    assert len(headers) == len(set(headers))


def test_equal_every_time_and_with_any_number_of_connections(world, outlines, full, tmp_path):
    with Loopback(world.folder) as server:
        source = CogSource(
            outlines, tmp_path, addresses=[server.address], connections=1, min_pixels=EVERYTHING
        )
        again = source.fetch(2020, list(BASINS))
        assert server.busiest == 1
    assert again.frame["content_hash"].tolist() == full[0].frame["content_hash"].tolist()


def patchwork(lon, lat, year):
    """Two landscapes in patches of some 50 m, one twice as common in the east as in the west."""
    random = np.random.default_rng(1)
    one, other = np.linalg.qr(random.normal(size=(64, 2)))[0].T
    cell = np.floor(lon * 2000).astype(int) * 7919 + np.floor(lat * 2000).astype(int) * 104729
    common = np.random.default_rng(5).uniform(size=997)[cell % 997] < 0.4 + (lon + 96) * 4
    return np.where(common[..., None], one, other)


def test_overviews_stay_within_a_bound_of_the_exact_mean(tmp_path):
    # A hard case: two landscapes at right angles, in patches of a few pixels, where overviews, made
    # unit length, lose most. Measured: 1.2 degrees and 0.11 too long at 40 m, 0.4 and 0.25 at
    # 160 m.
    world = write_world(tmp_path / "world", vectors=patchwork)
    ring = lonlat(32614, shapely.Point(755_900, 4_432_500).buffer(1900))
    file = tmp_path / "one.parquet"
    gpd.GeoDataFrame({"gauge_id": ["00000001"]}, geometry=[ring], crs=4326).to_parquet(file)
    exact = exact_mean(world.tiles[2020], ring)[0]
    angles, norms = {}, {}
    with Loopback(world.folder) as server:
        for level, pixels in ((0, EVERYTHING), (2, 3000), (4, 300)):
            source = CogSource(
                file, tmp_path / "scratch", addresses=[server.address], min_pixels=pixels
            )
            row = source.fetch(2020, ["00000001"]).frame.iloc[0]
            assert row["resolution_m"] == 10 * 2**level
            vector = row[list(BANDS)].to_numpy(dtype=float)
            norms[level] = np.linalg.norm(vector) - np.linalg.norm(exact)
            cosine = vector @ exact / np.linalg.norm(vector) / np.linalg.norm(exact)
            angles[level] = np.degrees(np.arccos(min(1.0, cosine)))
    assert angles[0] < 0.01
    assert abs(norms[0]) < 1e-6
    assert angles[2] < 2
    assert angles[4] < 2
    # Each overview pixel is made unit length, so the mean of them is too long: never too short.
    assert 0 < norms[2] < norms[4] < 0.3


@pytest.mark.parametrize("layout", ["band", "tile"])
def test_either_order_of_blocks(tmp_path, outlines, layout):
    world = write_world(tmp_path / "world", size=64, block=16, grid=(1, 1), layout=layout)
    shape = lonlat(32614, shapely.Point(753_600, 4_430_400).buffer(180))
    file = tmp_path / "one.parquet"
    gpd.GeoDataFrame({"gauge_id": ["00000001"]}, geometry=[shape], crs=4326).to_parquet(file)
    with Loopback(world.folder) as server:
        source = CogSource(file, tmp_path / "s", addresses=[server.address], min_pixels=EVERYTHING)
        row = source.fetch(2020, ["00000001"]).frame.iloc[0]
    exact = exact_mean(world.tiles[2020], shape)[0]
    np.testing.assert_allclose(row[list(BANDS)].to_numpy(dtype=float), exact, atol=2e-7)


def test_levels_by_size():
    assert [overview_level(a) for a in (0.001, 0.03, 0.2, 4.2, 7.6, 7.8, 49.9)] == [
        0, 0, 1, 3, 3, 4, 4,
    ]  # fmt: skip
    assert [overview_level(a) for a in (50, 122, 123, 25_000)] == [5, 5, 6, 6]
    for area in np.geomspace(0.04, 1e5, 200):
        level = overview_level(area)
        assert area * 1e4 / 4**level >= 300
        assert area >= 50 or level <= 4
        assert level == 6 or level == 4 or area * 1e4 / 4 ** (level + 1) < 300


def test_years_only(source):
    assert source.years() == (2020, 2021)
    assert source.route == "cog"
    with pytest.raises(UserError, match="years only"):
        source.fetch_mean(["00000001"])


def test_outlines_that_are_not_there(server, tmp_path, outlines):
    source = CogSource(tmp_path / "none.parquet", tmp_path, addresses=[server.address])
    with pytest.raises(UserError, match="materialize `basins` first"):
        source.fetch(2020, ["00000001"])
    source = CogSource(outlines, tmp_path, addresses=[server.address])
    with pytest.raises(UserError, match="has no outline of any of the 1 basins"):
        source.fetch(2020, ["99999999"])
    found = source.fetch(2020, ["00000001", "99999999"])  # one without an outline is listed
    assert found.missing == ("99999999",)
    assert found.frame["gauge_id"].tolist() == ["00000001"]
