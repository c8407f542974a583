"""Why embeddings work, where they do: what they know, whom they call alike, how sharply.

Here: the reading; nothing is trained for it. Not here: the statistics (evaluation/knowledge.py,
evaluation/coherence.py), clusters (similarity/clusters.py).
"""

import numpy as np
import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.experiments.asks import Plan, StudyBasins
from aef_dagster.experiments.estimates import Estimates
from aef_dagster.experiments.evidence import Evidence
from aef_dagster.experiments.reading import Check, Picture, Reading, Table
from aef_dagster.experiments.sizes import Size

NAME = "mechanisms"
TITLE = "What embeddings know"
QUESTION = (
    "Which attributes can be read from an embedding, do basins that it calls alike also flow "
    "alike, how sharply does it tell basins apart, and what is its similarity made of?"
)
SPACES = ("aef", "attributes", "fusion", "distance", "random")
# Compared where they are there: `fusion` needs trained networks, which a run may leave out. What
# else is told here needs the other spaces.
OPTIONAL = ("fusion", "random")
PERMUTATIONS = 199
# A basin whose most similar donors are less like it than this has none (centred cosine).
FAR = 0.2
NEAREST = 10


def plan(basins: StudyBasins, size: Size) -> Plan:
    """Nothing: it reads what others trained."""
    return Plan()


def read(evidence: Evidence) -> Reading:
    """Knowledge, coherence, sharpness, and what similarity means."""
    from aef_dagster.evaluation.knowledge import effective_dimension
    from aef_dagster.evaluation.study_figures import bars_png, distributions_png

    found = Estimates(evidence.regions)
    ids = list(evidence.basins.gauge_ids)
    vectors = evidence.embedding.loc[ids].to_numpy()
    known, correlated = _knowledge(evidence, vectors, ids, found)
    dimension = effective_dimension(vectors)
    found.add("effective dimension", "aef", dimension, n_basins=len(ids))
    matrices = {
        name: _aligned(evidence, name, ids)
        for name in SPACES
        if name not in OPTIONAL or _there(evidence, name)
    }
    coherence = _coherence(evidence, matrices, ids, found)
    sharpness, picture = _sharpness(evidence, matrices["aef"], ids, found)
    meaning = _meaning(evidence, matrices, ids, found)
    purity = coherence.set_index("space")["purity"]
    lonely = _lonely(matrices["aef"])
    best = known.iloc[0]
    findings = (
        f"An embedding tells {int((known['r2'] > 0.5).sum())} of {len(known)} attributes with a "
        f"cross-validated R2 above 0.5, best of all {best['attribute']} ({best['r2']:.2f}); its 64 "
        f"numbers have {dimension:.1f} effective dimensions.",
        "Donors flow like their target (purity: 1 = the same flow signatures, 0 = any basin): "
        + ", ".join(f"{name} {value:+.2f}" for name, value in purity.items())
        + ".",
        sharpness,
        "Similarity of embeddings goes with that of "
        + ", ".join(
            f"{row['with']} (r {row['mantel r']:.2f}; distance held fixed "
            f"{row['partial r, distance fixed']:.2f})"
            for _, row in meaning[meaning["space"] == "aef"].iterrows()
            if row["with"] != "distance"
        )
        + ".",
    )
    off = ~np.eye(len(ids), dtype=bool)
    shown = known.head(30)
    pictures = [
        Picture("What an embedding knows", bars_png(
            shown["attribute"].tolist(), shown["r2"], shown["low"], shown["high"],
            title=f"{evidence.prefix}cross-validated R2 from the embedding",
            xlabel="R2 of a ridge regression, 95 % bootstrap interval")),
        Picture("How alike basins are", distributions_png(
            {name: matrix[off] for name, matrix in matrices.items()},
            title=f"{evidence.prefix}similarity of all pairs of basins", xlabel="cosine")),
        picture,
        *_similarity_maps(evidence, matrices, ids),
    ]  # fmt: skip
    return Reading(
        name=NAME, title=TITLE, question=QUESTION, findings=findings,
        numbers={"effective_dimension": float(dimension), **{
            f"purity_{name}": float(value) for name, value in purity.items()}},
        estimates=found.frame(),
        tables=(
            Table("Attributes read from the embedding", known, "Ridge regression, out of fold; "
                  "scaling and penalty from the training folds alone; whole HUC-2 "
                  "regions are held out where there are enough."),
            Table("Bands and attributes", correlated, "Strongest rank correlations of one band "
                  "with one attribute; q after Benjamini and Hochberg over all pairs."),
            Table("Do donors flow alike?", coherence, "Flow signatures judge only; nothing is "
                  "picked or learned by them."),
            Table("What similarity is made of", meaning, f"Mantel tests, {PERMUTATIONS} "
                  "permutations, one-sided. Where both vary smoothly over the map, "
                  "partial p are too small: look at r."),
        ),
        pictures=tuple(pictures),
        checks=(Check(
            "similar_donors", not lonely,
            f"{len(lonely)} of {len(ids)} basins have no similar donor (a mean cosine below {FAR} "
            f"to their {NEAREST} most similar basins by AlphaEarth)"
            + (f": {', '.join(ids[i] for i in lonely[:5])}." if lonely else "."),
        ),),
    )  # fmt: skip


