"""Encryption at rest with a real engine: nothing readable is left anywhere, and nothing can be read without the key.

Needs root, loop devices and fscrypt: elsewhere it is skipped, with the reason.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from harness.service import PASSWORD, Service, eventually
from harness.volumes import why_not
from mainstay.host.volumes.mounts import mounts_below

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not("image", True)), reason=why_not("image", True)),
]
CANARY = "canary-" + secrets.token_hex(16)
BLOCK = 4 << 20
SMALL = {"StorageType": "standard", "AllocatedStorage": 5}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Of its own; nothing of it stays mounted."""
    with Service() as one:
        yield one
        one.cli("down")
        assert not mounts_below(one.home)


@pytest.fixture
def key(service: Service) -> str:
    """The ARN of a KMS key."""
    return str(service.client("kms").create_key()["KeyMetadata"]["Arn"])


def write_canary(service: Service, identifier: str) -> None:
    """The canary in a table, its index, the log, a file of a sort that spills, and a message of the engine."""
    with service.connect(service.describe(identifier)) as session:
        session.execute("CREATE TABLE canary (id bigint PRIMARY KEY, value text)")
        session.execute(f"INSERT INTO canary SELECT g, '{CANARY}' || g FROM generate_series(1, 20000) g")
        session.execute("CREATE INDEX ON canary (value)")
        session.execute("SET work_mem = '64kB'")
        session.execute("SELECT value FROM canary ORDER BY value DESC OFFSET 19999").fetchall()
        with pytest.raises(psycopg.Error):
            session.execute(f"SELECT '{CANARY}'::int")
        session.execute("CHECKPOINT")


def rows(service: Service, identifier: str) -> int:
    with service.connect(service.describe(identifier)) as session:
        found = session.execute("SELECT count(*) FROM canary WHERE value LIKE %s", (CANARY + "%",)).fetchone()
        return 0 if found is None else int(found[0])


def root_of(service: Service, identifier: str) -> Path:
    return service.home / "agent" / "nodes" / str(service.node(identifier)["node"])


