"""Where results are kept: DuckDB for small shared tables, Parquet for bulk, MLflow for runs.

The only room that imports mlflow or opens the warehouse. It knows no asset and no training.
"""
