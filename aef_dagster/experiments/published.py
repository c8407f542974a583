"""Numbers that others published, to stand beside ours: never a target, never a threshold.

Sources: arXiv:2601.01558 (medians over 671 basins, five seeds, five folds, Daymet, 2010-2014); its
best k of 147 targets as its public code plots them; Kratzert et al. 2019 (doi:10.5194/
hess-23-5089-2019; doi:10.1029/2019WR026065), medians over 531 basins, ensembles.
"""

# design -> label -> median NSE
STUDY_MEDIANS: dict[str, dict[str, float]] = {
    "gauged": {"attributes17, published": 0.706, "aef, published": 0.708},
    "folds": {"attributes17, published": 0.553, "aef, published": 0.612},
}
KRATZERT_MEDIANS: dict[str, dict[str, float]] = {
    "gauged": {"LSTM ensemble, 531 basins": 0.759},
    "folds": {"LSTM ensemble, 531 basins": 0.693},
}

# How often each number of donors was the best one of a target.
STUDY_KS: tuple[int, ...] = (100, 200, 300, 400, 500, 600, 670)
STUDY_BEST_K: dict[str, tuple[int, ...]] = {
    "attributes": (25, 13, 26, 15, 25, 14, 29),
    "aef": (23, 11, 19, 31, 15, 26, 22),
    "fusion": (33, 12, 16, 23, 14, 25, 24),
    "random": (12, 23, 16, 28, 25, 22, 21),
}
