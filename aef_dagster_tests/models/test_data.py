import numpy as np
import pytest

from aef_dagster.errors import DataFileError, UserError
from aef_dagster.models.data import TrainingData


def test_a_saved_folder_opens_as_the_same_arrays(toy, tmp_path):
    toy.save(tmp_path / "data")
    for mmap in (True, False):
        again = TrainingData.open(tmp_path / "data", mmap=mmap)
        assert (again.gauge_ids, again.forcing_names) == (toy.gauge_ids, toy.forcing_names)
        np.testing.assert_array_equal(again.dates, toy.dates)
        np.testing.assert_array_equal(again.forcing, toy.forcing)
        np.testing.assert_array_equal(again.streamflow, toy.streamflow)
        assert isinstance(again.forcing, np.memmap) == mmap
        table, expected = again.statics["attributes17"], toy.statics["attributes17"]
        np.testing.assert_array_equal(table.numeric, expected.numeric)
        np.testing.assert_array_equal(table.categories, expected.categories)
        assert table.category_names == ("soil",)
        assert again.folder == tmp_path / "data"


def test_some_basins_only(toy, tmp_path):
    toy.save(tmp_path, ["00000003", "00000002"])
    again = TrainingData.open(tmp_path)
    assert again.gauge_ids == ("00000003", "00000002")
    np.testing.assert_array_equal(again.forcing[0], toy.forcing[2])
    np.testing.assert_array_equal(again.streamflow[1], toy.streamflow[1])
    assert again.statics["attributes17"].numeric[0, 0] == toy.statics["attributes17"].numeric[2, 0]


def test_what_is_absent_is_named(toy, tmp_path):
    with pytest.raises(UserError, match="basin 00000099"):
        toy.rows(["00000001", "00000099"])
    with pytest.raises(UserError, match="the record runs from 2000-01-01 to 2004-09-30"):
        toy.span("2004-01-01", "2005-01-01")
    with pytest.raises(UserError, match="representation 'aef'; there are: attributes17, none"):
        toy.representation("aef")
    with pytest.raises(DataFileError, match="training arrays cannot be read"):
        TrainingData.open(tmp_path / "nowhere")


def test_arrays_that_do_not_fit_together_are_refused(toy):
    def data(**changes):
        arrays = {
            "gauge_ids": toy.gauge_ids,
            "dates": toy.dates,
            "forcing_names": toy.forcing_names,
            "forcing": toy.forcing,
            "streamflow": toy.streamflow,
            "statics": toy.statics,
        }
        return TrainingData(**arrays | changes)

    for changes, sentence in (
        ({"gauge_ids": ("00000001",) * 8}, "occurs twice"),
        ({"forcing": toy.forcing[1:]}, "forcing has shape"),
        ({"streamflow": toy.streamflow[:, 1:]}, "streamflow has shape"),
        ({"dates": toy.dates + np.arange(len(toy.dates))}, "consecutive"),
        ({"gauge_ids": tuple("abcdefgh")}, "other basins"),
    ):
        with pytest.raises(ValueError, match=sentence):
            data(**changes)


def test_span_counts_both_ends(toy):
    span = toy.span("2000-01-02", "2000-01-05")
    assert (span.start, span.stop) == (1, 5)
