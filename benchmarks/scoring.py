"""All thirteen metrics of 671 basins and nine years, beside five of HydroErr's, basin by basin.

Ours are computed for all basins at once. The peer's are those that both have: NSE, KGE of 2009 and
of 2012, RMSE, correlation. `ratio` = ours (thirteen) over the peer's (five). In turn, the better
of three; a run whose five metrics differ between the two is refused.
"""

import time
from collections.abc import Callable

import numpy as np

from aef_dagster.errors import UserError
from aef_dagster.evaluation.metrics import METRICS, score
from benchmarks.measuring import in_fresh_process, print_table

BASINS, DAYS = 671, 3288
MISSING = 0.05
ROUNDS = 3
TOLERANCE = 1e-9


def run() -> dict[str, object]:
    """Measure, print, and return the RESULT."""
    cost = in_fresh_process("benchmarks.scoring", "both")
    told = cost.answer
    if told["difference"] > TOLERANCE:
        raise UserError(f"the metrics differ by {told['difference']:.1e}: mend that first")
    ours, peer = told["ours"], told["peer"]
    rows = [
        (name, count, f"{seconds:.2f}", f"{1000 * seconds / BASINS:.2f}")
        for name, count, seconds in (("ours", len(METRICS), ours), ("HydroErr", 5, peer))
    ]
    print_table(
        f"scoring, {BASINS} basins x {DAYS} days, {MISSING:.0%} missing, largest difference "
        f"{told['difference']:.0e}",
        ("", "metrics", "CPU s", "ms a basin"), rows,
    )  # fmt: skip
    return {"seconds": f"{ours:.2f}", "ratio": f"{ours / peer:.2f}"}


def both() -> dict[str, float]:
    """CPU seconds of both, and the largest difference of what both compute."""
    import HydroErr

    rng = np.random.default_rng(0)
    observed = rng.gamma(0.5, 4.0, (BASINS, DAYS))
    simulated = observed * rng.lognormal(0.0, 0.4, observed.shape)
    observed[rng.random(observed.shape) < MISSING] = np.nan
    dates = np.datetime64("1999-10-01") + np.arange(DAYS)
    peers = {
        "nse": HydroErr.nse,
        "kge": HydroErr.kge_2009,
        "kge_2012": HydroErr.kge_2012,
        "rmse": HydroErr.rmse,
        "pearson_r": HydroErr.pearson_r,
    }

    def basin_by_basin() -> dict[str, np.ndarray]:
        known = np.isfinite(observed)
        pairs = [(simulated[i, known[i]], observed[i, known[i]]) for i in range(BASINS)]
        return {name: np.array([metric(*pair) for pair in pairs]) for name, metric in peers.items()}

    score(observed[:2], simulated[:2], dates)  # imports, before the clock starts
    ours, peer = [], []
    for _ in range(ROUNDS):
        seconds, scores = _timed(lambda: score(observed, simulated, dates))
        ours.append(seconds)
        seconds, others = _timed(basin_by_basin)
        peer.append(seconds)
    difference = max(float(np.abs(scores[name] - others[name]).max()) for name in peers)
    return {"ours": min(ours), "peer": min(peer), "difference": difference}


def _timed(call: Callable[[], dict]) -> tuple[float, dict]:
    started = time.process_time()
    answer = call()
    return time.process_time() - started, answer
