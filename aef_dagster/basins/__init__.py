"""What is known of each basin: catalog, polygons, forcings, streamflow and attributes.

A reader for each published dataset, PET and climate indices computed from the forcings, the Parquet
and the dense cube made of them, the built-in sample dataset, and lists of basins in common use.
Files in, frames and arrays out: no Dagster, no MLflow, no torch in this room.
"""
