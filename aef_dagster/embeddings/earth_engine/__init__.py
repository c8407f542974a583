"""The route through Earth Engine: basin means are taken where the pixels lie.

Here: signing in and sending (connection.py), what is asked (request.py), which outlines are sent
(outlines.py), refusals as sentences (refusals.py), the source itself (source.py) and the batch
export for full resolution (export.py). Nothing here computes a mean: Earth Engine does.
Not here: other routes, storing. `ee` is imported inside functions only.
"""

from aef_dagster.embeddings.earth_engine.connection import BackOff
from aef_dagster.embeddings.earth_engine.export import ExportTask, export_state, export_year
from aef_dagster.embeddings.earth_engine.source import EarthEngineSource

__all__ = ["BackOff", "EarthEngineSource", "ExportTask", "export_state", "export_year"]
