"""Dagster: everything that imports it, and what joins the rooms for it. Nothing here computes.

Modules named for a Dagster concept hold that concept; the others (inputs, scores, simulations,
session, servers) bring rooms together for an asset or a command. Assets read load, call, report.
"""
