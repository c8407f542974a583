"""Lists of CAMELS-US basins in common use: gauge ids only, no scores (see SOURCE.md).

Published scores are not shipped; they are read from the folder that AEF_REFERENCE_DIR names.
"""

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def camels_531() -> tuple[str, ...]:
    """Ids of the 531 basins that most studies report on, in the published order.

    CAMELS-US without the 53 basins above 2,000 km2, without most of those whose areas disagree by
    more than 10 % (3 of 62 remain), and without some more.
    """
    return tuple((files(__name__) / "basins_531.txt").read_text().split())


def pub_folds_531() -> "pd.DataFrame":
    """A published division of the 531 basins into spatial folds: gauge_id, fold (0..9)."""
    import pandas as pd

    with (files(__name__) / "pub_10_folds_531.csv").open() as file:
        return pd.read_csv(file, dtype={"gauge_id": str, "fold": int})
