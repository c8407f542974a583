"""Dagster: everything that imports dagster, and nothing that computes.

Each module holds one Dagster concept. Assets read load, call, report: the work is in the rooms.
"""
