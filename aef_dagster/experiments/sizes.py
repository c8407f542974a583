"""How large a study is: sample, small or full.

Here: the numbers that the experiments' plans read. Not here: the plans.
"""

from dataclasses import dataclass

from aef_dagster.errors import UserError


@dataclass(frozen=True)
class Size:
    """What a study of this size asks of each experiment.

    Parameters
    ----------
    name
        `sample`, `small` or `full`.
    told
        One sentence for people: what the size is for.
    budget
        Of every training.
    seeds
        Members of what is compared in `in_vs_out_of_sample` and `controls`; the other experiments
        train `other_seeds`.
    representations
        Compared in `in_vs_out_of_sample`.
    regimes
        Representations compared in `cross_regime`.
    folds
        Spatial folds.
    regions
        Groups of neighbouring HUC-2 regions that are held out in turn; None = each HUC-2.
    most_clusters
        Clusters by AlphaEarth: the number with the best silhouette up to this.
    climates
        Clusters by climate.
    counts
        Numbers of training basins between a few and all.
    spaces, ks, targets
        Of `donor_scaling`. All basins as donors come on top of `ks`.
    published_targets
        The study's own targets, where a list of them is at hand.
    soft
        Effective numbers of softly weighted donors.
    variants
        Recipes of `fusion_ablation`.
    variants_of
        The representation that `fusion_ablation` and `regime_model` tell the network.
    """

    name: str
    told: str
    budget: str
    seeds: int
    other_seeds: int
    representations: tuple[str, ...]
    regimes: tuple[str, ...]
    folds: int
    regions: int | None
    most_clusters: int
    climates: int
    counts: tuple[int, ...]
    spaces: tuple[str, ...]
    ks: tuple[int, ...]
    targets: int
    soft: tuple[int, ...]
    variants: tuple[str, ...]
    published_targets: bool = False
    variants_of: str = "aef"


_SPACES = ("attributes", "aef", "fusion", "distance", "random")
_VARIANTS = ("concatenation", "mlp16", "mlp64-32", "ea_lstm")

SIZES: dict[str, Size] = {
    "sample": Size(
        name="sample",
        told="A study of made-up basins, to see that everything works.",
        budget="toy",
        seeds=1,
        other_seeds=1,
        representations=("attributes17", "aef"),
        regimes=("attributes17", "aef"),
        folds=3,
        regions=None,
        most_clusters=3,
        climates=3,
        counts=(8,),
        spaces=_SPACES,
        ks=(4,),
        targets=5,
        soft=(4,),
        variants=("concatenation", "ea_lstm"),
    ),
    "small": Size(
        name="small",
        told="A small study, of small models trained briefly: it shows that everything works on "
        "real basins, and is not the study's answer.",
        budget="tiny",
        seeds=2,
        other_seeds=1,
        representations=("attributes17", "attributes27", "aef", "aef+climate"),
        regimes=("attributes17", "attributes27", "aef", "aef+subsurface"),
        folds=3,
        regions=3,
        most_clusters=5,
        climates=3,
        counts=(50, 100, 200),
        spaces=_SPACES,
        ks=(50, 200),
        targets=5,
        soft=(50,),
        variants=("concatenation", "mlp64-32", "ea_lstm"),
    ),
    "full": Size(
        name="full",
        told="The study.",
        budget="full",
        seeds=5,
        other_seeds=3,
        representations=(
            "attributes17", "attributes27", "aef", "aef+climate", "attributes+aef",
            "aef+subsurface",
        ),
        regimes=("attributes17", "attributes27", "aef", "aef+climate", "aef+subsurface"),
        folds=5,
        regions=None,
        most_clusters=12,
        climates=5,
        counts=(50, 100, 200, 400, 600),
        spaces=_SPACES,
        ks=(100, 200, 300, 400, 500, 600),
        targets=150,
        published_targets=True,
        soft=(100, 200, 400),
        variants=_VARIANTS,
    ),
}  # fmt: skip


def size_named(name: str) -> Size:
    """The size of a name.

    Raises
    ------
    UserError
        There is no such size.
    """
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}; choose one of {', '.join(SIZES)}")
    return SIZES[name]
