"""Summaries over basins: a basin counts once."""

import numpy as np
import pandas as pd

from aef_dagster.evaluation.summaries import CHOICE, medians


def test_seeds_are_not_basins():
    rng = np.random.default_rng(0)
    basins = [f"{i:08d}" for i in range(10)]
    one = pd.DataFrame({"gauge_id": basins, "nse": rng.uniform(0, 1, 10), "kge": 0.5})
    one = one.assign(**dict.fromkeys(CHOICE, "x"))
    three = pd.concat([one, one, one])
    pd.testing.assert_frame_equal(medians(one), medians(three))
    assert medians(three)["basins"].tolist() == [10]


def test_a_basin_without_score_is_counted():
    table = pd.DataFrame({"gauge_id": ["a", "b"], "nse": [0.5, np.nan], "kge": [0.4, np.nan]})
    found = medians(table.assign(**dict.fromkeys(CHOICE, "x"))).iloc[0]
    assert (found["basins"], found["unscored"], found["median NSE"]) == (1, 1, 0.5)
