"""NDVI then and now: the real client library against an engine that computes what it is asked.

Scenes that may count are three in each period, made so that losing any of them moves the median;
of each kind that may not count there are four, so that letting one kind in moves it as well.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from aef_dagster import cli
from aef_dagster.embeddings.earth_engine import BackOff, EarthEngineSource
from aef_dagster.embeddings.earth_engine import ndvi as subject
from aef_dagster.embeddings.earth_engine.ndvi import ndvi_change
from aef_dagster.errors import UserError
from aef_dagster_tests.embeddings.earth_engine.loopback_engine import Fault, SceneImage, running
from aef_dagster_tests.embeddings.earth_engine.loopback_landsat import taught

QUICK = BackOff(attempts=3, first_s=0.001, longest_s=0.01)
FEATURES = "table:computeFeatures"
TM, OLI, OLI_2 = (f"LANDSAT/{name}/C02/T1_L2" for name in ("LT05", "LC08", "LC09"))
SCALE = 300.0
# East of SHORE there is nothing early, east of SEA nothing at all.
SHORE, SEA = -94.6, -94.0
BASINS = {
    "00000001": shapely.Point(-95.0, 40.0).buffer(0.04),
    "00000002": shapely.Point(SHORE, 40.1).buffer(0.04),
    "00000003": shapely.Point(SEA + 0.5, 40.0).buffer(0.04),
    "00000004": shapely.Point(-95.2, 39.9).buffer(0.03),
}
NO_OUTLINE = "99999999"
# Clear, cirrus and water: bits that do not count against a pixel.
CLEAR = 1 << 2 | 1 << 6 | 1 << 7


def surface(lon, lat, early):
    """Red and near infrared as the period's own sensor sees them."""
    red = 0.08 + 0.03 * np.sin(40 * lon)
    near = 0.30 + 0.06 * np.cos(30 * lat)
    return (red, near) if early else (red + 0.01, near + 0.05 * np.sin(25 * (lon + lat)))


def scene(collection, day, factors=(1.0, 1.0), cloud=10.0, quality=CLEAR, saturated=0):
    """A scene whose reflectances are the surface's times `factors`, stored as USGS stores them."""
    early = collection == TM
    names = ("SR_B3", "SR_B4") if early else ("SR_B4", "SR_B5")

    def read(lon, lat):
        stored = [
            np.round((value * factor + 0.2) / 0.0000275)
            for value, factor in zip(surface(lon, lat, early), factors, strict=True)
        ]
        flags = np.where(early & (lon > SHORE), 1 << 0, quality)  # fill
        pixels = np.column_stack([*stored, flags, np.full(lon.size, saturated)])
        return np.where((lon < SEA)[:, None], pixels, np.nan)

    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    facts = {"system:time_start": start.timestamp() * 1000, "CLOUD_COVER": cloud}
    box = (-100.0, 35.0, -90.0, 45.0)
    bands = (*names, "QA_PIXEL", "QA_RADSAT")
    return SceneImage(start.year, box, facts, read, collection, bands)


def clear_scenes():
    """The medians of these are the surface; they lie at the borders of what may count."""
    return [
        scene(TM, "1984-06-01T00:00", (0.8, 1.0)),
        scene(TM, "1990-09-30T23:59", (1.0, 0.7), cloud=49.9),
        scene(TM, "1987-07-15T17:00", (1.3, 1.2)),
        scene(OLI, "2017-06-01T00:00", (0.8, 1.0)),
        scene(OLI, "2019-08-01T17:00", (1.0, 0.7), cloud=49.9),
        scene(OLI_2, "2024-09-30T23:59", (1.3, 1.2)),
    ]


