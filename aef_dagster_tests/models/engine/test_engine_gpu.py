import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from aef_dagster.errors import UserError
from aef_dagster.models.engine import cpu
from aef_dagster.models.engine.draws import Draws
from aef_dagster.models.engine.gpu import refuse_without_bf16, train_jobs
from aef_dagster.models.engine.grouped_batches import Alike, DeviceData, GroupBatches, Widths
from aef_dagster.models.engine.groups import Group, bytes_of_model, layout_of
from aef_dagster.models.engine.losses import nse_by_basin
from aef_dagster.models.engine.members import Member
from aef_dagster.models.engine.network import load_arrays
from aef_dagster.models.engine.running import new_network, simulate_targets
from aef_dagster.models.engine.validation import Validation
from aef_dagster.models.engine.windows import EpochSampler, RandomSampler
from aef_dagster.models.inputs import prepare
from aef_dagster.models.recipes import PAPER, STRONG, Budget, Recipe, Scaling
from benchmarks import gpu_grouped

CPU = torch.device("cpu")
MICRO = Budget("micro", hidden=8, updates=20, batch=8, window=60)
PLAIN = Recipe(validations=2, spinup_days=60)
# Epochs of a few updates, the last one with a smaller batch.
SHORT_PAPER = replace(PAPER, learning_rate=1e-3, max_epochs=3, evaluation="streaming")
LARGE_BATCH = Budget("epochs", hidden=4, updates=20, batch=900, window=24)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_inputs(toy, make_job):
    """Jobs that differ in seed and donors; the last one has the longest list of static inputs."""

    def make(count=3, **changes):
        jobs = [make_job(**{"seed": seed, **changes}) for seed in range(count)]
        jobs = [replace(job, donors=job.donors[seed:]) for seed, job in enumerate(jobs)]
        return [prepare(job, toy) for job in jobs]

    return make


def trained(inputs, **options):
    return dict(train_jobs(inputs, "cpu", **options))


def largest_difference(one, other):
    return max(np.abs(one[name] - other[name]).max(initial=0.0) for name in one)


def assert_equals_cpu(result, inputs, tolerance=1e-4):
    expected = cpu.train(inputs)
    assert list(result.weights) == list(expected.weights)
    assert largest_difference(result.weights, expected.weights) < tolerance
    assert (result.updates, result.best_update) == (expected.updates, expected.best_update)
    assert result.donors_left_out == expected.donors_left_out
    np.testing.assert_allclose(result.simulation, expected.simulation, rtol=0, atol=1e-3)
    for ours, theirs in zip(result.curve, expected.curve, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4, nan_ok=True)


