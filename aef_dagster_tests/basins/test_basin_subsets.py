"""The lists of basins that ship."""

from aef_dagster.basins.subsets import camels_531, pub_folds_531


def test_531_basins_once_each_and_padded():
    ids = camels_531()
    assert len(set(ids)) == len(ids) == 531
    assert {len(gauge_id) for gauge_id in ids} == {8}
    assert "01022500" in ids
    assert "01013500" not in ids  # above 2,000 km2


def test_folds_divide_the_same_basins():
    folds = pub_folds_531()
    assert sorted(folds["gauge_id"]) == sorted(camels_531())
    assert sorted(folds["fold"].unique()) == list(range(10))
    assert folds["fold"].value_counts().between(52, 55).all()
