"""The Earth Engine route against an engine on this machine, with the real client library."""

import json
import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.earth_engine import (
    BackOff,
    EarthEngineSource,
    export_state,
    export_year,
)
from aef_dagster.embeddings.earth_engine.connection import PASSING, WORKLOAD_TAG
from aef_dagster.embeddings.earth_engine.refusals import without_secrets
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import DataFileError, UserError
from aef_dagster_tests.embeddings.earth_engine.loopback_engine import (
    TOKEN,
    Fault,
    SceneImage,
    running,
)
from aef_dagster_tests.embeddings.field import field

QUICK = BackOff(attempts=4, first_s=0.001, longest_s=0.01)
COMPUTE, FEATURES = "value:compute", "table:computeFeatures"
# East of here there are no data.
COAST = -93.0
IDS = ["01013500", "02000001", "02000002", "03000001", "03000002", "04000001"]


def outline(number: int):
    """A round basin; with a hole; in two parts; at the coast; at sea; smaller than a pixel."""
    middle = shapely.Point(-95 + 0.4 * number, 40)
    round_one = middle.buffer(0.1)
    shapes = {
        1: round_one - middle.buffer(0.05),
        2: shapely.union_all([middle.buffer(0.05), shapely.Point(-94.2, 40.3).buffer(0.08)]),
        3: shapely.Point(COAST, 40).buffer(0.1),
        4: shapely.Point(COAST + 1, 40).buffer(0.1),
        5: shapely.box(-94.004, 41, -94, 41.003),
    }
    return shapes.get(number, round_one)


