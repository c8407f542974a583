"""What goes wrong on the way: each ends in the right answer or in a sentence, nothing half-done."""

import geopandas as gpd
import pytest
import shapely

from aef_dagster.embeddings.cog import CogSource, remote
from aef_dagster.errors import UserError
from aef_dagster_tests.embeddings.cog.conftest import BASINS
from aef_dagster_tests.embeddings.cog.loopback import Loopback
from aef_dagster_tests.embeddings.tile_world import write_index

IDS = list(BASINS)[:4]
FIRST = "14N/xworld32614-0000000000-0000000000.tiff"


@pytest.fixture(scope="module")
def truth(world, outlines, tmp_path_factory):
    """What the basins are when nothing goes wrong."""
    with Loopback(world.folder) as server:
        scratch = tmp_path_factory.mktemp("scratch")
        frame = CogSource(outlines, scratch, addresses=[server.address]).fetch(2020, IDS).frame
    return frame["content_hash"].tolist()


@pytest.mark.parametrize(
    ("kind", "times"), [("429", 4), ("500", 3), ("503", 3), ("cut", 4), ("short", 4)]
)
def test_what_passes_is_tried_again(source, server, truth, kind, times):
    server.fail(kind, times=times)
    got = source.fetch(2020, IDS)
    assert got.frame["content_hash"].tolist() == truth
    assert got.provenance["retries"] == times


def test_a_late_answer_is_asked_for_again(source, server, truth, monkeypatch):
    monkeypatch.setattr(remote, "READ_S", 0.3)
    server.fail("slow", times=2, seconds=0.8)
    got = source.fetch(2020, IDS)
    assert got.frame["content_hash"].tolist() == truth
    assert got.provenance["retries"] == 2


def test_as_long_as_the_server_asks(source, server, truth):
    server.fail("429", FIRST, times=1, seconds=1)
    got = source.fetch(2020, IDS)
    assert got.frame["content_hash"].tolist() == truth
    assert got.provenance["seconds"] >= 1


@pytest.mark.parametrize("kind", ["429", "500", "cut", "short"])
def test_what_does_not_pass_is_told(source, server, kind):
    server.fail(kind, FIRST)
    with pytest.raises(UserError, match=r"basin 0000000\d.*gave no whole answer in 6 tries") as e:
        source.fetch(2020, IDS)
    assert f"{server.address}/2020/{FIRST}" in str(e.value)


@pytest.mark.parametrize(
    ("kind", "after", "said"),
    [
        ("404", 0, "there is no such file, though the index names it"),
        ("404", 1, "there is no such file"),
        ("416", 1, "ends before a block that its header names"),
        ("corrupt", 0, "is damaged: it does not begin as a TIFF file does"),
    ],
)
def test_a_bad_tile_is_named_with_its_basins(source, server, kind, after, said):
    server.fail(kind, FIRST, after=after)
    with pytest.raises(UserError, match=said) as error:
        source.fetch(2020, IDS)
    assert f"{server.address}/2020/{FIRST}" in str(error.value)
    assert "00000001" in str(error.value)


def test_blocks_that_cannot_be_unpacked(source, server, truth):
    # Header whole, then bytes turned round, each time: three beginnings of two requests.
    for after in (1, 2, 3):
        server.fail("corrupt", FIRST, times=1, after=after)
    with pytest.raises(UserError, match="is damaged: a block cannot be unpacked.*read 3 times"):
        source.fetch(2020, ["00000001"])
    # Once only: the second beginning is whole.
    server.faults.clear()
    server.fail("corrupt", FIRST, times=1, after=1)
    assert source.fetch(2020, ["00000001"]).frame["content_hash"].tolist() == truth[:1]


def test_a_tile_replaced_while_it_is_read_is_begun_again(source, server, truth):
    server.fail(
        "changed", FIRST, times=1, after=1
    )  # the header is of one state, a block of another
    got = source.fetch(2020, ["00000001"])
    assert got.frame["content_hash"].tolist() == truth[:1]
    assert [a.status for a in server.asked(FIRST)] == [206, 412, 206, 206]


