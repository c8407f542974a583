"""What a training job is: targets, donors, periods, recipe, budget and seed, under one hash.

Here: the frozen values that say what is to be trained, and the refusal of whatever would leak.
Not here: data (data.py), how it is trained (engine/cpu.py), who trains it (training.py).
No torch: the Dagster process builds jobs without ever training one.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError

# Part of every hash. Raise it with any change that alters weights or simulations, so that no
# checkpoint of older code passes for one of this code.
CODE_VERSION = "4"

ROLES = ("ungauged", "gauged")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Budget:
    """How much is computed: a job passes `basin_days` through its networks.

    Parameters
    ----------
    name
        The name used in tables.
    hidden
        Size of the LSTM's state.
    updates
        Number of optimiser steps of each network.
    batch
        Windows per update.
    window
        Days per window, the warm-up included.
    networks
        A model is so many networks, each trained by itself with random numbers of its own; what it
        simulates is their mean.
    """

    name: str
    hidden: int
    updates: int
    batch: int
    window: int
    networks: int = 1

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise UserError(f"budget {self.name!r}: a model needs at least one network")

    @property
    def updates_in_all(self) -> int:
        """Optimiser steps of all networks."""
        return self.networks * self.updates

    @property
    def basin_days(self) -> int:
        """Basin-days that training passes through all networks, warm-up days included."""
        return self.updates_in_all * self.batch * self.window


BUDGETS: dict[str, Budget] = {
    # Of the sample's study: hundreds of models in a minute.
    "toy": Budget("toy", hidden=16, updates=300, batch=16, window=270),
    "tiny": Budget("tiny", hidden=32, updates=600, batch=16, window=270),
    "donor": Budget("donor", hidden=64, updates=2400, batch=16, window=365),
    "full": Budget("full", hidden=128, updates=3750, batch=16, window=365, networks=4),
    # For the recipe `paper`: 20 epochs of 671 basins over 25 years, more than it ever reaches.
    "paper": Budget("paper", hidden=128, updates=306_440, batch=384, window=365),
}


@dataclass(frozen=True)
class Scaling:
    """How numbers are prepared for the network.

    Parameters
    ----------
    log_sqrt
        Precipitation, PET and flow become log10(sqrt(x) + 0.1) before their z-scores.
    flow_by_prcp
        Flow is divided by the basin's mean precipitation of the training period.
    one_hot
        A column per class of a categorical input; else its place in the alphabet, as a number.
    static_limit
        Scaled static inputs are cut off at plus and minus this (scalers.py says why); None = never.
    smallest_std
        A standard deviation below this is taken for 1.
    """

    log_sqrt: bool = False
    flow_by_prcp: bool = False
    one_hot: bool = True
    static_limit: float | None = 5.0
    smallest_std: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, apart from how long.

    The defaults are plain ones; what is used is `STRONG` and `PAPER` below.

    Parameters
    ----------
    name
        The name used in tables.
    scaling
        How numbers are prepared.
    architecture
        How the network uses static inputs. "one_layer": an input layer joins them with the weather.
        "concatenation": they go into the LSTM beside the weather. "ea_lstm": they alone are its
        input gate (Kratzert et al. 2019, doi:10.5194/hess-23-5089-2019). "experts": several LSTMs
        of half the size, mixed by weights that follow from them. The last two need some.
    static_layers
        Sizes of layers (tanh) that static inputs pass before they join the weather.
    softplus
        The output passes a softplus, so that no flow is negative; else it is cut off at 0.
    forget_bias
        Initial bias of the forget gate, so that a new network remembers; None = as any other.
    dropout
        Share of the LSTM's outputs set to 0 in training.
    static_noise
        Standard deviation of the noise put on scaled static inputs in training: a hundred donors
        are a hundred points in up to 91 dimensions, which a network can learn by heart.
    sampling
        "random": windows are drawn with replacement, a basin first, then a day. "epochs": every
        window of every basin once, in random order, then again.
    warmup_share
        Share of each window that only fills the LSTM's memory and is left out of the loss.
    loss
        "nse": squared error in mm/day over each basin's variance. "rmse": root mean squared error
        of the batch, of scaled flow.
    nse_epsilon
        Added to each basin's standard deviation in the NSE loss (mm/day), for rivers nearly dry.
    learning_rate
        Of Adam; the peak of the schedule.
    schedule
        "one_cycle": a linear rise, then half a cosine down to 0. "exponential": 5 % less after each
        epoch.
    rise_share
        Share of the updates in which a one-cycle rate rises to its peak.
    clip_norm
        Largest norm of the gradient; None = any.
    averaging
        Share of the updates over which weights are averaged (an exponential moving average); the
        average is what is validated and kept. 0 = the weights themselves.
    learn_validation_years
        The validation years are trained on as well, and the last weights are kept. Else they only
        pick the best weights.
    validations
        How often a run is validated; "epochs" are validated after each one.
    validation_basins
        At most this many donors are validated on, the same ones throughout a run.
    max_epochs, patience
        With "epochs": when to stop at the latest, and after how many validations without a better
        one.
    spinup_days
        Days simulated before validation and test begin, and thrown away.
    evaluation
        "streaming": the test period is simulated in one pass. "windowed": each day is the last of
        a window of its own.
    """

    name: str = "plain"
    scaling: Scaling = field(default_factory=Scaling)
    architecture: str = "one_layer"
    static_layers: tuple[int, ...] = ()
    softplus: bool = False
    forget_bias: float | None = 3.0
    dropout: float = 0.4
    static_noise: float = 0.3
    sampling: str = "random"
    warmup_share: float = 0.5
    loss: str = "nse"
    nse_epsilon: float = 0.1
    learning_rate: float = 3e-3
    schedule: str = "one_cycle"
    rise_share: float = 0.1
    clip_norm: float | None = 1.0
    averaging: float = 0.0
    learn_validation_years: bool = False
    validations: int = 8
    validation_basins: int | None = 64
    max_epochs: int | None = None
    patience: int | None = None
    spinup_days: int = 365
    evaluation: str = "streaming"

    def __post_init__(self) -> None:
        if not (0 <= self.dropout < 1 and 0 <= self.warmup_share < 1):
            raise UserError(f"recipe {self.name!r}: dropout and warmup_share are shares below 1")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"recipe {self.name!r}: {name} must be one of {', '.join(known)}, "
                    f"not {getattr(self, name)!r}"
                )

    def warmup_days(self, window: int) -> int:
        """Days at the start of a window that the loss does not see."""
        return int(window * self.warmup_share)

    def learning_rate_at(self, update: int, updates: int, epoch: int = 0) -> float:
        """Learning rate of an update.

        Parameters
        ----------
        update
            The update about to be made, counted from 0.
        updates
            Updates in all.
        epoch
            The epoch it belongs to, counted from 0.

        References
        ----------
        One-cycle: Smith and Topin 2018, arXiv:1708.07120.
        """
        if self.schedule == "exponential":
            return self.learning_rate * DECAY_PER_EPOCH**epoch
        rise = max(1, round(self.rise_share * updates))
        if update < rise:
            return self.learning_rate * (update + 1) / rise
        progress = (update - rise) / max(1, updates - rise)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


