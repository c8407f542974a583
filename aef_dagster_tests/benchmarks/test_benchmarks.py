"""The list of benchmarks, the rows they leave, and the figures that need no measuring."""

import subprocess
import sys
from ast import get_docstring, parse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(monkeypatch):
    """Benchmarks are imported from the checkout, for they are no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))


def _said(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_name_all_are_listed_with_what_they_measure(checkout):
    from benchmarks import NAMES

    listed = {line.split(maxsplit=1)[0]: line for line in _said().stdout.splitlines()}
    assert set(listed) == set(NAMES)
    for name, line in listed.items():
        described = get_docstring(parse((ROOT / "benchmarks" / f"{name}.py").read_text()))
        assert line.split(maxsplit=1)[1] == described.splitlines()[0]


def test_an_unknown_name_is_refused_with_the_known_ones():
    said = _said("metricks")
    assert said.returncode == 2
    assert "scoring" in said.stderr


def test_a_row_goes_to_its_own_section(checkout, tmp_path):
    from benchmarks.__main__ import record

    results = tmp_path / "results.md"
    for name, line in (("memory", "| a |\n"), ("scoring", "| b |\n"), ("memory", "| c |\n")):
        record(results, name, line)
    text = results.read_text()
    assert text.count("## memory\n") == 1
    assert (
        text.index("| a |") < text.index("| c |") < text.index("## scoring") < text.index("| b |")
    )


def test_operations_of_a_basin_day_equal_the_hand_count(checkout):
    from benchmarks.update_rate import flop_per_basin_day

    # H 2, 3 forcings: products 2x3 + 8x2 + 8x2 + 2 = 40; two operations each, three passes.
    assert flop_per_basin_day(forcings=3, hidden=2) == 240


def test_clocks_count_no_second_twice(checkout):
    from benchmarks.update_rate import _Clocks

    class Work:
        def inner(self):
            return sum(range(400_000))

        def outer(self):
            return self.inner()

    work, clocks = Work(), _Clocks()
    clocks.put(work, "inner", "inner")
    clocks.put(work, "outer", "outer")
    work.outer()
    assert clocks.seconds["inner"] > 10 * clocks.seconds["outer"] >= 0


@pytest.mark.slow
def test_scoring_prints_its_result_last():
    said = _said("scoring")
    assert said.returncode == 0, said.stderr
    *table, result = said.stdout.splitlines()
    assert table[0].startswith("scoring, 671 basins")
    assert result.startswith("RESULT seconds=")
    assert float(result.split()[1].split("=")[1]) > 0
