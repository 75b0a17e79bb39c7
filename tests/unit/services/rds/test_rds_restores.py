"""RestoreDBInstanceFromDBSnapshot and RestoreDBInstanceToPointInTime, without any agent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from harness.rds_backups import SeenFleet, backed_up, complete, create, finished, prepare, programs, repositories
from harness.rds_calls import Rds
from mainstay.engines.postgresql.wal import parse_lsn
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.node import ArchiveStatus, RestoreTarget
from mainstay.workflows.reclaim_repository import needed

SNAPSHOT, POINT = "RestoreDBInstanceFromDBSnapshot", "RestoreDBInstanceToPointInTime"


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


@pytest.fixture
def snapshot(rds: Rds, fleet: SeenFleet) -> DBSnapshot:
    """Of an instance with everything set that a restore might take over."""
    create(rds, BackupRetentionPeriod=5, DBName="shop", Port=6000, DBInstanceClass="db.t3.small",
           CopyTagsToSnapshot=True, PreferredBackupWindow="07:00-07:30", DeletionProtection=True,
           EnableIAMDatabaseAuthentication=True, Tags=[{"Key": "team", "Value": "blue"}])  # fmt: skip
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="one", DBInstanceIdentifier="db1")
    finished(rds, "db1")
    return complete(rds, "one")


def when(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def test_what_a_restore_takes_over_and_what_not(rds: Rds, snapshot: DBSnapshot) -> None:
    old = rds.get(DBInstance, "db1")
    shown = rds.call(SNAPSHOT, DBInstanceIdentifier="New", DBSnapshotIdentifier="one")["DBInstance"]
    assert shown["DBInstanceStatus"] == "creating" and "Endpoint" not in shown
    new = rds.get(DBInstance, "new")
    for field in ("engine_version", "master_username", "master_password_verifier", "db_name", "port",
                  "db_instance_class", "allocated_storage_gib", "storage_type", "backup_retention_period_days",
                  "preferred_backup_window"):  # fmt: skip
        assert getattr(new, field) == getattr(old, field), field
    assert (new.deletion_protection, new.iam_database_authentication_enabled, new.copy_tags_to_snapshot) == (False,) * 3
    assert new.dbi_resource_id != old.dbi_resource_id and new.repository_id not in ("", old.repository_id)
    assert new.tags == {"team": "blue"}, "those of the snapshot, as none are given"
    assert new.restore_from is not None and new.restore_from.backup_id == snapshot.backup_id
    assert new.restore_from.target == RestoreTarget(timeline="1") and new.restore_from.target.immediate
    assert ("restore_db_instance", "db") in programs(rds)


def test_what_may_be_chosen(rds: Rds, snapshot: DBSnapshot) -> None:
    rds.call(SNAPSHOT, DBInstanceIdentifier="new", DBSnapshotIdentifier=snapshot.arn, Port=7000, AllocatedStorage=30,
             DBInstanceClass="db.t3.micro", MultiAZ=True, BackupRetentionPeriod=0, DeletionProtection=True,
             DBSubnetGroupName="mine", Tags=[{"Key": "a", "Value": "b"}])  # fmt: skip
    new = rds.get(DBInstance, "new")
    assert (new.port, new.allocated_storage_gib, new.db_instance_class, new.multi_az) == (7000, 30, "db.t3.micro", True)
    assert (new.backup_retention_period_days, new.repository_id, new.tags) == (0, "", {"a": "b"})
    assert rds.get(DBInstanceAutomatedBackup, new.dbi_resource_id) is None


def test_the_snapshot_stays_while_it_is_restored(rds: Rds, snapshot: DBSnapshot) -> None:
    rds.call(SNAPSHOT, DBInstanceIdentifier="new", DBSnapshotIdentifier="one", BackupRetentionPeriod=0)
    rds.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")
    (repository,) = repositories(rds)
    with rds.store.read() as view:
        kept = needed(view, repository, rds.clock.wall(), parse_lsn)
    assert kept is not None and kept.kept_backups == (snapshot.backup_id,)
    finished(rds, "new")
    with rds.store.read() as view:
        kept = needed(view, repository, rds.clock.wall(), parse_lsn)
    assert kept is not None and kept.kept_backups == ()


def test_what_a_restore_refuses(rds: Rds, snapshot: DBSnapshot) -> None:
    def refused(**members: Any) -> str:
        request = {"DBInstanceIdentifier": "new", "DBSnapshotIdentifier": "one", **members}
        return str(rds.refused(SNAPSHOT, **request))

    assert refused(DBInstanceIdentifier="DB1") == "DBInstanceAlreadyExistsFault: DB instance already exists"
    assert refused(DBSnapshotIdentifier="x") == "DBSnapshotNotFoundFault: DBSnapshot not found: x"
    assert refused(AllocatedStorage=19).startswith("InvalidParameterValue: Invalid AllocatedStorage 19: a restored DB")
    assert refused(Engine="mysql").startswith("InvalidParameterCombination: The engine mysql is not valid")
    assert refused(DBName="x").startswith("InvalidParameterCombination: DBName cannot be specified")
    assert refused(BackupRetentionPeriod=36).startswith("InvalidParameterValue: Invalid backup retention period: 36")
    assert refused(Port=1).startswith("InvalidParameterValue: Invalid port 1")
    assert refused(MaxAllocatedStorage=20).startswith("InvalidParameterCombination: Max storage size must be greater")
    assert refused(LicenseModel="x").startswith("InvalidParameterCombination: The license model x")
    rds.insert(msgspec.structs.replace(snapshot, db_snapshot_identifier="two", status="creating", backup=None))
    assert refused(DBSnapshotIdentifier="two") == (
        "InvalidDBSnapshotStateFault: Snapshot two is not in available state."
    )
    rds.builds.present = [one for one in rds.builds.present if one.major == "18"]
    assert "Cannot find version 17.5 for postgres" in refused()


def test_a_newer_minor_version_serves_where_the_old_one_is_gone(rds: Rds, snapshot: DBSnapshot) -> None:
    rds.builds.present = [one for one in rds.builds.present if one.version != "17.5"]
    shown = rds.call(SNAPSHOT, DBInstanceIdentifier="new", DBSnapshotIdentifier="one")["DBInstance"]
    assert shown["EngineVersion"] == "17.2"


@pytest.fixture
def backup(rds: Rds, fleet: SeenFleet) -> DBInstanceAutomatedBackup:
    """Backups of the moments 1000 and 2000, and log until 3000 along timeline 2."""
    instance = create(rds, BackupRetentionPeriod=7)
    fleet.archive = ArchiveStatus(latest_restorable_at=3000.0, timeline="2", position="0/3")
    return backed_up(rds, instance, 1000.0, 2000.0)


def restored(rds: Rds, name: str, **members: Any) -> tuple[str, RestoreTarget]:
    rds.call(POINT, TargetDBInstanceIdentifier=name, **members)
    source = rds.get(DBInstance, name).restore_from
    return source.backup_id, source.target


@pytest.mark.parametrize("named", ["SourceDBInstanceIdentifier", "SourceDbiResourceId",
                                   "SourceDBInstanceAutomatedBackupsArn"])  # fmt: skip
def test_the_base_is_the_newest_backup_before_the_moment(rds: Rds, backup: Any, named: str) -> None:
    source = {named: {"SourceDBInstanceIdentifier": "db1", "SourceDbiResourceId": backup.facts.dbi_resource_id,
                      "SourceDBInstanceAutomatedBackupsArn": backup.arn}[named]}  # fmt: skip
    assert restored(rds, "a", RestoreTime=when(1000.0), **source) == ("b0", RestoreTarget(at=1000.0, timeline="2"))
    assert restored(rds, "b", RestoreTime=when(1999.5), **source) == ("b0", RestoreTarget(at=1999.5, timeline="2"))
    assert restored(rds, "c", RestoreTime=when(2500.0), **source) == ("b1", RestoreTarget(at=2500.0, timeline="2"))
    assert restored(rds, "d", UseLatestRestorableTime=True, **source) == ("b1", RestoreTarget(at=3000.0, timeline="2"))
    assert rds.get(DBInstance, "d").backup_retention_period_days == 7


def test_outside_the_window_both_ends_are_named(rds: Rds, backup: Any) -> None:
    for at in (999.0, 3000.001):
        said = rds.refused(
            POINT, SourceDBInstanceIdentifier="db1", TargetDBInstanceIdentifier="x", RestoreTime=when(at)
        )
        assert said.startswith("InvalidParameterValue: The specified restore time 1970-01-01T00:")
        assert said.endswith("It must be between 1970-01-01T00:16:40.000Z and 1970-01-01T00:50:00.000Z.")


def test_exactly_one_source_and_one_moment(rds: Rds, backup: Any) -> None:
    def refused(**members: Any) -> str:
        return str(rds.refused(POINT, TargetDBInstanceIdentifier="x", **members))

    sources = "SourceDBInstanceIdentifier, SourceDbiResourceId, SourceDBInstanceAutomatedBackupsArn"
    both = {"SourceDBInstanceIdentifier": "db1", "SourceDbiResourceId": "db-1"}
    for given in ({}, both):
        assert refused(UseLatestRestorableTime=True, **given) == (
            f"InvalidParameterCombination: Exactly one of {sources} must be specified."
        )
    one = {"SourceDBInstanceIdentifier": "db1"}
    assert refused(**one) == (
        "InvalidParameterCombination: Either RestoreTime or UseLatestRestorableTime must be specified."
    )
    assert refused(RestoreTime=when(1500), UseLatestRestorableTime=True, **one) == (
        "InvalidParameterCombination: RestoreTime cannot be specified together with UseLatestRestorableTime."
    )
    assert refused(UseLatestRestorableTime=True, SourceDBInstanceIdentifier="absent") == (
        "DBInstanceNotFoundFault: DBInstance absent not found."
    )
    assert refused(UseLatestRestorableTime=True, SourceDbiResourceId="db-ABSENT") == (
        "DBInstanceAutomatedBackupNotFoundFault: DBInstanceAutomatedBackup db-ABSENT not found."
    )


def test_without_backups_there_is_no_moment(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    latest = {"TargetDBInstanceIdentifier": "x", "UseLatestRestorableTime": True}
    assert rds.refused(POINT, SourceDBInstanceIdentifier="db1", **latest) == (
        "PointInTimeRestoreNotEnabledFault: Point in time restore is not enabled for instance db1"
    )
    create(rds, "db2")
    said = rds.refused(POINT, SourceDBInstanceIdentifier="db2", **latest)
    assert said.startswith("InvalidDBInstanceStateFault: The instance db2 has no moment to restore to yet")
    (shown,) = rds.call("DescribeDBInstances", DBInstanceIdentifier="db2")["DBInstances"]
    assert "LatestRestorableTime" not in shown


def test_no_restore_across_a_gap(rds: Rds, fleet: SeenFleet, backup: Any) -> None:
    fleet.archive = ArchiveStatus(latest_restorable_at=3000.0, timeline="2", gap_at=1500.0)
    source = {"SourceDBInstanceIdentifier": "db1"}
    assert restored(rds, "a", RestoreTime=when(1400.0), **source)[0] == "b0"
    said = rds.refused(POINT, TargetDBInstanceIdentifier="x", RestoreTime=when(1600.0), **source)
    assert said.endswith("It must be between 1970-01-01T00:33:20.000Z and 1970-01-01T00:50:00.000Z.")
    assert restored(rds, "b", RestoreTime=when(2000.0), **source)[0] == "b1"


def test_a_password_that_rds_makes_for_the_restored_instance(rds: Rds, snapshot: DBSnapshot) -> None:
    shown = rds.call(SNAPSHOT, DBInstanceIdentifier="new", DBSnapshotIdentifier="one", ManageMasterUserPassword=True)[
        "DBInstance"
    ]
    assert shown["MasterUserSecret"]["SecretStatus"] == "creating"
    new, old = rds.get(DBInstance, "new"), rds.get(DBInstance, "db1")
    assert new.master_password_verifier != old.master_password_verifier
