"""What tests of backups share: agents that say what the test says, and snapshots as their workflows leave them."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import AVAILABLE, BackupRepository, DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.ec2 import SecurityGroup
from mainstay.model.node import ArchiveStatus, NodePhase, NodeRole, NodeStatus, RestoreProgress
from mainstay.model.records import Scope
from mainstay.model.repository_job import BackupFacts, JobStatus
from mainstay.model.volume import VolumeDriverReport
from mainstay.workflows.fleet import Fleet

DAY_S = 24 * 3600.0


class SeenFleet:
    """What the agents are said to see: every node runs."""

    def __init__(self) -> None:
        self.phase = NodePhase.RUNNING
        self.archive: ArchiveStatus | None = None
        self.restore: RestoreProgress | None = None
        self.started_for = 0
        self.jobs: dict[str, JobStatus] = {}
        self.drivers: tuple[VolumeDriverReport, ...] | None = (
            VolumeDriverReport(driver="image", encrypted=True, sized=True, usable=True),
        )

    def last_seen(self, node_id: str) -> NodeStatus:
        return NodeStatus(
            node_id=node_id, dbi_resource_id="db-X", db_instance_identifier="x", role=NodeRole.PRIMARY,
            availability_zone="us-east-1a", phase=self.phase, generation=1, archive=self.archive,
            restore=self.restore, started_for=self.started_for,
        )  # fmt: skip

    observe = last_seen

    def volume_drivers(self) -> tuple[VolumeDriverReport, ...] | None:
        return self.drivers

    def observe_job(self, job_id: str) -> JobStatus | None:
        return self.jobs.get(job_id)


def prepare(rds: Rds) -> SeenFleet:
    """The groups that instances need, and the agents."""
    fleet = SeenFleet()
    rds.collaborators[Fleet] = fleet
    rds.insert(security_group(rds.scope, "vpc-1"))
    rds.call("DescribeDBParameters", DBParameterGroupName="default.postgres17")
    rds.call("DescribeOptionGroups", OptionGroupName="default:postgres-17")
    return fleet


def security_group(scope: Scope, vpc_id: str) -> SecurityGroup:
    return SecurityGroup(scope=scope, group_id="sg-" + vpc_id, name="default", description="d", vpc_id=vpc_id)


def facts(backup_id: str, at: float) -> BackupFacts:
    """A backup that was consistent at this moment."""
    return BackupFacts(
        backup_id=backup_id, engine_version="17.5", timeline="1", start_position=f"0/{backup_id}", stop_position="0/9",
        started_at=at - 1, consistent_at=at, size_bytes=10, stored_bytes=5,
    )  # fmt: skip


def create(rds: Rds, name: str = "db1", **members: Any) -> DBInstance:
    """An instance as it is when its workflow has ended."""
    request = {"DBInstanceIdentifier": name, "Engine": "postgres", "EngineVersion": "17.5",
               "DBInstanceClass": "db.t3.micro", "AllocatedStorage": 20, "MasterUsername": "chief",
               "MasterUserPassword": "secret-99"}  # fmt: skip
    rds.call("CreateDBInstance", **(request | members))
    return finished(rds, name)


def finished(rds: Rds, name: str) -> DBInstance:
    """The instance when whatever was begun for it has ended."""
    with rds.store.transaction() as tx:
        for job in tx.jobs():
            if job.subject.startswith("db:"):
                tx.finish_job(job)
    stored = msgspec.structs.replace(rds.get(DBInstance, name), change="", instance_create_time=rds.clock.wall())
    rds.change_instance(stored)
    found: DBInstance = rds.get(DBInstance, name)
    return found


def complete(rds: Rds, name: str, at: float | None = None) -> DBSnapshot:
    """The snapshot when its workflow has ended."""
    row = rds.get(DBSnapshot, name)
    at = rds.clock.wall() if at is None else at
    done: DBSnapshot = msgspec.structs.replace(
        row, status=AVAILABLE, percent_progress=100, backup=facts(row.backup_id, at), snapshot_create_time=at,
        original_snapshot_create_time=at, snapshot_database_time=at,
    )  # fmt: skip
    with rds.store.transaction() as tx:
        tx.put(done)
        for job in tx.jobs(row.subject):
            tx.finish_job(job)
    return done


def backed_up(rds: Rds, instance: DBInstance, *moments: float) -> DBInstanceAutomatedBackup:
    """Automated backups of these moments."""
    backup: DBInstanceAutomatedBackup = rds.get(DBInstanceAutomatedBackup, instance.dbi_resource_id)
    for number, at in enumerate(moments):
        name = f"rds:{instance.db_instance_identifier}-{number}"
        rds.insert(
            DBSnapshot(scope=instance.scope, db_snapshot_identifier=name, snapshot_type="automated", facts=backup.facts,
                       repository_id=backup.repository_id, backup_id=f"b{number}", status=AVAILABLE, requested_at=at,
                       backup=facts(f"b{number}", at))
        )  # fmt: skip
    backup = msgspec.structs.replace(backup, status="active", last_backup_at=max(moments))
    with rds.store.transaction() as tx:
        tx.put(backup)
    return backup


def repositories(rds: Rds) -> list[BackupRepository]:
    with rds.store.read() as view:
        found: list[BackupRepository] = view.scan(BackupRepository)
    return found


def programs(rds: Rds) -> set[tuple[str, str]]:
    return {(job.program, job.subject.partition(":")[0]) for job in rds.jobs()}
