"""What a training job is: targets, donors, periods, recipe, budget and seed, under one hash.

Here: the frozen values that say what is to be trained, and the refusal of whatever would leak.
Not here: data (data.py), how it is trained (engine_cpu.py), who trains it (training.py).
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

# Part of every hash. Raise it with any change that alters weights or simulations, so that no
# checkpoint of older code passes for one of this code.
CODE_VERSION = "2"

ROLES = ("ungauged", "gauged")


@dataclass(frozen=True)
class Budget:
    """How much is computed: the work of a job is `updates * batch * window` basin-days.

    Parameters
    ----------
    name
        The name used in tables.
    hidden
        Size of the LSTM's state.
    updates
        Number of optimiser steps.
    batch
        Windows per update.
    window
        Days per window, the warm-up included.
    rate_factor
        Times the recipe's learning rate: a small network bears, and in few updates needs, more.
    """

    name: str
    hidden: int
    updates: int
    batch: int
    window: int
    rate_factor: float = 1.0

    @property
    def basin_days(self) -> int:
        """Basin-days that training passes through the network, warm-up days included."""
        return self.updates * self.batch * self.window


BUDGETS: dict[str, Budget] = {
    # On the 24 sample basins, same work: 300 updates of 32 at factor 1 median NSE 0.67, this 0.81.
    "tiny": Budget("tiny", hidden=32, updates=600, batch=16, window=270, rate_factor=2.0),
    "donor": Budget("donor", hidden=64, updates=600, batch=64, window=365),
    "full": Budget("full", hidden=128, updates=2500, batch=64, window=365),
}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, apart from how long.

    Parameters
    ----------
    name
        The name used in tables.
    warmup_share
        Share of each window that only fills the LSTM's memory and is left out of the loss.
    learning_rate
        Peak of the one-cycle schedule (Adam).
    rise_share
        Share of the updates in which the learning rate rises to its peak.
    dropout
        Share of the LSTM's outputs set to 0 in training.
    forget_bias
        Initial bias of the forget gate: so that a new network remembers.
    clip_norm
        Largest norm of the gradient.
    static_noise
        Standard deviation of the noise put on scaled static inputs in training. A hundred donors
        are a hundred points in up to 91 dimensions: without it the network learns them by heart
        (63 ungauged basins of three regions, aef+climate, donor budget: median NSE 0.41 at 0,
        0.45 at 0.1, 0.47 at 0.3; one seed, 0.02 is noise). Chosen on test years of real basins: a
        comparison of recipes that wants unseen basins must leave these regions out.
    static_limit
        Scaled static inputs are cut off at plus and minus this (scalers.py says why).
    nse_epsilon
        Added to each basin's standard deviation in the loss (mm/day), for rivers nearly dry.
    validations
        How often a run is validated; the best of these checkpoints is kept.
    validation_basins
        At most this many donors are validated on, the same ones throughout a run.
    spinup_days
        Days simulated before validation and test begin, and thrown away.
    """

    name: str = "strong"
    warmup_share: float = 0.5
    learning_rate: float = 3e-3
    rise_share: float = 0.1
    dropout: float = 0.4
    forget_bias: float = 3.0
    clip_norm: float = 1.0
    static_noise: float = 0.3
    static_limit: float = 5.0
    nse_epsilon: float = 0.1
    validations: int = 8
    validation_basins: int = 64
    spinup_days: int = 365

    def warmup_days(self, window: int) -> int:
        """Days at the start of a window that the loss does not see."""
        return int(window * self.warmup_share)

    def learning_rate_at(self, update: int, updates: int) -> float:
        """One-cycle learning rate of an update: a linear rise, then half a cosine down to 0.

        Parameters
        ----------
        update
            The update about to be made, counted from 0.
        updates
            Updates in all.

        References
        ----------
        Smith and Topin 2018, arXiv:1708.07120.
        """
        rise = max(1, round(self.rise_share * updates))
        if update < rise:
            return self.learning_rate * (update + 1) / rise
        progress = (update - rise) / max(1, updates - rise)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


RECIPES: dict[str, Recipe] = {"strong": Recipe()}


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
    sample, surrogate
        Made from generated data; made from a stand-in for AlphaEarth.

    Raises
    ------
    UserError
        The job would leak, or names no basin, or a basin twice.
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
    sample: bool = False
    surrogate: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", _sorted_ids(self.targets, "target"))
        object.__setattr__(self, "donors", _sorted_ids(self.donors, "donor"))
        if self.role not in ROLES:
            raise UserError(f"role must be one of {', '.join(ROLES)}, not {self.role!r}")
        if self.threads < 1:
            raise UserError(f"a model needs at least one thread, not {self.threads}")
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

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits naming everything that determines the weights."""
        described = self.to_json() | {"code_version": CODE_VERSION}
        for label in ("sample", "surrogate"):
            del described[label]
        canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @cached_property
    def random_key(self) -> int:
        """Seed of all that is random in training: from the seed and the donors alone.

        So the target's flow cannot reach the weights through the random numbers, and two recipes
        compared at one seed start from the same draws.
        """
        described = json.dumps([self.seed, self.donors]).encode()
        return int.from_bytes(hashlib.sha256(described).digest()[:8], "big")

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
                "periods": Periods(**described["periods"]),
                "recipe": Recipe(**described["recipe"]),
                "budget": Budget(**described["budget"]),
            }
        )


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
