"""Tables over the scores of many basins: medians by choice, and published models beside them.

Here: frames of scores in, small frames for people out. A basin counts once, however many seeds it
was trained with. Not here: the statistics (statistics.py), where scores are kept (storage/).
"""

from pathlib import Path

import pandas as pd

from aef_dagster.evaluation.statistics import bootstrap_median, summarise

CHOICE = ["space", "k", "representation", "recipe", "budget", "precision", "n_members"]
PUBLISHED = "published_nse_531.csv"


def medians(scores: pd.DataFrame) -> pd.DataFrame:
    """Summary of each choice.

    Parameters
    ----------
    scores
        gauge_id, nse, kge and the columns of `CHOICE`.

    Returns
    -------
    DataFrame
        Per choice: basins with and without a score, median NSE with its 95 % bootstrap interval
        over basins, mean NSE, share below 0, median KGE. Of several seeds a basin counts with its
        median.
    """
    rows = []
    for choice, group in scores.groupby(CHOICE, dropna=False):
        basins = group.groupby("gauge_id")[["nse", "kge"]].median()
        found = summarise(basins["nse"])
        _median, low, high = bootstrap_median(basins["nse"])
        rows.append(
            {
                **{name: value for name, value in zip(CHOICE, choice, strict=True)},
                "basins": found["n"],
                "unscored": found["n_missing"],
                "median NSE": found["median"],
                "95 % from": low,
                "to": high,
                "mean NSE": found["mean"],
                "share below 0": found["share_below_0"],
                "median KGE": basins["kge"].median(),
            }
        )
    return pd.DataFrame(rows)


def compare_published(scores: pd.DataFrame, reference_dir: str | None) -> pd.DataFrame | None:
    """Median NSE beside published ones, on the same basins.

    The published models were scored over other years, and most are ensembles: a place to look at,
    not a race.

    Parameters
    ----------
    scores
        gauge_id, nse and the columns of `CHOICE`.
    reference_dir
        Folder with `published_nse_531.csv`: gauge_id and one column a published model.

    Returns
    -------
    DataFrame or None
        Per choice: basins that both have, median NSE here, median NSE of each published model;
        None where there is no file, or no basin in common.
    """
    path = Path(reference_dir) / PUBLISHED if reference_dir else None
    if path is None or not path.exists():
        return None
    published = pd.read_csv(path, dtype={"gauge_id": str}).set_index("gauge_id")
    rows = []
    for choice, group in scores.groupby(CHOICE, dropna=False):
        ours = group.groupby("gauge_id")["nse"].median()
        shared = published.loc[published.index.intersection(ours.index)]
        if len(shared):
            rows.append(
                {
                    **{name: value for name, value in zip(CHOICE, choice, strict=True)},
                    "basins": len(shared),
                    "here": ours[shared.index].median(),
                    **{str(name): value for name, value in shared.median().items()},
                }
            )
    return pd.DataFrame(rows) if rows else None
