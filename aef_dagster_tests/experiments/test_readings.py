"""Every reading on made-up scores: what is planted is found, what is not there is not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import UserError
from aef_dagster.experiments import donor_scaling, mechanisms
from aef_dagster.experiments.estimates import COLUMNS, Estimates
from aef_dagster.experiments.readings_folder import load_reading, save_reading
from aef_dagster.experiments.study import EXPERIMENTS
from aef_dagster_tests.experiments.study_world import IDS, LAND, Truth, study_world

PLANTED = Truth(
    effect=0.08, gap=-0.1, aef_gap=-0.05, alone=-0.06, experts=0.04, soft=0.05, collapse=0.06,
    aged=-0.05,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def planted(folder):
    return study_world(folder, PLANTED)


@pytest.fixture(scope="module")
def flat(folder):
    return study_world(folder, Truth())


@pytest.fixture(scope="module")
def readings(planted):
    return {name: experiment.read(planted) for name, experiment in EXPERIMENTS.items()}


@pytest.fixture(scope="module")
def without_effect(flat):
    compared = ("controls", "donor_scaling", "cross_regime", "regime_model", "temporal_stability")
    return {name: read(name, flat) for name in compared}


def read(name, evidence):
    return EXPERIMENTS[name].read(evidence)


def row_of(reading, **where):
    """The one estimate with these values."""
    frame = reading.estimates
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, f"{len(frame)} rows with {where}"
    return frame.iloc[0]


def table_of(reading, title):
    return next(table.frame for table in reading.tables if table.title == title)


def check_of(reading, name):
    return next(check for check in reading.checks if check.name == name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_reading_is_whole_and_survives_its_folder(readings, name, tmp_path):
    reading = readings[name]
    assert reading.name == name
    assert reading.findings
    for sentence in reading.findings:
        assert sentence.endswith(".")
        assert "nan" not in sentence
    assert reading.estimates.columns.tolist() == COLUMNS
    told = reading.estimates.dropna(subset=["low", "high"])
    assert len(told)
    assert (told["low"] <= told["value"] + 1e-9).all()
    assert (told["value"] <= told["high"] + 1e-9).all()
    assert all(len(table.frame) for table in reading.tables)
    for picture in reading.pictures:
        png = isinstance(picture.content, bytes) and picture.content.startswith(b"\x89PNG\r\n")
        assert png or str(picture.content).lstrip().startswith("<svg")
    assert all(np.isfinite(list(reading.numbers.values())))
    save_reading(reading, tmp_path / name)
    again = load_reading(tmp_path / name)
    assert again.findings == reading.findings
    assert again.numbers == pytest.approx(reading.numbers)
    assert again.pictures == reading.pictures
    assert again.checks == reading.checks
    assert [len(table.frame) for table in again.tables] == [len(t.frame) for t in reading.tables]
    assert again.estimates["value"].to_numpy() == pytest.approx(
        reading.estimates["value"].to_numpy(), nan_ok=True
    )


def test_only_the_experiments_that_check_something_have_checks(readings):
    names = {name: [check.name for check in found.checks] for name, found in readings.items()}
    assert {name: checks for name, checks in names.items() if checks} == {
        "controls": ["worth_knowing"],
        "donor_scaling": ["no_heterogeneity_collapse"],
        "mechanisms": ["similar_donors"],
    }


def test_what_the_embedding_adds_is_found_in_unseen_basins_and_not_in_gauged(readings):
    reading = readings["in_vs_out_of_sample"]
    difference = {"measure": "paired difference of NSE", "of": "aef", "against": "attributes17"}
    unseen = row_of(reading, **difference, design="folds")
    assert unseen["low"] > 0
    assert unseen["value"] == pytest.approx(PLANTED.effect, abs=0.02)
    assert unseen["p"] < 1e-4
    assert reading.findings[0].endswith("higher.")
    assert "less" not in reading.findings[0]
    gauged = row_of(reading, **difference, design="gauged")
    assert gauged["low"] < 0 < gauged["high"]
    assert any(s.startswith("Gauged basins") and "not told apart" in s for s in reading.findings)
    # In unseen regions it loses 0.05 again.
    regions = row_of(reading, **difference, design="regions")
    assert regions["value"] == pytest.approx(PLANTED.effect + PLANTED.aef_gap, abs=0.02)


def test_the_controls_are_beaten_if_and_only_if_there_is_an_effect(readings, without_effect):
    found, none = readings["controls"], without_effect["controls"]
    for control in ("none", "random", "shuffled"):
        where = {"of": "aef", "against": control, "design": "folds"}
        assert row_of(found, **where)["low"] > 0
        assert row_of(none, **where)["low"] < 0 < row_of(none, **where)["high"]
    assert "higher; against being told nothing" in found.findings[0]
    assert "not told apart; against being told nothing" in none.findings[0]
    assert check_of(found, "worth_knowing").passed
    assert not check_of(none, "worth_knowing").passed


def test_an_embedding_that_misleads_is_called_lower(folder):
    reading = read("controls", study_world(folder, Truth(effect=-0.08)))
    assert reading.findings[0].endswith("lower.")
    assert not check_of(reading, "worth_knowing").passed


def test_the_gap_is_below_0_where_an_unseen_cluster_costs(readings, without_effect):
    found, none = readings["cross_regime"], without_effect["cross_regime"]
    gap = {"measure": "gap of NSE", "design": "clusters against folds"}
    for name, truth in (("attributes17", -0.1), ("aef", -0.15)):
        row = row_of(found, **gap, of=name)
        assert row["high"] < 0
        assert row["value"] == pytest.approx(truth, abs=0.02)
        assert row_of(found, measure="gap of NSE", design="climates against folds", of=name)[
            "value"
        ] == pytest.approx(truth, abs=0.02)
        row = row_of(none, **gap, of=name)
        assert row["low"] < 0 < row["high"]
    double = row_of(found, measure="difference of gaps")
    assert double["high"] < 0
    assert double["value"] == pytest.approx(PLANTED.aef_gap, abs=0.02)
    double = row_of(none, measure="difference of gaps")
    assert double["low"] < 0 < double["high"]


def test_what_the_embedding_adds_across_clusters_is_its_effect_less_its_gap(readings):
    row = row_of(readings["cross_regime"], measure="paired difference of NSE", of="aef",
                 design="clusters")  # fmt: skip
    assert row["value"] == pytest.approx(PLANTED.effect + PLANTED.aef_gap, abs=0.02)
    assert row["low"] > 0


def test_a_model_of_the_own_cluster_alone_is_held_against_that_of_all(readings):
    reading = readings["cross_regime"]
    for name in ("attributes17", "aef"):
        row = row_of(reading, of=f"all basins, {name}")
        assert row["low"] > 0
        assert row["value"] == pytest.approx(-PLANTED.alone, abs=0.02)
        cells = reading.estimates[
            (reading.estimates["measure"] == "median NSE, learned from one cluster")
            & (reading.estimates["of"] == name)
        ]
        assert len(cells) == 9
        assert cells["value"].notna().all()


def test_the_gap_is_told_for_each_number_of_basins_that_can_be_had(readings):
    reading = readings["cross_regime"]
    growth = table_of(reading, "Fewer basins to learn from")
    # Folds and clusters of 20 leave 40 of 60 basins: there is no model of 50.
    assert growth[growth["told"] == "aef"]["basins learned from"].tolist() == [10, 20, 30, 40]
    assert growth["gap"].between(-0.19, -0.06).all()
    row = row_of(reading, measure="gap of NSE, 6000 basins, EXTRAPOLATED", of="aef")
    assert row["low"] < row["value"] < row["high"]
    sentence = next(s for s in reading.findings if "EXTRAPOLATED" in s)
    assert "4 numbers of basins" in sentence


def test_two_numbers_of_basins_are_not_drawn_out_to_6000(folder, planted):
    few = replace(planted, size=replace(planted.size, counts=(10,)))
    reading = read("cross_regime", few)
    assert any(s.startswith("Too few numbers of basins to draw a line") for s in reading.findings)


def test_experts_are_found_where_they_help(readings, without_effect):
    for design in ("folds", "clusters"):
        row = row_of(readings["regime_model"], of="experts", against="one LSTM", design=design)
        assert row["low"] > 0
        assert row["value"] == pytest.approx(PLANTED.experts, abs=0.02)
    none = without_effect["regime_model"]
    assert "not told apart" in none.findings[0]
    table = table_of(none, "Networks")
    experts = table[table["network"] == "experts"]["parameters"]
    assert experts.min() > table[table["network"] == "one LSTM"]["parameters"].max()


def test_ways_to_join_that_do_the_same_are_not_told_apart(readings):
    reading = readings["fusion_ablation"]
    assert reading.findings[0].startswith("Of 2 other ways to join `aef` with the weather, 0 ")
    against = row_of(reading, measure="paired difference of NSE", of="told nothing")
    assert against["value"] == pytest.approx(-PLANTED.effect, abs=0.02)
    assert against["high"] < 0


def test_donors_by_embedding_against_random_ones_and_soft_against_the_best(
    readings, without_effect
):
    reading = readings["donor_scaling"]
    picked = row_of(reading, of="aef", against="random", k=10)
    assert picked["low"] > 0
    assert picked["n_basins"] == 24
    assert picked["value"] == pytest.approx(PLANTED.effect, abs=0.025)
    soft = row_of(reading, of="soft_aef", against="aef", k=10)
    assert soft["low"] > 0
    assert soft["value"] == pytest.approx(PLANTED.soft, abs=0.025)
    assert "higher" in reading.findings[0]
    assert any("weighted by similarity" in s and "higher" in s for s in reading.findings)
    none = without_effect["donor_scaling"]
    assert "not told apart" in none.findings[0]


def test_a_fall_of_nse_towards_all_donors_is_called_a_collapse(readings, without_effect):
    assert not check_of(readings["donor_scaling"], "no_heterogeneity_collapse").passed
    assert check_of(without_effect["donor_scaling"], "no_heterogeneity_collapse").passed


def test_the_best_k_is_held_against_a_uniform_law(folder, without_effect):
    peaked = read("donor_scaling", study_world(folder, Truth(peak=0.2)))
    none = without_effect["donor_scaling"]
    for reading in (peaked, none):
        table = table_of(reading, "How often each k was a target's best").set_index("space")
        counts = table.loc["attributes", [f"k = {k}" for k in (5, 10, 20, 59)]].to_numpy(float)
        row = row_of(reading, measure="chi-square of best k against a uniform law",
                     of="attributes")  # fmt: skip
        assert counts.sum() == row["n_basins"] == 24
        assert row["value"] == pytest.approx(((counts - 6) ** 2 / 6).sum())
    peaked_row, none_row = (
        row_of(reading, measure="chi-square of best k against a uniform law", of="aef")
        for reading in (peaked, none)
    )
    assert peaked_row["value"] == pytest.approx(72)  # all 24 at k = 10
    assert peaked_row["p"] < 1e-12
    assert none_row["p"] > 1e-3


def test_donor_models_that_others_trained_change_nothing(planted):
    rows = planted.scores[planted.scores["asset"] == "basin_models"]
    own = pd.concat([
        rows[rows["space"] == "aef"].head(3).assign(k=7, nse=0.99),
        rows[rows["space"] == "random"].assign(recipe="plain", nse=0.99),
    ])  # fmt: skip
    more = replace(planted, scores=pd.concat([planted.scores, own], ignore_index=True))
    one, other = read("donor_scaling", planted), read("donor_scaling", more)
    pd.testing.assert_frame_equal(one.estimates, other.estimates)


def test_targets_of_a_reading_are_those_of_its_plan(planted):
    chosen = donor_scaling.targets(LAND.basins, planted.size)
    table = table_of(read("donor_scaling", planted), "NSE of every target")
    assert tuple(table["gauge_id"]) == chosen


def test_another_year_that_costs_is_lower_and_change_goes_with_change(readings, without_effect):
    reading = readings["temporal_stability"]
    last = row_of(reading, measure="NSE told another year", of="2019")
    assert last["high"] < 0
    assert last["value"] == pytest.approx(PLANTED.aged * LAND.drift.median(), abs=0.01)
    assert "lower" in reading.findings[0]
    of_change = "Spearman of |NSE change| and embedding change"
    assert row_of(reading, measure=of_change)["value"] > 0.8
    none = without_effect["temporal_stability"]
    row = row_of(none, measure="NSE told another year", of="2019")
    assert row["low"] < 0 < row["high"]
    assert abs(row_of(none, measure=of_change)["value"]) < 0.35


def test_a_gain_that_drift_costs_falls_with_drift(folder, flat, without_effect):
    measure = "Spearman of AEF's gain and drift"
    costly = read("temporal_stability", study_world(folder, Truth(effect=0.1, drift_costs=0.1)))
    row = row_of(costly, measure=measure)
    assert row["value"] < -0.6
    assert row["p"] < 1e-4
    # By chance |rho| of 60 basins is above 0.33 once in a hundred times.
    assert abs(row_of(without_effect["temporal_stability"], measure=measure)["value"]) < 0.33
    untold = read("temporal_stability", replace(flat, stability=flat.stability.iloc[:0]))
    assert not (untold.estimates["measure"] == measure).any()


def test_mechanisms_know_what_was_put_into_the_embedding(readings):
    reading = readings["mechanisms"]
    known = table_of(reading, "Attributes read from the embedding").set_index("attribute")
    assert known.loc["elev_mean", "low"] > 0.5
    assert known.loc["soil_porosity", "r2"] < 0.2
    assert not {"dom_land_cover", "geol_1st_class"} & set(known.index)
    assert row_of(reading, measure="neighbour purity", of="aef")["low"] > 0
    random = row_of(reading, measure="neighbour purity", of="random")
    assert random["low"] < 0.02
    assert abs(random["value"]) < 0.08
    shared = row_of(reading, measure="Mantel r", of="aef", against="attributes")
    assert shared["value"] > 0.3
    assert shared["p"] < 0.01


def test_mantel_of_a_learned_space_does_not_depend_on_the_order_of_basins(planted):
    matrices = {name: planted.similarity(name)[0] for name in ("fusion", "attributes", "distance")}
    ids = planted.similarity("fusion")[1]
    turned = matrices | {"fusion": matrices["fusion"].T}
    assert not np.array_equal(turned["fusion"], matrices["fusion"])
    tables = [mechanisms._meaning(planted, m, ids, Estimates()) for m in (matrices, turned)]
    pd.testing.assert_frame_equal(*tables)


def test_a_basin_without_a_similar_donor_is_named(planted, readings, monkeypatch):
    monkeypatch.setattr(mechanisms, "PERMUTATIONS", 9)  # of tests that are not looked at here
    assert check_of(readings["mechanisms"], "similar_donors").passed

    def lonely(space):
        matrix, ids = planted.similarity(space)
        if space in ("fusion", "random"):
            raise UserError("not made yet")
        place = ids.index(IDS[6])
        matrix = matrix.copy()
        matrix[place, :] = matrix[:, place] = 0.0
        matrix[place, place] = 1.0
        return matrix, ids

    reading = read("mechanisms", replace(planted, similarity=lonely))
    check = check_of(reading, "similar_donors")
    assert not check.passed
    assert check.told.startswith("1 of 60 basins")
    assert IDS[6] in check.told
    assert not {"fusion", "random"} & set(reading.estimates["of"])  # left out, the rest is told
