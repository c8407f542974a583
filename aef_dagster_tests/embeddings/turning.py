"""Tables of embeddings by year whose angles are known."""

import numpy as np
import pandas as pd

from aef_dagster.embeddings.bands import BANDS


def table(vectors, years, gauge_ids=None):
    """A yearly frame from vectors [basin, year, up to 64]; NaN in the first band = no row."""
    vectors = np.asarray(vectors, dtype=float)
    n, t, dim = vectors.shape
    bands = np.zeros((n * t, 64))
    bands[:, :dim] = vectors.reshape(n * t, dim)
    frame = pd.DataFrame(bands, columns=list(BANDS))
    frame["gauge_id"] = np.repeat(gauge_ids or [f"{i:08d}" for i in range(1, n + 1)], t)
    frame["year"] = pd.array(np.tile(years, n), dtype="Int64")
    return frame[frame["A00"].notna()]


def turning(degrees):
    """Vectors in the plane of the first two bands; NaN = a missing year."""
    angle = np.radians(np.asarray(degrees, dtype=float))
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def noisy(n_basins, n_years, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n_basins, 1, 64))
    return base + noise * rng.normal(size=(n_basins, n_years, 64)), rng
