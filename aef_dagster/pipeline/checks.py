"""Asset checks that need more than the asset's own body, and what they forbid.

`basin_models` cannot have separate checks (they are skipped when an asset yields its own
materializations), so its checks are specs, filled in by its body from the functions here.
Concept: https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from aef_dagster.errors import UserError
from aef_dagster.models.checkpoints import Checkpoint
from aef_dagster.models.data import TrainingData
from aef_dagster.models.inputs import donors_scaler
from aef_dagster.models.jobs import TrainingJob

no_leakage = dg.AssetCheckSpec(
    "no_leakage",
    asset="basin_models",
    description="No target among its donors; all scaling statistics come from donors only.",
)
complete = dg.AssetCheckSpec(
    "complete",
    asset="basin_models",
    description="Every basin asked for has a checkpoint with a finite simulation of each test day, "
    "and none is left failed.",
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
        asset = key.asset_key.to_user_string()
        if record.status == AssetCheckExecutionRecordStatus.PLANNED:
            raise UserError(
                f"{asset} is being materialized, or its last run died before its check "
                f"{key.name}; wait for it, or materialize it again, before training"
            )
        if record.status == AssetCheckExecutionRecordStatus.FAILED:
            raise UserError(
                f"the blocking check {key.name} of {asset} failed last time; mend its cause and "
                "materialize it again before training"
            )


def check_leakage(
    checkpoints: Path,
    jobs: Sequence[TrainingJob],
    data: TrainingData,
    asset: str = "basin_models",
) -> dg.AssetCheckResult:
    """Fit each scaler again from donors and training days alone; the one in use must equal it."""
    leaking = [job.hash for job in jobs if _leaks(Checkpoint.open(checkpoints, job.hash), data)]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=no_leakage.name,
        passed=bool(jobs) and not leaking,
        metadata={"jobs": len(jobs), "leaking": ", ".join(leaking[:20])},
    )


def check_complete(
    instance: dg.DagsterInstance,
    partitions: dg.PartitionsDefinition,
    checkpoints: Path,
    hashes: dict[str, list[str]],
    asked: Sequence[str],
) -> dg.AssetCheckResult:
    """Every asked basin has a finite simulation, and no basin is left failed by an earlier run."""
    missing = {gauge_id for gauge_id in asked if gauge_id not in hashes}
    for gauge_id, job_hashes in hashes.items():
        for job_hash in job_hashes:
            simulated = Checkpoint.open(checkpoints, job_hash).simulation(columns=["sim"])["sim"]
            if simulated.empty or simulated.isna().any():
                missing.add(gauge_id)
    keys = partitions.get_partition_keys()
    status = instance.get_status_by_partition(dg.AssetKey("basin_models"), keys, partitions) or {}
    failed = {
        key
        for key, found in status.items()
        if found == AssetPartitionStatus.FAILED and key not in hashes
    }
    bad = sorted(missing | failed)
    return dg.AssetCheckResult(
        asset_key="basin_models",
        check_name=complete.name,
        passed=not bad,
        metadata={"basins": len(asked), "missing": ", ".join(bad[:20])},
    )


def _leaks(checkpoint: Checkpoint, data: TrainingData) -> bool:
    try:
        job, used = checkpoint.job(), checkpoint.scaler()
    except UserError:  # a job that refuses to exist: its target is among its donors
        return True
    return donors_scaler(job, data) != used
