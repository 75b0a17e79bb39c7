"""CreateDBSnapshot, CopyDBSnapshot and the rest about snapshots, without any agent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import SeenFleet, complete, create, finished, prepare, programs, repositories
from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.node import NodePhase
from mainstay.model.records import Scope
from mainstay.model.repository_job import JobPhase, JobStatus
from mainstay.services.rds import quotas

ARN = "arn:aws:rds:us-east-1:123456789012:snapshot:"


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


def snapshot(rds: Rds, name: str = "one", of: str = "db1", **members: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rds.call("CreateDBSnapshot", DBSnapshotIdentifier=name, DBInstanceIdentifier=of, **members)[
        "DBSnapshot"
    ]
    return shown


def ready(rds: Rds, name: str = "one", of: str = "db1", **members: Any) -> DBSnapshot:
    snapshot(rds, name, of, **members)
    finished(rds, of)
    return complete(rds, name)


def named(rds: Rds, **request: Any) -> list[str]:
    return [one["DBSnapshotIdentifier"] for one in rds.call("DescribeDBSnapshots", **request)["DBSnapshots"]]


def test_a_snapshot_remembers_its_instance(rds: Rds, fleet: SeenFleet) -> None:
    instance = create(rds, BackupRetentionPeriod=0, Tags=[{"Key": "team", "Value": "blue"}], Port=6000)
    shown = snapshot(rds, "ONE", Tags=[{"Key": "a", "Value": "b"}])
    assert (shown["Status"], shown["PercentProgress"], shown["SnapshotType"]) == ("creating", 0, "manual")
    assert shown["DBSnapshotArn"] == ARN + "one" and shown["DbiResourceId"] == instance.dbi_resource_id
    assert (shown["Port"], shown["MasterUsername"], shown["Encrypted"]) == (6000, "chief", False)
    assert shown["TagList"] == [{"Key": "a", "Value": "b"}], "CopyTagsToSnapshot is off"
    assert "SnapshotCreateTime" not in shown
    assert rds.get(DBInstance, "db1").change == "backing-up"
    assert len(repositories(rds)) == 1 and ("make_db_snapshot", "snapshot") in programs(rds)
    assert rds.refused("CreateDBSnapshot", DBSnapshotIdentifier="two", DBInstanceIdentifier="db1") == (
        "InvalidDBInstanceStateFault: Instance db1 is not in available state."
    )
    row = rds.get(DBSnapshot, "one")
    fleet.jobs[row.job_id] = JobStatus(
        job_id=row.job_id, subject=row.subject, phase=JobPhase.RUNNING, bytes_done=30, bytes_total=100
    )
    (seen,) = rds.call("DescribeDBSnapshots", DBSnapshotIdentifier="one")["DBSnapshots"]
    assert seen["PercentProgress"] == 30
    events = [(event.event_id, event.source_type, event.source_id) for event in rds.events()]
    assert events == [("RDS-EVENT-0001", "db-instance", "db1"), ("RDS-EVENT-0040", "db-snapshot", "one")]


def test_tags_of_the_instance_are_copied_if_it_says_so(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, CopyTagsToSnapshot=True, Tags=[{"Key": "team", "Value": "blue"}])
    assert snapshot(rds, Tags=[{"Key": "team", "Value": "red"}])["TagList"] == [{"Key": "team", "Value": "red"}]
    finished(rds, "db1")
    assert snapshot(rds, "two")["TagList"] == [{"Key": "team", "Value": "blue"}]


def test_what_createdbsnapshot_refuses(rds: Rds, fleet: SeenFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str = "one", of: str = "db1") -> str:
        return str(rds.refused("CreateDBSnapshot", DBSnapshotIdentifier=name, DBInstanceIdentifier=of))

    assert refused() == "DBInstanceNotFoundFault: DBInstance db1 not found."
    create(rds, BackupRetentionPeriod=0)
    assert refused("1x").startswith("InvalidParameterValue: The parameter DBSnapshotIdentifier is not a valid")
    assert refused("x" * 256).startswith("InvalidParameterValue")
    ready(rds)
    assert refused("ONE") == (
        "DBSnapshotAlreadyExistsFault: Cannot create the snapshot because a snapshot with the identifier one already"
        " exists."
    )
    fleet.phase = NodePhase.STOPPED
    assert refused("two") == "InvalidDBInstanceStateFault: Instance db1 is not in available state."
    fleet.phase = NodePhase.RUNNING
    monkeypatch.setattr("mainstay.services.rds.db_snapshots.MANUAL_SNAPSHOTS", 1)
    assert refused("two") == "SnapshotQuotaExceededFault: Cannot create more than 1 manual snapshots"
    assert quotas.MANUAL_SNAPSHOTS == 100
    used = {one["AccountQuotaName"]: one["Used"] for one in rds.call("DescribeAccountAttributes")["AccountQuotas"]}
    assert used["ManualSnapshots"] == 1


def test_describing(rds: Rds, fleet: SeenFleet) -> None:
    instance = create(rds)
    create(rds, "db2")
    for number in range(21):
        ready(rds, f"s{number:02}")
    ready(rds, "other", "db2")
    assert len(named(rds)) == 22
    first = rds.call("DescribeDBSnapshots", MaxRecords=20)
    assert len(first["DBSnapshots"]) == 20
    assert len(named(rds, MaxRecords=20, Marker=first["Marker"])) == 2
    assert named(rds, DBInstanceIdentifier="DB2") == ["other"]
    assert named(rds, DBSnapshotIdentifier="other") == named(rds, DBSnapshotIdentifier=ARN + "other") == ["other"]
    assert len(named(rds, DbiResourceId=instance.dbi_resource_id)) == 21
    assert named(rds, Filters=[{"Name": "db-snapshot-id", "Values": ["OTHER"]}]) == ["other"]
    assert named(rds, Filters=[{"Name": "snapshot-type", "Values": ["automated"]}]) == []
    assert named(rds, SnapshotType="awsbackup") == named(rds, SnapshotType="automated") == []
    assert len(named(rds, SnapshotType="manual")) == 22
    assert rds.refused("DescribeDBSnapshots", DBSnapshotIdentifier="x") == (
        "DBSnapshotNotFoundFault: DBSnapshot not found: x"
    )
    assert rds.refused("DescribeDBSnapshots", SnapshotType="x").startswith("InvalidParameterValue: Invalid snapshot")
    assert named(rds, DBInstanceIdentifier="absent") == []


def test_deleting(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    snapshot(rds)
    assert rds.refused("DeleteDBSnapshot", DBSnapshotIdentifier="one") == (
        "InvalidDBSnapshotStateFault: Cannot delete the snapshot because it is currently in the creating state."
    )
    row = complete(rds, "one")
    rds.insert(msgspec.structs.replace(row, db_snapshot_identifier="rds:db1-1", snapshot_type="automated"))
    assert rds.refused("DeleteDBSnapshot", DBSnapshotIdentifier="rds:db1-1") == (
        "InvalidDBSnapshotStateFault: The snapshot rds:db1-1 is an automated snapshot and cannot be deleted. Copy it"
        " first."
    )
    assert rds.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")["DBSnapshot"]["Status"] == "deleted"
    assert rds.get(DBSnapshot, "one") is None and ("reclaim_repository", "repository") in programs(rds)
    assert rds.events()[-1].event_id == "RDS-EVENT-0041"
    assert rds.refused("DeleteDBSnapshot", DBSnapshotIdentifier="one").startswith("DBSnapshotNotFoundFault")


def copy(rds: Rds, source: str, target: str, **members: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rds.call(
        "CopyDBSnapshot", SourceDBSnapshotIdentifier=source, TargetDBSnapshotIdentifier=target, **members
    )["DBSnapshot"]
    return shown


def test_a_copy_in_the_region_shares_its_sources_data(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    row = ready(rds, Tags=[{"Key": "a", "Value": "b"}])
    rds.insert(msgspec.structs.replace(row, db_snapshot_identifier="rds:db1-1", snapshot_type="automated"))
    shown = copy(rds, "rds:db1-1", "two")
    assert (shown["Status"], shown["SnapshotType"], shown["PercentProgress"]) == ("available", "manual", 100)
    assert shown["SourceDBSnapshotIdentifier"] == ARN + "rds:db1-1" and "SourceRegion" not in shown
    assert shown["TagList"] == []
    assert copy(rds, ARN + "one", "three", CopyTags=True)["TagList"] == [{"Key": "a", "Value": "b"}]
    made = rds.get(DBSnapshot, "two")
    assert (made.repository_id, made.backup_id, made.backup) == (row.repository_id, row.backup_id, row.backup)
    assert made.original_snapshot_create_time == row.original_snapshot_create_time
    assert [event.event_id for event in rds.events()[-2:]] == ["RDS-EVENT-0196", "RDS-EVENT-0197"]


def test_a_copy_into_another_region_has_data_of_its_own(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    row = ready(rds)
    far = Scope(rds.scope.account_id, "us-west-2")
    rds.scope = far
    assert (
        rds.refused("CopyDBSnapshot", SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two")
        == "DBSnapshotNotFoundFault: DBSnapshot not found: one"
    )
    shown = copy(rds, ARN + "one", "two")
    assert (shown["Status"], shown["PercentProgress"], shown["SourceRegion"]) == ("creating", 0, "us-east-1")
    made = rds.get(DBSnapshot, "two")
    assert made.repository_id != row.repository_id and made.backup_id == row.backup_id
    here, there = repositories(rds)
    assert here.sealed_data_key != there.sealed_data_key and there.prefix.startswith("123456789012/us-west-2/")
    assert ("make_db_snapshot", "snapshot") in programs(rds)


def test_what_copydbsnapshot_refuses(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    snapshot(rds)

    def refused(source: str = "one", target: str = "two", **members: Any) -> str:
        return str(rds.refused(
            "CopyDBSnapshot", SourceDBSnapshotIdentifier=source, TargetDBSnapshotIdentifier=target, **members
        ))  # fmt: skip

    assert refused() == "InvalidDBSnapshotStateFault: Snapshot one is not in available state."
    complete(rds, "one")
    assert refused("absent") == "DBSnapshotNotFoundFault: DBSnapshot not found: absent"
    assert refused(target="one").startswith("DBSnapshotAlreadyExistsFault")
    assert refused(target="-").startswith("InvalidParameterValue: The parameter TargetDBSnapshotIdentifier is not")
    assert refused(KmsKeyId="k").startswith("KMSKeyNotAccessibleFault: The specified KMS key [k] does not exist")
    assert refused(SnapshotTarget="local").startswith("InvalidParameterValue: Invalid snapshot target")
    assert refused(OptionGroupName="absent").startswith("OptionGroupNotFoundFault")
    assert refused("arn:aws:rds:us-east-1:999999999999:snapshot:x").startswith("DBSnapshotNotFoundFault")


def test_sharing(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    row = ready(rds)

    def change(**members: Any) -> list[str]:
        shown = rds.call("ModifyDBSnapshotAttribute", DBSnapshotIdentifier="one", AttributeName="restore", **members)
        (attribute,) = shown["DBSnapshotAttributesResult"]["DBSnapshotAttributes"]
        values: list[str] = attribute["AttributeValues"]
        return values

    described = rds.call("DescribeDBSnapshotAttributes", DBSnapshotIdentifier="one")["DBSnapshotAttributesResult"]
    assert described["DBSnapshotAttributes"] == [{"AttributeName": "restore", "AttributeValues": []}]
    accounts = [f"{number:012}" for number in range(1, 21)]
    assert change(ValuesToAdd=accounts) == accounts

    def refused(**members: Any) -> str:
        given = {"AttributeName": "restore", **members}
        return str(rds.refused("ModifyDBSnapshotAttribute", DBSnapshotIdentifier="one", **given))

    assert refused(ValuesToAdd=["000000000021"]).startswith("SharedSnapshotQuotaExceededFault")
    assert refused(ValuesToAdd=["x"]).startswith("InvalidParameterValue: Invalid value x in ValuesToAdd")
    assert refused(AttributeName="x").startswith("InvalidParameterValue: Invalid attribute name: x")
    assert change(ValuesToRemove=accounts, ValuesToAdd=["all"]) == ["all"]
    automated = msgspec.structs.replace(row, db_snapshot_identifier="rds:db1-1", snapshot_type="automated")
    rds.insert(automated)
    said = rds.refused("ModifyDBSnapshotAttribute", DBSnapshotIdentifier="rds:db1-1", AttributeName="restore")
    assert said.startswith("InvalidDBSnapshotStateFault: The snapshot rds:db1-1 is an automated snapshot")


def test_snapshots_that_other_accounts_share(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    row = ready(rds, Tags=[{"Key": "a", "Value": "b"}])
    other = Scope("999999999999", rds.scope.region)
    for name, accounts in (("mine", ()), ("shared", (rds.scope.account_id,)), ("public", ("all",))):
        rds.insert(msgspec.structs.replace(row, scope=other, db_snapshot_identifier=name, restore_accounts=accounts))
    theirs = "arn:aws:rds:us-east-1:999999999999:snapshot:"
    assert named(rds) == ["one"]
    assert named(rds, SnapshotType="shared") == [theirs + "shared"]
    assert named(rds, SnapshotType="public") == [theirs + "public"]
    assert named(rds, IncludeShared=True, IncludePublic=True) == ["one", theirs + "public", theirs + "shared"]
    (shown,) = rds.call("DescribeDBSnapshots", SnapshotType="shared")["DBSnapshots"]
    assert shown["SnapshotType"] == "shared" and shown["TagList"] == []
    made = copy(rds, theirs + "shared", "copied", CopyTags=True)
    assert made["Status"] == "creating" and made["TagList"] == []
    assert rds.refused("CopyDBSnapshot", SourceDBSnapshotIdentifier=theirs + "mine",
                       TargetDBSnapshotIdentifier="x").startswith("DBSnapshotNotFoundFault")  # fmt: skip


def test_upgrading_a_snapshot(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0, EngineVersion="17.2")
    ready(rds)
    shown = rds.call("ModifyDBSnapshot", DBSnapshotIdentifier="one", EngineVersion="17.5")["DBSnapshot"]
    assert shown["EngineVersion"] == "17.5"

    def refused(version: str) -> str:
        return str(rds.refused("ModifyDBSnapshot", DBSnapshotIdentifier="one", EngineVersion=version))

    assert "Cannot upgrade the snapshot from 17.5 to 17.2: a version cannot be taken back" in refused("17.2")
    assert "Cannot upgrade the snapshot from 17.5 to 18.1: major version upgrades are not avail" in refused("18.1")


def test_tags_of_snapshots_and_automated_backups(rds: Rds, fleet: SeenFleet) -> None:
    create(rds)
    ready(rds)
    (backup,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    for arn in (ARN + "one", backup["DBInstanceAutomatedBackupsArn"]):
        rds.call("AddTagsToResource", ResourceName=arn, Tags=[{"Key": "k", "Value": "v"}])
        assert rds.call("ListTagsForResource", ResourceName=arn)["TagList"] == [{"Key": "k", "Value": "v"}]
        rds.call("RemoveTagsFromResource", ResourceName=arn, TagKeys=["k"])
        assert rds.call("ListTagsForResource", ResourceName=arn)["TagList"] == []
    assert rds.refused("ListTagsForResource", ResourceName=ARN + "x").startswith("DBSnapshotNotFoundFault")
    (demand,) = rds.demands("DeleteDBSnapshot", DBSnapshotIdentifier="one")
    assert demand.resource == ARN + "one"