def holds(file: Path, needle: bytes = CANARY.encode()) -> bool:
    """Whether the bytes are anywhere in the file; holes are skipped."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        size, at, tail = os.fstat(descriptor).st_size, 0, b""
        while at < size:
            try:
                begin = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:  # nothing but a hole
                return False
            tail = tail if begin == at else b""
            piece = os.pread(descriptor, BLOCK, begin)
            if needle in tail + piece:
                return True
            at, tail = begin + len(piece), piece[-len(needle) :]
        return False
    finally:
        os.close(descriptor)


def places_with_canary(*directories: Path) -> list[str]:
    """Every file below the directories that holds the canary, but for what is mounted: the unlocked volumes."""
    found = []
    for directory in directories:
        mounted = {mount.point for mount in mounts_below(directory)}
        for path, names, files in os.walk(directory):
            names[:] = [name for name in names if Path(path, name) not in mounted]
            found += [str(Path(path, name)) for name in files if Path(path, name).is_file() and holds(Path(path, name))]
    return found


def whole_second() -> datetime:
    """The beginning of the next second, when it has come."""
    moment = int(time.time()) + 1
    while time.time() < moment + 0.01:
        time.sleep(0.005)
    return datetime.fromtimestamp(moment, UTC)


def snapshot(service: Service, identifier: str, name: str) -> dict[str, Any]:
    service.client("rds").create_db_snapshot(DBInstanceIdentifier=identifier, DBSnapshotIdentifier=name)
    return snapshot_made(service, name)


def snapshot_made(service: Service, name: str) -> dict[str, Any]:
    rds = service.client("rds")

    def described() -> dict[str, Any]:
        return dict(rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0])

    found: dict[str, Any] = eventually(lambda: (one := described())["Status"] == "available" and one)
    return found


def restored(service: Service, name: str, snapshot_name: str) -> dict[str, Any]:
    service.client("rds").restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier=name, DBSnapshotIdentifier=snapshot_name, BackupRetentionPeriod=0
    )
    return service.await_status(name, "available")


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_no_plain_text_is_anywhere_on_the_host_of_an_encrypted_instance(service: Service, key: str) -> None:
    rds = service.client("rds")
    made = service.create_instance("full", StorageEncrypted=True, KmsKeyId=key, BackupRetentionPeriod=1, **SMALL)
    assert (made["StorageEncrypted"], made["KmsKeyId"]) == (True, key)
    write_canary(service, "full")
    moment = whole_second()
    eventually(lambda: service.describe("full").get("LatestRestorableTime", datetime(1970, 1, 1, tzinfo=UTC)) >= moment)
    shown = snapshot(service, "full", "full-snapshot")
    assert (shown["Encrypted"], shown["KmsKeyId"]) == (True, key)
    again = restored(service, "again", "full-snapshot")
    assert (again["StorageEncrypted"], again["KmsKeyId"]) == (True, key)
    rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="full", TargetDBInstanceIdentifier="moment", RestoreTime=moment,
        BackupRetentionPeriod=0, MultiAZ=True,
    )  # fmt: skip
    service.await_status("moment", "available")
    assert rows(service, "again") == rows(service, "moment") == 20000
    nodes = [node for node in service.nodes() if node["instance"] == "moment"]
    assert len(nodes) == 2
    images = list((service.home / "agent" / "nodes").glob("*/volume.img"))
    assert len(images) == 4, "each node, the standby too, has an encrypted volume of its own"
    assert places_with_canary(service.home, service.settings.runtime) == []
    for identifier in ("moment", "again", "full"):
        service.delete_instance(identifier)
    assert places_with_canary(service.home, service.settings.runtime) == []


def test_the_control_finds_the_plain_text_of_an_instance_that_is_not_encrypted(service: Service) -> None:
    service.create_instance("plain", **SMALL)
    write_canary(service, "plain")
    root = root_of(service, "plain")
    found = places_with_canary(service.home)
    assert any(place.startswith(str(root / "volume" / "data" / "base")) for place in found)
    assert any(place.startswith(str(root / "volume" / "data" / "pg_wal")) for place in found)
    assert any("/log/" in place for place in found), "what the engine says is looked at too"
    service.delete_instance("plain")


def test_a_disabled_key_stops_the_instance_and_an_enabled_one_brings_it_back(service: Service, key: str) -> None:
    rds, kms = service.client("rds"), service.client("kms")
    made = service.create_instance(
        "lost", StorageEncrypted=True, KmsKeyId=key, BackupRetentionPeriod=1, MultiAZ=True, **SMALL
    )
    write_canary(service, "lost")
    snapshot(service, "lost", "lost-snapshot")
    nodes = service.home / "agent" / "nodes"
    roots = [nodes / str(node["node"]) for node in service.nodes() if node["instance"] == "lost"]
    assert len(roots) == 2 and len(mounts_below(nodes)) == 2
    place = {"host": made["Endpoint"]["Address"], "port": made["Endpoint"]["Port"]}
    kms.disable_key(KeyId=key)
    service.await_status("lost", "inaccessible-encryption-credentials-recoverable")
    eventually(lambda: not mounts_below(nodes), timeout_s=20)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**place, user="app", password=PASSWORD, dbname="postgres", connect_timeout=3)
    for root in roots:
        pids = subprocess.run(["pgrep", "-f", str(root)], capture_output=True, text=True, check=False).stdout.split()
        assert not pids, "nothing of the engine is left"
        assert not (root / "volume" / "data").exists() and not holds(root / "volume.img")
    messages = [
        one["Message"] for one in rds.describe_events(SourceIdentifier="lost", SourceType="db-instance")["Events"]
    ]
    assert any(key in message and "not enabled" in message for message in messages)
    with pytest.raises(ClientError) as refused:
        rds.start_db_instance(DBInstanceIdentifier="lost")
    assert code(refused) == "KMSKeyNotAccessibleFault"
    with pytest.raises(ClientError) as refused:
        restored(service, "stolen", "lost-snapshot")
    assert code(refused) == "KMSKeyNotAccessibleFault"
    service.cli("down")  # a machine that comes up again gives the data to nobody either
    service.cli("up", "--detach")
    time.sleep(2)
    assert service.describe("lost")["DBInstanceStatus"] == "inaccessible-encryption-credentials-recoverable"
    assert not mounts_below(nodes)
    kms.enable_key(KeyId=key)
    rds.start_db_instance(DBInstanceIdentifier="lost")
    service.await_status("lost", "available")
    assert rows(service, "lost") == 20000
    service.delete_instance("lost")


def test_an_encrypted_instance_comes_up_by_itself_after_a_reboot(service: Service) -> None:
    made = service.create_instance("boot", StorageEncrypted=True, **SMALL)
    managed = service.client("kms").describe_key(KeyId="alias/aws/rds")["KeyMetadata"]
    assert made["KmsKeyId"] == managed["Arn"] and managed["KeyManager"] == "AWS"
    write_canary(service, "boot")
    service.cli("down")
    assert not mounts_below(service.home)
    service.cli("up", "--detach")
    service.await_status("boot", "available")
    assert rows(service, "boot") == 20000
    service.delete_instance("boot")


def test_a_plain_instance_becomes_an_encrypted_one_by_a_copied_snapshot(service: Service, key: str) -> None:
    rds = service.client("rds")
    service.create_instance("before", **SMALL)
    write_canary(service, "before")
    assert snapshot(service, "before", "before-plain")["Encrypted"] is False
    service.delete_instance("before")
    rds.copy_db_snapshot(
        SourceDBSnapshotIdentifier="before-plain", TargetDBSnapshotIdentifier="before-encrypted", KmsKeyId=key
    )
    copied = snapshot_made(service, "before-encrypted")
    assert (copied["Encrypted"], copied["KmsKeyId"]) == (True, key)
    rds.delete_db_snapshot(DBSnapshotIdentifier="before-plain")
    after = restored(service, "after", "before-encrypted")
    assert (after["StorageEncrypted"], after["KmsKeyId"]) == (True, key)
    assert rows(service, "after") == 20000
    assert places_with_canary(root_of(service, "after")) == []
    service.delete_instance("after")


def test_backups_of_an_encrypted_instance_follow_into_another_region_under_a_key_of_there(
    service: Service, key: str
) -> None:
    """They are restored there without the key of here, and not without that of there."""
    source = service.create_instance("followed", StorageEncrypted=True, KmsKeyId=key, BackupRetentionPeriod=1, **SMALL)
    write_canary(service, "followed")
    there = service.client("rds", region="eu-west-1")
    kms_there = service.client("kms", region="eu-west-1")
    with pytest.raises(ClientError, match="KmsKeyId"):
        there.start_db_instance_automated_backups_replication(SourceDBInstanceArn=source["DBInstanceArn"])
    key_there = str(kms_there.create_key()["KeyMetadata"]["Arn"])
    there.start_db_instance_automated_backups_replication(
        SourceDBInstanceArn=source["DBInstanceArn"], KmsKeyId=key_there
    )
    written_at = datetime.now(UTC)

    def followed() -> Any:
        (one,) = there.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"]
        latest = one.get("RestoreWindow", {}).get("LatestTime")
        return one["Status"] == "replicating" and latest and latest > written_at and one

    copy = eventually(followed)
    assert (copy["Encrypted"], copy["KmsKeyId"]) == (True, key_there)
    assert places_with_canary(service.home / "objects") == []
    service.client("kms").disable_key(KeyId=key)
    wanted = {
        "SourceDBInstanceAutomatedBackupsArn": copy["DBInstanceAutomatedBackupsArn"], "UseLatestRestorableTime": True,
        "TargetDBInstanceIdentifier": "arrived", "DBInstanceClass": "db.t3.micro", "BackupRetentionPeriod": 0,
    }  # fmt: skip
    kms_there.disable_key(KeyId=key_there)
    with pytest.raises(ClientError) as refused:
        there.restore_db_instance_to_point_in_time(**wanted)
    assert code(refused) == "KMSKeyNotAccessibleFault"
    kms_there.enable_key(KeyId=key_there)
    there.restore_db_instance_to_point_in_time(**wanted)

    def available() -> Any:
        (one,) = there.describe_db_instances(DBInstanceIdentifier="arrived")["DBInstances"]
        return one["DBInstanceStatus"] == "available" and one

    made = eventually(available)
    assert (made["StorageEncrypted"], made["KmsKeyId"]) == (True, key_there)
    with service.connect(made) as session:
        assert session.execute("SELECT count(*) FROM canary").fetchone() == (20000,)
    there.delete_db_instance(DBInstanceIdentifier="arrived", SkipFinalSnapshot=True)
    eventually(lambda: not there.describe_db_instances()["DBInstances"])
    service.client("kms").enable_key(KeyId=key)
    service.delete_instance("followed")

    def status() -> str:
        return str(there.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"][0]["Status"])

    eventually(lambda: status() == "retained")
    there.delete_db_instance_automated_backup(DBInstanceAutomatedBackupsArn=copy["DBInstanceAutomatedBackupsArn"])