@pytest.fixture(scope="module")
def polygons(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("outlines") / "polygons.parquet"
    shapes = [outline(number) for number in range(len(IDS))]
    gpd.GeoDataFrame({"gauge_id": IDS}, geometry=shapes, crs=4326).to_parquet(path)
    return path


def image(year: int, version: str = "1.1", box=(-110.0, 30.0, -80.0, 50.0)) -> SceneImage:
    def read(lon, lat):
        return np.where((lon < COAST)[:, None], field(lon, lat, year), np.nan)

    return SceneImage(year, box, {"DATASET_VERSION": version, "MODEL_VERSION": "2.1"}, read)


@pytest.fixture
def engine(tmp_path):
    with running([image(2018), image(2020), image(2019)], tmp_path / "bucket") as engine:
        yield engine


@pytest.fixture
def make(engine, polygons, tmp_path):
    """A source with some arguments of its own."""

    def made(**arguments) -> EarthEngineSource:
        usual = {"project": "my-project", "url": engine.url, "batch_vertices": 200,
                 "page_size": 2, "back_off": QUICK}  # fmt: skip
        return EarthEngineSource(polygons, tmp_path / "scratch", **{**usual, **arguments})

    return made


def truth(number: int, year: int = 2020) -> np.ndarray:
    """Mean of the field over the outline as drawn, from places every 0.001 degrees."""
    shape = outline(number)
    west, south, east, north = shape.bounds
    step = 0.001 if east - west > 0.01 else 0.0001
    lon, lat = np.meshgrid(np.arange(west, east, step), np.arange(south, north, step))
    lon, lat = lon.ravel(), lat.ravel()
    inside = shapely.contains_xy(shape, lon, lat) & (lon < COAST)
    return field(lon[inside], lat[inside], year).mean(axis=0)


def vectors(frame: pd.DataFrame) -> np.ndarray:
    return frame[list(BANDS)].to_numpy(dtype=float)


def test_years_are_those_that_have_images_here(engine, make):
    engine.images.append(image(2021, box=(10, 40, 20, 50)))  # another continent
    assert make().years() == (2018, 2019, 2020)
    asked, _ = engine.requests(COMPUTE)
    assert asked.facts["collection"] == ["GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"]
    west, _, east, _ = asked.facts["region"][0]
    assert (west, east) == pytest.approx((-95.1, -91.9))


def test_the_edition_of_a_year_differs_when_its_vectors_may(engine, make):
    source = make()
    edition = source.version(2020)
    assert edition.startswith("1.1 ")
    assert {source.version(2020), make().version(2020)} == {edition}
    assert source.years() == (2018, 2019, 2020)
    assert len(engine.requests(COMPUTE)) == 4  # two a source, however often it is asked
    assert make(scale_m=500).version(2020) != edition
    assert make().version(2019) == make().version(2018)  # alike in all that is told of them
    engine.images[1] = image(2020, version="1.2")
    assert make().version(2020).startswith("1.2 ")
    with pytest.raises(UserError, match="no images of 2021"):
        source.version(2021)


# Measured: at most 1.1e-5 (the basin of 0.1 km2) and 9.1e-5; 5.9e-8 and 4.8e-5.
@pytest.mark.parametrize(("scale", "cosine", "norm"), [(1000.0, 2e-5, 2e-4), (250.0, 2e-7, 1e-4)])
def test_means_are_those_of_the_field(make, scale, cosine, norm):
    fetched = make(scale_m=scale).fetch(2020, IDS)
    for row in fetched.frame.itertuples():
        got = np.array([getattr(row, band) for band in BANDS], dtype=float)
        true = truth(IDS.index(row.gauge_id))
        assert 1 - got @ true / np.linalg.norm(got) / np.linalg.norm(true) < cosine, row.gauge_id
        assert row.norm == pytest.approx(np.linalg.norm(true), abs=norm), row.gauge_id


def test_what_was_asked_is_the_annual_mosaic_over_the_basins(engine, make):
    make(scale_m=500).fetch(2019, IDS)
    pages = engine.requests(FEATURES)
    for asked in pages:
        facts = asked.facts
        assert set(facts["collection"]) == {"GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"}
        assert set(facts["dates"]) == {("2019-01-01", "2020-01-01")}
        assert set(facts["scale"]) == {500} and set(facts["crs"]) == {"EPSG:4326"}
        assert facts["reducer"] == ["mean", "count"]
        assert facts["bands"] == [(*BANDS, "valid_fraction"), ("A00",)]
        assert set(facts["geodesic"]) == {False}
        assert asked.body["pageSize"] == 2
        assert asked.body["workloadTag"] == WORKLOAD_TAG
    first_pages = [asked for asked in pages if "pageToken" not in asked.body]
    assert [i for asked in first_pages for i in asked.facts["basins"][0]] == IDS
    assert len(first_pages) > 1  # batches
    assert len(pages) > len(first_pages)  # and pages of a batch


def test_a_row_tells_where_it_came_from(engine, make):
    told = []
    fetched = make().fetch(2020, [*IDS, "99999999"], lambda *numbers: told.append(numbers))
    frame = fetched.frame.set_index("gauge_id")
    assert fetched.missing == ("03000002", "99999999")  # at sea; without an outline
    assert list(frame.index) == [i for i in IDS if i != "03000002"]
    assert frame["valid_fraction"].drop("03000001").to_numpy() == pytest.approx(1)
    assert frame.at["03000001", "valid_fraction"] == pytest.approx(0.5, abs=0.03)
    # 0.1 degrees around: 391 pixels of 1 km at the equator's degree.
    assert frame.at["01013500", "pixel_count"] == pytest.approx(np.pi * 0.01 * 111.32**2, rel=0.02)
    assert frame.at["04000001", "pixel_count"] <= 1  # smaller than a pixel, but with a mean
    assert set(frame["dataset_version"]) == {"1.1"} and set(frame["route"]) == {"earth_engine"}
    assert set(frame["resolution_m"]) == {1000.0} and set(frame["reducer"]) == {"mean"}
    assert (frame["bytes_read"] > 1000).all()
    assert fetched.provenance["images"] == 1
    assert fetched.provenance["batches_reused"] == 0
    assert fetched.provenance["largest_area_error"] <= 0.01
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
    assert told[-1][:2] == (6, 6)
    assert 0 < told[0][2] < told[-1][2] <= fetched.provenance["bytes_read"]


def test_one_basin_gives_the_same_vector_alone(make):
    together = make().fetch(2020, IDS).frame.set_index("gauge_id")
    alone = make().fetch(2020, IDS[1:2]).frame.set_index("gauge_id")
    pd.testing.assert_frame_equal(
        alone.drop(columns="bytes_read"), together.loc[IDS[1:2]].drop(columns="bytes_read")
    )


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(429, "slow down")] * 3,
        [Fault(429, "slow down", headers={"Retry-After": "0"})],
        [Fault(500, "internal"), None, Fault(503, "backend")],
        [Fault(403, "rateLimitExceeded: too fast")],
        [Fault(kind="cut")] * 2,
        [None, Fault(500, "internal")],  # the second page of the first batch
    ],
    ids=["429", "retry-after", "5xx", "rate as 403", "cut", "second page"],
)
def test_passing_faults_change_nothing(engine, make, tmp_path, faults):
    clean = EarthEngineSource(
        make().polygons, tmp_path / "clean", project="p", url=engine.url, batch_vertices=200,
        page_size=2,
    ).fetch(2020, IDS)  # fmt: skip
    before = len(engine.requests(FEATURES))
    engine.fail(FEATURES, *faults)
    fetched = make().fetch(2020, IDS)
    unlike = ["bytes_read"]
    pd.testing.assert_frame_equal(
        fetched.frame.drop(columns=unlike), clean.frame.drop(columns=unlike)
    )
    failed = sum(fault is not None for fault in faults)
    assert len(engine.requests(FEATURES)) - before == before + failed