VARIANTS = {
    "plain": {"recipe": PLAIN},
    "strong": {"recipe": replace(STRONG, validations=3, spinup_days=60)},
    "averaged": {"recipe": replace(PLAIN, averaging=0.3)},
    "softplus of logarithms": {
        "recipe": replace(PLAIN, softplus=True, scaling=Scaling(log_sqrt=True, flow_by_prcp=True))
    },
    "static layers": {"recipe": replace(PLAIN, static_layers=(5, 6), learning_rate=1e-3)},
    "told nothing": {"recipe": PLAIN, "representation": "none"},
    "last weights": {"recipe": replace(PLAIN, learn_validation_years=True, clip_norm=None)},
    "paper": {"recipe": SHORT_PAPER, "budget": LARGE_BATCH},
    "told nothing, with static layers": {
        "recipe": replace(PLAIN, static_layers=(5,)),
        "representation": "none",
    },
    "paper, averaged": {
        "recipe": replace(SHORT_PAPER, averaging=0.5, max_epochs=1),
        "budget": LARGE_BATCH,
    },
    "paper, a window a day": {
        "recipe": replace(SHORT_PAPER, evaluation="windowed", max_epochs=1),
        "budget": LARGE_BATCH,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("group", [1, 3])
def test_twenty_updates_are_those_of_the_cpu_engine(make_inputs, name, group):
    inputs = make_inputs(**VARIANTS[name])
    results = trained(inputs, group=group)
    assert sorted(results) == [0, 1, 2]
    for index, result in results.items():
        assert_equals_cpu(result, inputs[index])


@pytest.mark.parametrize("changes", [{}, {"recipe": SHORT_PAPER, "budget": LARGE_BATCH}])
def test_windows_are_exactly_those_of_the_cpu_engine(make_inputs, changes):
    inputs = make_inputs(**changes)
    alike, widths = Alike.of(inputs[0]), Widths.of(inputs)
    batches = GroupBatches(DeviceData(inputs, CPU), alike, widths, len(inputs))
    members = [Member(index, each) for index, each in enumerate(inputs)]
    for place, member in enumerate(members):
        batches.load(place, member.inputs, member.windows)
    updates = [0, 3, 6]  # one for each model
    for place, (member, update) in enumerate(zip(members, updates, strict=True)):
        if member.course.per_epoch is not None:
            epoch, windows = update // member.course.per_epoch, member.windows.starts.size
            batches.begin_epoch(place, epoch, member.draws, windows)
    donors, starts, drawn = batches.draw(torch.tensor(updates))
    sampler = EpochSampler if changes else RandomSampler
    for place, (member, update) in enumerate(zip(members, updates, strict=True)):
        batch, draws = member.inputs.job.budget.batch, Draws(member.inputs.job.random_key())
        expected = sampler(member.windows, batch, draws).draw(update)
        count = int(drawn[place])
        assert count == len(expected[0])
        np.testing.assert_array_equal(donors[place, :count], expected[0])
        np.testing.assert_array_equal(starts[place, :count], expected[1])


def test_neighbours_place_and_order_change_nothing(make_inputs):
    inputs = make_inputs(3)
    together = trained(inputs, group=3)
    pair = trained(inputs[:2], group=2)
    turned = trained([inputs[2], inputs[1], inputs[0]], group=3)
    alone = trained(inputs[:1])
    assert largest_difference(together[0].weights, pair[0].weights) < 1e-6
    assert largest_difference(together[0].weights, turned[2].weights) < 1e-6
    # Alone it is torch's own LSTM that trains it, which rounds otherwise.
    assert largest_difference(together[0].weights, alone[0].weights) < 1e-4
    assert together[0].run["group"] == 3
    assert alone[0].run["group"] == 1


def test_a_finished_models_place_goes_to_the_next(make_inputs):
    first, second, third = make_inputs(3)
    half = replace(MICRO, updates=10)
    second, third = (replace(i, job=replace(i.job, budget=half)) for i in (second, third))
    order = []
    results = {}
    for index, result in train_jobs([first, second, third], "cpu", group=2):
        order.append(index)
        results[index] = result
    # The third takes the place of the second while the first goes on.
    assert order == [1, 0, 2]
    assert [results[index].run["group"] for index in range(3)] == [2, 2, 2]
    for index, inputs in enumerate((first, second, third)):
        assert_equals_cpu(results[index], inputs)
    beside_another = trained([third, second], group=2)
    assert largest_difference(results[2].weights, beside_another[0].weights) < 1e-6


def test_jobs_that_are_not_alike_are_all_trained(make_inputs):
    small, large = make_inputs(1)[0], make_inputs(1, budget=replace(MICRO, hidden=12))[0]
    results = trained([small, large, small])
    assert sorted(results) == [0, 1, 2]
    assert results[1].weights["output.weight"].shape == (1, 12)
    assert largest_difference(results[0].weights, results[2].weights) < 1e-6


def test_jobs_told_nothing_are_not_alike_those_with_static_layers(make_inputs):
    recipe = replace(PLAIN, static_layers=(5,))
    told, told_nothing = (
        make_inputs(1, recipe=recipe, representation=name)[0] for name in ("attributes17", "none")
    )
    assert Alike.of(told).static_layers == (5,)
    assert Alike.of(told_nothing).static_layers == ()
    results = trained([told, told_nothing, told])
    assert_equals_cpu(results[0], told)
    assert_equals_cpu(results[1], told_nothing)
    assert results[0].run["group"] == 2


def test_an_average_remembers_a_share_of_the_updates_there_will_be(make_inputs):
    recipe = replace(SHORT_PAPER, averaging=0.5, max_epochs=1)
    member = Member(0, make_inputs(1, recipe=recipe, budget=LARGE_BATCH)[0])
    assert 2 < member.course.updates < LARGE_BATCH.updates
    assert member.average_share == pytest.approx(2 / member.course.updates)


def test_out_of_memory_halves_the_group_and_says_so(make_inputs, caplog):
    inputs = make_inputs(4)
    models = 2 * bytes_of_model(Alike.of(inputs[0]), Widths.of(inputs))
    limit = DeviceData(inputs, CPU).size + models
    results = trained(inputs, group=4, memory_limit=limit)
    assert "out of memory with 4 models at once, going on with 2" in caplog.text
    assert {results[index].run["halved"] for index in range(4)} == {1}
    for index in range(4):
        assert_equals_cpu(results[index], inputs[index])
    # By default no more are taken than fit.
    fitting = trained(inputs, memory_limit=limit)
    assert {fitting[index].run["group"] for index in range(4)} == {2}
    assert {fitting[index].run["halved"] for index in range(4)} == {0}


def test_out_of_memory_in_mid_training_goes_on_from_the_kept_states(make_inputs):
    inputs = make_inputs(4)
    made = []

    def report(index, phase, update, updates):
        made.append((index, update))
        if made.count((2, 13)) == 1 and made[-1] == (2, 13):
            raise torch.OutOfMemoryError("as a device raises it")

    # States are kept after each update, so that the last one finished is where it goes on.
    results = trained(inputs, report=report, group=4, keep_every_s=0.0)
    assert made.count((0, 12)) == 1
    assert {results[index].run["halved"] for index in range(4)} == {1}
    for index in range(4):
        assert_equals_cpu(results[index], inputs[index])


def test_not_even_one_model_fits(make_inputs):
    inputs = make_inputs(2)
    with pytest.raises(UserError, match="does not hold one model of this budget"):
        trained(inputs, memory_limit=DeviceData(inputs, CPU).size + 1000)


def test_not_even_the_data_fit(make_inputs, toy):
    inputs = make_inputs(2)
    size = 4 * toy.streamflow.size * (1 + 7)
    assert DeviceData(inputs, CPU).size == size
    told = f"weather and flow of 8 basins take {size / 2**20:.1f} MiB on device cpu.*AEF_DEVICE=cpu"
    with pytest.raises(UserError, match=told):
        trained(inputs, memory_limit=size - 1)
    # Logarithms of some jobs and none of others: the forcings lie there twice.
    inputs[1] = make_inputs(1, recipe=replace(PLAIN, scaling=Scaling(log_sqrt=True)))[0]
    assert DeviceData(inputs, CPU).size == 4 * toy.streamflow.size * (1 + 2 * 7)


def test_a_simulation_that_takes_minutes_begins_with_a_kept_state(make_inputs):
    inputs = make_inputs(2, **VARIANTS["paper, a window a day"])
    kept, reports = {}, []

    def report(index, phase, update, updates):
        if phase == "simulate":
            reports.append(index)
            assert sorted(kept) == [0, 1]  # the neighbour waits meanwhile
            assert kept[index].record["finished"]

    results = trained(inputs, group=2, report=report, keep=kept.__setitem__, keep_every_s=1e9)
    assert reports.count(0) > 1
    resumed = trained(inputs[:1], unfinished={0: kept[0]})
    np.testing.assert_allclose(resumed[0].simulation, results[0].simulation, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", [replace(PLAIN, averaging=0.3), SHORT_PAPER])
def test_a_killed_training_goes_on_on_either_engine(make_inputs, recipe):
    budget = LARGE_BATCH if recipe is SHORT_PAPER else MICRO
    inputs = make_inputs(2, recipe=recipe, budget=budget)
    whole = trained(inputs, group=2)
    states = {}

    def keep(index, state):
        if state.update == 7:
            states[index] = state

    assert sorted(trained(inputs, group=2, keep=keep, keep_every_s=0.0)) == [0, 1]
    assert sorted(states) == [0, 1]
    resumed = trained(inputs, group=2, unfinished=states)
    on_cpu = cpu.train(inputs[0], unfinished=states[0])
    assert largest_difference(resumed[0].weights, whole[0].weights) < 1e-6
    assert largest_difference(resumed[1].weights, whole[1].weights) < 1e-6
    assert largest_difference(on_cpu.weights, whole[0].weights) < 1e-4
    assert [row["update"] for row in resumed[0].curve] == [r["update"] for r in whole[0].curve]


def test_a_finished_state_is_only_simulated(make_inputs):
    inputs = make_inputs(2)
    states = {}
    whole = trained(inputs, keep=lambda index, state: None)
    member = Member(0, inputs[0])
    group = Group(DeviceData(inputs, CPU), Alike.of(inputs[0]), Widths.of(inputs), 2)
    group.load(0, member)
    while not member.course.finished:
        group.step({0: member})
        if member.course.validation_is_due:
            assert not group.validate({0: member})
    states[0] = member.keep(group.numbers({0: member})[0])
    told = []
    resumed = trained(
        inputs[:1], unfinished=states, report=lambda index, phase, *_: told.append(phase)
    )
    assert told == ["simulate"]
    assert largest_difference(resumed[0].weights, whole[0].weights) < 1e-6


def test_early_stopping_ends_one_model_and_not_its_neighbours(make_inputs):
    recipe = replace(SHORT_PAPER, learning_rate=0.05, max_epochs=8, patience=1)
    budget = replace(LARGE_BATCH, updates=60)
    inputs = make_inputs(3, recipe=recipe, budget=budget)
    results = trained(inputs, group=3)
    expected = [cpu.train(each) for each in inputs]
    assert len({each.updates for each in expected}) > 1
    assert [results[i].updates for i in range(3)] == [each.updates for each in expected]
    assert [results[i].best_update for i in range(3)] == [e.best_update for e in expected]


def test_divergence_is_that_models_alone(make_inputs):
    inputs = make_inputs(3)
    wild = replace(PLAIN, learning_rate=1e30)
    inputs[1] = replace(inputs[1], job=replace(inputs[1].job, recipe=wild))
    results = trained(inputs, group=3)
    assert isinstance(results[1], UserError)
    assert "training diverged" in str(results[1])
    assert_equals_cpu(results[0], inputs[0])
    assert_equals_cpu(results[2], inputs[2])


def test_a_job_with_nothing_to_learn_from_fails_alone(toy, make_job):
    fine, bare = (
        prepare(make_job(budget=replace(MICRO, window=window)), toy) for window in (60, 2000)
    )
    results = trained([fine, bare])
    assert "a window of 2000 days does not fit" in str(results[1])
    assert_equals_cpu(results[0], fine)


def test_adam_and_clipping_equal_torchs(make_inputs):
    """Torch's own clipping and optimiser, given the gradients of the same batches."""
    clip = 0.05
    inputs = make_inputs(2, recipe=replace(PLAIN, clip_norm=clip))
    alike, widths = Alike.of(inputs[0]), Widths.of(inputs)
    data, layout = DeviceData(inputs, CPU), layout_of(alike, widths)
    group = Group(data, alike, widths, 2)
    batches = GroupBatches(data, alike, widths, 2)
    members = {place: Member(place, each) for place, each in enumerate(inputs)}
    for place, member in members.items():
        group.load(place, member)
        batches.load(place, member.inputs, member.windows)
    start = [group.numbers(members)[place].weights for place in members]
    rows = torch.from_numpy(np.stack([layout.row(weights) for weights in start]))
    own = [row.clone().requires_grad_() for row in rows]
    optimisers = [torch.optim.Adam([each]) for each in own]
    for update in range(5):
        rows = torch.stack([each.detach() for each in own]).requires_grad_()
        losses = batches.losses(layout.views(rows), torch.tensor([update] * 2), torch.float32)
        (gradient,) = torch.autograd.grad(losses.sum(), rows)
        for place, optimiser in enumerate(optimisers):
            own[place].grad = gradient[place].clone()
            assert torch.nn.utils.clip_grad_norm_([own[place]], clip) > clip
            optimiser.param_groups[0]["lr"] = PLAIN.learning_rate_at(update, MICRO.updates)
            optimiser.step()
        group.step(members)
    for place, numbers in group.numbers(members).items():
        ours, theirs = layout.row(numbers.weights), own[place].detach().numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        assert np.abs(ours - layout.row(start[place])).max() > 1e-3


def test_bfloat16_learns_as_float32_does(make_inputs):
    inputs = make_inputs(2)
    exact, rounded = trained(inputs), trained(inputs, precision="bf16")
    assert rounded[0].run["precision"] == "bf16"
    for index in (0, 1):
        assert 0 < largest_difference(exact[index].weights, rounded[index].weights) < 0.05
        last, lasts = (r[index].curve[-1]["train_loss"] for r in (exact, rounded))
        assert lasts == pytest.approx(last, rel=0.05)


def test_what_bfloat16_learned_is_validated_and_simulated_in_float32(make_inputs):
    inputs = make_inputs(3)
    results = trained(inputs, precision="bf16")
    for index, each in enumerate(inputs):
        result = results[index]
        network = new_network(each.scaler, each.job.recipe, each.job.budget.hidden)
        load_arrays(network, result.weights)
        simulation = simulate_targets(network, each)
        np.testing.assert_allclose(result.simulation, simulation, rtol=1e-5, atol=1e-5)
        validated = Validation(each, Draws(each.job.random_key())).run(network)
        kept = [row for row in result.curve if row["update"] == result.best_update]
        assert kept[0]["valid_nse"] == pytest.approx(validated["valid_nse"], abs=1e-5)


def test_what_cannot_be_is_refused(make_inputs):
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        train_jobs(make_inputs(1), "gpu")
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        train_jobs(make_inputs(1), "cpu", precision="fp8")
    with pytest.raises(UserError, match="at least one model"):
        train_jobs(make_inputs(1), "cpu", group=0)
    odd = make_inputs(1, budget=replace(MICRO, hidden=9))
    assert "multiple of 4" in str(trained(odd)[0])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("count", "precision"), [(1, "fp32"), (3, "fp32"), (3, "bf16")])
def test_an_update_stays_on_its_device_and_asks_the_host_nothing(
    make_inputs, name, count, precision
):
    """What a CUDA graph can record. A tensor without data refuses both, where a CPU's cannot."""
    inputs = make_inputs(count, **VARIANTS[name])
    data = DeviceData(inputs, torch.device("meta"))
    group = Group(data, Alike.of(inputs[0]), Widths.of(inputs), count, precision)
    members = {place: Member(place, each) for place, each in enumerate(inputs)}
    for place, member in members.items():
        group.load(place, member)
    group.step(members)
    assert [member.course.update for member in members.values()] == [1] * count


@pytest.mark.skipif(
    torch.cuda.is_bf16_supported(including_emulation=False), reason="a GPU here has such products"
)
def test_bf16_is_refused_where_a_gpu_has_no_such_products():
    with pytest.raises(UserError, match="precision bf16: .*AEF_PRECISION=fp32"):
        refuse_without_bf16(torch.device("cuda"))
    refuse_without_bf16(CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused_at_once(make_inputs):
    with pytest.raises(UserError, match="device cuda: .*; set AEF_DEVICE=cpu"):
        train_jobs(make_inputs(1), "cuda")
    with pytest.raises(UserError, match="device cuda"):
        gpu_grouped.run()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("group", [1, 10])
def test_a_gpu_gives_what_the_cpu_gives(make_inputs, group):
    inputs = make_inputs(5)
    results = dict(train_jobs(inputs, "cuda", group=group))
    for index, each in enumerate(inputs):
        assert largest_difference(results[index].weights, cpu.train(each).weights) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_learns_as_well_as_the_cpu(toy, make_job, precision):
    budget = Budget("toy", hidden=16, updates=150, batch=16, window=90)
    recipe = replace(PLAIN, learning_rate=1e-2)
    inputs = [prepare(make_job(seed=seed, budget=budget, recipe=recipe), toy) for seed in range(10)]

    def median_nse(results):
        return np.median(
            [
                nse_by_basin(r.simulation, toy.streamflow[i.target_rows, i.test])[0]
                for r, i in zip(results, inputs, strict=True)
            ]
        )

    on_gpu = dict(train_jobs(inputs, "cuda", precision=precision))
    on_cpu = [cpu.train(each) for each in inputs]
    spread = np.std([r.curve[-1]["valid_nse"] for r in on_cpu])
    assert abs(median_nse([on_gpu[i] for i in range(10)]) - median_nse(on_cpu)) < max(
        0.02, 2 * spread
    )


def test_the_benchmark_measures(capsys):
    budget = Budget("micro", hidden=8, updates=100, batch=4, window=30)
    rates = gpu_grouped.measure(CPU, budget, (1, 2))
    assert [(rate.group, rate.precision) for rate in rates] == [
        (1, "fp32"), (2, "fp32"), (2, "bf16"),
    ]  # fmt: skip
    rates = [gpu_grouped.Rate(1, "fp32", 0.01), gpu_grouped.Rate(8, "bf16", 0.02)]
    result = gpu_grouped.table("a device", rates, budget, peak=1e12, bare=0.005)
    assert result["speedup"] == "4.00"
    assert result["speedup_fp32"] == "1.00"
    assert result["speedup_bare_bf16"] == "2.00"
    assert result["models_per_hour"] == f"{8 * 3600 / (0.02 * 100):.0f}"
    assert "a device" in capsys.readouterr().out
    assert gpu_grouped.flop_per_basin_day(128, 7) == 3 * 2 * (128 * 7 + 4 * 128 * 256 + 128)


def test_engine_and_benchmark_need_numpy_and_torch_only():
    """Whatever else is installed is hidden; torch's own needs are not."""
    code = (
        "import sys\n"
        "hidden = ('pandas', 'xarray', 'pyarrow', 'dagster', 'mlflow', 'duckdb', 'pydantic',\n"
        "          'scipy', 'sklearn', 'safetensors', 'matplotlib', 'typer', 'yaml')\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in hidden:\n"
        "            raise ModuleNotFoundError(f'{name} is hidden', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "import benchmarks.gpu_grouped as benchmark\n"
        "from aef_dagster.models.engine.gpu import train_jobs\n"
        "from aef_dagster.models.recipes import Budget\n"
        "inputs = benchmark.synthetic_inputs(Budget('micro', 8, 3, 4, 30), 2)\n"
        "print(*(index for index, _ in train_jobs(inputs, 'cpu')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1"]