def test_a_tile_replaced_for_ever(source, server):
    for times in (1, 2, 3):
        server.fail("changed", FIRST, times=1, after=times)
    with pytest.raises(UserError, match="basin 00000001: .* was replaced while it was read, 3"):
        source.fetch(2020, ["00000001"])


def test_basins_of_two_states_of_a_tile_are_read_again(source, server, world, truth):
    source.fetch(2020, ["00000001"])
    before = len(server.asked(FIRST))
    (world.folder / "2020" / FIRST).touch()  # another ETag
    got = source.fetch(2020, ["00000001", "00000003"])
    assert got.frame["content_hash"].tolist() == [truth[0], truth[2]]
    # A header and a block for the new basin, and again for the old one.
    assert len(server.asked(FIRST)) - before >= 4
    again = len(server.log)
    source.fetch(2020, ["00000001", "00000003"])
    assert not [a for a in server.log[again:] if a.path.endswith(".tiff")]


def test_the_next_address_where_one_refuses(world, outlines, tmp_path, source, server, truth):
    with Loopback(world.folder) as first:
        both = CogSource(outlines, tmp_path / "s", addresses=[first.address, server.address])
        assert both.fetch(2020, IDS).provenance["address"] == first.address
        first.fail("403", "2021")  # the index is open, the tiles are not
        got = both.fetch(2021, IDS)
        assert got.provenance["address"] == server.address
        assert not [p for p in got.frame["source_file"] if "2020" in p]
    # And where nobody answers any more.
    got = both.fetch(2020, IDS)
    assert got.provenance["address"] == server.address
    assert got.frame["content_hash"].tolist() == truth


def test_the_next_address_where_one_lacks_the_year(world, outlines, tmp_path, server):
    import pandas as pd

    less = tmp_path / "less"
    less.mkdir()
    index = gpd.read_parquet(world.folder / "aef_index.parquet")
    write_index(less, index[index["year"] == 2020].to_dict("records"))
    with Loopback(less) as first:
        source = CogSource(outlines, tmp_path / "s", addresses=[first.address, server.address])
        assert source.years() == (2020,)
        got = source.fetch(2021, IDS[:1])
        assert got.provenance["address"] == server.address
        with pytest.raises(UserError, match="has no tiles of 2030; it has 2020, 2021"):
            source.fetch(2030, IDS[:1])
    assert pd.isna(got.frame["surrogate"]).sum() == 0


