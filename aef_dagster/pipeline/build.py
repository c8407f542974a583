"""Assembly: settings in, one `Definitions` out.

Here: the only place where assets, resources, automation and the executor meet. Tests and commands
call `build_defs` with their own settings, so what they run is the product.
Not here: any asset, resource or condition.
"""

import warnings
from collections.abc import Sequence

import dagster as dg

from aef_dagster.pipeline.instance import TRAINING
from aef_dagster.settings import Settings, load_settings

# `backfill_policy` is beta in Dagster 1.13; a test pins the contract we need of it.
warnings.filterwarnings("ignore", message=".*backfill_policy.*", category=dg.BetaWarning)

OWNER = "team:hydrology"


def build_defs(
    settings: Settings | None = None, *, resources: dict | None = None
) -> dg.Definitions:
    """All definitions.

    Parameters
    ----------
    settings
        The platform's settings; read from the environment if not given.
    resources
        Replacements by resource name.
    """
    from aef_dagster.pipeline.assets import build_assets
    from aef_dagster.pipeline.automation import build_automation
    from aef_dagster.pipeline.executors import choose_executor
    from aef_dagster.pipeline.resources import build_resources

    settings = settings or load_settings()
    automation = build_automation(settings)
    assets = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(owners=[OWNER]), build_assets(settings)
    )
    return dg.Definitions(
        assets=assets,
        resources={**build_resources(settings), **(resources or {})},
        executor=choose_executor(settings, steps_that_train(assets)),
        jobs=automation.jobs,
        schedules=automation.schedules,
        sensors=automation.sensors,
    )


def steps_that_train(assets: Sequence) -> list[str]:
    """Names of the steps in the pool `training`."""
    return [
        asset.op.name
        for asset in assets
        if isinstance(asset, dg.AssetsDefinition)
        and asset.is_executable
        and asset.op.pool == TRAINING
    ]
