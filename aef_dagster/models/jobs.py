"""What a training job is: targets, donors, periods, recipe, budget and seed, under one hash.

Here: the frozen value that says what is to be trained, and the refusal of whatever would leak.
Not here: the recipes and budgets to choose from (recipes.py), data (data.py), how it is trained
(engine/cpu.py), who trains it (training.py).
No torch: the Dagster process builds jobs without ever training one.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from aef_dagster.basins.periods import Periods
from aef_dagster.errors import UserError
from aef_dagster.models.recipes import STEERED, Budget, Recipe, Scaling

# Part of every hash. Raise it with any change that alters weights or simulations, so that no
# checkpoint of older code passes for one of this code.
CODE_VERSION = "4"

ROLES = ("ungauged", "gauged")
PRECISIONS = ("fp32", "bf16")


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
