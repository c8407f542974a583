"""Groups of basins: planted ones are found, labels are stable, agreement has its known values."""

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.similarity.clusters import agreement, choose_clusters


def planted(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = 6 * np.eye(len(sizes), 8)
    return centres[truth] + rng.normal(0, 0.5, (len(truth), 8)), truth


def test_planted_clusters_are_recovered_with_their_number():
    vectors, truth = planted((40, 25, 15, 10))
    found = choose_clusters(vectors, range(2, 9))
    assert found.k == 4
    assert sorted(found.silhouettes) == list(range(2, 9))
    assert max(found.silhouettes, key=found.silhouettes.get) == 4
    assert agreement(found.labels, truth) == {"ari": 1.0, "nmi": pytest.approx(1.0)}
    # The largest comes first.
    assert np.bincount(found.labels).tolist() == [40, 25, 15, 10]


def test_labels_depend_on_the_grouping_and_not_on_the_seed():
    vectors, _ = planted((20, 20, 20), seed=1)
    one, other = (choose_clusters(vectors, [3], seed=seed) for seed in (42, 7))
    assert one.labels.tolist() == other.labels.tolist()
    # Equal sizes: the first basin is in cluster 0, the next new one in cluster 1.
    _, first = np.unique(one.labels, return_index=True)
    assert first.tolist() == sorted(first)


def test_numbers_that_cannot_be_judged_are_passed_over():
    vectors = np.array([[0.0, 0], [0.1, 0], [9, 9], [9.1, 9], [9, 9]])
    assert sorted(choose_clusters(vectors, range(1, 9)).silhouettes) == [2, 3]
    with pytest.raises(UserError, match="4 different basins .* choose numbers from 2 to 3"):
        choose_clusters(vectors, [1, 4])


def test_agreement_knows_renamed_labels_chance_and_gaps():
    rng = np.random.default_rng(2)
    labels = rng.integers(4, size=400)
    renamed = np.array(["dry", "cold", "mild", "wet"])[labels]
    assert agreement(labels, renamed)["ari"] == 1.0
    by_chance = [agreement(labels, rng.permutation(labels))["ari"] for _ in range(200)]
    assert abs(np.mean(by_chance)) < 0.003
    # The worked example of Hubert and Arabie's formula: 6 basins, contingency ((2, 1, 0), (0, 1,
    # 2)): (2 - 6 * 3 / 15) / ((6 + 3) / 2 - 6 * 3 / 15).
    assert agreement([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2])["ari"] == pytest.approx(0.8 / 3.3)
    with_gaps = agreement(["a", None, "b", "b", "a", "b"], [1, 1, np.nan, 2, 1, 2])
    assert with_gaps == agreement(["a", "b", "a", "b"], [1, 2, 1, 2])
    assert np.isnan(agreement([None], [1])["ari"])
    with pytest.raises(ValueError, match="different basins"):
        agreement([1, 2], [1])
