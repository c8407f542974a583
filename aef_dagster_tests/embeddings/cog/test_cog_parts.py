"""The parts by themselves: headers as GDAL writes them, shares of pixels, grounds of tiles."""

import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from aef_dagster.embeddings.cog.coverage import covered
from aef_dagster.embeddings.cog.outlines import split, zones_of
from aef_dagster.embeddings.cog.tiff import NotATileError, joined, read_header
from aef_dagster_tests.embeddings.tile_world import overviews

SOUTH_UP = Affine(10, 0, 500_000, 0, 10, 4_000_000)
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 4_000_960)


def reader(file):
    data = file.read_bytes()
    return lambda start, stop: data[start:stop]


def pixels(rows=96, columns=80):
    random = np.random.default_rng(3)
    smooth = np.linspace(-90, 90, columns)[None, None] + np.linspace(-20, 20, rows)[None, :, None]
    stored = smooth + random.normal(scale=5, size=(64, rows, columns))
    return stored.clip(-127, 127).astype(np.int8)


@pytest.mark.parametrize("transform", [SOUTH_UP, NORTH_UP])
@pytest.mark.parametrize("options", [
    {"interleave": "band", "compress": "zstd"},
    {"interleave": "band", "compress": "zstd", "predictor": 2, "bigtiff": "yes"},
    {"interleave": "pixel", "compress": "deflate", "zlevel": 1},
    {"interleave": "pixel", "compress": "zstd", "predictor": 2},
    {"interleave": "band", "endianness": "big"},
])  # fmt: skip
def test_files_as_gdal_writes_them(tmp_path, transform, options):
    stored = pixels()
    with rasterio.open(
        tmp_path / "x.tiff", "w", driver="GTiff", dtype="int8", count=64, height=96, width=80,
        crs=32615, transform=transform, nodata=-128, tiled=True, blockxsize=32, blockysize=16,
        **options,
    ) as file:  # fmt: skip
        file.write(stored)
        file.update_tags(DATASET_VERSION="1.1")
        file.build_overviews([2])
    header = read_header(reader(tmp_path / "x.tiff"))
    assert header.epsg == 32615
    assert header.metadata["DATASET_VERSION"] == "1.1"
    assert header.level(40) is None
    for number, side in ((0, 10), (1, 20)):
        level = header.level(side)
        with rasterio.open(tmp_path / "x.tiff", **({"overview_level": 0} if number else {})) as f:
            expected, gdal = f.read(), f.transform
        assert (level.x0, level.dx, level.y0, level.dy) == (gdal.c, gdal.a, gdal.f, gdal.e)
        read = reader(tmp_path / "x.tiff")
        down, across = level.block_rows, level.block_columns
        blocks = level.offsets.shape[1:]
        got = np.zeros((64, blocks[0] * down, blocks[1] * across), np.int8)
        for row, column in np.ndindex(blocks):
            bands = [
                level.unpack(memoryview(read(*span))) for span in level.block_ranges(row, column)
            ]
            place = np.s_[:, row * down : (row + 1) * down, column * across : (column + 1) * across]
            got[place] = np.concatenate(bands)
        np.testing.assert_array_equal(got[:, : level.rows, : level.columns], expected)


def test_rows_from_the_south_are_where_gdal_has_them(world):
    tile = world.tiles[2020][1]
    with rasterio.open(world.folder / tile.name) as file:
        np.testing.assert_array_equal(file.read(), tile.pixels)
        header = read_header(reader(world.folder / tile.name))
        assert header.levels[0].dy == file.transform.e == 10
        assert len(header.levels) == 9
        # The same place by either.
        corner = header.levels[0].to_pixels(shapely.Point(tile.west, tile.south))
        assert (corner.x, corner.y) == (~file.transform) @ (tile.west, tile.south) == (0, 0)
    for level, expected in enumerate(overviews(tile.pixels)):
        with rasterio.open(world.folder / tile.name, overview_level=level) as file:
            np.testing.assert_array_equal(file.read(), expected)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b: b"<html>" + b, "does not begin"),
        (lambda b: b[:3000], "middle of its header"),
        (lambda b: b[:2] + b"\x07" + b[3:], "does not begin"),
        # Tags with other numbers, values or lengths than any file has.
        (lambda b: b[:24] + b"\xff" * 400 + b[424:], "."),
        (lambda b: b[:24] + bytes(400) + b[424:], "."),
        (lambda b: b[:24] + bytes(range(200)) * 2 + b[424:], "."),
    ],
)
def test_what_is_no_tile(world, spoil, said):
    data = spoil((world.folder / world.tiles[2020][0].name).read_bytes())
    with pytest.raises(NotATileError, match=said):
        read_header(lambda start, stop: data[start:stop])


