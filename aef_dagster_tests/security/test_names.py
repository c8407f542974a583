"""Names from files, config and addresses: none leads out of its folder, none is read as a query."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from aef_dagster.basins.camels_us import CamelsUS
from aef_dagster.basins.dataset import GAUGE_ID, basin_ids
from aef_dagster.basins.ingest import ingest_forcings, ingest_streamflow
from aef_dagster.basins.stores import MOST_BYTES, ArchiveStore
from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import DataFileError, UserError
from aef_dagster.experiments.reading import Reading, Table
from aef_dagster.experiments.readings_folder import load_reading, save_reading
from aef_dagster.experiments.sizes import size_named
from aef_dagster.experiments.study import chosen
from aef_dagster.storage.tracking import EXPERIMENT, StudyRecord, TrackedRun, Tracking
from aef_dagster.storage.warehouse import Warehouse
from aef_dagster_tests.basins.tiny_camels import BASINS, write_tiny

HOSTILE = [
    "../../victim", "/tmp/victim", "..", "a/b", "01013500/../x", "01013500\\x",
    "'; DROP TABLE x; --",
    "$(touch owned)", "`touch owned`", ";touch owned", "\x00", "<script>", "٠١٠١٣٥٠٠", "01013500 x",
    "0101350O", "101350000000",
]  # fmt: skip


def with_id(root: Path, gauge_id: str) -> Path:
    """The tiny dataset, whose list of basins names one of them otherwise."""
    path = write_tiny(root) / "camels_attributes_v2.0" / "camels_name.txt"
    path.write_text(path.read_text().replace(next(iter(BASINS)), gauge_id))
    return root


@pytest.mark.parametrize("gauge_id", HOSTILE)
def test_an_id_in_a_list_of_basins_is_no_path(gauge_id, tmp_path):
    victim = tmp_path / "victim.parquet"
    victim.write_text("kept")
    root = with_id(tmp_path / "data", gauge_id)
    dataset, lake = CamelsUS(root, "daymet"), tmp_path / "lake" / "streamflow"
    with pytest.raises(DataFileError, match=r"is no gauge id of 8 digits|comes twice|lacks|table"):
        ingest_streamflow(dataset, lake, dataset.catalog())
    with pytest.raises(DataFileError):
        ingest_forcings(dataset, lake)
    assert victim.read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "victim.parquet"]
    assert set(basin_ids("camels_us", root)) <= set(BASINS)


@given(st.text(st.characters(exclude_characters=';"\r\n', exclude_categories=["Cs"]), max_size=12))
@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_any_id_is_eight_digits_or_refused(tmp_path, gauge_id):
    root = tmp_path / "data"
    if not root.exists():
        write_tiny(root)
    path = root / "camels_attributes_v2.0" / "camels_name.txt"
    path.write_text(f"gauge_id;huc_02;gauge_name\n{gauge_id};01;A\n", encoding="utf-8")
    assert all(GAUGE_ID.fullmatch(key) for key in basin_ids("camels_us", root))
    try:
        found = CamelsUS(root, "daymet").gauge_ids()
    except DataFileError:
        return
    assert all(GAUGE_ID.fullmatch(key) for key in found)


def test_ids_in_embedding_tables_pick_rows_and_nothing_else(tmp_path):
    rows = [[gauge_id, 2018, *[0.1] * 64] for gauge_id in ("01013500", *HOSTILE)]
    frame = pd.DataFrame(rows, columns=["gauge_id", "year", *BANDS])
    (tmp_path / "tables").mkdir()
    frame.to_parquet(tmp_path / "tables" / "it's $(touch owned).parquet")
    found = TableSource(tmp_path / "tables").fetch(2018, ["01013500", "09430500"])
    assert found.frame["gauge_id"].tolist() == ["01013500"]
    assert found.missing == ("09430500",)
    assert [p.name for p in tmp_path.iterdir()] == ["tables"]


@pytest.mark.parametrize("name", HOSTILE)
def test_sizes_and_experiments_are_those_we_know(name):
    with pytest.raises(UserError, match="unknown size"):
        size_named(name)
    with pytest.raises(UserError, match="no experiment"):
        chosen([name])


def test_a_member_that_would_fill_memory_is_refused(tmp_path):
    """Zeros: 65 MB in 64 kB."""
    name = "basin_mean_forcing/daymet/01/01013500_lump_cida_forcing_leap.txt"
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"0" * (MOST_BYTES + 1))
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000
    with pytest.raises(DataFileError, match="64 MB of text for one basin"):
        ArchiveStore(tmp_path / "bomb.zip").read(name, "01013500")


def test_a_link_in_an_archive_is_read_as_text(tmp_path):
    """Zip keeps a link as a file that holds its target: the target is not opened."""
    link = zipfile.ZipInfo("basin_mean_forcing/daymet/01/01013500_lump_cida_forcing_leap.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert ArchiveStore(tmp_path / "links.zip").read(link.filename, "01013500") == b"/etc/passwd"


@given(st.text(max_size=40))
@settings(max_examples=10, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_titles_of_a_reading_stay_in_its_folder(tmp_path, title):
    folder = tmp_path / "study" / "an experiment"
    reading = Reading(
        name="x", title=title, question=title, findings=(title,), numbers={},
        estimates=pd.DataFrame({"value": [1.0]}),
        tables=(Table(f"../../{title}", pd.DataFrame({"a": [1]}), title),), pictures=(),
    )  # fmt: skip
    save_reading(reading, folder)
    assert load_reading(folder).tables[0].title == f"../../{title}"
    assert [p.name for p in tmp_path.iterdir()] == ["study"]
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["an experiment"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=8))
@settings(max_examples=4, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_the_warehouse_keeps_any_text_as_text(tmp_path, names):
    """As value and as what picks rows: nothing is read as SQL, nothing else is touched."""
    store = Warehouse(tmp_path / "warehouse.duckdb")
    names = list(dict.fromkeys([*names, *HOSTILE, *(f"{name}'; --" for name in names)]))
    rows = pd.DataFrame({"gauge_id": [f"{i:08d}" for i in range(len(names))], "name": names})
    store.replace("basins", rows)
    kept = store.frame("SELECT gauge_id, name FROM basins ORDER BY gauge_id")
    assert kept["name"].tolist() == names
    for name in names[:3]:
        found = store.frame("SELECT gauge_id FROM basins WHERE name = ?", [name])
        assert found["gauge_id"].tolist() == [f"{names.index(name):08d}"]
    store.replace("basins", rows[:0], name=names[-1])
    assert store.count("basins") == len(names) - 1


def test_a_table_is_one_of_ours(tmp_path):
    store = Warehouse(tmp_path / "warehouse.duckdb")
    store.replace("basins", pd.DataFrame({"gauge_id": ["00000001"], "name": ["a"]}))
    for table in ("basins; DROP TABLE scores", "'x'", "sqlite_master", ""):
        with pytest.raises(ValueError, match="no such table"):
            store.count(table)
        with pytest.raises(ValueError, match="no such table"):
            store.replace(table, pd.DataFrame({"gauge_id": ["1"]}))


STUDIES = [
    "it's", "' OR '1'='1", "a`b", 'say "x"', "back\\slash", "two\nlines", "100 % _x_",
    "$(touch owned)",
    "<script>alert(1)</script>", "../../x", "é漢字", "tags.a = 'b' AND 1=1", "x" * 400,
]  # fmt: skip


@pytest.mark.slow
def test_studies_of_any_name_are_told_apart_in_mlflow(tmp_path):
    """The name is in MLflow's search: a name that were read as one would find another's run."""
    tracking = Tracking(
        f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "outbox", tmp_path / "files", "http://page"
    )
    for number, study in enumerate(STUDIES):
        tracking.enqueue(TrackedRun(f"run-{number}", study, study, "basin", 0.0, 1.0))
    tracking.enqueue_study(StudyRecord(STUDIES[0], STUDIES[0], note=STUDIES[0]))
    outcome = tracking.drain()
    assert (outcome.sent, outcome.waiting, outcome.error) == (len(STUDIES) + 1, 0, None)
    client = MlflowClient(tracking_uri=tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    parents = {r.info.run_id: r.info.run_name for r in runs if "parent_key" in r.data.tags}
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert sorted(parents.values()) == sorted(STUDIES)
    names = {
        r.data.tags["record_key"]: parents[r.data.tags["mlflow.parentRunId"]] for r in children
    }
    assert names == {f"run-{number}": study for number, study in enumerate(STUDIES)}
    places = {path.parent for path in tmp_path.rglob("*.json")}
    assert places == {tmp_path / "outbox" / "sent"}
