"""The contract of all routes."""

import numpy as np
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.yearly import EmbeddingYear, refuse_unusable, yearly_frame
from aef_dagster.errors import UserError

VECTORS = np.full((2, 64), 0.1)


def frame(vectors=VECTORS, **told):
    values = {"route": "cog", "dataset_version": "1.1", "reducer": "mean"} | told
    return yearly_frame(["01", "02"], 2020, vectors, **values)


def test_norm_is_the_length_and_types_do_not_depend_on_what_is_told():
    found = frame()
    np.testing.assert_allclose(found["norm"], 0.8, rtol=1e-6)
    assert found["pixel_count"].isna().all()
    assert found.dtypes.equals(frame(pixel_count=[1, 2], bytes_read=7).dtypes)
    assert (found[list(BANDS)].dtypes == np.float32).all()


def test_the_hash_follows_the_content_and_not_the_way_it_came():
    first, second = frame()["content_hash"]
    assert first != second  # another basin
    assert frame(route="table", bytes_read=5)["content_hash"].tolist() == [first, second]
    assert frame(dataset_version="1.2")["content_hash"].tolist() != [first, second]
    changed = VECTORS.copy()
    changed[0, 0] += 1e-6
    assert frame(changed)["content_hash"].tolist()[1] == second
    assert frame(changed)["content_hash"].tolist()[0] != first


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0])
def test_a_year_with_an_impossible_vector_is_refused(value):
    vectors = VECTORS.copy()
    vectors[1, 3] = value
    refuse_unusable(2020, EmbeddingYear(frame(), {}, ()))
    with pytest.raises(UserError, match="2020: the vectors of 02"):
        refuse_unusable(2020, EmbeddingYear(frame(vectors), {}, ()))


def test_a_year_without_any_basin_is_refused():
    nothing = frame().iloc[:0]
    with pytest.raises(UserError, match="2020: none of the 2 basins has an embedding"):
        refuse_unusable(2020, EmbeddingYear(nothing, {}, ("01", "02")))