def test_nobody_there(outlines, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    source = CogSource(outlines, tmp_path, addresses=["http://127.0.0.1:9"])
    with pytest.raises(UserError, match="no address gives tiles.*127.0.0.1:9.*AEF_COG_ADDRESSES"):
        source.years()
    with pytest.raises(UserError, match="set AEF_COG_ADDRESSES"):
        CogSource(outlines, tmp_path, addresses=[])


def test_ranges_ignored(source, server):
    server.fail("whole")
    with pytest.raises(UserError, match="does not give ranges"):
        source.fetch(2020, IDS[:1])


def test_the_index_is_asked_for_once_and_then_only_whether_it_changed(source, server, world):
    source.years()
    source.years()
    assert [a.status for a in server.asked("aef_index")] == [200, 304]
    (world.folder / "aef_index.parquet").touch()
    source.years()
    assert [a.status for a in server.asked("aef_index")] == [200, 304, 200]


def test_for_some_minutes_the_index_is_not_asked_for_again(server, outlines, tmp_path):
    """A schedule's tick asks for the edition of every year."""
    source = CogSource(outlines, tmp_path, addresses=[server.address])
    for year in source.years():
        source.version(year)
    assert [a.status for a in server.asked("aef_index")] == [200]


def test_the_csv_where_there_is_no_parquet(source, server, truth):
    server.fail("404", "aef_index.parquet")
    got = source.fetch(2020, IDS)
    assert got.provenance["index"] == "aef_index.csv"
    assert got.frame["content_hash"].tolist() == truth


def test_an_index_that_is_cut_leaves_nothing(source, server, tmp_path):
    server.fail("cut", "aef_index")
    with pytest.raises(UserError, match="no whole answer"):
        source.years()
    assert not [file for file in (tmp_path / "scratch").rglob("*") if file.is_file()]
    server.faults.clear()
    assert source.years() == (2020, 2021)


def test_an_index_of_something_else(source, world, tmp_path, outlines):
    import pandas as pd

    other = tmp_path / "other"
    other.mkdir()
    pd.DataFrame({"year": [2020], "href": ["x"]}).to_parquet(other / "aef_index.parquet")
    with Loopback(other) as server:
        source = CogSource(outlines, tmp_path / "s", addresses=[server.address])
        with pytest.raises(UserError, match="has no column path, crs, utm_west"):
            source.fetch(2020, IDS)


def test_a_run_that_was_killed_reads_the_rest_only(world, outlines, tmp_path, truth):
    import signal
    import subprocess
    import sys
    import time

    with Loopback(world.folder) as server:
        # Basin 2 hangs on this tile, the others do not.
        server.fail("slow", "15N", seconds=30)
        code = (
            "import sys; from pathlib import Path;"
            "from aef_dagster.embeddings.cog import CogSource;"
            "CogSource(Path(sys.argv[1]), Path(sys.argv[2]), addresses=[sys.argv[3]])"
            ".fetch(2020, sys.argv[4:])"
        )
        killed = subprocess.Popen(
            [sys.executable, "-c", code, str(outlines), str(tmp_path), server.address, *IDS]
        )
        until = time.monotonic() + 60
        while len(list((tmp_path / "2020").glob("0*.json"))) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list((tmp_path / "2020").glob("0*.json"))) == 3
        server.faults.clear()
        before, told = len(server.log), []
        source = CogSource(outlines, tmp_path, addresses=[server.address])
        got = source.fetch(2020, IDS, lambda *words: told.append(words[:2]))
        assert got.frame["content_hash"].tolist() == truth
        assert told == [(3, 4), (4, 4)]
        # Header and blocks of the eight tiles of basin 2.
        assert len([a for a in server.log[before:] if a.path.endswith(".tiff")]) == 16
        before = len(server.log)
        source.fetch(2020, IDS)
        assert not server.log[before:]  # not even the index, for some minutes


def test_pieces_of_another_outline_level_or_address_are_not_used(
    source, server, world, outlines, tmp_path
):
    source.fetch(2020, ["00000001"])

    def reads(other):
        before = len(server.asked(".tiff"))
        other.fetch(2020, ["00000001"])
        return len(server.asked(".tiff")) > before

    scratch = tmp_path / "scratch"
    assert not reads(CogSource(outlines, scratch, addresses=[server.address]))
    assert reads(CogSource(outlines, scratch, addresses=[server.address], min_pixels=2000))
    moved = gpd.read_parquet(outlines)
    moved["geometry"] = shapely.affinity.translate(moved.geometry.iloc[0], 0.001)
    moved.to_parquet(tmp_path / "moved.parquet")
    assert reads(CogSource(tmp_path / "moved.parquet", scratch, addresses=[server.address]))
    with Loopback(world.folder) as another:
        CogSource(outlines, scratch, addresses=[another.address]).fetch(2020, ["00000001"])
        assert another.asked(".tiff")


def test_an_edition_is_of_its_year(source, world, server, tmp_path, outlines):
    one, other = source.version(2020), source.version(2021)
    assert one != other
    index = gpd.read_parquet(world.folder / "aef_index.parquet")
    later = tmp_path / "later"
    later.mkdir()
    index.loc[index["year"] == 2021, "path"] = index["path"].str.replace("xworld", "xanew")
    write_index(later, index.to_dict("records"))
    with Loopback(later) as second:
        changed = CogSource(outlines, tmp_path / "t", addresses=[second.address])
        assert changed.version(2020) == one
        assert changed.version(2021) != other
