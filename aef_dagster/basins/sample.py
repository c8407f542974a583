"""The built-in sample dataset: its ids, and one function that writes it.

A made-up world in the published file formats, so that the whole platform runs with nothing
downloaded, and its null twin, in which the embeddings know nothing of the landscape.
Light on purpose: the ids are read at each load of the Dagster definitions.
Not here: the world (sample_world.py) and its files (sample_files.py).
"""

import shutil
import tempfile
from pathlib import Path

from aef_dagster.errors import UserError, writing

SAMPLE_WORLDS = ("planted", "null")
SAMPLE_SEED = 20240
# To be raised with any change of the world, so that nobody goes on with files of the old one.
SAMPLE_VERSION = 1
N_TYPES, N_PER_TYPE = 4, 6
# USGS numbers start with 01..16: "00" is none. The zero in front is kept on purpose, as most real
# ids have one that tables of polygons and embeddings drop.
SAMPLE_IDS = tuple(
    f"0090{landscape}{basin:03d}"
    for landscape in range(1, N_TYPES + 1)
    for basin in range(1, N_PER_TYPE + 1)
)


def write_sample(root: Path, world: str, seed: int = SAMPLE_SEED) -> None:
    """Write the sample dataset into a new folder, whole or not at all.

    Parameters
    ----------
    root
        Folder to make. Where it exists already nothing is done.
    world
        `planted`: embeddings see the landscape that drives the flow. `null`: the same weather,
        flow and attributes, but embeddings that know nothing of the basins.
    seed
        Seed of the world; the same seed gives the same files.
    """
    from aef_dagster.basins.sample_files import write_files
    from aef_dagster.basins.sample_world import make_world

    if world not in SAMPLE_WORLDS:
        raise UserError(
            f"there is no sample world {world!r}: choose one of {', '.join(SAMPLE_WORLDS)}"
        )
    root = Path(root)
    if root.is_dir():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        made = make_world(SAMPLE_IDS, planted=world == "planted", seed=seed)
        with writing(f"the sample dataset, {root},"):
            write_files(made, scratch, world)
        scratch.chmod(0o755)
        try:
            scratch.rename(root)
        except OSError:
            # Another process made the same sample meanwhile: its files are the same.
            if not root.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
