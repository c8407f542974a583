"""Lists of CAMELS-US basins in common use: gauge ids only, no scores (see SOURCE.md).

Published scores are not shipped; they are read from the folder that AEF_REFERENCE_DIR names.
"""

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def camels_531() -> tuple[str, ...]:
    """Ids of the 531 basins most studies report on, sorted.

    CAMELS-US without basins above 2,000 km2 and most of those whose areas disagree by above 10 %.
    """
    return tuple((files(__name__) / "basins_531.txt").read_text().split())


def pub_folds_531() -> "pd.DataFrame":
    """A published division of the 531 basins into spatial folds: gauge_id, fold (0..9)."""
    import pandas as pd

    with (files(__name__) / "pub_10_folds_531.csv").open() as file:
        return pd.read_csv(file, dtype={"gauge_id": str, "fold": int})
