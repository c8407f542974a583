import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.errors import UserError
from aef_dagster.models.statics import FIRST_YEAR, REPRESENTATIONS, SUBSURFACE, static_table
from aef_dagster.similarity.representations import (
    CATEGORIES,
    CLIMATE,
    KRATZERT_STATIC,
    STUDY_ATTRIBUTES,
)

IDS = ("00000003", "00000001", "00000002")


@pytest.fixture
def tables():
    rng = np.random.default_rng(1)
    columns = sorted({*STUDY_ATTRIBUTES, *KRATZERT_STATIC})
    attributes = pd.DataFrame(rng.normal(size=(5, len(columns))), columns=columns)
    attributes[list(CATEGORIES)] = attributes[list(CATEGORIES)].astype(object)
    for name in CATEGORIES:
        attributes[name] = ["clay", "sand", None, "clay", "peat"]
    ids = [f"0000000{i}" for i in range(1, 6)]
    return {
        "attributes": attributes.set_axis(ids),
        "climate": pd.DataFrame(
            rng.normal(size=(5, 9)), index=pd.Index(ids, name="gauge_id"), columns=list(CLIMATE)
        ).reset_index(),
        "embedding": pd.DataFrame(rng.normal(size=(5, 64)), index=ids, columns=list(BANDS)),
        "first_year": pd.DataFrame(rng.normal(size=(5, 64)), index=ids, columns=list(BANDS)),
    }


@pytest.mark.parametrize(
    ("representation", "numeric", "categories"),
    [
        ("none", 0, 0),
        ("attributes17", 14, 3),
        ("attributes27", 27, 0),
        ("aef", 64, 0),
        ("aef+climate", 73, 0),
        ("attributes+aef", 91, 0),
        ("aef+subsurface", 64 + len(SUBSURFACE), 0),
        ("random", 64, 0),
        ("shuffled", 64, 0),
        ("aef_first_year", 64, 0),
    ],
)
def test_each_representation_has_its_columns(tables, representation, numeric, categories):
    table = static_table(representation, IDS, **tables)
    assert table.gauge_ids == IDS
    assert table.numeric.shape == (3, numeric)
    assert table.numeric.dtype == np.float32
    assert table.categories.shape == (3, categories)


def test_every_representation_is_tested():
    marks = test_each_representation_has_its_columns.pytestmark
    assert tuple(case[0] for case in marks[0].args[1]) == REPRESENTATIONS


def test_rows_are_those_of_the_basins_asked_for(tables):
    table = static_table("aef+climate", IDS, **tables)
    np.testing.assert_array_equal(
        table.numeric[0, :64], tables["embedding"].loc["00000003"].to_numpy(np.float32)
    )
    climate = tables["climate"].set_index("gauge_id").loc["00000001", list(CLIMATE)]
    np.testing.assert_array_equal(table.numeric[1, 64:], climate.to_numpy(np.float32))


def test_the_first_year_is_told_from_its_own_table(tables):
    table = static_table(FIRST_YEAR, IDS, **tables)
    wanted = tables["first_year"].loc[list(IDS)].to_numpy(np.float32)
    np.testing.assert_array_equal(table.numeric, wanted)
    assert not np.array_equal(table.numeric, static_table("aef", IDS, **tables).numeric)
    del tables["first_year"]
    with pytest.raises(UserError, match="'aef_first_year' needs 64 columns of the first_year tab"):
        static_table(FIRST_YEAR, IDS, **tables)


def test_missing_category_is_an_empty_text(tables):
    table = static_table("attributes17", IDS, **tables)
    assert table.category_names == ("dom_land_cover", "geol_1st_class", "geol_2nd_class")
    assert table.categories[:, 0].tolist() == ["", "clay", "sand"]


def test_random_numbers_belong_to_the_basin_and_the_seed(tables):
    few = static_table("random", IDS[:1], **tables).numeric[0]
    np.testing.assert_array_equal(few, static_table("random", IDS, **tables).numeric[0])
    assert not np.array_equal(few, static_table("random", IDS[:1], **tables, seed=1).numeric[0])
    assert not np.array_equal(few, static_table("random", IDS[1:2], **tables).numeric[0])


def test_shuffled_hands_every_basin_the_embedding_of_another(tables):
    ids = tuple(tables["embedding"].index)
    own = tables["embedding"].to_numpy(np.float32)
    for seed in range(20):
        shuffled = static_table("shuffled", ids, **tables, seed=seed).numeric
        assert {row.tobytes() for row in shuffled} == {row.tobytes() for row in own}
        assert not np.any(np.all(shuffled == own, axis=1))
    part = static_table("shuffled", ids[2:3], **tables, seed=19).numeric
    np.testing.assert_array_equal(part[0], shuffled[2])


def test_what_is_missing_is_named(tables):
    with pytest.raises(UserError, match="unknown representation 'aef64'; choose one of none"):
        static_table("aef64", IDS, **tables)
    with pytest.raises(UserError, match="embedding table has no row for basin 00000009"):
        static_table("aef", (*IDS, "00000009"), **tables)
    lacking = tables | {"climate": tables["climate"].drop(columns="aridity")}
    with pytest.raises(UserError, match="climate table, which lacks aridity"):
        static_table("aef+climate", IDS, **lacking)
    assert static_table("aef", IDS, **lacking).numeric.shape == (3, 64)
    text = tables | {"embedding": tables["embedding"].astype(object).replace(np.nan, "x")}
    text["embedding"].iloc[0, 0] = "much"
    with pytest.raises(UserError, match="static inputs must be numbers"):
        static_table("aef", IDS, **text)
