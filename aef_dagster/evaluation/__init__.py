"""How good a simulation is: splits, metrics, paired statistics and figures.

Arrays come in, numbers and pictures go out. Nothing here knows of files, models or Dagster.
"""
