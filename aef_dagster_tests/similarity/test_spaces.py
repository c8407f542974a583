"""Attributes on one scale, and similarity in every space."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import pool_years
from aef_dagster.embeddings.table import TableSource
from aef_dagster.errors import UserError
from aef_dagster.similarity import representations, spaces
from aef_dagster.similarity.donors import rank_donors, top_k
from aef_dagster.similarity.representations import attribute_matrix

REAL = Path(
    os.environ.get("AEF_TEST_REAL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)
real_data = pytest.mark.skipif(
    not (REAL / "camels_us").is_dir() or not (REAL / "aef_surrogate").is_dir(),
    reason=f"no CAMELS-US files and embedding tables below {REAL}",
)


def world(seed, n):
    """Basins with numbers, categories, holes, places and embeddings."""
    rng = np.random.default_rng(seed)
    attributes = pd.DataFrame(
        {
            "elev_mean": rng.normal(500, 200, n),
            "area_gages2": rng.lognormal(6, 1, n),
            "geol_permeability": np.full(n, -14.1),
            "root_depth_50": np.where(
                (rng.random(n) < 0.3) & (np.arange(n) > 0), np.nan, rng.random(n)
            ),
            "geol_1st_class": rng.choice(["Carbonate", "Volcanic", "Siliciclastic"], n),
            "geol_2nd_class": pd.Series(rng.choice(["Water", "Evaporites"], n)).mask(
                pd.Series(rng.random(n) < 0.3) & (np.arange(n) > 0)
            ),
        },
    )
    attributes.index = pd.Index([f"{i:08d}" for i in range(n)], name="gauge_id")
    places = rng.uniform(25, 49, n), rng.uniform(-124, -67, n)
    return attributes, places, 0.3 + rng.normal(0, 0.1, (n, 64))


def matrices(attributes, places, embedding):
    return {
        "attributes": spaces.similarity_attributes(attributes),
        "aef": spaces.similarity_aef(embedding),
        "aef raw": spaces.similarity_aef(embedding, raw=True),
        "distance": spaces.similarity_distance(*places),
        "random": spaces.similarity_random(list(attributes.index), seed=7),
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_every_space_is_symmetric_finite_and_bounded_with_unit_diagonal(seed, n):
    for name, matrix in matrices(*world(seed, n)).items():
        assert matrix.shape == (n, n), name
        assert np.isfinite(matrix).all(), name
        assert (matrix == matrix.T).all(), name
        assert (np.diag(matrix) == 1).all(), name
        assert np.abs(matrix).max() <= 1, name


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_order_of_basins_does_not_matter(seed, n):
    attributes, (lat, lon), embedding = world(seed, n)
    order = np.random.default_rng(seed).permutation(n)
    before = matrices(attributes, (lat, lon), embedding)
    after = matrices(attributes.iloc[order], (lat[order], lon[order]), embedding[order])
    for name, matrix in before.items():
        np.testing.assert_allclose(after[name], matrix[np.ix_(order, order)], atol=1e-12)


def test_an_attribute_that_nobody_has_is_refused():
    frame = pd.DataFrame({"a": [1.0, 3.0], "b": [np.nan, np.nan]}, index=list("wx"))
    with pytest.raises(UserError, match="attribute b is missing for every basin"):
        attribute_matrix(frame)


def test_numbers_are_z_scored_and_holes_take_the_mean():
    frame = pd.DataFrame({"a": [1.0, 3.0, np.nan, 5.0], "b": [2, 2, 2, 2]}, index=list("wxyz"))
    matrix, names = attribute_matrix(frame)
    assert names == ("a", "b")
    z = np.sqrt(1.5)
    np.testing.assert_allclose(matrix[:, 0], [-z, 0, 0, z], atol=1e-12)
    assert (matrix[:, 1] == 0).all()


def test_a_category_weighs_as_much_as_a_number():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"elev_mean": rng.normal(size=200), "dom_land_cover": rng.choice(list("abcde"), 200)}
    )
    matrix, names = attribute_matrix(frame)
    assert names == ("elev_mean", *(f"dom_land_cover={c}" for c in "abcde"))
    assert matrix[:, 0].var() == pytest.approx(1)
    assert matrix[:, 1:].var(axis=0).sum() == pytest.approx(1)
    assert np.abs(matrix.mean(axis=0)).max() < 1e-12


def test_a_missing_category_is_like_no_class_more_than_another():
    column = pd.Series(["a", "a", "b", None], dtype=object)
    matrix, names = attribute_matrix(pd.DataFrame({"geol_2nd_class": column, "x": [1.0, 2, 3, 4]}))
    assert names[:2] == ("geol_2nd_class=a", "geol_2nd_class=b")
    assert (matrix[3, :2] == 0).all()
    assert (matrix[0, :2] == matrix[1, :2]).all()


def test_codes_of_categories_are_not_numbers():
    matrix, names = attribute_matrix(pd.DataFrame({"geol_1st_class": [1, 2, 3]}))
    assert len(names) == 3
    distances = np.linalg.norm(matrix[:, None] - matrix[None], axis=-1)
    assert distances[0, 1] == pytest.approx(distances[0, 2])


def test_gauge_id_may_be_a_column():
    attributes, _, _ = world(1, 5)
    expected, names = attribute_matrix(attributes)
    matrix, same_names = attribute_matrix(attributes.reset_index())
    assert same_names == names
    assert (matrix == expected).all()


def test_a_basin_without_attributes_is_named():
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": [2.0, np.nan]}, index=["01", "02"])
    with pytest.raises(UserError, match="no attribute is known for 02"):
        attribute_matrix(frame)


def test_attribute_sets_are_those_published():
    assert len(representations.STUDY_ATTRIBUTES) == 17
    kratzert = representations.KRATZERT_STATIC + representations.CLIMATE
    assert len(set(kratzert)) == 27
    assert not set(representations.STUDY_ATTRIBUTES) & set(representations.CLIMATE)


def test_aef_leaves_out_what_all_basins_share():
    rng = np.random.default_rng(0)
    common = rng.normal(size=64)
    own = rng.normal(0, 0.2, (30, 64))
    raw = spaces.similarity_aef(common + own, raw=True)
    centred = spaces.similarity_aef(common + own)
    assert raw.min() > 0.8
    assert centred.min() < -0.2
    np.testing.assert_allclose(centred, spaces.similarity_aef(own), atol=1e-12)


def test_distance_orders_basins_as_kilometres_do():
    lat, lon = [40.0, 40.0, 41.0, 25.0], [-100.0, -100.5, -100.0, -81.0]
    km = spaces.great_circle_km(lat, lon)
    similarity = spaces.similarity_distance(lat, lon)
    np.testing.assert_allclose(similarity, np.cos(km / spaces.EARTH_RADIUS_KM), atol=1e-12)
    assert (np.argsort(-similarity[0]) == np.argsort(km[0])).all()


def test_great_circle_of_known_places():
    # One degree along a meridian; a quarter of the equator; two neighbours 1 m apart.
    km = spaces.great_circle_km([0, 1, 0, 0], [0, 0, 90, 360e-8 / 0.4])
    assert km[0, 1] == pytest.approx(111.195, abs=1e-3)
    assert km[0, 2] == pytest.approx(np.pi / 2 * spaces.EARTH_RADIUS_KM)
    assert km[0, 3] == pytest.approx(1.0007e-3, rel=1e-3)
    assert (np.diag(km) == 0).all()


def test_random_similarity_of_a_pair_does_not_depend_on_the_others():
    few = spaces.similarity_random(["a", "b"], seed=1)
    many = spaces.similarity_random(["z", "b", "x", "a"], seed=1)
    assert few[0, 1] == pytest.approx(many[1, 3], abs=1e-15)
    assert few[0, 1] != pytest.approx(spaces.similarity_random(["a", "b"], seed=2)[0, 1])


def test_random_similarities_are_centred_on_zero():
    matrix = spaces.similarity_random([str(i) for i in range(200)], seed=0)
    off_diagonal = matrix[np.triu_indices(200, 1)]
    assert abs(off_diagonal.mean()) < 0.01
    assert off_diagonal.std() == pytest.approx(1 / 8, rel=0.05)


def test_descriptors_with_holes_are_refused():
    embedding = np.ones((3, 64))
    embedding[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        spaces.similarity_aef(embedding, raw=True)


def test_equal_descriptors_have_no_direction_but_stay_finite():
    assert (spaces.similarity_aef(np.ones((3, 64))) == np.eye(3)).all()


def test_importing_the_rooms_pulls_nothing_heavy():
    code = (
        "import sys\n"
        "from aef_dagster.similarity import donors, representations, spaces\n"
        "from aef_dagster.embeddings import pooling, sources, table\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'mlflow', 'dagster', 'pyarrow.parquet', 'duckdb'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.real_data
@real_data
def test_real_basins_in_every_space():
    folder = REAL / "camels_us" / "camels_attributes_v2.0"
    tables = [
        pd.read_csv(folder / f"camels_{name}.txt", sep=";", dtype={"gauge_id": str}).set_index(
            "gauge_id"
        )
        for name in ("topo", "soil", "geol", "vege")
    ]
    attributes = pd.concat(tables, axis=1)
    ids = attributes.index.tolist()
    source = TableSource(REAL / "aef_surrogate")
    pooled = pool_years(pd.concat([source.fetch(y, ids).frame for y in source.years()]))
    assert pooled["gauge_id"].tolist() == ids
    assert set(pooled["years"]) == {"2017-2025"}
    places = attributes["gauge_lat"], attributes["gauge_lon"]
    study = attributes[list(representations.STUDY_ATTRIBUTES)]
    km = spaces.great_circle_km(*places)
    for name, matrix in matrices(study, places, pooled[list(BANDS)].to_numpy()).items():
        ranked = rank_donors(matrix, ids)
        assert len(ranked) == 671 * 670
        nearest = [ids.index(top_k(ranked, gauge_id, 1)[0]) for gauge_id in ids[::30]]
        apart = np.median([km[i, j] for i, j in zip(range(0, 671, 30), nearest, strict=True)])
        # Landscapes change slowly: in any space that knows them the best donor is near.
        assert (apart > 1000) if name == "random" else (apart < 400), name


def test_rows_of_a_learned_space_are_by_the_model_that_never_saw_the_basin():
    rng = np.random.default_rng(4)
    models = [rng.normal(size=(6, 3)), rng.normal(size=(6, 5))]
    model_of = np.array([0, 1, 1, 0, 0, 1])
    matrix = spaces.similarity_by_model(models, model_of)
    assert matrix.shape == (6, 6)
    np.testing.assert_array_equal(np.diag(matrix), 1.0)
    for row, number in enumerate(model_of):
        centred = models[number] - models[number].mean(axis=0)
        cosines = [a @ centred[row] / np.linalg.norm(a) / np.linalg.norm(centred[row])
                   for a in centred]  # fmt: skip
        np.testing.assert_allclose(matrix[row], cosines, atol=1e-12)
    # Two basins of one model are as alike either way, those of two models are not.
    assert matrix[0, 3] == matrix[3, 0]
    assert abs(matrix[0, 1] - matrix[1, 0]) > 1e-3
    one = spaces.similarity_by_model(models[:1], np.zeros(6, int))
    np.testing.assert_allclose(one, spaces.similarity_aef(models[0]), atol=1e-12)
