"""AlphaEarth basin embeddings: where they come from, what a table of them must hold, pooling.

An embedding is a vector of 64 numbers (A00..A63) per basin and year. Nothing here knows of
similarity, models or Dagster.
"""
