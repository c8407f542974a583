"""The space `fusion`, from the networks that learned it.

Here: which networks, and their vectors as one matrix of similarities. Not here: the vectors
(models/fusion.py), the cosine (similarity/spaces.py), the asset.
"""

import numpy as np

from aef_dagster.errors import UserError
from aef_dagster.experiments.donor_scaling import FUSED
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.fusion import learned_vectors
from aef_dagster.pipeline.config import LearnedSimilarity, chosen
from aef_dagster.pipeline.inputs import described, static_frames
from aef_dagster.similarity.spaces import similarity_by_model
from aef_dagster.storage.home import Home
from aef_dagster.storage.warehouse import Warehouse

DESIGN = "folds"


def learned_similarity(
    home: Home, store: Warehouse, config: LearnedSimilarity
) -> tuple[np.ndarray, list[str]]:
    """Similarities of all basins of the folds, each row by the network that held its basin out.

    Raises
    ------
    UserError
        The networks of some fold are not trained.
    """
    trained = store.frame(
        "SELECT gauge_id, job_hash, budget, precision FROM scores WHERE current AND seed = 0 AND "
        "asset = 'regional_models' AND design = ? AND representation = ? AND recipe = 'strong' "
        "ORDER BY asked_at",
        [DESIGN, FUSED],
    )
    if config.budget:
        trained = trained[trained["budget"] == chosen(config.budget)]
    if trained.empty:
        raise UserError(
            f"the space fusion is learned by networks that are not there yet: materialize the "
            f"partition {DESIGN}/{FUSED} of `regional_models`, then `regional_scores` (or run "
            "`aef study`)"
        )
    kind = ["budget", "precision"]
    newest = trained[(trained[kind] == trained[kind].iloc[-1]).all(axis=1)]
    held_out_by = newest.drop_duplicates("gauge_id", keep="last").set_index("gauge_id")["job_hash"]
    held_out_by = held_out_by.sort_index()
    table = described(FUSED, held_out_by.index.tolist(), static_frames(store, [FUSED]))
    hashes = sorted(set(held_out_by))
    vectors = []
    for job_hash in hashes:
        checkpoint = Checkpoint.open(home.checkpoints, job_hash)
        if not checkpoint.exists:
            raise UserError(
                f"the network {job_hash} of the space fusion is gone or damaged: materialize the "
                f"partition {DESIGN}/{FUSED} of `regional_models` again"
            )
        vectors.append(learned_vectors(checkpoint, table))
    model_of = np.array([hashes.index(job_hash) for job_hash in held_out_by])
    return similarity_by_model(vectors, model_of), held_out_by.index.tolist()