def test_other_rasters_are_refused(tmp_path):
    with rasterio.open(
        tmp_path / "x.tiff", "w", driver="GTiff", dtype="float32", count=3, height=32, width=32,
        crs=32615, transform=SOUTH_UP,
    ) as file:  # fmt: skip
        file.write(np.zeros((3, 32, 32), np.float32))
    with pytest.raises(NotATileError, match="not 64 signed bytes but 3"):
        read_header(reader(tmp_path / "x.tiff"))


def test_neighbouring_ranges_become_one():
    assert joined([(200, 300), (0, 100), (5, 5), (108, 200)]) == [(0, 300)]
    far, long = 10**6, 9 * 2**20
    assert joined([(0, 10), (far, far + 10)]) == [(0, 10), (far, far + 10)]
    assert joined([(0, long), (long, long + 5)]) == [(0, long), (long, long + 5)]


def positions(low, high):
    """Positions to a millionth: of a corner at 1e-265 GEOS makes a cut twice too large."""
    return st.floats(low, high).map(lambda value: round(value, 6))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(positions(-3, 13), positions(-3, 11)), min_size=3, max_size=9))
def test_shares_are_the_areas_that_geos_cuts(points):
    shape = shapely.make_valid(shapely.Polygon(points))
    # Polygons of whatever it became; lines have no area.
    pieces = [q for p in shapely.get_parts(shape) for q in shapely.get_parts(p)]
    parts = [p for p in pieces if p.geom_type == "Polygon"]
    shape = shapely.MultiPolygon(parts)
    rows, columns = np.mgrid[0:8, 0:10]
    cells = shapely.box(columns, rows, columns + 1, rows + 1)
    expected = shapely.area(shapely.intersection(shape, cells))
    np.testing.assert_allclose(covered(shape, 8, 10), expected, atol=1e-9)


def test_shares_of_holes_and_islands():
    shape = shapely.box(0, 0, 8, 8) - shapely.box(1.5, 1, 6, 6) | shapely.box(3, 3, 4.25, 4)
    for turned in (shape, shapely.reverse(shape)):
        share = covered(turned, 8, 8)
        assert share.sum() == pytest.approx(shape.area)
        assert share[1, 1] == 0.5
        assert share[3, 3:5].tolist() == [1, 0.25]
        assert share[2, 3] == 0


def tiles(*rows):
    names = ("name", "epsg", "west", "south", "east", "north", "dataset_version")
    return pd.DataFrame([(*row, "") for row in rows], columns=list(names))


def utm(epsg, *bounds):
    from aef_dagster_tests.embeddings.cog.conftest import lonlat

    return lonlat(epsg, shapely.segmentize(shapely.box(*bounds), 100))


def test_ground_that_two_tiles_have_goes_to_one():
    zones = zones_of(tiles(
        ("a", 32614, 600_000, 4_400_000, 605_000, 4_405_000),
        ("b", 32614, 604_000, 4_400_000, 609_000, 4_405_000),  # overlaps a by 1 km
    ))  # fmt: skip
    cut = split(utm(32614, 603_000, 4_401_000, 607_000, 4_402_000), zones)
    assert {part.tile: round(part.shape.area / 1e6, 3) for part in cut.parts} == {"a": 2, "b": 2}
    assert cut.area_m2 == pytest.approx(4e6, rel=1e-6)


def test_ground_beyond_the_meridian_is_its_own_zones():
    outline = utm(32614, 755_000, 4_431_000, 757_500, 4_432_000)
    both = zones_of(tiles(
        ("a", 32614, 753_280, 4_430_080, 758_400, 4_435_200),
        ("b", 32615, 241_920, 4_430_080, 247_040, 4_435_200),
    ))  # fmt: skip
    cut = split(outline, both)
    assert [part.tile for part in cut.parts] == ["a", "b"]
    assert sum(part.shape.area for part in cut.parts) == pytest.approx(2.5e6, rel=1e-4)
    # Without a tile in zone 15, that of zone 14 has the ground all the same.
    cut = split(outline, {32614: both[32614]})
    assert sum(part.shape.area for part in cut.parts) == pytest.approx(2.5e6, rel=1e-4)
    # In the middle of zone 15 nothing of zone 14 helps: the area counts, the ground is not held.
    far = split(utm(32615, 500_000, 4_431_000, 501_000, 4_432_000), {32614: both[32614]})
    assert not far.parts
    assert far.area_m2 == pytest.approx(1e6, rel=1e-3)
