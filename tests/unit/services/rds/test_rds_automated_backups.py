"""BackupRetentionPeriod, automated backups of living and deleted instances, and final snapshots, without any agent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import DAY_S, SeenFleet, backed_up, complete, create, finished, prepare, programs, repositories
from harness.rds_calls import Rds
from mainstay.engines.postgresql.wal import parse_lsn
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.node import ArchiveStatus, NodePhase, NodeTarget
from mainstay.workflows.automated_backups import retain_automated_backups
from mainstay.workflows.reclaim_repository import needed

DESCRIBE = "DescribeDBInstanceAutomatedBackups"


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


def described(rds: Rds, **request: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rds.call(DESCRIBE, **request)["DBInstanceAutomatedBackups"]
    return found


def modify(rds: Rds, **changes: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", **changes)["DBInstance"]
    return shown


def test_one_day_is_the_default(rds: Rds, fleet: SeenFleet) -> None:
    instance = create(rds)
    assert instance.backup_retention_period_days == 1 and instance.repository_id
    (shown,) = described(rds)
    assert (shown["Status"], shown["BackupRetentionPeriod"]) == ("creating", 1) and "RestoreWindow" not in shown
    (repository,) = repositories(rds)
    assert repository.repository_id == instance.repository_id
    assert repository.prefix == f"123456789012/us-east-1/{instance.dbi_resource_id}/{repository.repository_id}"


@pytest.mark.parametrize(("days", "taken"), [(-1, False), (0, True), (35, True), (36, False)])
def test_the_limits(rds: Rds, fleet: SeenFleet, days: int, taken: bool) -> None:
    if taken:
        assert create(rds, BackupRetentionPeriod=days).backup_retention_period_days == days
        return
    request = {"DBInstanceIdentifier": "db1", "Engine": "postgres", "DBInstanceClass": "db.t3.micro",
               "AllocatedStorage": 20, "MasterUsername": "chief", "MasterUserPassword": "secret-99"}  # fmt: skip
    assert rds.refused("CreateDBInstance", BackupRetentionPeriod=days, **request) == (
        f"InvalidParameterValue: Invalid backup retention period: {days}. The retention period must be between 0 and"
        " 35 days."
    )


def test_turning_backups_on_and_off(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    assert modify(rds, BackupRetentionPeriod=3)["PendingModifiedValues"] == {"BackupRetentionPeriod": 3}
    assert described(rds) == [] and rds.get(DBInstance, "db1").backup_retention_period_days == 0
    assert modify(rds, BackupRetentionPeriod=0)["PendingModifiedValues"] == {}
    shown = modify(rds, BackupRetentionPeriod=3, ApplyImmediately=True)
    assert (shown["DBInstanceStatus"], shown["BackupRetentionPeriod"]) == ("modifying", 3)
    instance = finished(rds, "db1")
    backed_up(rds, instance, 1000.0, 2000.0)
    modify(rds, BackupRetentionPeriod=0, ApplyImmediately=True)
    assert described(rds) == [] and rds.call("DescribeDBSnapshots")["DBSnapshots"] == []
    assert ("reclaim_repository", "repository") in programs(rds)
    (repository,) = repositories(rds)
    with rds.store.read() as view:
        kept = needed(view, repository, rds.clock.wall(), parse_lsn)
    assert kept is not None and kept.nothing
    finished(rds, "db1")
    modify(rds, BackupRetentionPeriod=3, ApplyImmediately=True)
    assert rds.get(DBInstance, "db1").repository_id != instance.repository_id, "a fresh one has no gap"


def test_another_period_acts_at_once_and_a_shorter_one_prunes(rds: Rds, fleet: SeenFleet) -> None:
    instance = create(rds, BackupRetentionPeriod=3)
    now = rds.clock.wall()
    backup = backed_up(rds, instance, *(now - days * DAY_S for days in (2.9, 1.9, 0.9)))
    shown = modify(rds, BackupRetentionPeriod=1)
    assert shown["BackupRetentionPeriod"] == 1 and shown["PendingModifiedValues"] == {}
    assert shown["DBInstanceStatus"] == "available"
    assert rds.get(DBInstanceAutomatedBackup, backup.key()).backup_retention_period_days == 1
    assert ("reclaim_repository", "repository") in programs(rds)
    (repository,) = repositories(rds)
    with rds.store.read() as view:
        kept = needed(view, repository, now, parse_lsn)
    assert kept is not None and kept.kept_backups == ("b1", "b2") and kept.kept_log_from == "0/b1"
    assert [row.backup_id for row in kept.expired] == ["b0"]


def test_the_source_of_replicas_keeps_its_backups(rds: Rds, fleet: SeenFleet) -> None:
    source = create(rds)
    rds.instance("rep", source_dbi_resource_id=source.dbi_resource_id, instance_create_time=1.0)
    said = rds.refused("ModifyDBInstance", DBInstanceIdentifier="db1", BackupRetentionPeriod=0)
    assert said.startswith("InvalidDBInstanceStateFault: Automated backups of db1 cannot be turned off")


def test_replicas_need_a_source_with_backups_and_begin_without(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    request = {"DBInstanceIdentifier": "rep", "SourceDBInstanceIdentifier": "db1"}
    assert rds.refused("CreateDBInstanceReadReplica", **request) == (
        "InvalidDBInstanceStateFault: Automated backups are not enabled for this database instance. To enable"
        " automated backups, use ModifyDBInstance to set the backup retention period to a non-zero value."
    )
    modify(rds, BackupRetentionPeriod=1, ApplyImmediately=True)
    finished(rds, "db1")
    assert rds.call("CreateDBInstanceReadReplica", **request)["DBInstance"]["BackupRetentionPeriod"] == 0
    finished(rds, "rep")
    shown = rds.call("PromoteReadReplica", DBInstanceIdentifier="rep")["DBInstance"]
    assert shown["BackupRetentionPeriod"] == 1 and len(described(rds, DbiResourceId=shown["DbiResourceId"])) == 1


def test_a_moved_window_moves_the_next_backup(rds: Rds, fleet: SeenFleet) -> None:
    instance = create(rds, PreferredBackupWindow="03:00-04:00", PreferredMaintenanceWindow="sun:05:00-sun:05:30")
    backup = backed_up(rds, instance, 1000.0)
    modify(rds, PreferredBackupWindow="10:00-10:30")
    moved = rds.get(DBInstanceAutomatedBackup, backup.key()).next_backup_at
    assert 10 * 3600 <= moved % DAY_S < 10.5 * 3600 and 0 < moved - rds.clock.wall() <= DAY_S + 1800


def test_the_restore_window_is_the_agents_or_what_was_recorded_last(rds: Rds, fleet: SeenFleet) -> None:
    instance = create(rds)
    backed_up(rds, instance, 1000.0, 2000.0)

    def latest() -> list[float | None]:
        (shown,) = rds.call("DescribeDBInstances")["DBInstances"]
        (backup,) = described(rds)
        window = backup.get("RestoreWindow", {})
        return [shown.get("LatestRestorableTime"), window.get("LatestTime"), window.get("EarliestTime")]

    assert latest() == [None, None, None], "nothing is known of the log"
    fleet.archive = ArchiveStatus(latest_restorable_at=3000.5, timeline="1")
    assert latest() == [3000.5, 3000.5, 1000.0]
    fleet.archive = None
    backup = rds.get(DBInstanceAutomatedBackup, instance.dbi_resource_id)
    with rds.store.transaction() as tx:
        tx.put(msgspec.structs.replace(backup, latest_restorable_at=2500.0))
    assert latest() == [2500.0, 2500.0, 1000.0]


def retained(rds: Rds) -> DBInstanceAutomatedBackup:
    """What DeleteDBInstance leaves with DeleteAutomatedBackups false."""
    instance = create(rds, BackupRetentionPeriod=2)
    backed_up(rds, instance, rds.clock.wall() - DAY_S, rds.clock.wall())
    backup = rds.get(DBInstanceAutomatedBackup, instance.dbi_resource_id)
    with rds.store.transaction() as tx:
        retain_automated_backups(
            tx, rds.clock.wall(), msgspec.structs.replace(backup, latest_restorable_at=rds.clock.wall())
        )
        tx.delete(instance)
    found: DBInstanceAutomatedBackup = rds.get(DBInstanceAutomatedBackup, instance.dbi_resource_id)
    return found


def test_retained_backups_are_described_restored_and_deleted(rds: Rds, fleet: SeenFleet) -> None:
    backup = retained(rds)
    rds.call("CreateDBInstance", DBInstanceIdentifier="other", Engine="postgres", DBInstanceClass="db.t3.micro",
             AllocatedStorage=20, MasterUsername="chief", MasterUserPassword="secret-99")  # fmt: skip
    other = rds.get(DBInstance, "other")
    assert {one["Status"] for one in described(rds)} == {"retained", "creating"}
    (shown,) = described(rds, Filters=[{"Name": "status", "Values": ["retained"]}])
    assert shown["DBInstanceIdentifier"] == "db1" and shown["DBInstanceAutomatedBackupsArn"] == backup.arn
    assert described(rds, DBInstanceIdentifier="db1") == described(rds, DbiResourceId=backup.key()) == [shown]
    rds.call("RestoreDBInstanceToPointInTime", SourceDbiResourceId=backup.key(), TargetDBInstanceIdentifier="back",
             UseLatestRestorableTime=True)  # fmt: skip
    finished(rds, "back")

    def refused(**members: Any) -> str:
        return str(rds.refused("DeleteDBInstanceAutomatedBackup", **members))

    assert refused().startswith("InvalidParameterCombination: Exactly one of DbiResourceId and")
    assert refused(DbiResourceId="x").startswith("DBInstanceAutomatedBackupNotFoundFault")
    assert refused(DbiResourceId=other.dbi_resource_id).startswith("InvalidDBInstanceAutomatedBackupStateFault")
    rds.call("DeleteDBInstanceAutomatedBackup", DBInstanceAutomatedBackupsArn=backup.arn)
    assert rds.get(DBInstanceAutomatedBackup, backup.key()) is None
    assert rds.refused(DESCRIBE, DbiResourceId=backup.key()).startswith("DBInstanceAutomatedBackupNotFoundFault")


def test_retained_backups_expire_with_their_period(rds: Rds, fleet: SeenFleet) -> None:
    backup = retained(rds)
    (repository,) = repositories(rds)
    for days, kept in ((0, ("b0", "b1")), (1.5, ("b0", "b1")), (2, ())):
        with rds.store.read() as view:
            found = needed(view, repository, rds.clock.wall() + days * DAY_S, parse_lsn)
        assert found is not None and found.kept_backups == kept, days
    assert found is not None and found.nothing and found.ended == backup and len(found.expired) == 2


def delete(rds: Rds, **members: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rds.call("DeleteDBInstance", DBInstanceIdentifier="db1", **members)["DBInstance"]
    return shown


def test_a_final_snapshot_comes_before_the_deletion(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0, CopyTagsToSnapshot=True, Tags=[{"Key": "a", "Value": "b"}])
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="taken", DBInstanceIdentifier="db1")
    finished(rds, "db1")
    complete(rds, "taken")
    said = rds.refused("DeleteDBInstance", DBInstanceIdentifier="db1", FinalDBSnapshotIdentifier="taken")
    assert said.startswith("DBSnapshotAlreadyExistsFault")
    assert delete(rds, FinalDBSnapshotIdentifier="last")["DBInstanceStatus"] == "deleting"
    row = rds.get(DBSnapshot, "last")
    assert row.status == "creating" and row.tags == {"a": "b"}
    assert rds.get(DBInstance, "db1").target is NodeTarget.RUNNING, "it is needed until the snapshot is there"


def test_what_deletion_refuses(rds: Rds, fleet: SeenFleet) -> None:
    create(rds)

    def refused(**members: Any) -> str:
        return str(rds.refused("DeleteDBInstance", DBInstanceIdentifier="db1", **members))

    assert refused() == (
        "InvalidParameterCombination: FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified."
    )
    assert refused(SkipFinalSnapshot=True, FinalDBSnapshotIdentifier="x") == (
        "InvalidParameterCombination: FinalDBSnapshotIdentifier cannot be specified when SkipFinalSnapshot is true."
    )
    fleet.phase = NodePhase.STOPPED
    assert refused(FinalDBSnapshotIdentifier="x").startswith(
        "InvalidDBInstanceStateFault: Cannot create a final snapshot of db1 because it is in the stopped state."
    )
    assert rds.get(DBSnapshot, "x") is None


def test_a_snapshot_before_a_stop(rds: Rds, fleet: SeenFleet) -> None:
    create(rds)
    rds.call("StopDBInstance", DBInstanceIdentifier="db1", DBSnapshotIdentifier="before")
    instance = rds.get(DBInstance, "db1")
    assert (instance.change, instance.target) == ("stopping", NodeTarget.RUNNING)
    assert rds.get(DBSnapshot, "before").status == "creating"
