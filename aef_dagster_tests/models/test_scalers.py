import json

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models.data import StaticTable
from aef_dagster.models.scalers import Scaler

DONORS = ("00000001", "00000002", "00000003")


def statics(numeric, categories):
    numeric = np.array(numeric, dtype=np.float32)
    ids = tuple(f"basin {i}" for i in range(len(numeric)))
    return StaticTable(ids, numeric, ("a", "b"), np.array(categories)[:, None], ("soil",))


@pytest.fixture
def world():
    rng = np.random.default_rng(3)
    forcing = rng.normal(5.0, 2.0, size=(3, 200, 2)).astype(np.float32)
    forcing[:, :, 1] = 4.0
    flow = rng.gamma(1.0, 2.0, size=(3, 200)).astype(np.float32)
    flow[0, :50] = np.nan
    flow[2] = np.nan
    table = statics([[1.0, 7.0], [3.0, 7.0], [np.nan, 7.0]], ["clay", "sand", ""])
    return forcing, flow, table


def fit(forcing, flow, table):
    return Scaler.fit(DONORS, ("prcp", "pet"), forcing, flow, table, static_limit=5.0)


def test_statistics_are_those_of_all_donors_together(world):
    forcing, flow, _ = world
    scaler = fit(*world)
    everything = forcing.astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(scaler.forcing_mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaler.forcing_std[0], everything[:, 0].std(), rtol=1e-12)
    observed = flow[np.isfinite(flow)].astype(np.float64)
    assert scaler.flow_mean == pytest.approx(observed.mean(), rel=1e-12)
    assert scaler.flow_std == pytest.approx(observed.std(), rel=1e-12)
    assert scaler.donor_flow_std == pytest.approx(
        {"00000001": np.nanstd(flow[0]), "00000002": np.nanstd(flow[1])}, rel=1e-5
    )


def test_a_constant_forcing_becomes_zero(world):
    scaled = fit(*world).scale_forcing(world[0])
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled[..., 1], 0.0)
    assert abs(scaled[..., 0].mean()) < 1e-5
    assert scaled[..., 0].std() == pytest.approx(1.0, abs=1e-5)


def test_static_inputs_of_any_basin(world):
    scaler = fit(*world)
    table = statics(
        [[2.0, 7.0], [4.0, 9.0], [np.nan, np.nan], [1000.0, 7.0], [-1000.0, 7.0]],
        ["sand", "clay", "", "peat", "clay"],
    )
    assert scaler.static_size == 4
    np.testing.assert_array_equal(
        scaler.scale_statics(table),
        [
            [0.0, 0.0, 0.0, 1.0],
            [2.0, 0.0, 1.0, 0.0],  # b is constant among donors: it tells nothing
            [0.0, 0.0, 0.0, 0.0],  # missing: the donors' mean, and no class
            [5.0, 0.0, 0.0, 0.0],  # far from any donor; a class that none has
            [-5.0, 0.0, 1.0, 0.0],
        ],
    )


def test_json_keeps_every_bit(world):
    scaler = fit(*world)
    assert Scaler.from_json(json.loads(json.dumps(scaler.to_json()))) == scaler


def test_other_columns_are_refused(world):
    other = StaticTable(DONORS, np.zeros((3, 0), np.float32), (), np.zeros((3, 0), "<U1"), ())
    with pytest.raises(ValueError, match="other columns"):
        fit(*world).scale_statics(other)


def test_donors_without_any_flow_are_an_error(world):
    forcing, flow, table = world
    with pytest.raises(UserError, match="none of the 3 donors has observed flow"):
        fit(forcing, np.full_like(flow, np.nan), table)


def test_no_static_inputs_at_all(world):
    forcing, flow, _ = world
    none = StaticTable(DONORS, np.zeros((3, 0), np.float32), (), np.zeros((3, 0), "<U1"), ())
    scaler = fit(forcing, flow, none)
    assert scaler.static_size == 0
    assert scaler.scale_statics(none).shape == (3, 0)


def test_flow_that_never_changes_does_not_divide_by_zero(world):
    forcing, flow, table = world
    scaler = fit(forcing, np.full_like(flow, 0.1), table)
    assert scaler.flow_std == 1.0
    assert set(scaler.donor_flow_std.values()) == {0.0}
