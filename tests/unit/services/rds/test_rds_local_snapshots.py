"""Snapshots that are available on their host before they are in the object storage, without any agent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import SeenFleet, complete, create, facts, finished, prepare
from harness.rds_calls import Rds
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.repository_job import JobPhase, JobStatus
from mainstay.model.volume import VolumeDriverReport

ENCRYPTING = VolumeDriverReport(driver="image", encrypted=True, sized=True, usable=True)


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


def local(rds: Rds, **members: Any) -> DBSnapshot:
    """The snapshot `one` of `db1` when its clone is there; its workflow goes on."""
    create(rds, BackupRetentionPeriod=0, **members)
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="one", DBInstanceIdentifier="db1")
    finished(rds, "db1")
    row = rds.get(DBSnapshot, "one")
    made = msgspec.structs.replace(facts(row.backup_id, rds.clock.wall()), crash_consistent=True)
    at = made.started_at
    row = msgspec.structs.replace(row, status="available", local=True, backup=made, snapshot_create_time=at)
    with rds.store.transaction() as tx:
        tx.put(row)
    found: DBSnapshot = row
    return found


def shown(rds: Rds, name: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = rds.call("DescribeDBSnapshots", DBSnapshotIdentifier=name)["DBSnapshots"][0]
    return found


def test_its_progress_is_that_of_being_stored(rds: Rds, fleet: SeenFleet) -> None:
    row = local(rds)
    assert (shown(rds)["Status"], shown(rds)["PercentProgress"]) == ("available", 0)
    status = JobStatus(job_id=row.job_id, subject=row.subject, phase=JobPhase.RUNNING, bytes_done=41, bytes_total=100)
    fleet.jobs[row.job_id] = status
    assert shown(rds)["PercentProgress"] == 41
    fleet.jobs[row.job_id] = msgspec.structs.replace(status, phase=JobPhase.DONE)
    assert shown(rds)["PercentProgress"] == 99, "100 is told when it is recorded"


def test_a_copy_in_the_region_is_as_local_as_it_is(rds: Rds, fleet: SeenFleet) -> None:
    local(rds)
    rds.call("CopyDBSnapshot", SourceDBSnapshotIdentifier="one", TargetDBSnapshotIdentifier="two")
    assert rds.get(DBSnapshot, "two").local and shown(rds, "two")["PercentProgress"] == 0
    rds.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")
    assert rds.get(DBSnapshot, "two").local, "the workflow goes on for it"


def test_what_is_being_made_of_it_keeps_it_until_it_is_stored(rds: Rds, fleet: SeenFleet) -> None:
    row = local(rds)
    rds.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db2", DBSnapshotIdentifier="one")
    source = rds.get(DBInstance, "db2").restore_from
    assert source is not None and source.crash_consistent and source.backup_id == row.backup_id
    assert "still being stored" in rds.refused("DeleteDBSnapshot", DBSnapshotIdentifier="one")
    finished(rds, "db2")
    rds.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")


def test_one_restored_from_an_encrypted_clone_has_its_key_and_from_a_copy_a_key_of_its_own(
    rds: Rds, fleet: SeenFleet
) -> None:
    fleet.drivers = (ENCRYPTING,)
    row = local(rds, StorageEncrypted=True)
    source = rds.get(DBInstance, "db1")
    assert row.wrapped_volume_key == source.wrapped_volume_key and row.volume_key_owner == source.dbi_resource_id
    rds.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db2", DBSnapshotIdentifier="one")
    second = finished(rds, "db2")
    assert (second.wrapped_volume_key, second.volume_key_owner) == (row.wrapped_volume_key, source.dbi_resource_id)
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="of-second", DBInstanceIdentifier="db2")
    assert rds.get(DBSnapshot, "of-second").volume_key_owner == source.dbi_resource_id, "the key is still that one's"
    complete(rds, "of-second")
    rds.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="db3", DBSnapshotIdentifier="of-second")
    third = finished(rds, "db3")
    assert third.wrapped_volume_key not in ("", row.wrapped_volume_key) and not third.volume_key_owner


def test_the_last_snapshot_of_an_instance_is_never_on_its_host_alone(rds: Rds, fleet: SeenFleet) -> None:
    create(rds, BackupRetentionPeriod=0)
    rds.call("DeleteDBInstance", DBInstanceIdentifier="db1", FinalDBSnapshotIdentifier="last")
    (job,) = [one for one in rds.jobs() if one.program == "make_db_snapshot"]
    assert job.frame["clone"] is False
    create(rds, "db2", BackupRetentionPeriod=0)
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier="other", DBInstanceIdentifier="db2")
    assert [one.frame["clone"] for one in rds.jobs() if one.program == "make_db_snapshot"] == [False, True]
