"""What is finished of a year, basin by basin, so that a run that was killed goes on.

Here: `Piece` and the folder of small files that holds them.
Not here: how a basin is averaged (means.py), the table of the year (../yearly.py).

A piece is named by all that its numbers hang on: the outline of the basin, the level, the address,
what its index says of the year. Pieces stay after a fetch, some 2 kB each: only the caller knows
when the year is stored.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from aef_dagster.embeddings.cog.index import write_whole

# Raised with every change of what a piece holds or how it is computed.
FORMAT = 1


@dataclass(frozen=True)
class Piece:
    """One basin of one year.

    `vector`: 64 sums of area times vector; `area_m2`: area with data; `outline_m2`: all of it;
    `pixels`: pixels with data; `bytes_read`: the basin's share of what was read; `tiles`: identity
    of each tile by its name; `dataset_version`: AlphaEarth's, "unknown" where it is not told.
    """

    gauge_id: str
    vector: list[float]
    area_m2: float
    outline_m2: float
    pixels: int
    bytes_read: int
    tiles: dict[str, str]
    dataset_version: str


def piece_key(gauge_id: str, outline: bytes, level: int, address: str, version: str) -> str:
    """Name of a piece.

    Parameters
    ----------
    gauge_id, outline, level, address, version
        The basin, its outline as WKB, the overview level, the base address and the version of its
        index for the year.
    """
    told = f"{FORMAT} {gauge_id} {level} {address} {version} ".encode() + outline
    return f"{gauge_id}-{hashlib.sha256(told).hexdigest()[:24]}"


class Pieces:
    """The pieces of one year."""

    def __init__(self, folder: Path):
        self.folder = folder

    def load(self, key: str) -> Piece | None:
        """A finished basin, or None."""
        try:
            return Piece(**json.loads((self.folder / f"{key}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # none, or not one of ours: made anew
            return None

    def save(self, key: str, piece: Piece) -> None:
        """Keep a finished basin."""
        write_whole(self.folder / f"{key}.json", json.dumps(asdict(piece)).encode())

    def drop(self, key: str) -> None:
        """Forget a basin."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)
