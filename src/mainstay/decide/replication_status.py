"""The status of a read replica's replication, as DescribeDBInstances shows it in StatusInfos.

Source: RDS API reference, DBInstanceStatusInfo; RDS user guide, "Monitoring read replication".
"""

from __future__ import annotations

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.node import NodePhase, NodeStatus

REPLICATING, ERROR, TERMINATED = "replicating", "error", "terminated"
STORAGE_FULL = (
    "The storage of the read replica is full: what its source sends waits for room. Modify AllocatedStorage to give it"
    " more."
)
"""Whatever the engine says of itself then: MariaDB and MySQL wait for room and call that replicating, without lag."""


class ReplicationState(msgspec.Struct, frozen=True):
    """`status` is one of the words above; `message` says what is wrong, "" if nothing is."""

    status: str
    message: str = ""


def replication_state(instance: DBInstance, seen: NodeStatus | None) -> ReplicationState | None:
    """The state now, from what was recorded and from what is seen of the node that leads the replica.

    None for an instance that follows nobody, and for a replica that has not followed yet.
    """
    if not instance.source_dbi_resource_id:
        return None
    if not instance.replication_status:  # its creation failed; it may have been helped to run since
        ran = instance.instance_create_time is not None
        follows = seen is not None and seen.replication is not None and seen.replication.streaming
        return ReplicationState(REPLICATING) if ran and follows else None
    if instance.replication_status == TERMINATED:
        return ReplicationState(
            TERMINATED, "The source DB instance was deleted. Promote this read replica to write to it, or delete it."
        )
    if seen is None:
        return ReplicationState(instance.replication_status)
    if seen.storage_full:
        return ReplicationState(ERROR, STORAGE_FULL)
    if seen.replication is not None:
        if seen.replication.streaming:
            return ReplicationState(REPLICATING)
        return ReplicationState(ERROR, seen.replication.message)
    if seen.phase is not NodePhase.RUNNING:
        return ReplicationState(ERROR, "The engine of the read replica is not running.")
    return ReplicationState(instance.replication_status)
