"""Copying a home and putting it back: what is refused, and what a stop leaves."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from aef_dagster.errors import UserError
from aef_dagster.storage import backup as module
from aef_dagster.storage.backup import back_up, restore
from aef_dagster.storage.home import Home
from aef_dagster.storage.warehouse import Warehouse

LONG_AGO = 1_500_000_000


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture
def home(tmp_path) -> Home:
    home = Home(tmp_path / "a home, old" / "var")
    home.claim({"dataset": "sample"})
    with Warehouse(home.warehouse).write() as connection:
        connection.execute("INSERT INTO exclusions VALUES ('basins', 'x', 'why')")
    files = {
        "checkpoints/abc/requests/one.json": "{}",
        "checkpoints/.partial/half/job.json": "half",
        "checkpoints/.pruned-1/job.json": "gone soon",
        "lake/forcings/1.parquet": "forcings",
        "sample/names.txt": "names",
        "scratch/download": "half",
        "outbox/k.json": json.dumps({"artifacts": [f"{home.root}/checkpoints/abc/job.json"]}),
        "outbox/sent/j.json": json.dumps({"uri": f"sqlite:///{home.mlflow_db}"}),
    }
    for name, content in files.items():
        path = home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (LONG_AGO, LONG_AGO))
    (home.root / "elsewhere").symlink_to("lake")
    return home


def names(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_home_comes_back_with_its_times_and_without_what_was_half_written(home, tmp_path):
    done = back_up(home, tmp_path / "b", tell=silent)
    back = tmp_path / "back" / "var"
    assert restore(tmp_path / "b", back, tell=silent).files == done.files == len(names(back))
    assert names(back) == {
        "world.json", "warehouse.duckdb", "checkpoints/abc/requests/one.json",
        "lake/forcings/1.parquet", "sample/names.txt", "outbox/k.json", "outbox/sent/j.json",
        "elsewhere",
    }  # fmt: skip
    for name in ("checkpoints/abc/requests/one.json", "outbox/k.json"):
        assert (back / name).stat().st_mtime == LONG_AGO
    assert (back / "elsewhere").readlink() == Path("lake")
    assert Warehouse(back / "warehouse.duckdb").count("exclusions") == 1


def test_without_data_the_lake_and_the_sample_stay_behind(home, tmp_path):
    back_up(home, tmp_path / "b", without_data=True, tell=silent)
    assert not (tmp_path / "b" / "lake").exists()
    assert not (tmp_path / "b" / "sample").exists()
    assert json.loads((tmp_path / "b" / "backup.json").read_text())["left_out"] == [
        "lake", "sample",
    ]  # fmt: skip


def test_elsewhere_the_outbox_names_the_new_place(home, tmp_path):
    back_up(home, tmp_path / "b", tell=silent)
    back = tmp_path / "new"
    restore(tmp_path / "b", back, tell=silent)
    assert json.loads((back / "outbox" / "k.json").read_text()) == {
        "artifacts": [f"{back}/checkpoints/abc/job.json"]
    }
    assert json.loads((back / "outbox/sent/j.json").read_text())["uri"] == (
        f"sqlite:///{back}/mlflow.db"
    )


def test_a_database_is_whole_while_somebody_writes_into_it(home, tmp_path):
    path = home.dagster / "history" / "runs.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE runs (id)")
        writer.execute("INSERT INTO runs VALUES (1)")
        writer.commit()
        writer.execute("INSERT INTO runs VALUES (2)")  # not committed
        back_up(home, tmp_path / "b", tell=silent)
    copy = tmp_path / "b" / "dagster" / "history" / "runs.db"
    with closing(sqlite3.connect(copy)) as reader:
        assert reader.execute("SELECT id FROM runs").fetchall() == [(1,)]
    assert names(copy.parent) == {"runs.db"}


def test_a_database_opened_after_it_was_copied_stays_whole(home, tmp_path):
    """Its log, of another moment than the copy, would be replayed into it."""
    paths = [home.dagster / "runs.db", home.mlflow_db]
    home.dagster.mkdir(parents=True)
    for path in paths:
        with closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("CREATE TABLE runs (id, text)")
            made.commit()
    writers = []

    def write(done: int, total: int) -> None:
        if not writers and (tmp_path / "b" / "checkpoints").exists():
            for path in [*paths, home.dagster / "later.db"]:
                writers.append(sqlite3.connect(path))
                writers[-1].execute("CREATE TABLE IF NOT EXISTS runs (id, text)")
                writers[-1].executemany(
                    "INSERT INTO runs VALUES (?, ?)", [(i, "x" * 500) for i in range(500)]
                )
                writers[-1].commit()

    back_up(home, tmp_path / "b", tell=write)
    assert len(writers) == 3
    for writer in writers:
        writer.close()
    copies = [
        tmp_path / "b" / name for name in ("dagster/runs.db", "mlflow.db", "dagster/later.db")
    ]
    for copy in copies:
        with closing(sqlite3.connect(copy)) as reader:
            assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            reader.execute("SELECT count(*) FROM runs").fetchone()
    assert not list((tmp_path / "b").rglob("*.db-*"))


def test_it_goes_into_an_empty_folder_behind_a_link(home, tmp_path):
    back_up(home, tmp_path / "b", tell=silent)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    restore(tmp_path / "b", tmp_path / "link", tell=silent)
    assert names(tmp_path / "disk") == names(tmp_path / "b") - {"backup.json"}


def test_what_is_no_place_for_it_is_refused(home, tmp_path):
    with pytest.raises(UserError, match="lies in the home itself"):
        back_up(home, home.root / "backup", tell=silent)
    back_up(home, tmp_path / "b", tell=silent)
    with pytest.raises(UserError, match="holds something already.*choose another"):
        back_up(home, tmp_path / "b", tell=silent)
    with pytest.raises(UserError, match="holds something already.*AEF_HOME"):
        restore(tmp_path / "b", home.root, tell=silent)
    with pytest.raises(UserError, match=r"no whole backup: it has no backup\.json"):
        restore(home.root, tmp_path / "c", tell=silent)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "home": 3}'])
def test_a_damaged_record_is_named(home, tmp_path, text):
    back_up(home, tmp_path / "b", tell=silent)
    (tmp_path / "b" / "backup.json").write_text(text)
    with pytest.raises(UserError, match=r"backup\.json cannot be read"):
        restore(tmp_path / "b", tmp_path / "c", tell=silent)
    assert not (tmp_path / "c").exists()


def test_a_backup_of_a_later_format_is_refused(home, tmp_path):
    back_up(home, tmp_path / "b", tell=silent)
    (tmp_path / "b" / "backup.json").write_text(json.dumps({"format": 2, "home": "/x"}))
    with pytest.raises(UserError, match="has format 2, this version reads 1"):
        restore(tmp_path / "b", tmp_path / "c", tell=silent)


def test_a_stopped_restore_leaves_nothing_and_can_be_repeated(home, tmp_path):
    back_up(home, tmp_path / "b", tell=silent)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    back = tmp_path / "back"
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "b", back, tell=stop)
    assert not list(tmp_path.glob("back*"))
    (tmp_path / "back.restoring").mkdir()  # of one that was killed
    (tmp_path / "back.restoring" / "half").write_text("")
    restore(tmp_path / "b", back, tell=silent)
    assert "half" not in names(back)


def test_a_stopped_backup_is_no_backup(home, tmp_path):
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(home, tmp_path / "b", tell=stop)
    with pytest.raises(UserError, match="no whole backup"):
        restore(tmp_path / "b", tmp_path / "c", tell=silent)


def test_too_little_room_is_told_before_anything_is_copied(home, tmp_path):
    huge = home.root / "logs" / "huge"
    huge.parent.mkdir()
    with huge.open("wb") as file:
        file.truncate(module.shutil.disk_usage(tmp_path).total * 2)  # a hole: takes no room
    with pytest.raises(UserError, match="MB are free there"):
        back_up(home, tmp_path / "b", tell=silent)
    assert not (tmp_path / "b").exists()