def _similarity_maps(
    evidence: Evidence, matrices: dict[str, np.ndarray], ids: list[str]
) -> list[Picture]:
    """How like one basin all others are, in two spaces: the one that is most like all others."""
    import geopandas

    from aef_dagster.evaluation.figure_style import png_of
    from aef_dagster.evaluation.maps import polygon_map

    outlines = geopandas.read_parquet(evidence.outlines).set_index("gauge_id").loc[ids]
    target = int(np.argmax(matrices["aef"].mean(axis=1)))
    name = evidence.basins.frame["name"][ids[target]]
    return [
        Picture(
            f"Who is like {ids[target]}, by {space}",
            png_of(polygon_map(
                outlines, pd.Series(matrices[space][target], index=ids),
                title=f"{evidence.prefix}similarity to {ids[target]} by {space}",
                label="cosine", diverging=True,
            )),
            f"{name}, of all basins the one most like the others by AlphaEarth.",
        )
        for space in ("aef", "attributes")
        if space in matrices
    ]  # fmt: skip


def _there(evidence: Evidence, space: str) -> bool:
    try:
        evidence.similarity(space)
    except UserError:
        return False
    return True


def _aligned(evidence: Evidence, space: str, ids: list[str]) -> np.ndarray:
    matrix, names = evidence.similarity(space)
    place = {name: i for i, name in enumerate(names)}
    absent = [gauge_id for gauge_id in ids if gauge_id not in place]
    if absent:
        raise UserError(
            f"the space {space} lacks {len(absent)} basins of the study "
            f"({', '.join(absent[:5])}): materialize `similarity/{space}` again"
        )
    rows = [place[gauge_id] for gauge_id in ids]
    return matrix[np.ix_(rows, rows)]


def _knowledge(
    evidence: Evidence, vectors: np.ndarray, ids: list[str], found: Estimates
) -> tuple[pd.DataFrame, pd.DataFrame]:
    from aef_dagster.evaluation.knowledge import ridge_skills, spearman_table

    attributes = pd.concat(
        [evidence.attributes.select_dtypes("number"), evidence.climate.add_suffix(" (climate)")],
        axis=1,
    ).loc[ids]
    attributes = attributes.loc[:, attributes.nunique() > 2]
    skills = ridge_skills(vectors, attributes, groups=found.groups(attributes.index))
    for row in skills.to_dict("records"):
        found.add("cross-validated R2 from the embedding", row["attribute"], row["r2"],
                  low=row["low"], high=row["high"], n_basins=int(row["n"]))  # fmt: skip
    table = spearman_table(vectors, attributes)
    strongest = table.reindex(table["rho"].abs().sort_values(ascending=False).index)
    share = float((table["q"] < 0.05).mean())
    found.add("share of band-attribute pairs with q below 0.05", "aef", share)
    return skills, strongest.head(40)


