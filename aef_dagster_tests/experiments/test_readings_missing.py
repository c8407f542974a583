"""Readings of a study that is not whole: trainings that are not there, basins without a score."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import UserError
from aef_dagster.experiments import donor_scaling
from aef_dagster.experiments.sizes import SIZES
from aef_dagster.experiments.study import EXPERIMENTS
from aef_dagster_tests.experiments.study_world import IDS, LAND, Truth, study_world


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return study_world(tmp_path_factory.mktemp("study"), Truth(effect=0.08))


def without(evidence, **where):
    """Evidence less the scores with these values."""
    scores = evidence.scores
    gone = np.logical_and.reduce([scores[name] == value for name, value in where.items()])
    assert gone.any()
    return replace(evidence, scores=scores[~gone])


@pytest.mark.parametrize(
    ("name", "where", "told"),
    [
        ("in_vs_out_of_sample", {"design": "regions", "representation": "attributes27"},
         "regions/attributes27 (strong, toy)"),
        ("controls", {"design": "folds", "representation": "shuffled"},
         "folds/shuffled (strong, toy)"),
        ("cross_regime", {"design": "clusters", "representation": "aef+subsurface"},
         "clusters/aef+subsurface (strong, toy)"),
        ("cross_regime", {"design": "climates"}, "climates/attributes17 (strong, toy)"),
        ("cross_regime", {"design": "each_cluster", "representation": "aef"},
         "each_cluster/aef (strong, toy)"),
        ("cross_regime", {"learned_from": "30 basins", "design": "fewer_clusters"},
         "fewer_clusters/attributes17 (strong, toy)"),
        ("regime_model", {"recipe": "strong+experts", "design": "clusters"},
         "clusters/aef (strong+experts, toy)"),
        ("fusion_ablation", {"recipe": "strong+ea_lstm"}, "folds/aef (strong+ea_lstm, toy)"),
        ("temporal_stability", {"design": "folds", "representation": "attributes17"},
         "folds/attributes17 (strong, toy)"),
    ],
)  # fmt: skip
def test_what_was_not_trained_is_named_with_its_partition(whole, name, where, told):
    with pytest.raises(UserError) as error:
        EXPERIMENTS[name].read(without(whole, **where))
    start = f"no scores of {told} in the precision in force yet: materialize"
    assert str(error.value).startswith(start)
    assert "aef study --size sample" in str(error.value)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"space": "fusion"}, "the space fusion with k = 5, 10, 20,"),
        ({"space": "random", "k": 10}, "the space random with k = 10,"),
        ({"space": "aef", "k": 59}, "the space aef with k = 59,"),
        ({"space": "soft_aef"}, "the space soft_aef with k = 10,"),
    ],
)
def test_donor_models_that_were_not_trained_are_named(whole, where, told):
    with pytest.raises(UserError) as error:
        EXPERIMENTS["donor_scaling"].read(without(whole, **where))
    assert told in str(error.value)
    assert "materialize `basin_models`" in str(error.value)


def test_no_donor_model_at_all(whole):
    with pytest.raises(
        UserError, match="no scores of donor models yet: materialize `basin_models`"
    ):
        EXPERIMENTS["donor_scaling"].read(without(whole, asset="basin_models"))


def unscored(evidence, gauge_id):
    """The same, of one basin without flow in the test period."""
    scores = evidence.scores.copy()
    scores.loc[scores["gauge_id"] == gauge_id, ["nse", "kge"]] = np.nan
    return replace(evidence, scores=scores)


def test_a_basin_without_a_score_is_counted(whole):
    reading = EXPERIMENTS["in_vs_out_of_sample"].read(unscored(whole, IDS[3]))
    table = reading.tables[0].frame
    assert set(table["basins"]) == {59}
    assert set(table["without a score"]) == {1}
    of_pairs = reading.estimates["measure"] == "paired difference of NSE"
    assert set(reading.estimates[of_pairs]["n_basins"]) == {59}


def test_a_basin_that_one_model_did_not_score_is_left_out_of_pairs_alone(whole):
    scores = whole.scores.copy()
    here = (scores["gauge_id"] == IDS[3]) & (scores["representation"] == "shuffled")
    scores.loc[here, "nse"] = np.nan
    frame = EXPERIMENTS["controls"].read(replace(whole, scores=scores)).estimates
    pairs = frame[(frame["measure"] == "paired difference of NSE") & (frame["design"] == "folds")]
    n = pairs.set_index(["of", "against"])["n_basins"]
    assert n["aef", "shuffled"] == n["attributes17", "shuffled"] == 59
    assert n["aef", "none"] == n["aef", "random"] == 60


def test_a_target_without_a_score_stays_in_the_table_of_targets(whole):
    target = donor_scaling.targets(LAND.basins, whole.size)[0]
    reading = EXPERIMENTS["donor_scaling"].read(unscored(whole, target))
    table = next(t.frame for t in reading.tables if t.title == "NSE of every target")
    assert len(table) == 24
    assert table.set_index("gauge_id").loc[target].isna().all()
    assert "over 23 targets" in reading.findings[0]
    counted = reading.estimates["measure"].str.startswith("chi-square")
    assert set(reading.estimates[counted]["n_basins"]) == {23}


def test_scores_of_basins_that_left_the_study_are_not_read(whole):
    """Trained with more basins than the study has now: rows of a basin that is gone."""
    stranger = whole.scores[whole.scores["gauge_id"] == IDS[0]].assign(gauge_id="99999999", nse=-9)
    more = replace(whole, scores=pd.concat([whole.scores, stranger], ignore_index=True))
    assert len(more.rows("folds", "aef")) == len(whole.rows("folds", "aef"))
    frame = EXPERIMENTS["cross_regime"].read(more).estimates
    assert set(frame["n_basins"].dropna()) == {60}
    cells = frame["measure"] == "median NSE, learned from one cluster"
    assert frame[cells]["value"].between(0.3, 0.9).all()


def test_a_size_for_more_basins_than_there_are_is_refused(whole):
    with pytest.raises(UserError, match=r"takes 100 donors of each target or more, .* is 59"):
        EXPERIMENTS["donor_scaling"].read(replace(whole, size=SIZES["full"]))


def test_seeds_that_another_experiment_trained_are_not_read(whole):
    here = (whole.scores["design"] == "folds") & (whole.scores["recipe"] == "strong")
    here &= whole.scores["asset"] == "regional_models"
    extra = whole.scores[here].assign(seed=whole.size.other_seeds, nse=-9.0, job_hash="extra")
    more = replace(whole, scores=pd.concat([whole.scores, extra], ignore_index=True))
    for name in ("cross_regime", "regime_model", "fusion_ablation"):
        pd.testing.assert_frame_equal(
            EXPERIMENTS[name].read(more).estimates, EXPERIMENTS[name].read(whole).estimates
        )


def test_a_space_that_lacks_a_basin_is_named(whole):
    def lacking(space):
        matrix, ids = whole.similarity(space)
        return (matrix[1:, 1:], ids[1:]) if space == "fusion" else (matrix, ids)

    with pytest.raises(UserError, match="the space fusion lacks 1 basins"):
        EXPERIMENTS["mechanisms"].read(replace(whole, similarity=lacking))
