"""Who asked for a checkpoint: by several users of a group, and at the same moment."""

import os
import threading
import time
from contextlib import contextmanager

import pytest

from aef_dagster.models.requests import ASKED, add_request, asking_moment, read_requests

GROUP = 54321
LABEL = {"asset": "basin_models", "space": "aef", "k": 8}


@contextmanager
def user(number):
    """A block that this process is in as another user of the group; ids need no name."""
    os.setegid(GROUP)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")
def test_a_second_user_of_the_group_asks_for_the_same(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 0, GROUP)
    home.chmod(0o2770)
    # From within: the folders above are closed to other users.
    monkeypatch.chdir(home)
    before = os.umask(0o002)
    try:
        moments = []
        for number in (54322, 54323, 54322):
            with user(number):
                moments.append(asking_moment(home.relative_to(home)))
                add_request(home.relative_to(home) / "requests", LABEL, moments[-1])
    finally:
        os.umask(before)
    assert moments == sorted(set(moments))
    (asked,) = read_requests(home / "requests")
    assert asked.pop("asked_at") == pytest.approx(moments[-1], abs=1e-5)
    assert asked == LABEL
    assert sorted(path.name for path in home.iterdir()) == [ASKED, "requests"]


def test_no_two_moments_are_equal_after_the_clock_went_back(tmp_path):
    asking_moment(tmp_path)
    tomorrow = time.time() + 24 * 3600
    os.utime(tmp_path / ASKED, (tomorrow, tomorrow))
    moments = []

    def ask():
        for _ in range(100):
            moments.append(asking_moment(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({round(moment, 4) for moment in moments}) == 400
    assert min(moments) > tomorrow
