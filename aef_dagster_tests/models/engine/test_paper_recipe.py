"""The recipe `paper` against arithmetic done elsewhere: by hand, and in plain numpy and torch."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aef_dagster.basins.periods import Periods
from aef_dagster.embeddings.bands import BANDS
from aef_dagster.models.data import StaticTable, TrainingData
from aef_dagster.models.engine.batches import Batches
from aef_dagster.models.engine.cpu import Training, train
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.running import new_network
from aef_dagster.models.engine.validation import Validation
from aef_dagster.models.engine.windows import EpochSampler, Windows
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import BUDGETS, PAPER, Budget
from aef_dagster.models.statics import static_table
from aef_dagster.similarity.representations import CATEGORIES, STUDY_ATTRIBUTES

# --- the size of the network ---


@pytest.mark.parametrize(
    ("representation", "inputs_of_network", "parameters"),
    [("aef", 71, 141_441), ("attributes17", 24, 135_425)],
)
def test_parameters_are_as_many_as_published(
    toy, make_job, representation, inputs_of_network, parameters
):
    rng = np.random.default_rng(1)
    ids = list(toy.gauge_ids)
    attributes = pd.DataFrame(
        rng.normal(size=(len(ids), 17)), index=ids, columns=list(STUDY_ATTRIBUTES)
    ).astype({name: object for name in CATEGORIES})
    for name in CATEGORIES:  # classes must not count: each category is one number
        attributes[name] = ["clay", "sand", "peat", "loam", None, "silt", "clay", "rock"]
    embedding = pd.DataFrame(rng.normal(size=(len(ids), 64)), index=ids, columns=list(BANDS))
    table = static_table(
        representation, ids, attributes=attributes, climate=attributes, embedding=embedding
    )
    data = replace(toy, statics={representation: table})
    job = make_job(recipe=PAPER, representation=representation, budget=BUDGETS["paper"])
    inputs = prepare(job, data)
    network = new_network(inputs.scaler, job.recipe, job.budget.hidden)
    joined = network.forcing_weight.shape[1] + network.static_weight.shape[1]
    assert joined == 7 + inputs.donor_statics.shape[1] == inputs_of_network
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_budget_is_as_published_and_lets_all_epochs_be():
    budget = BUDGETS["paper"]
    assert (budget.hidden, budget.batch, budget.window) == (128, 384, 365)
    # Of 9,132 days of training 8,768 windows a basin; 15,321 whole batches an epoch and one of 64.
    windows = 671 * (9132 - 365 + 1)
    assert windows == 15_321 * 384 + 64
    assert budget.updates >= 20 * 15_322


# --- a world for pencil and paper ---
#
# Rain and flow over mean rain are 0, 0.81 or 98.01, so that log10(sqrt(x) + 0.1) is -1, 0 or 1.
# Nine days: four of training, two of validation, three of test.

LOW, MIDDLE, HIGH = 0.0, 0.81, 98.01
DAYS = Periods("2001-01-01", "2001-01-04", "2001-01-05", "2001-01-06", "2001-01-07", "2001-01-09")
RAIN = {
    "00000001": [LOW, LOW, MIDDLE, MIDDLE],  # mean 0.405
    "00000002": [MIDDLE] * 4,  # mean 0.81
    "00000003": [LOW, MIDDLE, MIDDLE, MIDDLE],  # mean 0.6075
}
MEAN_RAIN = {"00000001": 0.405, "00000002": 0.81, "00000003": 0.6075}
# Over mean rain; missing after that.
FLOW = {
    "00000001": [LOW, MIDDLE, np.nan, HIGH, MIDDLE, np.nan],
    "00000002": [MIDDLE, MIDDLE, MIDDLE, np.nan, HIGH, MIDDLE],
}


def pencil_data() -> TrainingData:
    """Donors 1 and 2, target 3. Rain, PET like rain, tmax on a scale too small to be scaled."""
    ids = tuple(RAIN)
    forcing = np.zeros((3, 9, 3), dtype=np.float32)
    flow = np.full((3, 9), np.nan, dtype=np.float32)
    for row, gauge_id in enumerate(ids):
        rain = np.array([*RAIN[gauge_id], HIGH, HIGH, HIGH, HIGH, HIGH])
        forcing[row, :, 0] = rain
        forcing[row, :, 1] = [0.0, 2e-4] * 4 + [2e-4]
        forcing[row, :, 2] = rain
        if gauge_id in FLOW:
            flow[row, :6] = np.array(FLOW[gauge_id]) * MEAN_RAIN[gauge_id]
    table = StaticTable(
        ids,
        np.array([[1.0, 0.5], [np.nan, 0.501], [9.0, np.nan]], dtype=np.float32),
        ("slope", "nearly_constant"),
        np.array([["sand", ""], ["clay", "rock"], ["peat", "rock"]]),
        ("soil", "geology"),
    )
    dates = np.arange("2001-01-01", "2001-01-10", dtype="datetime64[D]")
    return TrainingData(ids, dates, ("prcp", "tmax", "pet"), forcing, flow, {"told": table})


@pytest.fixture
def pencil(make_job):
    """Inputs of a paper job on the world above, with whatever of the job is replaced."""

    def make(data=None, **changes):
        job = make_job(
            targets=("00000003",),
            donors=("00000001", "00000002"),
            periods=DAYS,
            representation="told",
            recipe=PAPER,
            budget=Budget("pencil", hidden=3, updates=10_000, batch=3, window=2),
        )
        return prepare(replace(job, **changes), data or pencil_data())

    return make


def test_flow_units_are_mean_rain_of_the_training_days(pencil):
    inputs = pencil()
    np.testing.assert_allclose(inputs.donor_flow_units, [0.405, 0.81], rtol=1e-6)
    np.testing.assert_allclose(inputs.target_flow_units, [0.6075], rtol=1e-6)


def test_scaled_forcings_equal_a_hand_computation(pencil):
    scaler = pencil().scaler
    # Logarithms of eight donor days: -1, -1 and six times 0. Mean -1/4, variance 3/16.
    np.testing.assert_allclose(scaler.forcing_mean, [-0.25, 1e-4, -0.25], atol=1e-7)
    # tmax has a standard deviation of 0.0001, below 0.001: left as it is.
    np.testing.assert_allclose(scaler.forcing_std, [0.4330127, 1.0, 0.4330127], rtol=1e-6)
    scaled = scaler.scale_forcing(
        np.array([[LOW, 0.0, HIGH], [MIDDLE, 2e-4, LOW], [HIGH, 3.0, MIDDLE]], dtype=np.float32)
    )
    np.testing.assert_allclose(
        scaled,
        [
            [-1.7320508, -1e-4, 2.8867513],
            [0.5773503, 1e-4, -1.7320508],
            [2.8867513, 2.9999, 0.5773503],
        ],
        atol=2e-6,
    )


def test_scaled_flow_and_its_inverse_equal_a_hand_computation(pencil):
    scaler = pencil().scaler
    # Logarithms of the six observations: -1, 0, 1, 0, 0, 0. Mean 0, variance 1/3.
    assert scaler.flow_mean == pytest.approx(0.0, abs=1e-6)
    assert scaler.flow_std == pytest.approx(0.5773503, rel=1e-6)
    # Of basins with 2 and 0.5 mm/day of rain.
    flow = np.array([[0.0, 0.405], [196.02, np.nan]], dtype=np.float32)
    units = np.array([2.0, 0.5], dtype=np.float32)
    scaled = np.array([[-1.7320508, 0.0], [1.7320508, np.nan]], dtype=np.float32)
    np.testing.assert_allclose(scaler.scale_flow(flow, units), scaled, atol=1e-5)
    np.testing.assert_allclose(scaler.unscale_flow(scaled, units), flow, rtol=1e-5, atol=1e-6)
    # Halfway to no flow: 10**-0.5 is 0.3162278, (0.3162278 - 0.1)**2 * 2 is 0.0935089.
    halfway = np.array([-0.8660254, -4.0])
    np.testing.assert_allclose(
        scaler.unscale_flow(halfway, units), [0.0935089, 0.0], rtol=1e-5, atol=1e-9
    )


def test_scaled_static_inputs_equal_a_hand_computation(pencil):
    inputs = pencil()
    assert inputs.scaler.categories == {"soil": ("clay", "sand"), "geology": ("rock",)}
    # slope: 1 and missing, std 0, taken for 1. nearly_constant: mean 0.5005, std 0.0005, as well.
    # soil: sand is 1, clay 0: mean and std 0.5. geology: missing is -1, rock 0: mean -0.5.
    np.testing.assert_allclose(
        inputs.donor_statics,
        [[0.0, -0.0005, 1.0, -1.0], [0.0, 0.0005, -1.0, 1.0]],
        atol=1e-6,
    )
    # The target's slope is 8 above the donors' and nothing cuts it off; no donor is on peat: -1.
    np.testing.assert_allclose(inputs.target_statics, [[8.0, 0.0, -3.0, 1.0]], atol=1e-6)


def test_windows_are_those_with_an_observation_once_an_epoch(pencil):
    data = pencil_data()
    # Of windows of two days, the first basin lacks the one of days 1 and 2.
    data.streamflow[0, 1:3] = np.nan
    inputs = pencil(data)
    of_donors = [data.streamflow[row] for row in inputs.donor_rows]
    windows = Windows(of_donors, inputs.train, inputs.first, window=2, warmup=0)
    sampler = EpochSampler(windows, 3, Draws(5))
    # Starts 0, 2 of the first, 0, 1, 2 of the second: a batch of three and one of two.
    assert sampler.updates_per_epoch == Training(inputs).course.per_epoch == 2
    for epoch in (0, 1, 7):
        (first, second) = (sampler.draw(2 * epoch + batch) for batch in (0, 1))
        assert (len(first[0]), len(second[0])) == (3, 2)
        pairs = {pair for drawn in (first, second) for pair in zip(*drawn, strict=True)}
        assert pairs == {(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)}


def say(network, scaled):
    """Make a network give this scaled flow on every day of every basin."""
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.fill_(scaled)


def test_the_loss_of_a_batch_equals_a_hand_computation(pencil):
    inputs = pencil(budget=Budget("pencil", hidden=3, updates=10, batch=6, window=2))
    network = new_network(inputs.scaler, PAPER, 3)
    # All six windows are one batch. Scaled flow is -1.7320508, 0, missing, 1.7320508 and 0, 0, 0,
    # missing; days 1 and 2 are in two windows each. With 1 everywhere, squared errors are
    # 7.4641016, 2 x 1, 0.5358984 (first basin) and 1, 2 x 1, 2 x 1 (second): 15 over 9 values.
    say(network, 1.0)
    batches = Batches(inputs, Draws(5))
    assert Training(inputs).course.per_epoch == 1
    assert batches.loss(network, 0).item() == pytest.approx(1.2909944, rel=1e-5)


def test_the_validated_loss_is_a_mean_over_batches_of_384_basins(pencil):
    few = pencil_data()
    count = 386
    ids = tuple(f"{number:08d}" for number in range(1, count + 2))
    rows = np.array([0, 1] * (count // 2) + [2])
    flow = few.streamflow[rows]
    # Over mean rain: 384 basins at 0.81 on both days, one at 0 and 98.01, one at 98.01 once.
    flow[:, 4:6] = np.nan
    flow[:384, 4:6] = MIDDLE * np.where(rows[:384, None] == 0, 0.405, 0.81)
    flow[384, 4:6] = LOW, HIGH * 0.405
    flow[385, 5] = HIGH * 0.81
    table = replace(few.statics["told"].take(rows), gauge_ids=ids)
    data = TrainingData(ids, few.dates, few.forcing_names, few.forcing[rows], flow, {"told": table})
    inputs = pencil(data, donors=ids[:-1], targets=ids[-1:])
    validation = Validation(inputs, Draws(5))
    assert len(validation.rows) == 386
    network = new_network(inputs.scaler, PAPER, 3)
    say(network, 0.0)
    # Scaled 0, and -1.7320508 or 1.7320508: batches of 0 and 1.7320508, not 771 values at once.
    assert validation.run(network)["valid_loss"] == pytest.approx(0.8660254, abs=1e-5)
    # Now 1.7320508, and the root of (12 + 0 + 0) / 3.
    say(network, 1.7320508)
    assert validation.run(network)["valid_loss"] == pytest.approx(1.8660254, abs=1e-5)


# --- when to stop ---


def stopped(inputs, biases):
    """Train with a rate of 0, saying another constant before each validation.

    Returns the training, once it has finished.
    """
    training = Training(inputs)
    for bias in biases:
        assert not training.course.finished
        while not training.course.validation_is_due:
            training.step()
        say(training.network, bias)
        training.validate()
    assert training.course.finished
    return training


def test_early_stopping_equals_a_hand_computation(pencil):
    inputs = pencil(recipe=replace(PAPER, learning_rate=0.0))
    # Validated: 0 of the first donor, 1.7320508 and 0 of the second. A constant c has a loss of
    # sqrt((2 c^2 + (1.7320508 - c)^2) / 3), least at 0.5773503.
    biases = [3.0, 2.0, 2.5, 1.0, 1.5, 1.0]
    losses = [2.5565403, 1.6403045, 2.0888391, 0.9194017, 1.2320508, 0.9194017]
    training = stopped(inputs, biases)
    found = [row["valid_loss"] for row in training.course.curve]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    # Once worse is forgiven; as good is not better; the second in a row ends it.
    assert [row["update"] for row in training.course.curve] == [2, 4, 6, 8, 10, 12]
    result = training.result()
    assert (result.updates, result.best_update) == (12, 8)
    np.testing.assert_allclose(result.weights["output.bias"], [1.0])


def test_two_in_a_row_end_it_at_once(pencil):
    training = stopped(pencil(recipe=replace(PAPER, learning_rate=0.0)), [1.0, 2.0, 1.5])
    assert training.result().best_update == 2
    # Without any change of weights: the first epoch, and two that are no better.
    result = train(pencil(recipe=replace(PAPER, learning_rate=0.0)))
    assert (result.updates, result.best_update) == (6, 2)


def test_there_are_at_most_twenty_epochs(pencil):
    biases = [float(bias) for bias in range(21, 1, -1)]
    training = stopped(pencil(recipe=replace(PAPER, learning_rate=0.0)), biases)
    assert training.course.updates == 40
    assert [row["update"] for row in training.course.curve] == list(range(2, 41, 2))
    assert training.result().best_update == 40


def test_the_learning_rate_falls_by_a_twentieth_after_each_epoch(pencil):
    training = Training(pencil())
    for bias in (9.0, 8.0, 7.0, 6.0):  # ever better
        while not training.course.validation_is_due:
            training.step()
        say(training.network, bias)
        training.validate()
    rates = [row["learning_rate"] for row in training.course.curve]
    np.testing.assert_allclose(rates, [1e-4, 0.95e-4, 0.9025e-4, 0.857375e-4], rtol=1e-12)


# --- the toy world, in plain numpy and torch ---

SHORT = Periods("2001-01-01", "2001-03-31", "2001-04-01", "2001-06-30", "2001-07-01", "2001-08-15")
TRAINED_DAYS, WINDOW, BATCH, HIDDEN, UPDATES = slice(366, 456), 30, 16, 8, 50


@pytest.fixture
def gappy(toy):
    """The toy world with gaps in flow and in static inputs."""
    flow = toy.streamflow.copy()
    flow[2, 380:425] = np.nan  # longer than a window: some windows have no observation
    flow[3, 366:370] = np.nan
    flow[1, 400:480:7] = np.nan
    table = toy.statics["attributes17"]
    numeric, categories = table.numeric.copy(), table.categories.copy()
    numeric[2, 0] = np.nan
    categories[1, 0] = ""
    table = replace(table, numeric=numeric, categories=categories)
    return replace(toy, streamflow=flow, statics={"attributes17": table})


@pytest.fixture
def short_job(make_job):
    return make_job(
        targets=("00000001", "00000008"),
        donors=("00000002", "00000003", "00000004"),
        periods=SHORT,
        recipe=PAPER,
        budget=Budget("short", hidden=HIDDEN, updates=UPDATES, batch=BATCH, window=WINDOW),
    )


def z_scored(values, axis):
    mean, std = np.nanmean(values, axis), np.nanstd(values, axis)
    return (values - mean) / np.where(std < 1e-3, 1.0, std)


def transcribed_series(data):
    """Scaled forcing [basin, day, variable], flow [basin, day] and statics of rows 1 to 3."""
    forcing = data.forcing[1:4, TRAINED_DAYS].astype(np.float64)
    flow = data.streamflow[1:4, TRAINED_DAYS].astype(np.float64)
    flow = flow / forcing[:, :, 0].mean(1, keepdims=True)
    forcing[:, :, [0, 6]] = np.log10(np.sqrt(forcing[:, :, [0, 6]]) + 0.1)
    flow = np.log10(np.sqrt(flow) + 0.1)
    # Basins 2, 3 and 4: no class, clay, sand.
    table = data.statics["attributes17"]
    assert table.categories[1:4, 0].tolist() == ["", "clay", "sand"]
    statics = np.column_stack([table.numeric[1:4].astype(np.float64), [-1.0, 0.0, 1.0]])
    statics = np.nan_to_num(z_scored(statics, axis=0))
    return z_scored(forcing, (0, 1)), z_scored(flow, (0, 1)), statics


class PlainNetwork(nn.Module):
    """Linear and ReLU on forcing and statics side by side, LSTM, dropout, linear."""

    def __init__(self, inputs):
        super().__init__()
        self.first = nn.Linear(inputs, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.last = nn.Linear(HIDDEN, 1)

    def forward(self, x, kept=None):
        states, _ = self.lstm(torch.relu(self.first(x)))
        if kept is not None:
            states = states * kept / 0.6  # dropout of 0.4
        return self.last(states)[:, :, 0]

    def take(self, weights):
        """Start from a network of the platform."""
        joined = torch.cat([weights["forcing_weight"], weights["static_weight"]], dim=1)
        own = {"first.weight": joined, "first.bias": weights["input_bias"]}
        own |= {f"last.{name}": weights[f"output.{name}"] for name in ("weight", "bias")}
        own |= {name: value for name, value in weights.items() if name.startswith("lstm")}
        self.load_state_dict({name: value.clone() for name, value in own.items()})

    def given(self):
        """The weights under the platform's names."""
        own = self.state_dict()
        renamed = {
            "forcing_weight": own["first.weight"][:, :7],
            "static_weight": own["first.weight"][:, 7:],
            "input_bias": own["first.bias"],
            "output.weight": own["last.weight"],
            "output.bias": own["last.bias"],
        }
        return renamed | {name: own[name] for name in own if name.startswith("lstm")}


