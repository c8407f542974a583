import json

import numpy as np
import pytest
import torch

from aef_dagster.errors import UserError
from aef_dagster.models.data import StaticTable
from aef_dagster.models.recipes import Scaling
from aef_dagster.models.scalers import Scaler, log_sqrt

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


def fit(forcing, flow, table, scaling=None, units=None):
    units = np.ones(3, dtype=np.float32) if units is None else units
    return Scaler.fit(scaling or Scaling(), DONORS, ("prcp", "pet"), forcing, flow, units, table)


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


def test_static_inputs_without_a_limit_are_not_cut_off(world):
    scaler = fit(*world, Scaling(static_limit=None))
    table = statics([[1000.0, 7.0]], ["clay"])
    np.testing.assert_array_equal(scaler.scale_statics(table), [[998.0, 0.0, 1.0, 0.0]])


def test_classes_as_numbers_take_one_column_each(world):
    scaler = fit(*world, Scaling(one_hot=False))
    assert scaler.static_size == 3
    # clay, sand and missing are 0, 1 and -1: mean 0, variance 2/3.
    table = statics([[2.0, 7.0]] * 4, ["sand", "clay", "", "peat"])
    expected = np.array([1.0, 0.0, -1.0, -1.0]) / np.sqrt(2 / 3)
    np.testing.assert_allclose(scaler.scale_statics(table)[:, 2], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "scaling",
    [
        Scaling(),
        Scaling(log_sqrt=True),
        Scaling(flow_by_prcp=True),
        Scaling(log_sqrt=True, flow_by_prcp=True, one_hot=False, static_limit=None),
    ],
)
def test_flow_comes_back_from_its_scale(world, scaling):
    units = np.array([2.0, 0.5, 7.0], dtype=np.float32)
    scaler = fit(*world, scaling, units)
    flow = np.array([[0.0, 0.003, 0.4], [1.0, 50.0, np.nan]], dtype=np.float32)
    scaled = scaler.scale_flow(flow, units)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaler.unscale_flow(scaled, units), flow, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(scaled[0, 0], scaler.no_flow, rtol=1e-5)
    # The same inverse serves tensors, inside the loss.
    as_tensor = scaler.unscale_flow(torch.from_numpy(scaled), torch.from_numpy(units))
    np.testing.assert_allclose(as_tensor, flow, rtol=1e-4, atol=2e-6)


def test_flow_is_z_scored_after_division_and_logarithm(world):
    forcing, flow, table = world
    units = np.array([2.0, 0.5, 7.0], dtype=np.float32)
    scaler = fit(*world, Scaling(log_sqrt=True), units)
    divided = (flow.astype(np.float64) / units[:, None])[np.isfinite(flow)]
    logarithms = np.log10(np.sqrt(divided) + 0.1)
    assert scaler.flow_mean == pytest.approx(logarithms.mean(), rel=1e-5)
    assert scaler.flow_std == pytest.approx(logarithms.std(), rel=1e-5)
    scaled = scaler.scale_flow(flow.T, units)
    assert np.nanmean(scaled) == pytest.approx(0.0, abs=1e-5)
    assert np.nanstd(scaled) == pytest.approx(1.0, abs=1e-5)
    # The weights of the NSE loss stay those of flow in mm/day.
    assert scaler.donor_flow_std["00000001"] == pytest.approx(np.nanstd(flow[0]), rel=1e-5)


def test_below_no_flow_there_is_no_flow(world):
    scaler = fit(*world, Scaling(log_sqrt=True))
    below = np.array([scaler.no_flow - 1e-3, scaler.no_flow - 3.0])
    np.testing.assert_array_equal(scaler.unscale_flow(below, np.ones(2)), [0.0, 0.0])


def test_logarithms_are_taken_of_rain_and_pet_only():
    rng = np.random.default_rng(5)
    forcing = rng.gamma(1.0, 2.0, size=(2, 50, 3)).astype(np.float32)
    table = StaticTable(DONORS[:2], np.zeros((2, 0), np.float32), (), np.zeros((2, 0), "<U1"), ())
    names, flow, units = ("prcp", "vp", "pet"), forcing[:, :, 1], np.ones(2, dtype=np.float32)
    scaler = Scaler.fit(Scaling(log_sqrt=True), DONORS[:2], names, forcing, flow, units, table)
    expected = forcing.astype(np.float64)
    expected[..., [0, 2]] = np.log10(np.sqrt(expected[..., [0, 2]]) + 0.1)
    expected = (expected - expected.mean((0, 1))) / expected.std((0, 1))
    before = forcing.copy()
    np.testing.assert_allclose(scaler.scale_forcing(forcing), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(forcing, before)


def test_log_sqrt():
    # sqrt(x) + 0.1 is 0.1, 1 and 10.
    np.testing.assert_allclose(log_sqrt(np.array([0.0, 0.81, 98.01])), [-1, 0, 1], atol=1e-12)


def test_a_small_spread_is_taken_for_one_where_the_scaling_says_so(world):
    forcing, flow, _ = world
    forcing = forcing.copy()
    forcing[:, ::2, 1] += 1e-3  # std 0.0005
    table = statics([[0.5, 1.0], [0.501, 2.0], [0.502, 3.0]], ["clay"] * 3)
    guarded = fit(forcing, flow, table, Scaling(smallest_std=1e-3))
    assert guarded.forcing_std[1] == 1.0
    np.testing.assert_allclose(
        guarded.scale_statics(table)[:, 0], [-0.001, 0.0, 0.001], rtol=1e-3, atol=1e-7
    )
    plain = fit(forcing, flow, table)
    assert plain.forcing_std[1] == pytest.approx(5e-4, rel=1e-3)
    np.testing.assert_allclose(
        plain.scale_statics(table)[:, 0], [-1.2247449, 0.0, 1.2247449], rtol=1e-3, atol=1e-3
    )


def test_json_keeps_every_bit(world):
    for scaling in (Scaling(), Scaling(log_sqrt=True, one_hot=False, static_limit=None)):
        scaler = fit(*world, scaling)
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
