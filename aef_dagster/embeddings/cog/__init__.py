"""AlphaEarth basin means from the public Cloud-Optimised GeoTIFFs, by HTTPS, without an account.

source.py puts the parts together: index.py (which tiles there are), outlines.py (which tiles a
basin lies in), levels.py (which overview it needs), tiff.py (what a tile's header says and how its
blocks are unpacked), coverage.py (what share of each pixel is the basin's), means.py (weighted
sums), remote.py (requests), pieces.py (what is finished of a year).
Not here: other routes.
"""

from aef_dagster.embeddings.cog.source import CogSource

__all__ = ["CogSource"]