@pytest.mark.parametrize(
    ("fault", "tries", "told"),
    [
        (Fault(429, "Too Many Requests"), 4, r"quota is used up: wait .*AEF_EE_SCALE"),
        (Fault(429, "Quota exceeded for quota metric 'EECU-seconds' of consumer 'project:1'"), 4,
         r"quota is used up"),
        (Fault(500, "Internal error"), 4, r"refused \(500\): run again later, finished batches"),
        (Fault(403, "Caller does not have required permission to use project my-project. Grant "
               "roles/serviceusage.serviceUsageConsumer"), 1, r"Usage Consumer.*AEF_EE_KEY_FILE"),
        (Fault(403, "Google Earth Engine API has not been used in project 1 before or it is "
               "disabled"), 1, r"API is not enabled.*AEF_EE_PROJECT"),
        (Fault(403, "Project my-project is not registered to use Earth Engine"), 1, r"register it"),
        (Fault(400, "User memory limit exceeded."), 1, r"AEF_EE_SCALE to a coarser value"),
        (Fault(400, "Computation timed out."), 1, r"batch export"),
        (Fault(400, "Request payload size exceeds the limit: 10485760 bytes."), 1, r"too detailed"),
        (Fault(401, "Request had invalid authentication"), 1, r"AEF_EE_KEY_FILE"),
        (Fault(502, kind="html"), 4, r"refused \(502\): run again later"),
        (Fault(kind="html"), 4, r"login page of a proxy"),
        (Fault(kind="cut"), 4, r"no usable answer 4 times in a row"),
        (Fault(kind="short"), 2, r"answered 2 basins of 4, or others"),
    ],
)  # fmt: skip
def test_lasting_faults_are_one_sentence_with_the_next_step(engine, make, fault, tries, told):
    engine.fail(FEATURES, fault, forever=True)
    with pytest.raises(UserError, match=told) as caught:
        make().fetch(2020, IDS)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert len(engine.requests(FEATURES)) == tries
    assert not list(make().scratch.rglob("*.tmp"))


