"""What is known of a basin's simulation before its flow is: how far it had to borrow.

Here: features from descriptors, places, and the spread of an ensemble; never from flow. Not here:
the expectation of NSE that is learned from them (trust.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

# Of the donors, so many that are most like the target: the others matter less.
NEAREST = 10


def trust_features(
    donors: Mapping[str, Sequence[str]],
    *,
    similarity: pd.DataFrame,
    climate: pd.DataFrame,
    kilometres: pd.DataFrame,
    spread: pd.Series | None = None,
) -> pd.DataFrame:
    """Features of each target.

    Parameters
    ----------
    donors
        Target -> basins that its model learned from.
    similarity
        Cosine of AlphaEarth vectors, index and columns gauge_id.
    climate
        Climate indices, index gauge_id.
    kilometres
        Distance between gauges, index and columns gauge_id.
    spread
        Standard deviation over ensemble members relative to mean flow, index gauge_id; None or NaN
        where there is one model.

    Returns
    -------
    DataFrame
        Index gauge_id: `similarity` (mean cosine of the ten most similar donors), `most_similar`
        (the largest), `climate_distance` (mean Euclidean distance of z-scored climate indices to
        the ten nearest donors), `log_km` (log10 of the kilometres to the nearest donor),
        `aridity`, `frac_snow`, `log_spread`.
    """
    z = ((climate - climate.mean()) / climate.std().replace(0.0, 1.0)).to_numpy()
    # Plain arrays: labelled look-ups of hundreds of donors for each of hundreds of targets take
    # minutes.
    cosines, distances = similarity.to_numpy(dtype=float), kilometres.to_numpy(dtype=float)
    place = {name: {g: i for i, g in enumerate(table.index)}
             for name, table in (("similarity", similarity), ("climate", climate),
                                 ("kilometres", kilometres))}  # fmt: skip
    rows = {}
    for target, learned in donors.items():
        known = [donor for donor in learned if donor != target]
        at = {name: [rows_of[donor] for donor in known] for name, rows_of in place.items()}
        cosine = np.sort(cosines[place["similarity"][target], at["similarity"]])[::-1][:NEAREST]
        apart = z[at["climate"]] - z[place["climate"][target]]
        distance = np.sort(np.sqrt(np.nansum(apart**2, axis=1)))[:NEAREST]
        km = distances[place["kilometres"][target], at["kilometres"]].min()
        rows[target] = {
            "similarity": float(cosine.mean()),
            "most_similar": float(cosine[0]),
            "climate_distance": float(distance.mean()),
            "log_km": float(np.log10(max(km, 1.0))),
            **{name: climate[name][target] for name in ("aridity", "frac_snow")
               if name in climate},
            "log_spread": _log(spread, target),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gauge_id")


def _log(spread: pd.Series | None, target: str) -> float:
    if spread is None or target not in spread.index:
        return float("nan")
    value = float(spread[target])
    return float(np.log10(value)) if value > 0 else float("nan")