DECAY_PER_EPOCH = 0.95
CHOICES: dict[str, tuple[str, ...]] = {
    "architecture": ("one_layer", "concatenation", "ea_lstm", "experts"),
    "sampling": ("random", "epochs"),
    "loss": ("nse", "rmse"),
    "schedule": ("one_cycle", "exponential"),
    "evaluation": ("streaming", "windowed"),
}

# The default. What was tried, on basins and years that nothing is judged by, is in docs/recipes.md.
STRONG = Recipe(
    name="strong",
    scaling=Scaling(flow_by_prcp=True),
    warmup_share=0.25,
    learning_rate=5e-3,
    static_noise=0.2,
    averaging=0.05,
    learn_validation_years=True,
)

# The study's, arXiv:2601.01558, as its published code trains (docs/recipes.md lists each choice
# and the few departures).
PAPER = Recipe(
    name="paper",
    scaling=Scaling(
        log_sqrt=True, flow_by_prcp=True, one_hot=False, static_limit=None, smallest_std=1e-3
    ),
    forget_bias=None,
    static_noise=0.0,
    sampling="epochs",
    warmup_share=0.0,
    loss="rmse",
    learning_rate=1e-4,
    schedule="exponential",
    clip_norm=None,
    validation_basins=None,
    max_epochs=20,
    patience=2,
    spinup_days=0,
    evaluation="windowed",
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (STRONG, PAPER)}

