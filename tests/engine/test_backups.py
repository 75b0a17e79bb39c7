"""Automated backups, snapshots and restores on a real engine, through the API as users have it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from harness.files import files_below
from harness.service import PASSWORD, Service, eventually

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]

ROWS = 2000


@pytest.fixture(scope="module")
def kept() -> Iterator[Service]:
    """A service with one instance `source`, backed up, with a table `ticks` that tests add to."""
    with Service() as service:
        made = service.create_instance("source", BackupRetentionPeriod=7)
        with service.connect(made) as session:
            session.execute("CREATE TABLE ticks (id bigint PRIMARY KEY, note text)")
            session.execute(
                "CREATE TABLE bulk AS SELECT g AS id, md5(g::text) AS value FROM generate_series(1, 20000) g"
            )
        yield service


def rds(service: Service) -> Any:
    return service.client("rds")


def tick(service: Service, identifier: str, number: int) -> None:
    with service.connect(service.describe(identifier)) as session:
        session.execute("INSERT INTO ticks VALUES (%s, 'x')", (number,))


def ticks(service: Service, identifier: str) -> list[int]:
    with service.connect(service.describe(identifier)) as session:
        return [row[0] for row in session.execute("SELECT id FROM ticks ORDER BY id").fetchall()]


def checksum(service: Service, identifier: str) -> str:
    with service.connect(service.describe(identifier)) as session:
        row = session.execute("SELECT md5(string_agg(value, '' ORDER BY id)) FROM bulk").fetchone()
        assert row is not None
        return str(row[0])


def restorable(service: Service, identifier: str, moment: datetime) -> None:
    """Waits until everything up to the moment can be restored."""
    eventually(
        lambda: service.describe(identifier).get("LatestRestorableTime", datetime(1970, 1, 1, tzinfo=UTC)) >= moment
    )


def restore(service: Service, target: str, moment: datetime | None = None, source: str = "source") -> dict[str, Any]:
    wanted = {"UseLatestRestorableTime": True} if moment is None else {"RestoreTime": moment}
    eventually(lambda: "LatestRestorableTime" in service.describe(source))
    rds(service).restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=source, TargetDBInstanceIdentifier=target, DBInstanceClass="db.t3.micro", **wanted
    )
    return service.await_status(target, "available")


def remove(service: Service, *identifiers: str) -> None:
    for identifier in identifiers:
        service.delete_instance(identifier)


def whole_second() -> datetime:
    """Waits for the beginning of the next second, which it returns: what was before is before, what comes is after."""
    moment = int(time.time()) + 1
    while time.time() < moment + 0.01:
        time.sleep(0.005)
    return datetime.fromtimestamp(moment, UTC)


def first_snapshot(service: Service) -> dict[str, Any]:
    shown = rds(service).describe_db_snapshots(DBInstanceIdentifier="source", SnapshotType="automated")["DBSnapshots"]
    return next(iter(shown), {})


def test_backups_begin_by_themselves_and_are_described(kept: Service) -> None:
    first = eventually(lambda: first_snapshot(kept))
    assert first["Status"] == "available" and first["DBSnapshotIdentifier"].startswith("rds:source-")
    assert first["PercentProgress"] == 100 and not first["Encrypted"] and first["SnapshotCreateTime"]

    def described() -> dict[str, Any]:
        found = rds(kept).describe_db_instance_automated_backups(DBInstanceIdentifier="source")
        return dict(found["DBInstanceAutomatedBackups"][0])

    backup = eventually(lambda: "RestoreWindow" in (one := described()) and one)
    assert backup["Status"] == "active" and backup["BackupRetentionPeriod"] == 7
    assert backup["RestoreWindow"]["EarliestTime"] <= backup["RestoreWindow"]["LatestTime"]
    messages = [event["Message"] for event in rds(kept).describe_events(Duration=60)["Events"]]
    assert "Backing up DB instance" in messages and "Finished DB Instance backup" in messages


def test_restore_to_the_second_before_a_mistake(kept: Service) -> None:
    with kept.connect(kept.describe("source")) as session:
        session.execute("DELETE FROM ticks")
    tick(kept, "source", 1)
    before = whole_second()
    with kept.connect(kept.describe("source")) as session:
        session.execute("DELETE FROM ticks")
        session.execute("INSERT INTO ticks VALUES (2, 'after')")
    sum_before = checksum(kept, "source")
    restorable(kept, "source", before)
    made = restore(kept, "second-before", before)
    assert ticks(kept, "second-before") == [1]
    assert checksum(kept, "second-before") == sum_before
    assert made["DbiResourceId"] != kept.describe("source")["DbiResourceId"]
    assert made["MasterUsername"] == "app" and made["BackupRetentionPeriod"] == 7
    tick(kept, "second-before", 3)
    assert ticks(kept, "source") == [2], "the source is as it was"
    messages = [event["Message"] for event in rds(kept).describe_events(Duration=60)["Events"]]
    assert "Restored from DB instance source to second-before" in messages
    # A restored instance is backed up like any other, and can be restored in its turn.
    moment = whole_second()
    restorable(kept, "second-before", moment)
    restore(kept, "once-more", source="second-before")
    assert ticks(kept, "once-more") == [1, 3]
    remove(kept, "once-more", "second-before")


def test_latest_restorable_time_is_honest(kept: Service) -> None:
    tick(kept, "source", 100)
    moment = whole_second()
    restorable(kept, "source", moment)
    latest = kept.describe("source")["LatestRestorableTime"]
    with pytest.raises(ClientError) as refused:
        restore(kept, "too-late", datetime.fromtimestamp(latest.timestamp() + 3600, UTC))
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValue"
    restore(kept, "latest", latest)
    assert 100 in ticks(kept, "latest")
    remove(kept, "latest")


def test_manual_snapshot_lives_until_it_is_deleted(kept: Service) -> None:
    client = rds(kept)
    victim = kept.create_instance("victim", BackupRetentionPeriod=0)
    with kept.connect(victim) as session:
        session.execute("CREATE TABLE ticks (id bigint PRIMARY KEY, note text)")
    tick(kept, "victim", 7)
    client.create_db_snapshot(
        DBInstanceIdentifier="victim", DBSnapshotIdentifier="Shot", Tags=[{"Key": "k", "Value": "v"}]
    )
    client.get_waiter("db_snapshot_available").wait(
        DBSnapshotIdentifier="shot", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    kept.await_status("victim", "available")
    tick(kept, "victim", 8)
    client.delete_db_instance(DBInstanceIdentifier="victim", SkipFinalSnapshot=False, FinalDBSnapshotIdentifier="final")
    client.get_waiter("db_instance_deleted").wait(
        DBInstanceIdentifier="victim", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    for name, expected in (("shot", [7]), ("final", [7, 8])):
        client.restore_db_instance_from_db_snapshot(
            DBInstanceIdentifier=f"from-{name}", DBSnapshotIdentifier=name, DBInstanceClass="db.t3.micro"
        )
        kept.await_status(f"from-{name}", "available")
        assert ticks(kept, f"from-{name}") == expected
        remove(kept, f"from-{name}")
    with pytest.raises(ClientError, match="DBSnapshotAlreadyExists"):
        client.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="shot")
    for name in ("shot", "final"):
        client.delete_db_snapshot(DBSnapshotIdentifier=name)
    client.get_waiter("db_snapshot_deleted").wait(
        DBSnapshotIdentifier="final", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


def test_copy_to_another_region_restores_there(kept: Service) -> None:
    client, there = rds(kept), kept.client("rds", region="eu-west-1")
    tick(kept, "source", 200)
    client.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="to-copy")
    client.get_waiter("db_snapshot_available").wait(
        DBSnapshotIdentifier="to-copy", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    arn = client.describe_db_snapshots(DBSnapshotIdentifier="to-copy")["DBSnapshots"][0]["DBSnapshotArn"]
    there.copy_db_snapshot(SourceDBSnapshotIdentifier=arn, TargetDBSnapshotIdentifier="copied")
    there.get_waiter("db_snapshot_available").wait(
        DBSnapshotIdentifier="copied", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    client.delete_db_snapshot(DBSnapshotIdentifier="to-copy")
    there.restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier="abroad", DBSnapshotIdentifier="copied", DBInstanceClass="db.t3.micro"
    )

    def available() -> Any:
        (one,) = there.describe_db_instances(DBInstanceIdentifier="abroad")["DBInstances"]
        return one["DBInstanceStatus"] == "available" and one

    made = eventually(available)
    with kept.connect(made) as session:
        assert session.execute("SELECT count(*) FROM ticks WHERE id = 200").fetchone() == (1,)
    there.delete_db_instance(DBInstanceIdentifier="abroad", SkipFinalSnapshot=True)
    there.delete_db_snapshot(DBSnapshotIdentifier="copied")


def test_damage_in_the_object_storage_is_found_before_the_instance_is_there(kept: Service) -> None:
    client = rds(kept)
    client.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="hurt")
    client.get_waiter("db_snapshot_available").wait(
        DBSnapshotIdentifier="hurt", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    packs = [path for path in files_below(kept.home / "objects") if "packs" in path.parts]
    try:
        for pack in packs:
            flip(pack)
        client.restore_db_instance_from_db_snapshot(
            DBInstanceIdentifier="from-hurt", DBSnapshotIdentifier="hurt", DBInstanceClass="db.t3.micro"
        )
        kept.await_status("from-hurt", "incompatible-restore")
        failed = [event["Message"] for event in client.describe_events(SourceIdentifier="from-hurt",
                  SourceType="db-instance", Duration=60)["Events"]]  # fmt: skip
        assert any("packs/" in message for message in failed), failed
    finally:
        for pack in packs:
            flip(pack)
    remove(kept, "from-hurt")
    client.delete_db_snapshot(DBSnapshotIdentifier="hurt")


def flip(path: Path) -> None:
    """Once it is damage, twice it is as before."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def snapshot_status(service: Service, name: str) -> str:
    """The snapshot's status, "" while the service does not answer."""
    try:
        return str(rds(service).describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]["Status"])
    except (EndpointConnectionError, ConnectionClosedError):
        return ""