def test_a_refusal_at_the_door_is_told_alike(engine, make):
    engine.fail("/algorithms", Fault(403, "Earth Engine API has not been used in project 1 before"))
    with pytest.raises(UserError, match="API is not enabled"):
        make().years()
    engine.fail("/$discovery/rest", Fault(404, "Not Found"))
    with pytest.raises(UserError, match=r"refused"):
        make().years()
    engine.fail("/$discovery/rest", Fault(503, "Unavailable"))
    assert make().years() == (2018, 2019, 2020)


def test_nobody_listens(make):
    with pytest.raises(UserError, match="no usable answer 4 times"):
        make(url="http://127.0.0.1:9").years()


def test_a_run_again_asks_for_the_rest_only(engine, make):
    whole = make(batch_vertices=1).fetch(2020, IDS[:3])
    engine.asked.clear()
    for piece in make().scratch.rglob("*.parquet"):
        piece.unlink()
    engine.fail(FEATURES, None, None, *[Fault(429, "quota")] * 4)
    with pytest.raises(UserError, match="finished batches are kept"):
        make(batch_vertices=1).fetch(2020, IDS[:3])
    engine.asked.clear()
    fetched = make(batch_vertices=1).fetch(2020, IDS[:3])
    assert [asked.facts["basins"] for asked in engine.requests(FEATURES)] == [[[IDS[2]]]]
    assert fetched.provenance["batches_reused"] == 2
    pd.testing.assert_frame_equal(fetched.frame, whole.frame)


def test_what_was_kept_is_not_taken_for_something_else(engine, make):
    def reused(year: int = 2020, **arguments) -> int:
        return make(batch_vertices=1, **arguments).fetch(year, IDS[:2]).provenance["batches_reused"]

    assert reused() == 0 and reused() == 2
    assert reused(scale_m=500) == 0
    assert reused(year=2019) == 0
    assert reused(page_size=1) == 2  # decides no number
    engine.images[1] = image(2020, version="1.2")
    assert reused() == 0
    fetched = make(batch_vertices=1).fetch(2020, IDS[:2])
    assert fetched.provenance["batches_reused"] == 2
    assert set(fetched.frame["dataset_version"]) == {"1.2"}


def test_another_outline_is_not_taken_for_the_same_basin(make, polygons, tmp_path):
    make().fetch(2020, IDS)
    shapes = gpd.read_parquet(polygons)
    shapes.loc[0, "geometry"] = outline(0).buffer(0.02)
    moved = make()
    moved.polygons = tmp_path / "moved.parquet"
    shapes.to_parquet(moved.polygons)
    fetched = moved.fetch(2020, IDS)
    assert fetched.provenance["batches_reused"] == fetched.provenance["batches"] - 1
    old = make().fetch(2020, IDS).frame
    assert fetched.frame["content_hash"][0] != old["content_hash"][0]


def test_a_damaged_piece_is_asked_for_again(engine, make):
    whole = make().fetch(2020, IDS)
    piece = min(make().scratch.rglob("*.parquet"))
    piece.write_bytes(piece.read_bytes()[:100])
    fetched = make().fetch(2020, IDS)
    assert fetched.provenance["batches_reused"] == fetched.provenance["batches"] - 1
    pd.testing.assert_frame_equal(
        fetched.frame.drop(columns="bytes_read"), whole.frame.drop(columns="bytes_read")
    )


def test_images_of_several_versions_are_named(engine, make):
    engine.images.append(image(2020, version="1.0", box=(-94.0, 39.0, -93.0, 41.0)))
    assert set(make().fetch(2020, IDS).frame["dataset_version"]) == {"mixed: 1.0, 1.1"}


def test_a_year_that_changes_while_it_is_read_is_refused(engine, make):
    def change(done, total, bytes_read):
        engine.images[1] = image(2020, version="1.2")

    with pytest.raises(UserError, match="images of 2020 changed while they were read"):
        make().fetch(2020, IDS, change)


def test_a_year_without_images(make):
    with pytest.raises(UserError, match="no images of 2021 where the basins are"):
        make().fetch(2021, IDS)
    with pytest.raises(UserError, match="by year"):
        make().fetch_mean(IDS)


