from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.quantisation import NO_DATA, dequantise, quantise

PIXELS = Path(__file__).parents[3] / "shared" / "data" / "aef_pixels"


def test_values_worked_out_by_hand():
    stored = np.array([-127, -64, -1, 0, 1, 51, 127], dtype=np.int8)
    expected = [-((127 / 127.5) ** 2), -((64 / 127.5) ** 2), -1 / 127.5**2, 0, 1 / 127.5**2, 0.16]
    np.testing.assert_allclose(dequantise(stored), [*expected, (127 / 127.5) ** 2], rtol=1e-6)
    assert dequantise(stored).dtype == np.float32


def test_no_data_is_nan_and_not_a_number_below_minus_one():
    assert np.isnan(dequantise(np.array([NO_DATA], dtype=np.int8))).all()
    assert quantise([np.nan]) == NO_DATA


def test_every_stored_number_survives_the_way_there_and_back():
    stored = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(quantise(dequantise(stored)), stored)


def test_the_ends_of_the_range_are_cut_off():
    np.testing.assert_array_equal(quantise([-1.0, 1.0]), [-127, 127])


@pytest.mark.real_data
@pytest.mark.skipif(not PIXELS.is_dir(), reason="no real AlphaEarth pixels beside the checkout")
@pytest.mark.parametrize("place", ["iowa_ag", "sf_bay_urban"])
def test_real_pixels_are_of_this_form(place):
    (file,) = PIXELS.glob(f"*{place}*.csv")
    vectors = pd.read_csv(file)[list(BANDS)].to_numpy()
    assert len(vectors) == 720
    np.testing.assert_allclose(dequantise(quantise(vectors)), vectors, atol=1e-6)
    # The rounding of 64 numbers leaves a unit vector a unit vector, nearly.
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 0.02
