"""The first 200 donors of each of 100,000 basins, beside scikit-learn's brute force.

`seconds` are the CPU seconds of all basins, on as many threads as there are cores, and `wall_s`
those on the clock; `peak_mb` is the largest resident memory of a process that does nothing else.
`ratio` = our CPU seconds for a target over those of `NearestNeighbors(algorithm="brute",
metric="cosine")`, which was asked for some of the targets; `ratio_float32` is that to the same peer
with vectors of float32, whose order is float32's. `exact` = 1: the donors of a sample of targets
are, rank by rank, those of a sort of all float64 cosines; a run where one differs is refused.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.similarity.blocked import nearest_donors
from aef_dagster.similarity.donors import TIE_DECIMALS
from benchmarks.measuring import in_fresh_process, print_table

BASINS, DIMENSIONS, K = 100_000, 64, 200
CLUSTERS, SPREAD = 300, 0.7
SAMPLE = 200
QUERIES = 2_000
HERE = "benchmarks.donors_100k"


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(os.cpu_count()))
    size = {"basins": BASINS, "k": K}
    with tempfile.TemporaryDirectory(prefix="aef-benchmark-") as folder:
        ours = in_fresh_process(HERE, "ours", threads, folder=folder, **size)
        compared = in_fresh_process(HERE, "differing", threads, folder=folder, **size)
    if compared.answer:
        raise UserError(
            f"{compared.answer} of {SAMPLE} targets have other donors than by brute force: "
            "mend that first"
        )
    peers = {
        dtype: in_fresh_process(HERE, "peer", threads, dtype=dtype, **size)
        for dtype in ("float64", "float32")
    }
    rows = [
        (name, count, *(f"{cost.answer[clock]:.1f}" for clock in ("cpu_s", "wall_s")),
         f"{1000 * cost.answer['cpu_s'] / count:.2f}", f"{cost.peak_mb:.0f}")
        for name, count, cost in (
            ("ours", BASINS, ours),
            *((f"scikit-learn, {dtype}", QUERIES, cost) for dtype, cost in peers.items()),
        )
    ]  # fmt: skip
    print_table(
        f"donors, {BASINS} basins x {DIMENSIONS}, k = {K}, {SAMPLE} targets as by brute force",
        ("", "targets", "CPU s", "wall s", "CPU ms a target", "peak MB"), rows,
    )  # fmt: skip
    a_target = {name: cost.answer["cpu_s"] / QUERIES for name, cost in peers.items()}
    own = ours.answer["cpu_s"] / BASINS
    return {
        "seconds": f"{ours.answer['cpu_s']:.1f}",
        "wall_s": f"{ours.answer['wall_s']:.1f}",
        "peak_mb": f"{ours.peak_mb:.0f}",
        "exact": 1,
        "ratio": f"{own / a_target['float64']:.3f}",
        "ratio_float32": f"{own / a_target['float32']:.3f}",
    }


def ours(folder: str, basins: int, k: int) -> dict[str, float]:
    """Rank all basins; leave the donors of the sample, and tell the seconds of the ranking."""
    vectors, ids = _basins(basins)
    cpu, wall = time.process_time(), time.perf_counter()
    ranked = nearest_donors(vectors, ids, k)
    seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    # The table is sorted by gauge_id, and ids are numbers from 0 up. Parts of it: a filter of all
    # rows would be in the peak.
    parts = [ranked.iloc[target * k : (target + 1) * k] for target in _sample(basins)]
    pd.concat(parts).to_parquet(_kept(folder))
    return seconds


def differing(folder: str, basins: int, k: int) -> int:
    """How many targets of the sample have other donors than a full sort gives."""
    vectors, ids = _basins(basins)
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kept = pd.read_parquet(_kept(folder)).groupby("gauge_id")["donor_id"].apply(list)
    wrong = 0
    for target in _sample(basins):
        gauge_id = f"{target:08d}"
        own = np.flatnonzero(ids == gauge_id)[0]
        cosine = np.round(np.clip(unit @ unit[own], -1, 1), TIE_DECIMALS)
        order = np.lexsort((ids, -cosine))
        wrong += ids[order[order != own][:k]].tolist() != kept[gauge_id]
    return wrong


def peer(dtype: str, basins: int, k: int) -> dict[str, float]:
    """Seconds that scikit-learn takes for some targets, its preparation left out."""
    from sklearn.neighbors import NearestNeighbors

    vectors, _ = _basins(basins)
    vectors = (vectors - vectors.mean(axis=0)).astype(dtype)
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric="cosine").fit(vectors)
    search.kneighbors(vectors[:2])  # imports, before the clock starts
    cpu, wall = time.process_time(), time.perf_counter()
    search.kneighbors(vectors[:QUERIES])
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def _basins(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in clusters, and ids in another order than the vectors."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, DIMENSIONS))
    vectors = centres[rng.integers(0, CLUSTERS, n)]
    vectors += SPREAD * rng.standard_normal((n, DIMENSIONS))
    return vectors, np.array([f"{number:08d}" for number in rng.permutation(n)])


def _sample(n: int) -> list[int]:
    return np.random.default_rng(1).choice(n, min(SAMPLE, n), replace=False).tolist()


def _kept(folder: str) -> Path:
    return Path(folder) / "sample.parquet"
