"""What all comparisons of years start from: gaps, and tables that are refused."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings import outliers, stability
from aef_dagster.embeddings.trend import drift_against_spread
from aef_dagster.embeddings.year_vectors import year_vectors
from aef_dagster.errors import UserError
from aef_dagster_tests.embeddings.turning import table, turning


def test_basins_without_neighbouring_years_have_rows_without_numbers():
    frame = table(turning([[0, np.nan, np.nan], [np.nan, np.nan, 10]]), [2017, 2018, 2019])
    assert stability.year_to_year(frame).empty
    assert outliers.year_pairs(frame).empty
    assert outliers.outlier_basins(frame)["distance"].isna().all()
    assert outliers.outlier_years(frame)["year"].tolist() == [2017, 2019]
    assert not drift_against_spread(frame)["drifts"].any()


@pytest.mark.parametrize(("change", "said"), [
    (lambda f: f.assign(year=pd.array([pd.NA] * len(f), dtype="Int64")), "finished mean"),
    (lambda f: f[f["year"] == 2017], "two years or more, and there are 1"),
    (lambda f: pd.concat([f, f.tail(1)]), "basin 00000002 occurs more than once in 2018"),
    (lambda f: f.assign(A00=0.0, A01=0.0), "length zero"),
])  # fmt: skip
def test_what_cannot_be_compared_is_said(change, said):
    frame = table(turning([[0, 10], [0, 20]]), [2017, 2018])
    with pytest.raises(UserError, match=said):
        year_vectors(change(frame))