def _coherence(
    evidence: Evidence, matrices: dict[str, np.ndarray], ids: list[str], found: Estimates
) -> pd.DataFrame:
    from aef_dagster.evaluation.coherence import cluster_quality, neighbour_spread
    from aef_dagster.evaluation.statistics import bootstrap_median

    signatures = evidence.signatures.reindex(ids).select_dtypes("number")
    # z-scores: a signature in mm/day must not outweigh a share.
    scored = (signatures - signatures.mean()) / signatures.std()
    labels = [evidence.basins.labels("aef", evidence.size.most_clusters)[g] for g in ids]
    quality = cluster_quality(scored.fillna(0).to_numpy(), labels)
    rows = []
    nearest = min(NEAREST, len(ids) // 3)
    for name, matrix in matrices.items():
        purity = neighbour_spread(matrix, signatures, k=nearest)["purity"]
        value, low, high = bootstrap_median(purity, groups=found.groups(purity.index))
        found.add("neighbour purity", name, value, low=low, high=high, k=nearest)
        rows.append({"space": name, "purity": value, "from": low, "to": high})
    for name, value in quality.items():
        found.add(f"{name} of AlphaEarth clusters in flow signatures", "aef", value)
    return pd.DataFrame(rows)


def _sharpness(
    evidence: Evidence, matrix: np.ndarray, ids: list[str], found: Estimates
) -> tuple[str, Picture]:
    from scipy.stats import spearmanr

    from aef_dagster.evaluation.coherence import effective_neighbours
    from aef_dagster.evaluation.study_figures import scatter_png

    neighbours = pd.Series(effective_neighbours(matrix), index=ids)
    near, far = (
        evidence.nse(design, "aef", seeds=evidence.size.other_seeds)
        for design in ("folds", "clusters")
    )
    loss = near - far
    known = loss.notna()
    rho, p = spearmanr(neighbours[known], loss[known])
    found.add("Spearman of neighbourhood size and cross-regime loss", "aef", rho, p=float(p),
              n_basins=int(known.sum()))  # fmt: skip
    told = (
        f"A basin has {neighbours.median():.0f} effective neighbours by AlphaEarth (median); how "
        f"many goes with its loss across regimes by Spearman {rho:+.2f} (p {p:.2g})."
    )
    picture = Picture("Sharpness and loss", scatter_png(
        neighbours[known], loss[known], xlabel="effective neighbours",
        ylabel="NSE lost in an unseen cluster",
        title=f"{evidence.prefix}does a sharp neighbourhood predict the loss?"))  # fmt: skip
    return told, picture


def _meaning(
    evidence: Evidence, matrices: dict[str, np.ndarray], ids: list[str], found: Estimates
) -> pd.DataFrame:
    from aef_dagster.evaluation.coherence import mantel, partial_mantel
    from aef_dagster.similarity.spaces import similarity_attributes

    signatures = evidence.signatures.reindex(ids).select_dtypes("number")
    signatures = signatures.loc[:, signatures.nunique() > 1]
    others = {
        "distance": matrices["distance"],
        "climate": similarity_attributes(evidence.climate.loc[ids]),
        "attributes": matrices["attributes"],
        "signatures": similarity_attributes(signatures.fillna(signatures.mean())),
    }
    rows = []
    for name, matrix in matrices.items():
        # A learned similarity has two values a pair, one by each basin's network; Mantel takes one.
        matrix = (matrix + matrix.T) / 2
        for other, similar in others.items():
            if other == name:
                continue
            plain = mantel(matrix, similar, n_permutations=PERMUTATIONS)
            row = {"space": name, "with": other, "mantel r": plain["r"], "p": plain["p"]}
            found.add("Mantel r", name, plain["r"], against=other, p=plain["p"])
            if "distance" not in (name, other):
                part = partial_mantel(matrix, similar, others["distance"],
                                      n_permutations=PERMUTATIONS)  # fmt: skip
                row |= {"partial r, distance fixed": part["r"], "partial p": part["p"]}
                found.add("partial Mantel r, distance fixed", name, part["r"], against=other,
                          p=part["p"])  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows)


def _lonely(matrix: np.ndarray) -> list[int]:
    """Rows of basins without a similar donor."""
    others = np.where(np.eye(len(matrix), dtype=bool), -np.inf, matrix)
    k = min(NEAREST, len(matrix) - 1)
    nearest = np.sort(others, axis=1)[:, -k:].mean(axis=1)
    return np.flatnonzero(nearest < FAR).tolist()