# `STRONG` with other ways to use static inputs: for the comparison of them, not to choose from.
VARIANTS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        replace(STRONG, name="strong+concatenation", architecture="concatenation"),
        replace(STRONG, name="strong+mlp16", static_layers=(16,)),
        replace(STRONG, name="strong+mlp64-32", static_layers=(64, 32)),
        replace(STRONG, name="strong+ea_lstm", architecture="ea_lstm"),
        replace(STRONG, name="strong+experts", architecture="experts"),
    )
}


def recipe_named(name: str) -> Recipe:
    """A recipe of `RECIPES` or `VARIANTS`.

    Raises
    ------
    UserError
        There is none of this name.
    """
    known = RECIPES | VARIANTS
    if name not in known:
        raise UserError(f"unknown recipe {name!r}: choose one of {', '.join(known)}")
    return known[name]


# Architectures that are nothing without static inputs.
STEERED = ("ea_lstm", "experts")


@dataclass(frozen=True)
class TrainingJob:
    """One model to be trained, completely described: equal jobs give equal weights.

    Donors and targets are kept sorted, whatever their order was. `sample` and `surrogate` say what
    the data are made of; like the space and the k that led to the donors, they do not change a
    weight and are not hashed.

    Parameters
    ----------
    dataset, forcing, data_version
        Which data: name of the dataset, name of its forcing, and a hash of everything read from
        it (forcings, flow, static inputs).
    targets
        Basins to simulate and score over the test period.
    donors
        Basins to learn from. All statistics are theirs.
    role
        `ungauged`: no target is a donor. `gauged`: every target is a donor.
    periods
        Training, validation and test period.
    representation
        What the network is told about a basin: a name of `statics.REPRESENTATIONS`.
    recipe, budget, seed
        How it is trained, how long, and the number that tells members of an ensemble apart.
    threads
        CPU threads of this model. Part of the hash: sums are rounded by it.
    precision
        "fp32"; "bf16": the LSTM's products in training are of bfloat16, two to three times as fast
        where the processor has them. Simulations are in fp32 always.
    sample, surrogate
        Made from generated data; made from a stand-in for AlphaEarth.
    donor_weights
        How often windows of each donor are drawn, relative to one another, in the order in which
        `donors` is given; none = all alike. Statistics and validation count donors alike all the
        same, those of weight 0 included.

    Raises
    ------
    UserError
        The job would leak, names no basin or a basin twice, its weights are not one for each donor,
        or its network is steered by static inputs and the representation has none.
    """

    dataset: str
    forcing: str
    data_version: str
    targets: tuple[str, ...]
    donors: tuple[str, ...]
    role: str
    periods: Periods
    representation: str
    recipe: Recipe
    budget: Budget
    seed: int
    threads: int = 1
    precision: str = "fp32"
    sample: bool = False
    surrogate: bool = False
    donor_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", _sorted_ids(self.targets, "target"))
        in_order = _sorted_ids(self.donors, "donor")
        object.__setattr__(self, "donor_weights", self._weights_in_order_of(in_order))
        object.__setattr__(self, "donors", in_order)
        if self.role not in ROLES:
            raise UserError(f"role must be one of {', '.join(ROLES)}, not {self.role!r}")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UserError(f"precision must be one of {known}, not {self.precision!r}")
        if self.threads < 1:
            raise UserError(f"a model needs at least one thread, not {self.threads}")
        if self.representation == "none" and self.recipe.architecture in STEERED:
            raise UserError(
                f"recipe {self.recipe.name!r}: architecture {self.recipe.architecture!r} is "
                "steered by static inputs, and representation 'none' has none: choose another of "
                "either"
            )
        donors = set(self.donors)
        if self.role == "ungauged":
            leaking = [gauge_id for gauge_id in self.targets if gauge_id in donors]
            if leaking:
                raise UserError(
                    f"basin {_listed(leaking)} is an ungauged target and among its own donors: "
                    "its flow would leak into training; take it out of the donors"
                )
        else:
            absent = [gauge_id for gauge_id in self.targets if gauge_id not in donors]
            if absent:
                raise UserError(
                    f"basin {_listed(absent)} is a gauged target and not among the donors: add "
                    "it to the donors, or give it the role ungauged"
                )

    def _weights_in_order_of(self, donors: tuple[str, ...]) -> tuple[float, ...]:
        """The weights of sorted donors, from those of donors as they were given."""
        if len(self.donor_weights) == 0:
            return ()
        if len(self.donor_weights) != len(donors):
            raise UserError(
                f"{len(self.donor_weights)} weights for {len(donors)} donors: give one for each"
            )
        weights = {g: float(w) for g, w in zip(self.donors, self.donor_weights, strict=True)}
        wrong = [g for g, w in weights.items() if not (math.isfinite(w) and w >= 0)]
        if wrong:
            raise UserError(
                f"the weight of donor {wrong[0]} is {weights[wrong[0]]}: it must be a number from "
                "0 up"
            )
        if not any(weights.values()):
            raise UserError("every donor has the weight 0: give at least one a weight above it")
        if self.recipe.sampling != "random":
            raise UserError(
                f"recipe {self.recipe.name!r} sees every window once an epoch, whatever its donor "
                "weighs: take a recipe with random sampling, or no weights"
            )
        return tuple(weights[gauge_id] for gauge_id in donors)

    @property
    def learned_until(self) -> str:
        """Last day that weights and statistics may come from."""
        learns = self.recipe.learn_validation_years
        return self.periods.valid_end if learns else self.periods.train_end

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits naming everything that determines the weights."""
        described = self.to_json() | {"code_version": CODE_VERSION}
        for label in ("sample", "surrogate"):
            del described[label]
        # Younger than the first trained models: unsaid where it says nothing, so that those are
        # still found.
        if not self.donor_weights:
            del described["donor_weights"]
        if self.recipe.architecture == "one_layer":
            del described["recipe"]["architecture"]
        canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def random_key(self, network: int = 0) -> int:
        """Seed of all that is random in training: from the seed and the donors alone.

        So the target's flow cannot reach the weights through the random numbers, and two recipes
        compared at one seed start from the same draws.

        Parameters
        ----------
        network
            Which of the model's networks, counted from 0.
        """
        described = json.dumps(
            [self.seed, self.donors, network] if network else [self.seed, self.donors]
        )
        return int.from_bytes(hashlib.sha256(described.encode()).digest()[:8], "big")

    def to_json(self) -> dict[str, Any]:
        """The job as plain values that `json` can write."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> Self:
        """The job again, from what `to_json` gave."""
        return cls(
            **described
            | {
                "targets": tuple(described["targets"]),
                "donors": tuple(described["donors"]),
                "donor_weights": tuple(described.get("donor_weights", ())),
                "periods": Periods(**described["periods"]),
                "recipe": _recipe(described["recipe"]),
                "budget": Budget(**described["budget"]),
            }
        )


def _recipe(described: dict[str, Any]) -> Recipe:
    scaling = Scaling(**described["scaling"])
    layers = tuple(described["static_layers"])
    return Recipe(**described | {"scaling": scaling, "static_layers": layers})


def _sorted_ids(gauge_ids: Sequence[str], kind: str) -> tuple[str, ...]:
    if isinstance(gauge_ids, str):
        raise UserError(f"{kind}s must be a sequence of gauge ids, not the text {gauge_ids!r}")
    if len(gauge_ids) == 0:
        raise UserError(f"a training job needs at least one {kind}")
    twice = [gauge_id for gauge_id, count in Counter(gauge_ids).items() if count > 1]
    if twice:
        raise UserError(f"{kind} {_listed(twice)} is named more than once")
    return tuple(sorted(gauge_ids))


def _listed(gauge_ids: Sequence[str]) -> str:
    shown = ", ".join(gauge_ids[:5])
    return shown if len(gauge_ids) <= 5 else f"{shown} and {len(gauge_ids) - 5} more"
