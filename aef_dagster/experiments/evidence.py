"""What experiments read: scores, basins, descriptors; and the two ways they ask for scores.

Here: the frames that a reading is made from. Not here: where these come from (pipeline/), what an
experiment makes of them (its own module).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from aef_dagster.errors import UserError
from aef_dagster.experiments.asks import StudyBasins
from aef_dagster.experiments.sizes import Size


@dataclass(frozen=True)
class Evidence:
    """All that the readings of one study may look at.

    Parameters
    ----------
    size, basins
        Of the study.
    scores
        Rows in force of the table `scores`, of the size's budget and of single models.
    attributes, climate, embedding, signatures
        One row a basin, indexed by gauge_id. Signatures (flow statistics) judge, and never pick or
        teach anything.
    yearly
        AlphaEarth by year: gauge_id, year, A00..A63.
    stability
        Drift of each basin's embedding, indexed by gauge_id; empty where it was not computed.
    similarity
        From the name of a space to its matrix and the gauge ids of its rows.
    yearly_scores
        NSE of unseen basins by the networks of `aef_first_year`, told each year in turn: gauge_id,
        year, nse. It simulates, so it is called once and only where wanted.
    outlines
        GeoParquet of the basins' outlines.
    checkpoints
        Folder of the checkpoints.
    marks
        `sample`, `surrogate`: what the data are made of.
    """

    size: Size
    basins: StudyBasins
    scores: pd.DataFrame
    attributes: pd.DataFrame
    climate: pd.DataFrame
    embedding: pd.DataFrame
    signatures: pd.DataFrame
    yearly: pd.DataFrame
    stability: pd.DataFrame
    similarity: Callable[[str], tuple[np.ndarray, list[str]]]
    yearly_scores: Callable[[], pd.DataFrame]
    outlines: Path
    checkpoints: Path
    marks: Mapping[str, bool]

    @property
    def prefix(self) -> str:
        """What stands before the title of a picture."""
        found = [name for name, yes in self.marks.items() if yes]
        return f"[{', '.join(found)}] " if found else ""

    @property
    def regions(self) -> pd.Series:
        """HUC-2 of each basin: what intervals resample."""
        return self.basins.frame["huc_02"]

    def rows(
        self,
        design: str,
        representation: str,
        *,
        recipe: str = "strong",
        learned_from: str | None = "",
    ) -> pd.DataFrame:
        """Rows of the regional models of one design, of the study's basins.

        Models may have been scored on basins that have left the study since.

        Raises
        ------
        UserError
            Nothing of it was trained.
        """
        scores = self.scores
        found = scores[
            (scores["asset"] == "regional_models")
            & (scores["design"] == design)
            & (scores["representation"] == representation)
            & (scores["recipe"] == recipe)
            & scores["gauge_id"].isin(self.basins.gauge_ids)
        ]
        if learned_from is not None:
            found = found[found["learned_from"] == learned_from]
        if found.empty:
            raise UserError(
                f"no scores of {design}/{representation} ({recipe}, {self.size.budget}) "
                "in the precision in force yet: "
                f"materialize that partition of `regional_models` at size {self.size.name} and "
                f"then `regional_scores` (or run `aef study --size {self.size.name}`)"
            )
        return found

    def nse(
        self,
        design: str,
        representation: str,
        *,
        recipe: str = "strong",
        learned_from: str = "",
        metric: str = "nse",
        seeds: int | None = None,
    ) -> pd.Series:
        """A score of each basin, indexed by gauge_id; of several seeds their median.

        Parameters
        ----------
        seeds
            Only models of the first so many seeds; None = all there are. Another experiment may
            have trained more of one side of a comparison, and a median of five seeds is not what
            a median of three is.
        """
        rows = self.rows(design, representation, recipe=recipe, learned_from=learned_from)
        if seeds is not None:
            rows = rows[rows["seed"] < seeds]
        return rows.groupby("gauge_id")[metric].median().reindex(self.basins.gauge_ids)

    def donor_rows(self) -> pd.DataFrame:
        """Rows of donor models.

        Raises
        ------
        UserError
            None was trained.
        """
        found = self.scores[self.scores["asset"] == "basin_models"]
        if found.empty:
            raise UserError(
                "no scores of donor models yet: materialize `basin_models`, then `basin_scores` "
                f"(or run `aef study --size {self.size.name}`)"
            )
        return found