def transcribed_training(network, data, draws):
    """Fifty updates of the published recipe; returns the loss of each."""
    forcing, flow, statics = transcribed_series(data)
    windows = [
        (basin, start)
        for basin in range(3)
        for start in range(90 - WINDOW + 1)
        if np.isfinite(flow[basin, start : start + WINDOW]).any()
    ]
    assert len(windows) == 3 * 61 - 16  # 45 days of gap hide 16 windows of 30 days
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, gamma=0.95)
    losses = []
    for epoch in range(100):
        # The order and the masks are the job's own random numbers; the rest is transcribed.
        order = np.random.default_rng(int(draws.bits("epoch", epoch, 1)[0]))
        order = order.permutation(len(windows))
        for first in range(0, len(order), BATCH):
            chosen = [windows[number] for number in order[first : first + BATCH]]
            x = np.stack(
                [
                    np.column_stack(
                        [forcing[b, start : start + WINDOW], np.tile(statics[b], (WINDOW, 1))]
                    )
                    for b, start in chosen
                ]
            )
            y = np.stack([flow[b, start : start + WINDOW] for b, start in chosen])
            kept = draws.dropout("dropout", len(losses), (WINDOW, len(chosen), HIDDEN), 0.6) > 0
            kept = torch.from_numpy(np.swapaxes(kept, 0, 1).astype(np.float32))
            predicted = network(torch.tensor(x, dtype=torch.float32), kept)
            wanted = torch.tensor(y, dtype=torch.float32)
            seen = ~torch.isnan(wanted)
            loss = torch.sqrt(torch.mean((predicted[seen] - wanted[seen]) ** 2))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if len(losses) == UPDATES:
                return losses
        schedule.step()
    raise AssertionError("a hundred epochs had fewer updates than wanted")


