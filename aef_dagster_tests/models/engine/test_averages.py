import numpy as np
import pytest
import torch

from aef_dagster.models.engine.averages import WeightAverage, copy_of_weights
from aef_dagster.models.engine.cpu import Training
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.network import BasinLSTM
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import Recipe


def network(value=None):
    made = BasinLSTM(2, 1, 3)
    made.initialise(None, Draws(0))
    if value is not None:
        fill(made, value)
    return made


def fill(network, value):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def test_the_average_equals_a_hand_computation():
    model = network(1.0)
    average = WeightAverage(model, updates=4)
    # From 1: three quarters of the old and a quarter of the new.
    for value, expected in ((5.0, 2.0), (6.0, 3.0), (-5.0, 1.0)):
        fill(model, value)
        average.add(model)
        for name, array in average.arrays().items():
            np.testing.assert_allclose(array, expected, rtol=1e-6, err_msg=name)
    assert set(average.arrays()) == set(model.state_dict())


def test_the_network_computes_with_the_average_and_gets_its_own_back():
    model = network(2.0)
    average = WeightAverage(model, updates=2)
    fill(model, 4.0)
    average.add(model)
    with pytest.raises(KeyError), average.in_place_of(model):
        assert all(torch.all(tensor == 3.0) for tensor in model.state_dict().values())
        raise KeyError  # whatever happens meanwhile
    assert all(torch.all(tensor == 4.0) for tensor in model.state_dict().values())
    assert all(np.all(array == 3.0) for array in average.arrays().values())


def test_without_an_average_the_weights_are_left_alone():
    model = network()
    before = copy_of_weights(model)
    average = WeightAverage(model, updates=0)
    average.add(model)
    assert average.arrays() == {}
    with average.in_place_of(model):
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_an_average_goes_on_from_its_arrays_in_whatever_order_they_come():
    model = network()
    average = WeightAverage(model, updates=10)
    fill(model, 0.5)
    average.add(model)
    # A file gives them back by name in the alphabet, not in the network's order.
    arrays = dict(sorted(average.arrays().items()))
    assert list(arrays) != list(average.arrays())
    again = WeightAverage(network(), updates=10)
    again.load(arrays)
    fill(model, 0.25)
    average.add(model)
    again.add(model)
    for name, array in average.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_training_validates_and_keeps_the_average(toy, make_job):
    recipe = Recipe(validations=2, spinup_days=60, averaging=0.5)
    plain = Recipe(validations=2, spinup_days=60)
    averaged, other = (Training(prepare(make_job(recipe=r), toy)) for r in (recipe, plain))
    # Half of 20 updates: a tenth of each update's weights.
    expected = {name: tensor.numpy() for name, tensor in copy_of_weights(other.network).items()}
    for _ in range(10):
        averaged.step()
        other.step()
        for name, tensor in other.network.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * tensor.numpy()
    averaged.validate()
    other.validate()
    assert averaged.course.curve[0]["valid_nse"] != other.course.curve[0]["valid_nse"]
    kept = averaged.state().arrays
    for name, array in expected.items():
        np.testing.assert_allclose(kept[f"best.{name}"], array, rtol=1e-5, atol=1e-6)
        # The average takes no part in training.
        np.testing.assert_array_equal(kept[f"weights.{name}"], other.network.state_dict()[name])