def odd_scenes():
    """What must not count, by kind."""
    odd = (3.0, 0.5)
    kinds = {
        "May": [(TM, "1986-05-31T23:59"), (OLI, "2018-05-31T23:59")],
        "October": [(TM, "1986-10-01T00:00"), (OLI, "2018-10-01T00:00")],
        "before": [(TM, "1983-07-01T00:00"), (OLI, "2016-07-01T00:00")],
        "after": [(TM, "1991-07-01T00:00"), (OLI_2, "2025-07-01T00:00")],
        "another satellite": [("LANDSAT/LE07/C02/T1_L2", "2018-07-01T00:00")],
    }
    summer = [(TM, "1986-07-01T00:00"), (OLI, "2018-07-01T00:00"), (OLI_2, "2022-07-01T00:00")]
    made = {
        kind: [scene(collection, day, odd) for collection, day in which]
        for kind, which in kinds.items()
    }
    made["cloudy"] = [scene(*which, odd, cloud=50.0) for which in summer]
    made["saturated"] = [scene(*which, odd, saturated=1 << 3) for which in summer]
    for bit in (0, 1, 3, 4, 5):
        made[f"bit {bit}"] = [scene(*which, odd, quality=CLEAR | 1 << bit) for which in summer]
    return made


def expected(gauge_id):
    """NDVI of both periods over the outline as drawn, from places every 0.0001 degrees."""
    shape = BASINS[gauge_id]
    west, south, east, north = shape.bounds
    lon, lat = np.meshgrid(np.arange(west, east, 1e-4), np.arange(south, north, 1e-4))
    inside = shapely.contains_xy(shape, lon, lat) & (lon < SEA)
    lon, lat = lon[inside], lat[inside]
    red, near = surface(lon, lat, early=True)
    red, near = 0.0061 + 0.9047 * red, 0.0412 + 0.8462 * near  # Roy et al. (2016), table 2
    early = np.where(lon <= SHORE, (near - red) / (near + red), np.nan)
    red, near = surface(lon, lat, early=False)
    recent = (near - red) / (near + red)
    return early, recent, recent - early


