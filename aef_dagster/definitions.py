"""The one door that Dagster opens. Nothing is wired here: see pipeline/build.py."""

import dagster as dg

from aef_dagster.pipeline.build import build_defs


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of this code location, from the `AEF_*` settings in force."""
    return build_defs()
