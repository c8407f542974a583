"""The brute force that the benchmark of many donors is held against."""

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def donors_100k(monkeypatch):
    """Benchmarks are imported from the checkout, for they are no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import donors_100k

    return donors_100k


def test_brute_force_finds_the_donors_that_were_kept(donors_100k, tmp_path):
    donors_100k.ours(str(tmp_path), basins=400, k=20)
    assert len(pd.read_parquet(tmp_path / "sample.parquet")) == 200 * 20
    assert donors_100k.differing(str(tmp_path), basins=400, k=20) == 0


def test_two_swapped_donors_are_noticed(donors_100k, tmp_path):
    donors_100k.ours(str(tmp_path), basins=400, k=20)
    kept = pd.read_parquet(tmp_path / "sample.parquet").reset_index(drop=True)
    kept.loc[[0, 1], "donor_id"] = kept.loc[[1, 0], "donor_id"].to_numpy()
    kept.to_parquet(tmp_path / "sample.parquet")
    assert donors_100k.differing(str(tmp_path), basins=400, k=20) == 1