def test_fifty_updates_equal_a_transcription_in_plain_torch(gappy, short_job):
    training = Training(prepare(short_job, gappy))
    plain = PlainNetwork(7 + 3)
    with torch.no_grad():
        training.network.output.weight *= 20.0  # gradients above 1, which must not be clipped
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    plain.take(before)
    losses = transcribed_training(plain, gappy, Draws(short_job.random_key()))
    for _ in range(UPDATES):
        training.step()
    # 167 windows in batches of 16 are 11 updates an epoch: four boundaries were crossed.
    assert Training(prepare(short_job, gappy)).course.per_epoch == 11
    expected, found = plain.given(), training.network.state_dict()
    assert set(expected) == set(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)
        # Adam has moved the weights by much more than that.
        assert (found[name] - before[name]).abs().max() > 2e-4, name
    training.validate()
    # All fifty: nobody validated in between.
    assert training.course.curve[0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def last_day(network, scaler, weather, told, unit):
    """Flow of the last day of some weather [day, variable], in plain torch."""
    x = np.column_stack([scaler.scale_forcing(weather), np.tile(told, (len(weather), 1))])
    with torch.no_grad():
        z = network(torch.from_numpy(x)[None].float())[0, -1].item()
    return max(10 ** (z * scaler.flow_std + scaler.flow_mean) - 0.1, 0) ** 2 * unit


def test_the_test_period_is_simulated_by_last_days_of_windows(gappy, short_job):
    # Five days: a network that young forgets in ten.
    job = replace(short_job, budget=replace(short_job.budget, window=5))
    inputs = prepare(job, gappy)
    trained = train(inputs)
    plain = PlainNetwork(7 + 3)
    plain.take({name: torch.from_numpy(value) for name, value in trained.weights.items()})
    test = gappy.span(SHORT.test_start, SHORT.test_end)
    assert trained.simulation.shape == (2, 46)
    for target, row in enumerate((0, 7)):
        told, unit = inputs.target_statics[target], gappy.forcing[row, TRAINED_DAYS, 0].mean()
        for position, day in enumerate(range(test.start, test.stop)):
            weather = gappy.forcing[row, day - 4 : day + 1]
            expected = last_day(plain, inputs.scaler, weather, told, unit)
            assert trained.simulation[target, position] == pytest.approx(expected, rel=1e-5)


def test_or_in_one_pass_from_an_empty_memory(gappy, short_job):
    recipe = replace(PAPER, evaluation="streaming")
    inputs = prepare(replace(short_job, recipe=recipe), gappy)
    trained = train(inputs)
    windowed = train(prepare(short_job, gappy))
    for name, value in trained.weights.items():  # how it is evaluated does not change it
        np.testing.assert_array_equal(value, windowed.weights[name])
    plain = PlainNetwork(7 + 3)
    plain.take({name: torch.from_numpy(value) for name, value in trained.weights.items()})
    test = gappy.span(SHORT.test_start, SHORT.test_end)
    weather = inputs.scaler.scale_forcing(gappy.forcing[7, test])
    x = np.column_stack([weather, np.tile(inputs.target_statics[1], (46, 1))])
    with torch.no_grad():
        z = plain(torch.from_numpy(x)[None].float())[0].numpy()
    z = z * inputs.scaler.flow_std + inputs.scaler.flow_mean
    expected = np.maximum(10**z - 0.1, 0) ** 2 * gappy.forcing[7, TRAINED_DAYS, 0].mean()
    np.testing.assert_allclose(trained.simulation[1], expected, rtol=1e-4)
    assert np.abs(trained.simulation - windowed.simulation).max() > 1e-4
