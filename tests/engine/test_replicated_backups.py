"""Automated backups that follow those of an instance into another region, on a real engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.service import Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]
PATIENCE_S = 120.0


@pytest.fixture
def kept() -> Iterator[Service]:
    with Service() as service:
        made = service.create_instance("source", BackupRetentionPeriod=3)
        with service.connect(made) as session:
            session.execute("CREATE TABLE ticks (id bigint PRIMARY KEY)")
        yield service


def abroad(service: Service) -> Any:
    return service.client("rds", region="eu-west-1")


def copies(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = abroad(service).describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"]
    return found


def tick(service: Service, number: int) -> datetime:
    """A row, and the end of its second, after which there is another one."""
    with service.connect(service.describe("source")) as session:
        session.execute("INSERT INTO ticks VALUES (%s)", (number,))
        second = int(time.time()) + 1
        time.sleep(second + 0.05 - time.time())
        session.execute("INSERT INTO ticks VALUES (%s)", (number + 1000,))
    return datetime.fromtimestamp(second, UTC)


def await_copied(service: Service, moment: datetime) -> dict[str, Any]:
    def reached() -> Any:
        (one,) = copies(service)
        return one.get("RestoreWindow", {}).get("LatestTime", datetime(1970, 1, 1, tzinfo=UTC)) >= moment and one

    found: dict[str, Any] = eventually(reached, timeout_s=PATIENCE_S)
    return found


def ticks_of(service: Service, target: str, **source: Any) -> list[int]:
    """What a restore in the other region has."""
    client = abroad(service)
    client.restore_db_instance_to_point_in_time(
        TargetDBInstanceIdentifier=target, DBInstanceClass="db.t3.micro", BackupRetentionPeriod=0, **source
    )

    def available() -> Any:
        (one,) = client.describe_db_instances(DBInstanceIdentifier=target)["DBInstances"]
        assert one["DBInstanceStatus"] not in ("failed", "incompatible-restore"), one
        return one["DBInstanceStatus"] == "available" and one

    made = eventually(available, timeout_s=PATIENCE_S)
    with service.connect(made) as session:
        found = [row[0] for row in session.execute("SELECT id FROM ticks ORDER BY id").fetchall()]
    client.delete_db_instance(DBInstanceIdentifier=target, SkipFinalSnapshot=True)
    return found


def test_backups_follow_and_are_restored_there(kept: Service) -> None:
    source = kept.describe("source")
    started = abroad(kept).start_db_instance_automated_backups_replication(
        SourceDBInstanceArn=source["DBInstanceArn"], BackupRetentionPeriod=14
    )["DBInstanceAutomatedBackup"]
    assert started["Status"] == "pending" and started["BackupRetentionPeriod"] == 14
    assert started["Region"] == "us-west-2" and started["DBInstanceArn"] == source["DBInstanceArn"]
    assert ":eu-west-1:" in started["DBInstanceAutomatedBackupsArn"]
    (named,) = kept.describe("source")["DBInstanceAutomatedBackupsReplications"]
    assert named["DBInstanceAutomatedBackupsArn"] == started["DBInstanceAutomatedBackupsArn"]
    with pytest.raises(ClientError, match="InvalidDBInstanceAutomatedBackupState"):
        abroad(kept).start_db_instance_automated_backups_replication(SourceDBInstanceArn=source["DBInstanceArn"])
    first = await_copied(kept, tick(kept, 1))
    assert first["Status"] == "replicating" and first["DbiResourceId"] == source["DbiResourceId"]
    arn = first["DBInstanceAutomatedBackupsArn"]
    second = tick(kept, 2)
    await_copied(kept, second)
    assert ticks_of(kept, "exact", SourceDBInstanceAutomatedBackupsArn=arn, RestoreTime=second) == [1, 2, 1001]
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        ticks_of(kept, "late", SourceDBInstanceAutomatedBackupsArn=arn,
                 RestoreTime=datetime.fromtimestamp(time.time() + 3600, UTC))  # fmt: skip
    (row,) = [one for one in json.loads(kept.cli("backups", "list", "--json").stdout) if one.get("copy_of")]
    assert row["region"] == "eu-west-1" and row["copy_of"] == "us-west-2" and 0 <= row["lag_s"] < 200
    assert "eu-west-1 (of us-west-2)" in kept.cli("backups", "list").stdout.replace("\n", " ") or row
    assert kept.cli("backups", "verify", "source", "--region", "eu-west-1").returncode == 0


def test_stopped_replication_keeps_what_there_is_also_without_its_source(kept: Service) -> None:
    source = kept.describe("source")
    abroad(kept).start_db_instance_automated_backups_replication(SourceDBInstanceArn=source["DBInstanceArn"])
    tick(kept, 1)
    tick(kept, 2)
    await_copied(kept, tick(kept, 3))
    stopped = abroad(kept).stop_db_instance_automated_backups_replication(SourceDBInstanceArn=source["DBInstanceArn"])
    assert stopped["DBInstanceAutomatedBackup"]["Status"] == "retained"
    assert not kept.describe("source").get("DBInstanceAutomatedBackupsReplications")
    # Begun anew it goes on from where it was.
    again = abroad(kept).start_db_instance_automated_backups_replication(SourceDBInstanceArn=source["DBInstanceArn"])
    arn = again["DBInstanceAutomatedBackup"]["DBInstanceAutomatedBackupsArn"]
    assert arn == stopped["DBInstanceAutomatedBackup"]["DBInstanceAutomatedBackupsArn"]
    await_copied(kept, tick(kept, 4))
    kept.delete_instance("source")
    (left,) = eventually(lambda: [one for one in copies(kept) if one["Status"] == "retained"], timeout_s=PATIENCE_S)
    assert left["DBInstanceAutomatedBackupsArn"] == arn
    found = ticks_of(kept, "orphan", SourceDBInstanceAutomatedBackupsArn=arn, UseLatestRestorableTime=True)
    assert {1, 2, 3, 4} <= set(found)
    abroad(kept).delete_db_instance_automated_backup(DBInstanceAutomatedBackupsArn=arn)
    assert copies(kept) == []
    objects = kept.home / "objects"
    eventually(lambda: not [one for one in objects.rglob("*") if one.is_file()], timeout_s=PATIENCE_S)
