"""Vectors that networks learned, against the weights of networks that were really trained."""

import io
from dataclasses import replace

import numpy as np
import pytest

from aef_dagster.errors import UserError
from aef_dagster.models import worker
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import TrainingData
from aef_dagster.models.fusion import learned_vectors
from aef_dagster.models.recipes import Budget, Recipe

SHORT = Recipe(validations=2, spinup_days=60)
TINY = Budget("micro", hidden=8, updates=6, batch=8, window=60)


@pytest.fixture
def trained(toy, make_job, tmp_path):
    """Checkpoint of a model trained on the toy world, in this process."""
    toy.save(tmp_path / "data")
    for folder in ("checkpoints", "scratch"):
        (tmp_path / folder).mkdir()
    data, channel = TrainingData.open(tmp_path / "data"), io.StringIO()
    desk = worker._Desk(channel, data, tmp_path / "checkpoints", tmp_path / "scratch", 0.0)

    def checkpoint(recipe=SHORT, **changes):
        job = make_job(recipe=recipe, budget=replace(TINY, **changes))
        worker._train_in_turn([job], desk)
        assert '"done"' in channel.getvalue().splitlines()[-1]
        return Checkpoint.open(tmp_path / "checkpoints", job.hash)

    return checkpoint


def by_hand(statics, weights, prefix=""):
    """Ws s, basin by basin."""
    layer = weights[f"{prefix}static_weight"].astype(float)
    return np.array([[float(np.dot(row, s)) for row in layer] for s in statics.astype(float)])


def test_a_vector_is_the_first_layers_share_of_the_descriptors(toy, trained):
    checkpoint = trained()
    table = toy.statics["attributes17"]
    vectors = learned_vectors(checkpoint, table)
    scaled = checkpoint.scaler().scale_statics(table)
    assert vectors.shape == (8, checkpoint.weights()["static_weight"].shape[0])
    assert vectors.dtype == np.float64
    np.testing.assert_allclose(vectors, by_hand(scaled, checkpoint.weights()), rtol=1e-12)
    # Basins differ, the model's target among them, which it has not learned from.
    assert len(np.unique(vectors.round(9), axis=0)) == 8


def test_vectors_of_several_networks_stand_side_by_side(toy, trained):
    checkpoint = trained(networks=2)
    table = toy.statics["attributes17"]
    vectors, weights = learned_vectors(checkpoint, table), checkpoint.weights()
    scaled = checkpoint.scaler().scale_statics(table)
    first, second = (by_hand(scaled, weights, prefix) for prefix in ("0/", "1/"))
    np.testing.assert_allclose(vectors, np.hstack([first, second]), rtol=1e-12)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("changes", [{"architecture": "ea_lstm"}, {"static_layers": (4,)}])
def test_a_network_without_the_one_layer_is_refused(toy, trained, changes):
    checkpoint = trained(replace(SHORT, **changes))
    with pytest.raises(
        UserError, match="has no single layer that joins .* take a model of the recipe"
    ):
        learned_vectors(checkpoint, toy.statics["attributes17"])