def test_outlines_that_cannot_be_used(engine, polygons, tmp_path):
    def source(path):
        return EarthEngineSource(path, tmp_path / "scratch", project="p", url=engine.url)

    with pytest.raises(UserError, match="`aef prepare`, or the asset `basins`"):
        source(tmp_path / "none.parquet").years()
    with pytest.raises(UserError, match="materialize `basins` first"):
        source(tmp_path / "none.parquet").fetch(2020, IDS)
    with pytest.raises(UserError, match="none of the 1 basins asked for has an outline"):
        source(polygons).fetch(2020, ["99999999"])
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(polygons.read_bytes()[:500])
    with pytest.raises(DataFileError, match="cannot be read as GeoParquet"):
        source(torn).fetch(2020, IDS)
    twice = tmp_path / "twice.parquet"
    shapes = gpd.read_parquet(polygons)
    pd.concat([shapes, shapes[:1]]).to_parquet(twice)
    with pytest.raises(DataFileError, match="basin 01013500: .*occurs twice"):
        source(twice).fetch(2020, IDS)
    # Signed in at most: nothing was computed.
    assert all("discovery" in a.path or "algorithms" in a.path for a in engine.asked)


def test_scale_finer_than_the_pixels(polygons, tmp_path):
    with pytest.raises(UserError, match="AEF_EE_SCALE=5: "):
        EarthEngineSource(polygons, tmp_path, project="p", scale_m=5)


# Who asks


def test_without_a_project(make):
    with pytest.raises(UserError, match="set AEF_EE_PROJECT"):
        make(project=None).years()


def test_not_signed_in(make, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(UserError, match="not signed in.*AEF_EE_KEY_FILE.*earthengine authenticate"):
        make(url=None).years()


def test_no_credentials_over_an_open_line(make):
    with pytest.raises(UserError, match="is not https"):
        make(url="http://engine.example.org").years()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"client_email": "a", "private_key": "hush-hush-hush", "token_uri": "b"}']
)
def test_a_key_file_that_is_none(make, tmp_path, text):
    path = tmp_path / "key.json"
    with pytest.raises(UserError, match=r"AEF_EE_KEY_FILE=.*key.json cannot be read"):
        make(key_file=path).years()
    path.write_text(text)
    with pytest.raises(UserError, match=r"key.json is no key of a service account") as caught:
        make(key_file=path).years()
    assert "hush" not in str(caught.value)


@pytest.fixture(scope="module")
def private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


@pytest.fixture
def key_file(engine, tmp_path, private_key, monkeypatch) -> Path:
    """A service account's key whose tokens come from the engine on this machine."""
    # Google's library asks Google, in the background, where an account may be used from.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    path = tmp_path / "service-account.json"
    key = {"type": "service_account", "project_id": "the-account-s-own",
           "private_key_id": "0123456789abcdef", "private_key": private_key,
           "client_email": "robot@the-account-s-own.iam.gserviceaccount.com",
           "token_uri": f"{engine.url}/token"}  # fmt: skip
    path.write_text(json.dumps(key))
    return path


def test_a_service_account_signs_in_with_its_key(engine, make, key_file):
    assert make(project=None, key_file=key_file).years() == (2018, 2019, 2020)
    assert len(engine.requests("/token")) == 1
    asked = engine.requests(COMPUTE)[0]
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.path.startswith("/v1alpha/projects/the-account-s-own/")


def test_a_key_that_was_revoked(engine, make, key_file):
    engine.fail("/token", Fault(400, "invalid_grant: Invalid JWT Signature."))
    with pytest.raises(UserError, match="credentials were not accepted.*AEF_EE_KEY_FILE"):
        make(key_file=key_file).years()


