"""aef_dagster: simulate rivers without a gauge, with donors chosen by what satellites see.

Rooms, in the order data flows: basins, embeddings, similarity, evaluation, models, experiments,
storage, pipeline. `docs/architecture.md` tells what belongs in each. Importing the package, or
loading its Dagster definitions, imports no torch, mlflow, ee, sklearn, rasterio or geopandas.
"""

__version__ = "0.1.0"
