"""Long tables made wide again, numbers as numbers and text as text."""

import numpy as np
import pandas as pd
import pytest

from aef_dagster.errors import UserError
from aef_dagster.storage.tables import attribute_frame, embedding_frame
from aef_dagster.storage.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path):
    store = Warehouse(tmp_path / "warehouse.duckdb")
    rows = [
        ("00000001", "elev_mean", 12.5, None),
        ("00000002", "elev_mean", np.nan, None),
        ("00000001", "geol_1st_class", np.nan, "Metamorphics"),
        ("00000002", "geol_1st_class", np.nan, None),
        ("00000001", "p_mean", 3.0, None),
        ("00000002", "p_mean", 4.0, None),
    ]
    table = pd.DataFrame(rows, columns=["gauge_id", "attribute", "value", "category"])
    store.replace("attributes", table.assign(origin="published"))
    return store


def test_numbers_and_text_come_back_as_they_were(warehouse):
    wide = attribute_frame(warehouse, "published")
    assert wide.index.tolist() == ["00000001", "00000002"]
    assert wide["p_mean"].tolist() == [3.0, 4.0]
    assert wide["p_mean"].dtype == float
    assert wide["elev_mean"].iloc[0] == 12.5
    assert np.isnan(wide["elev_mean"].iloc[1])
    assert wide["geol_1st_class"].iloc[0] == "Metamorphics"
    assert pd.isna(wide["geol_1st_class"].iloc[1])


def test_an_empty_table_names_its_asset(warehouse):
    with pytest.raises(UserError, match="materialize `attributes`"):
        attribute_frame(warehouse, "training_period")
    with pytest.raises(UserError, match="materialize `basin_embedding`"):
        embedding_frame(warehouse)
