"""DBInstanceStatus: the AWS status word, from the change under way and what is seen of the node. Nothing else."""

from __future__ import annotations

from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodePhase, NodeStatus, NodeTarget

INACCESSIBLE = "inaccessible-encryption-credentials"
RECOVERABLE = "inaccessible-encryption-credentials-recoverable"

_BY_PHASE = {
    NodePhase.RUNNING: "available",
    NodePhase.STARTING: "starting",
    NodePhase.STOPPING: "stopping",
    NodePhase.CREATING: "creating",
    NodePhase.STOPPED: "stopped",
    NodePhase.FAILED: "failed",
    NodePhase.ABSENT: "failed",
}


def db_instance_status(instance: DBInstance, seen: NodeStatus | None) -> str:
    """One of the words of the RDS user guide, "Viewing DB instance status"; only words that Terraform's waiters take.

    `seen` None: no agent has reported the node yet.
    """
    locked = instance.key_lost_at is not None or (seen is not None and seen.locked)
    if locked and instance.change not in ("creating", "deleting", "starting"):
        return _inaccessible(instance)
    if instance.change:
        return instance.change
    if seen is not None and seen.storage_full and instance.target is NodeTarget.RUNNING:
        return "storage-full"
    if instance.failure:
        return _failure_word(instance)
    if seen is None:
        return "stopped" if instance.target is NodeTarget.STOPPED else "starting"
    if seen.fatal and seen.phase is not NodePhase.RUNNING:
        return _failure_word(instance)
    return _BY_PHASE[seen.phase]


def _inaccessible(instance: DBInstance) -> str:
    """RDS calls the loss of a key recoverable for seven days, and only for an instance with automated backups."""
    recoverable = instance.backup_retention_period_days and not instance.key_lost_for_good
    return RECOVERABLE if recoverable else INACCESSIBLE


def _failure_word(instance: DBInstance) -> str:
    """An instance that has never run has failed, unless its parameters, which somebody chose, may be what is wrong; one
    that ran and does not start now has been given bad parameters."""
    if "address" in instance.failure.lower() and "in use" in instance.failure.lower():
        return "incompatible-network"
    if instance.instance_create_time is not None or instance.unusable:
        return "incompatible-parameters"
    return "failed" if instance.restore_from is None else "incompatible-restore"


def accepts_changes(status: str) -> bool:
    """Whether ModifyDBInstance and RebootDBInstance are taken in this status."""
    broken = {"incompatible-parameters", "incompatible-network", "failed", "storage-full"}
    return status in {"available", "storage-optimization"} | broken
