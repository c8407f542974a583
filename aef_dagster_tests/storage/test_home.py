"""One home, one world."""

import pytest

from aef_dagster.errors import UserError
from aef_dagster.storage.home import Home

SAMPLE = {"dataset": "sample", "forcing": "daymet", "sample": "planted"}


def test_the_same_world_is_let_in_again(tmp_path):
    home = Home(tmp_path / "var")
    home.claim(SAMPLE)
    home.claim(SAMPLE)


@pytest.mark.parametrize(
    "other",
    [{"dataset": "camels_us", "forcing": "daymet"}, SAMPLE | {"sample": "null"}],
)
def test_another_world_is_refused_with_both_names(tmp_path, other):
    home = Home(tmp_path)
    home.claim(SAMPLE)
    with pytest.raises(UserError, match="holds sample / daymet / planted.*AEF_HOME"):
        home.claim(other)


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another AEF_HOME"):
        Home(tmp_path / "file" / "var").claim(SAMPLE)


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(UserError, match="world.json is not JSON"):
        Home(tmp_path).claim(SAMPLE)