def test_killed_processes_delay_a_backup_and_lose_nothing(kept: Service) -> None:
    client = rds(kept)
    with kept.connect(kept.describe("source")) as session:
        session.execute("CREATE TABLE heavy AS SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 150000) g")
    client.create_db_snapshot(DBInstanceIdentifier="source", DBSnapshotIdentifier="disturbed")
    time.sleep(0.3)
    kept.kill("agent")
    kept.kill("control")
    eventually(lambda: snapshot_status(kept, "disturbed") == "available")
    client.restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier="from-disturbed", DBSnapshotIdentifier="disturbed", DBInstanceClass="db.t3.micro"
    )
    time.sleep(0.5)
    kept.kill("agent")
    kept.await_status("from-disturbed", "available")
    with kept.connect(kept.describe("from-disturbed")) as session:
        assert session.execute("SELECT count(*) FROM heavy").fetchone() == (150000,)
    remove(kept, "from-disturbed")
    client.delete_db_snapshot(DBSnapshotIdentifier="disturbed")
    with kept.connect(kept.describe("source")) as session:
        session.execute("DROP TABLE heavy")


def test_deleting_an_instance_keeps_its_backups_if_asked(kept: Service) -> None:
    client = rds(kept)
    made = kept.create_instance("gone", BackupRetentionPeriod=1)
    with kept.connect(made) as session:
        session.execute("CREATE TABLE ticks (id bigint PRIMARY KEY, note text)")
    tick(kept, "gone", 5)
    restorable(kept, "gone", whole_second())
    client.delete_db_instance(DBInstanceIdentifier="gone", SkipFinalSnapshot=True, DeleteAutomatedBackups=False)
    client.get_waiter("db_instance_deleted").wait(
        DBInstanceIdentifier="gone", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    (backup,) = client.describe_db_instance_automated_backups(DbiResourceId=made["DbiResourceId"])[
        "DBInstanceAutomatedBackups"
    ]
    assert backup["Status"] == "retained"
    client.restore_db_instance_to_point_in_time(
        SourceDbiResourceId=made["DbiResourceId"], TargetDBInstanceIdentifier="back", UseLatestRestorableTime=True,
        DBInstanceClass="db.t3.micro",
    )  # fmt: skip
    kept.await_status("back", "available")
    assert ticks(kept, "back") == [5]
    remove(kept, "back")
    client.delete_db_instance_automated_backup(DbiResourceId=made["DbiResourceId"])
    eventually(lambda: not [path for path in files_below(kept.home / "objects") if made["DbiResourceId"] in str(path)])


def test_the_password_of_a_restored_instance_is_the_sources(kept: Service) -> None:
    restore(kept, "same-password")
    endpoint = kept.describe("same-password")["Endpoint"]
    with psycopg.connect(
        host=endpoint["Address"], port=endpoint["Port"], user="app", password=PASSWORD, dbname="postgres",
        sslmode="require",
    ) as session:  # fmt: skip
        assert session.execute("SELECT 1").fetchone() == (1,)
    remove(kept, "same-password")