def test_secrets_are_told_to_nobody(engine, make, key_file, private_key, caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    source = make(key_file=key_file, batch_vertices=1)
    told = []
    # A server, or a proxy, that repeats what it was sent.
    body = private_key.replace("\n", "\\n")
    for repeated in (f"Authorization: Bearer {TOKEN} was refused", f"access_token={TOKEN}",
                     f'bad "private_key": "{body}" here', private_key):  # fmt: skip
        engine.fail(FEATURES, None, Fault(403, repeated))
        with pytest.raises(UserError) as caught:
            source.fetch(2020, IDS)
        told.append(str(caught.value))
        for piece in source.scratch.rglob("*.parquet"):
            piece.unlink()
    fetched = source.fetch(2020, IDS)
    told += [str(fetched.provenance), fetched.frame.to_csv(), caplog.text, *capfd.readouterr()]
    told += [repr(vars(source))]
    told += [path.read_bytes().decode(errors="replace") for path in source.scratch.rglob("*.*")]
    middle = private_key.splitlines()[5]
    assert engine.requests("/token") and len(caplog.text) > 1000
    for text in told:
        assert TOKEN not in text and middle not in text and "0123456789abcdef" not in text


def test_secrets_are_cut_out_of_a_message_and_nothing_else():
    assert without_secrets("the quota metric 'key' of project my-project is 40 per minute") == (
        "the quota metric 'key' of project my-project is 40 per minute"
    )
    assert without_secrets("with Bearer abc.def-123, sorry") == "with [removed] sorry"


def test_waits_grow_and_are_bounded():
    patient = BackOff(attempts=8, first_s=1, longest_s=60)
    for attempt, longest in [(1, 1), (2, 2), (5, 16), (8, 60), (30, 60)]:
        waits = {patient.wait(attempt, None) for _ in range(50)}
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert len(waits) > 1  # not all at once
    assert patient.wait(1, "7") == 7
    assert patient.wait(1, "86400") == 60
    assert patient.wait(1, "Wed, 21 Oct 2026 07:28:00 GMT") <= 1
    assert 429 in PASSING and 400 not in PASSING


# Batch export


def test_an_exported_year_is_read_by_the_table_route(engine, make, tmp_path):
    source = make()
    (task,) = export_year(source, 2020, IDS, bucket="my-bucket", folder="aef")
    assert task.file == "gs://my-bucket/aef/BasinEmbeddings_2020_1000m_1.csv"
    assert task.basins == 6 and task.id == "TASK1"
    (asked,) = engine.requests("table:export")
    assert asked.body["fileExportOptions"] == {
        "fileFormat": "CSV",
        "cloudStorageDestination": {
            "bucket": "my-bucket",
            "filenamePrefix": "aef/BasinEmbeddings_2020_1000m_1",
        },
    }
    assert asked.body["workloadTag"] == WORKLOAD_TAG
    assert export_state(source, task).state == "COMPLETED"
    direct = source.fetch(2020, IDS)
    table = TableSource(engine.bucket / "my-bucket" / "aef").fetch(2020, IDS)
    assert table.missing == direct.missing == ("03000002",)
    same = ["gauge_id", *BANDS, "norm", "valid_fraction", "pixel_count", "dataset_version",
            "resolution_m", "content_hash"]  # fmt: skip
    pd.testing.assert_frame_equal(table.frame[same], direct.frame[same])


def test_a_large_export_is_several_tasks(engine, make, monkeypatch):
    monkeypatch.setattr("aef_dagster.embeddings.earth_engine.export.TASK_VERTICES", 200)
    tasks = export_year(make(), 2020, IDS, bucket="my-bucket")
    assert len({task.id for task in tasks}) == len({task.file for task in tasks}) == len(tasks) > 1
    assert sum(task.basins for task in tasks) == len(IDS)


def test_an_export_that_is_refused(engine, make):
    engine.fail("table:export", Fault(403, "Permission denied on bucket my-bucket"))
    with pytest.raises(UserError, match="Permission denied on bucket my-bucket"):
        export_year(make(), 2020, IDS, bucket="my-bucket")