@pytest.fixture(scope="module")
def polygons(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("outlines") / "polygons.parquet"
    gpd.GeoDataFrame(
        {"gauge_id": list(BASINS)}, geometry=list(BASINS.values()), crs=4326
    ).to_parquet(path)
    return path


@pytest.fixture
def engine(tmp_path):
    scenes = clear_scenes() + [image for kind in odd_scenes().values() for image in kind * 4]
    with taught(), running(scenes, tmp_path / "bucket") as engine:
        yield engine


@pytest.fixture
def source(engine, polygons, tmp_path) -> EarthEngineSource:
    return EarthEngineSource(
        polygons, tmp_path / "scratch", project="my-project", url=engine.url, batch_vertices=70,
        page_size=1, back_off=QUICK,
    )  # fmt: skip


def test_numbers_are_those_of_the_surface(source):
    table = ndvi_change(source, [*BASINS, NO_OUTLINE], scale_m=SCALE)
    assert list(table["gauge_id"]) == [*BASINS, NO_OUTLINE]
    assert list(table) == ["gauge_id", *subject.PROPERTIES]
    rows = table.set_index("gauge_id")
    for gauge_id in ("00000001", "00000002", "00000004"):
        row, (early, recent, change) = rows.loc[gauge_id], expected(gauge_id)
        # Measured: at most 7e-5, 8e-4 where the shore cuts pixels; quartiles 2.1e-3. The mean of
        # the scenes in place of their median would be off by 0.02.
        assert row["ndvi_early"] == pytest.approx(np.nanmean(early), abs=1e-3), gauge_id
        assert row["ndvi_recent"] == pytest.approx(np.nanmean(recent), abs=1e-3), gauge_id
        assert row["change"] == pytest.approx(np.nanmean(change), abs=1e-3), gauge_id
        assert row["spread"] == pytest.approx(np.nanstd(change), abs=1e-3), gauge_id
        quartiles = np.nanpercentile(change, [25, 75])
        assert row[["p25", "p75"]].tolist() == pytest.approx(quartiles, abs=3e-3), gauge_id
    assert rows.at["00000004", "change"] < -0.05


def test_pixels_are_counted_by_period(source):
    rows = ndvi_change(source, [*BASINS, NO_OUTLINE], scale_m=SCALE).set_index("gauge_id")
    early, recent, both = (rows[name] for name in subject.COUNTS)
    # A pixel at the equator is 300 m wide; those that the outline cuts are counted here, too.
    inside = BASINS["00000001"].area * (111_320 / SCALE) ** 2
    assert inside < recent["00000001"] < 1.15 * inside
    assert early["00000001"] == both["00000001"] == recent["00000001"]
    assert early["00000002"] == both["00000002"]
    assert early["00000002"] / recent["00000002"] == pytest.approx(0.5, abs=0.05)
    at_sea = rows.loc["00000003"]
    assert at_sea[list(subject.COUNTS)].tolist() == [0, 0, 0]
    assert at_sea.drop(list(subject.COUNTS)).isna().all()
    assert rows.loc[NO_OUTLINE].isna().all()


def test_one_pixel_by_hand(engine, polygons, tmp_path):
    """Stored numbers of one place, as a person would work them out."""
    stored = {TM: (10_000, 18_000), OLI: (9_500, 20_000)}

    def alike(collection):
        scene_of = scene(collection, "1985-07-01" if collection == TM else "2020-07-01")
        numbers = np.array([*stored[collection], CLEAR, 0.0])
        return SceneImage(
            scene_of.year, scene_of.box, scene_of.properties,
            lambda lon, lat: np.tile(numbers, (lon.size, 1)), collection, scene_of.bands,
        )  # fmt: skip

    engine.images[:] = [alike(TM), alike(OLI)]
    source = EarthEngineSource(polygons, tmp_path / "one", project="p", url=engine.url)
    row = ndvi_change(source, ["00000001"], scale_m=SCALE).iloc[0]
    # TM: red 0.075, near 0.295, as OLI 0.0739525 and 0.290829. OLI: red 0.06125, near 0.35.
    assert row["ndvi_early"] == pytest.approx(0.2168765 / 0.3647815, abs=1e-6)
    assert row["ndvi_recent"] == pytest.approx(0.28875 / 0.41125, abs=1e-6)
    assert row["change"] == pytest.approx(row["ndvi_recent"] - row["ndvi_early"], abs=1e-9)
    assert row["spread"] == pytest.approx(0, abs=1e-9)


def test_odd_scenes_would_tell_if_they_counted(engine, source):
    """The world itself: four more scenes like the odd ones, at a time and with flags that count."""
    plain = ndvi_change(source, ["00000001"], scale_m=SCALE).iloc[0]
    for piece in source.scratch.rglob("*.parquet"):
        piece.unlink()
    engine.images += [scene(TM, "1986-07-01", (3.0, 0.5)), scene(OLI, "2018-07-01", (3.0, 0.5))] * 4
    moved = ndvi_change(source, ["00000001"], scale_m=SCALE).iloc[0]
    for name in ("ndvi_early", "ndvi_recent"):
        assert plain[name] - moved[name] > 0.1


def test_what_was_asked(engine, source):
    ndvi_change(source, list(BASINS), scale_m=SCALE)
    for asked in engine.requests(FEATURES):
        facts = asked.facts
        # The engine goes through a part of the expression as often as it is used.
        assert set(facts["collection"]) == {TM, OLI, OLI_2}
        periods = {("1984-01-01", "1991-01-01"), ("2017-01-01", "2025-01-01")}
        assert set(facts["dates"]) == periods
        assert set(facts["months"]) == {(6, 9)}
        assert facts["scale"] == [SCALE] and facts["crs"] == ["EPSG:4326"]
        assert facts["tile_scale"] == [4]
        assert len(facts["region"]) == len(facts["collection"])
        assert set(facts["geodesic"]) == {False}
        assert asked.size < 100_000
    first_pages = [asked for asked in engine.requests(FEATURES) if "pageToken" not in asked.body]
    assert [i for asked in first_pages for i in asked.facts["basins"][0]] == list(BASINS)
    assert 1 < len(first_pages) < len(BASINS)


def test_batches_are_bounded_by_pixels(engine, source, monkeypatch):
    together = ndvi_change(source, list(BASINS), scale_m=SCALE)
    before = len(engine.requests(FEATURES))
    for piece in source.scratch.rglob("*.parquet"):
        piece.unlink()
    monkeypatch.setattr(subject, "BATCH_PIXELS", 100)  # fewer than any basin has
    alone = ndvi_change(source, list(BASINS), scale_m=SCALE)
    pages = engine.requests(FEATURES)[before:]
    assert [len(asked.facts["basins"][0]) for asked in pages] == [1, 1, 1, 1]
    pd.testing.assert_frame_equal(alone, together)


def test_passing_faults_change_nothing_and_a_run_goes_on(engine, source, tmp_path):
    clean = ndvi_change(source, list(BASINS), scale_m=SCALE)
    asked = len(engine.requests(FEATURES))
    assert ndvi_change(source, list(BASINS), scale_m=SCALE).equals(clean)
    assert len(engine.requests(FEATURES)) == asked  # all batches were kept
    again = EarthEngineSource(
        source.polygons, tmp_path / "again", project="p", url=engine.url, batch_vertices=70,
        page_size=1, back_off=QUICK,
    )  # fmt: skip
    # A passing fault, a batch of two pages, then one that is refused for good.
    engine.fail(FEATURES, Fault(503, "backend"), None, None, Fault(400, "Bad request"))
    with pytest.raises(UserError, match="finished batches are kept"):
        ndvi_change(again, list(BASINS), scale_m=SCALE)
    before = len(engine.requests(FEATURES))
    told = []
    table = ndvi_change(again, list(BASINS), scale_m=SCALE, report=lambda *n: told.append(n))
    pd.testing.assert_frame_equal(table, clean)
    assert len(engine.requests(FEATURES)) - before == asked - 2
    assert [done for done, _, _ in told] == [2, 4] and told[-1][1] == 4
    # Other pixels are another question.
    ndvi_change(again, list(BASINS), scale_m=2 * SCALE)
    assert len(engine.requests(FEATURES)) - before == asked - 2 + asked


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(400, "User memory limit exceeded."),
         r"2 basins \(00000001 to 00000002\) at 300 m is too large .* such as 600 m"),
        (Fault(400, "Computation timed out."), "too large"),
        (Fault(429, "Too Many Requests"), "quota is used up"),
        (Fault(403, "Project p is not registered to use Earth Engine"), "register it"),
        (Fault(kind="short"), "answered 0 basins of 2"),
    ],
)  # fmt: skip
def test_lasting_faults_are_one_sentence(engine, source, fault, told):
    engine.fail(FEATURES, fault, forever=True)
    with pytest.raises(UserError, match=told) as caught:
        ndvi_change(source, list(BASINS), scale_m=SCALE)
    assert "\n" not in str(caught.value)
    assert not list(source.scratch.rglob("*.parquet"))


