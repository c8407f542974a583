"""Asset checks that need more than the asset's own body, and what they forbid.

`basin_models` cannot have separate checks (they are skipped when an asset yields its own
materializations), so its checks are specs, filled in by its body from the functions here.
Concept: https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint

no_leakage = dg.AssetCheckSpec(
    "no_leakage",
    asset="basin_models",
    description="No target among its donors; all scaling statistics come from donors only.",
)
complete = dg.AssetCheckSpec(
    "complete",
    asset="basin_models",
    description="Every basin of the run has a checkpoint with a finite simulation of each test "
    "day.",
)


def refuse_blocked_donors(instance: dg.DagsterInstance, space: str) -> None:
    """Refuse to train on donors whose last blocking check failed.

    Dagster blocks downstream assets within one run only; training is started in a run of its own.

    Raises
    ------
    UserError
        The last evaluation of a blocking check on this space's similarity or donors failed.
    """
    keys = [
        dg.AssetCheckKey(dg.AssetKey(["similarity", space]), "valid_matrix"),
        dg.AssetCheckKey(dg.AssetKey(["donors", space]), "leak_free"),
    ]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    for key, record in latest.items():
        evaluation = record.evaluation
        if evaluation is not None and not evaluation.passed:
            raise UserError(
                f"the blocking check {key.name} of {key.asset_key.to_user_string()} failed last "
                "time; mend its cause and materialize it again before training"
            )


def check_leakage(checkpoints: Path, hashes: Sequence[str]) -> dg.AssetCheckResult:
    """Read back what was written: targets, donors, and the basins that gave the scaler."""
    leaking = []
    for job_hash in hashes:
        checkpoint = Checkpoint.open(checkpoints, job_hash)
        job = checkpoint.job()
        fitted_on = set(checkpoint.scaler().donor_flow_std)
        if set(job.targets) & set(job.donors) or not fitted_on <= set(job.donors):
            leaking.append(job_hash)
    return dg.AssetCheckResult(
        asset_key="basin_models",
        check_name=no_leakage.name,
        passed=not leaking,
        metadata={"jobs": len(hashes), "leaking": ", ".join(leaking[:20])},
    )


def check_complete(
    checkpoints: Path, hashes: dict[str, list[str]], asked: Sequence[str]
) -> dg.AssetCheckResult:
    """Every asked basin has a finite simulation."""
    missing = [gauge_id for gauge_id in asked if gauge_id not in hashes]
    for gauge_id, job_hashes in hashes.items():
        for job_hash in job_hashes:
            simulation = Checkpoint.open(checkpoints, job_hash).simulation()
            if simulation.empty or simulation["sim"].isna().any():
                missing.append(gauge_id)
    return dg.AssetCheckResult(
        asset_key="basin_models",
        check_name=complete.name,
        passed=not missing,
        metadata={"basins": len(asked), "missing": ", ".join(missing[:20])},
    )