def test_pixels_below_landsats_are_refused(engine, source):
    with pytest.raises(UserError, match="use 30 or more"):
        ndvi_change(source, list(BASINS), scale_m=10)
    assert not engine.asked


def test_the_command(engine, polygons, tmp_path, monkeypatch, capsys):
    names = tmp_path / "camels" / "camels_name.txt"
    names.parent.mkdir()
    names.write_text("gauge_id;huc_02;gauge_name\n" + "".join(f"{i};01;x\n" for i in BASINS))
    home = tmp_path / "home"
    (home / "lake").mkdir(parents=True)
    (home / "lake" / "polygons.parquet").write_bytes(polygons.read_bytes())
    for name, value in {"AEF_DATASET": "camels_us", "AEF_DATA_DIR": names.parent, "AEF_HOME": home,
                        "AEF_EE_PROJECT": "p", "AEF_EE_URL": engine.url}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ndvi.csv"

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["aef", "embeddings", "ndvi", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, " ".join("".join(capsys.readouterr()).split())

    engine.fail(FEATURES, Fault(400, "Request payload size exceeds the limit: 10485760 bytes."))
    code, told = call("-o", str(file), "--scale", "300")
    assert code == 2 and "set --scale to a coarser value" in told and "AEF_EE" not in told
    assert not file.exists()
    code, told = call("-o", str(file), "--scale", "300")
    assert code in (0, None) and "4 basins, 3 of them seen in both periods" in told
    table = pd.read_csv(file, dtype={"gauge_id": str})
    assert list(table["gauge_id"]) == list(BASINS)
    assert table["pixels_both"].dtype == np.int64
    code, told = call("-o", str(tmp_path / "nowhere" / "ndvi.csv"))
    assert code == 2 and "does not exist" in told
    monkeypatch.setenv("AEF_DATASET", "sample")
    code, told = call("-o", str(file))
    assert code == 2 and "set AEF_DATASET=camels_us" in told
    assert not list(tmp_path.glob("*.tmp"))
