"""Which key protects what: rules of RDS about StorageEncrypted and KmsKeyId, and what is refused without a key."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.encryption import add_key, set_state
from harness.rds_backups import SeenFleet, backed_up, complete, create, finished, prepare, repositories, security_group
from harness.rds_calls import Rds
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import BackupRepository, DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.ec2 import Subnet, Vpc
from mainstay.model.errors import Permanent
from mainstay.model.kms import AWS, KeyState, KmsKey
from mainstay.model.node import NodeTarget
from mainstay.model.records import Scope
from mainstay.model.volume import VolumeDriverReport
from mainstay.services.kms.use import KeyNotUsable
from mainstay.workflows.encryption import instance_context, open_wrapped_key
from mainstay.workflows.lose_key import LOSE_KEY, has_lost_key, lose_key
from mainstay.workflows.repositories import open_repository
from mainstay.workflows.volumes import volume_key_of, volume_of

ELSEWHERE = Scope("123456789012", "us-west-2")
STRANGER = Scope("999999999999", "us-east-1")
NOT_ACCESSIBLE = "KMSKeyNotAccessibleFault: The specified KMS key ["


@pytest.fixture
def fleet(rds: Rds, group: str) -> SeenFleet:
    return prepare(rds)


@pytest.fixture
def key(rds: Rds) -> KmsKey:
    return new(rds)


def new(rds: Rds, scope: Scope | None = None, seed: int = 11, policy: str = "") -> KmsKey:
    return add_key(rds.store, rds.collaborators[Vault], scope or rds.scope, seed, policy)


def shown(rds: Rds, name: str = "db1") -> tuple[bool, str | None]:
    one = rds.call("DescribeDBInstances", DBInstanceIdentifier=name)["DBInstances"][0]
    return one["StorageEncrypted"], one.get("KmsKeyId")


def encrypted(rds: Rds, key: KmsKey, name: str = "db1", **members: Any) -> DBInstance:
    return create(rds, name, StorageEncrypted=True, KmsKeyId=key.key_id, **members)


def refused_create(rds: Rds, **members: Any) -> str:
    request = {"DBInstanceIdentifier": "db9", "Engine": "postgres", "DBInstanceClass": "db.t3.micro",
               "AllocatedStorage": 20, "MasterUsername": "chief", "MasterUserPassword": "secret-99"}  # fmt: skip
    said: str = rds.refused("CreateDBInstance", **(request | members))
    assert rds.get(DBInstance, "db9") is None and not [one for one in repositories(rds) if "DB9" in one.prefix]
    return said


def snapshot(rds: Rds, name: str = "one", of: str = "db1") -> DBSnapshot:
    rds.call("CreateDBSnapshot", DBSnapshotIdentifier=name, DBInstanceIdentifier=of)
    finished(rds, of)
    return complete(rds, name)


def copy(rds: Rds, target: str, source: str = "one", **members: Any) -> dict[str, Any]:
    found: dict[str, Any] = rds.call(
        "CopyDBSnapshot", SourceDBSnapshotIdentifier=source, TargetDBSnapshotIdentifier=target, **members
    )["DBSnapshot"]
    return found


def refused_copy(rds: Rds, source: str = "one", **members: Any) -> str:
    said: str = rds.refused(
        "CopyDBSnapshot", SourceDBSnapshotIdentifier=source, TargetDBSnapshotIdentifier="refused", **members
    )
    return said


def in_another_region(rds: Rds) -> None:
    """The calls come to us-west-2, which has a network of its own, from now on."""
    rds.scope = ELSEWHERE
    rds.insert(Vpc(scope=ELSEWHERE, vpc_id="vpc-w", cidr_block="10.0.0.0/16", cidr_association_id="x",
                   dhcp_options_id="d", is_default=True), security_group(ELSEWHERE, "vpc-w"))  # fmt: skip
    for letter in "ab":
        rds.insert(Subnet(scope=ELSEWHERE, subnet_id=f"subnet-w{letter}", vpc_id="vpc-w", cidr_block="10.0.0.0/24",
                          availability_zone=f"us-west-2{letter}", acl_association_id="acl",
                          default_for_az=True))  # fmt: skip


# Creation


def test_an_encrypted_instance_names_its_key_by_arn_and_has_two_data_keys_under_it(
    rds: Rds, fleet: SeenFleet, key: KmsKey
) -> None:
    instance = encrypted(rds, key, BackupRetentionPeriod=1)
    assert shown(rds) == (True, key.arn)
    volume = volume_of(instance)
    assert volume is not None and volume.encrypted and not volume.data_key
    view, vault = rds.store.view(), rds.collaborators[Vault]
    volume_key = volume_key_of(view, vault, instance)
    (repository,) = repositories(rds)
    assert repository.kms_key_id == key.arn
    opened = open_repository(view, vault, repository)
    assert volume_key is not None and len(volume_key) == len(opened.data_key) == 64 and volume_key != opened.data_key
    with pytest.raises(KeyNotUsable):
        open_wrapped_key(view, vault, instance.wrapped_volume_key, instance_context("db-ANOTHER"))
    (backup,) = rds.call("DescribeDBInstanceAutomatedBackups")["DBInstanceAutomatedBackups"]
    assert (backup["Encrypted"], backup["KmsKeyId"]) == (True, key.arn)


def test_without_a_key_named_it_is_the_default_one_made_when_it_is_needed(rds: Rds, fleet: SeenFleet) -> None:
    with rds.store.read() as view:
        assert not view.scan(KmsKey)
    instance = create(rds, StorageEncrypted=True)
    with rds.store.read() as view:
        (made,) = view.scan(KmsKey)
    assert made.key_manager == AWS and shown(rds) == (True, made.arn) == (True, instance.kms_key_id)
    create(rds, "db2", StorageEncrypted=True)
    assert shown(rds, "db2") == (True, made.arn)


def test_what_is_not_encrypted_is_as_before(rds: Rds, fleet: SeenFleet) -> None:
    for name, members in (("db1", {}), ("db2", {"StorageEncrypted": False})):
        instance = create(rds, name, BackupRetentionPeriod=1, **members)
        assert shown(rds, name) == (False, None) and volume_of(instance) is None
    assert all(one.kms_key_id == "" for one in repositories(rds))
    with rds.store.read() as view:
        assert not view.scan(KmsKey)


def test_what_createdbinstance_refuses(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    without = "InvalidParameterCombination: KmsKeyId can be specified only if StorageEncrypted is set to true."
    assert refused_create(rds, KmsKeyId=key.arn) == without
    assert refused_create(rds, KmsKeyId=key.arn, StorageEncrypted=False) == without
    for named in ("absent", "alias/absent", "arn:aws:kms:us-east-1:123456789012:key/absent", "x" * 3000,
                  "arn:aws:kms:us-west-2:123456789012:key/" + key.key_id):  # fmt: skip
        assert refused_create(rds, StorageEncrypted=True, KmsKeyId=named).startswith(NOT_ACCESSIBLE + named[:256])
    for state, word in ((KeyState.DISABLED, "is disabled"), (KeyState.PENDING_DELETION, "is pending deletion")):
        set_state(rds.store, key, state)
        said = refused_create(rds, StorageEncrypted=True, KmsKeyId=key.key_id)
        assert said.startswith(NOT_ACCESSIBLE) and word in said


def test_a_key_that_the_caller_may_not_have_rds_use_is_not_accessible(rds: Rds, fleet: SeenFleet) -> None:
    through_rds = '{"StringEquals": {"kms:ViaService": "rds.us-east-1.amazonaws.com"}}'
    statement = (
        '{{"Effect": "Allow", "Principal": "*", "Action": {actions}, "Resource": "*", "Condition": {condition}}}'
    )
    policy = '{{"Version": "2012-10-17", "Statement": [{}]}}'

    def with_policy(seed: int, actions: str, condition: str = through_rds) -> KmsKey:
        return new(rds, seed=seed, policy=policy.format(statement.format(actions=actions, condition=condition)))

    good = with_policy(1, '["kms:CreateGrant", "kms:DescribeKey"]')
    encrypted(rds, good)
    only_describe = with_policy(2, '["kms:DescribeKey"]')
    elsewhere = with_policy(
        3, '["kms:*"]', '{"StringEquals": {"kms:ViaService": "secretsmanager.us-east-1.amazonaws.com"}}'
    )
    not_for_services = with_policy(4, '["kms:*"]', '{"Bool": {"kms:GrantIsForAWSResource": "false"}}')
    for bad in (only_describe, elsewhere, not_for_services):
        assert refused_create(rds, StorageEncrypted=True, KmsKeyId=bad.arn).startswith(NOT_ACCESSIBLE + bad.arn)


def test_without_a_driver_that_encrypts_it_is_refused_and_no_option_offers_it(rds: Rds, fleet: SeenFleet) -> None:
    def offered() -> set[bool]:
        options = rds.call("DescribeOrderableDBInstanceOptions", Engine="postgres")["OrderableDBInstanceOptions"]
        return {one["SupportsStorageEncryption"] for one in options}

    assert offered() == {True}
    fleet.drivers = (VolumeDriverReport(driver="image", encrypted=True, sized=True, usable=False, reason="no loops"),)
    said = refused_create(rds, StorageEncrypted=True)
    assert said.startswith("InvalidParameterCombination: StorageEncrypted") and "image: no loops" in said
    assert "mainstay doctor" in said and offered() == {False}
    with rds.store.read() as view:
        assert not view.scan(KmsKey), "no key for nothing"


# Snapshots and restores


def test_a_snapshot_and_what_is_restored_from_it_keep_the_key(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    source = encrypted(rds, key, BackupRetentionPeriod=0)
    row = snapshot(rds)
    (described,) = rds.call("DescribeDBSnapshots")["DBSnapshots"]
    assert (described["Encrypted"], described["KmsKeyId"]) == (True, key.arn)
    assert rds.get(BackupRepository, row.repository_id).kms_key_id == key.arn
    rds.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="again", DBSnapshotIdentifier="one")
    assert shown(rds, "again") == (True, key.arn)
    restored = rds.get(DBInstance, "again")
    view, vault = rds.store.view(), rds.collaborators[Vault]
    assert volume_key_of(view, vault, restored) not in (None, volume_key_of(view, vault, source))


def test_a_restore_to_a_point_in_time_keeps_the_key(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    instance = encrypted(rds, key, BackupRetentionPeriod=1)
    now = rds.clock.wall()
    backed_up(rds, instance, now - 100)
    with rds.store.transaction() as tx:
        backup = tx.get(DBInstanceAutomatedBackup, rds.scope, instance.dbi_resource_id)
        assert backup is not None
        tx.put(msgspec.structs.replace(backup, latest_restorable_at=now - 10))
    request = {"SourceDBInstanceIdentifier": "db1", "UseLatestRestorableTime": True}
    rds.call("RestoreDBInstanceToPointInTime", TargetDBInstanceIdentifier="again", **request)
    assert shown(rds, "again") == (True, key.arn)
    set_state(rds.store, key, KeyState.DISABLED)
    said = rds.refused("RestoreDBInstanceToPointInTime", TargetDBInstanceIdentifier="more", **request)
    assert said.startswith(NOT_ACCESSIBLE) and "is disabled" in said


def test_without_its_key_nothing_of_a_snapshot_is_used(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    encrypted(rds, key, BackupRetentionPeriod=0)
    row = snapshot(rds)
    other = new(rds, seed=12)
    set_state(rds.store, key, KeyState.PENDING_DELETION)
    restore = {"DBInstanceIdentifier": "again", "DBSnapshotIdentifier": "one"}
    assert rds.refused("RestoreDBInstanceFromDBSnapshot", **restore).startswith(NOT_ACCESSIBLE)
    assert refused_copy(rds).startswith(NOT_ACCESSIBLE + key.arn)
    assert refused_copy(rds, KmsKeyId=other.arn).startswith(NOT_ACCESSIBLE + key.arn)
    said = rds.refused("CreateDBSnapshot", DBSnapshotIdentifier="two", DBInstanceIdentifier="db1")
    assert said.startswith(NOT_ACCESSIBLE)
    with pytest.raises(Permanent, match="pending deletion"):
        repository = rds.get(BackupRepository, row.repository_id)
        open_repository(rds.store.view(), rds.collaborators[Vault], repository)
    rds.call("DeleteDBSnapshot", DBSnapshotIdentifier="one")
    set_state(rds.store, key, KeyState.ENABLED)
    snapshot(rds, "three")


def test_a_copy_with_a_key_is_the_way_from_plain_to_encrypted(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    create(rds, BackupRetentionPeriod=0)
    source = snapshot(rds)
    made = copy(rds, "two", KmsKeyId=key.key_id)
    assert (made["Status"], made["Encrypted"], made["KmsKeyId"]) == ("creating", True, key.arn)
    assert made["SourceDBSnapshotIdentifier"] == source.arn and "SourceRegion" not in made
    row = rds.get(DBSnapshot, "two")
    assert row.copy_of is not None and row.repository_id != source.repository_id
    assert rds.get(BackupRepository, row.repository_id).kms_key_id == key.arn
    assert ("make_db_snapshot", row.subject) in {(job.program, job.subject) for job in rds.jobs()}
    complete(rds, "two")
    rds.call("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="again", DBSnapshotIdentifier="two")
    assert shown(rds, "again") == (True, key.arn)
    plain = copy(rds, "three")
    assert (plain["Status"], plain["Encrypted"]) == ("available", False) and "KmsKeyId" not in plain


def test_a_copy_may_have_another_key_and_never_none(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    encrypted(rds, key, BackupRetentionPeriod=0)
    source = snapshot(rds)
    for name, members in (("same", {}), ("named", {"KmsKeyId": key.arn})):
        made = copy(rds, name, **members)
        assert (made["Status"], made["KmsKeyId"]) == ("available", key.arn), "it shares its source's data"
        assert rds.get(DBSnapshot, name).repository_id == source.repository_id
    other = new(rds, seed=12)
    made = copy(rds, "two", KmsKeyId=other.arn)
    assert (made["Status"], made["Encrypted"], made["KmsKeyId"]) == ("creating", True, other.arn)
    assert rds.get(DBSnapshot, "one").facts.kms_key_id == key.arn


def test_an_encrypted_snapshot_needs_a_key_of_the_region_it_is_copied_to(
    rds: Rds, fleet: SeenFleet, key: KmsKey
) -> None:
    encrypted(rds, key, BackupRetentionPeriod=0)
    source = snapshot(rds)
    rds.scope = ELSEWHERE
    assert refused_copy(rds, source.arn).startswith("InvalidParameterCombination: KmsKeyId must be specified")
    assert refused_copy(rds, source.arn, KmsKeyId=key.arn).startswith(NOT_ACCESSIBLE + key.arn), (
        "of the source's region"
    )
    there = new(rds, seed=13)
    made = copy(rds, "two", source.arn, KmsKeyId=there.key_id)
    assert (made["Encrypted"], made["KmsKeyId"], made["SourceRegion"]) == (True, there.arn, "us-east-1")


# Sharing


def share(rds: Rds, name: str, *accounts: str) -> str:
    request = {"DBSnapshotIdentifier": name, "AttributeName": "restore", "ValuesToAdd": list(accounts)}
    said: str = rds.refused("ModifyDBSnapshotAttribute", **request)
    return said


def test_how_encrypted_snapshots_may_be_shared(rds: Rds, fleet: SeenFleet) -> None:
    key = new(rds, policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": '
              '["arn:aws:iam::999999999999:root", "arn:aws:iam::123456789012:root"]}, "Action": "kms:*",'
              ' "Resource": "*"}]}')  # fmt: skip
    encrypted(rds, key, BackupRetentionPeriod=0)
    row = snapshot(rds)
    public = "InvalidParameterCombination: An encrypted snapshot cannot be shared with all accounts."
    assert share(rds, "one", "all") == public
    create(rds, "db2", StorageEncrypted=True, BackupRetentionPeriod=0)
    snapshot(rds, "default", "db2")
    assert "default key (alias/aws/rds) cannot be shared" in share(rds, "default", STRANGER.account_id)
    rds.call("ModifyDBSnapshotAttribute", DBSnapshotIdentifier="one", AttributeName="restore",
             ValuesToAdd=[STRANGER.account_id])  # fmt: skip

    rds.scope = STRANGER
    said = rds.refused("RestoreDBInstanceFromDBSnapshot", DBInstanceIdentifier="x", DBSnapshotIdentifier=row.arn)
    assert said.startswith("InvalidParameterCombination") and "Copy it with CopyDBSnapshot" in said
    assert refused_copy(rds, row.arn).startswith("InvalidParameterCombination: KmsKeyId must be specified")
    own = new(rds, seed=14)
    assert copy(rds, "mine", row.arn, KmsKeyId=own.arn)["KmsKeyId"] == own.arn


def test_a_shared_snapshot_whose_key_is_not_shared_cannot_be_copied(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    encrypted(rds, key, BackupRetentionPeriod=0)
    row = snapshot(rds)
    rds.call("ModifyDBSnapshotAttribute", DBSnapshotIdentifier="one", AttributeName="restore",
             ValuesToAdd=[STRANGER.account_id])  # fmt: skip
    rds.scope = STRANGER
    own = new(rds, seed=14)
    assert refused_copy(rds, row.arn, KmsKeyId=own.arn).startswith(NOT_ACCESSIBLE + key.arn)


# Read replicas


def test_a_replica_in_the_region_has_the_key_of_its_source(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    encrypted(rds, key, BackupRetentionPeriod=1)
    request = {"SourceDBInstanceIdentifier": "db1"}
    rds.call("CreateDBInstanceReadReplica", DBInstanceIdentifier="r1", **request)
    rds.call("CreateDBInstanceReadReplica", DBInstanceIdentifier="r2", KmsKeyId=key.key_id, **request)
    assert shown(rds, "r1") == shown(rds, "r2") == (True, key.arn)
    other = new(rds, seed=12)
    said = rds.refused("CreateDBInstanceReadReplica", DBInstanceIdentifier="r3", KmsKeyId=other.arn, **request)
    assert said.startswith("InvalidParameterCombination: KmsKeyId can't be specified for a read replica in the region")
    set_state(rds.store, key, KeyState.DISABLED)
    said = rds.refused("CreateDBInstanceReadReplica", DBInstanceIdentifier="r3", **request)
    assert said.startswith(NOT_ACCESSIBLE)


def test_a_replica_in_another_region_needs_a_key_of_that_region(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    source = encrypted(rds, key, BackupRetentionPeriod=1)
    plain = create(rds, "plain", BackupRetentionPeriod=1)
    in_another_region(rds)
    request = {"DBInstanceIdentifier": "r1", "SourceDBInstanceIdentifier": source.arn}
    said = rds.refused("CreateDBInstanceReadReplica", **request)
    assert said.startswith("InvalidParameterCombination: KmsKeyId must be specified") and "us-west-2" in said
    there = new(rds, seed=13)
    rds.call("CreateDBInstanceReadReplica", KmsKeyId=there.key_id, **request)
    assert shown(rds, "r1") == (True, there.arn)
    request = {"DBInstanceIdentifier": "r2", "SourceDBInstanceIdentifier": plain.arn}
    said = rds.refused("CreateDBInstanceReadReplica", KmsKeyId=there.key_id, **request)
    assert said.startswith("InvalidParameterCombination: KmsKeyId can't be specified: plain is not encrypted")
    rds.call("CreateDBInstanceReadReplica", **request)
    assert shown(rds, "r2") == (False, None)


# A key that is lost, and found again


def lose(rds: Rds, name: str = "db1") -> None:
    with rds.store.transaction() as tx:
        instance = tx.get(DBInstance, rds.scope, name)
        assert instance is not None
        if has_lost_key(tx, instance):
            lose_key(tx, rds.clock, instance)


def status(rds: Rds, name: str = "db1") -> str:
    return str(rds.call("DescribeDBInstances", DBInstanceIdentifier=name)["DBInstances"][0]["DBInstanceStatus"])


def lost_jobs(rds: Rds) -> list[str]:
    return [job.program for job in rds.jobs() if job.subject.startswith("db:")]


def test_an_instance_without_its_key_is_recoverable_and_comes_back_by_startdbinstance(
    rds: Rds, fleet: SeenFleet, key: KmsKey
) -> None:
    instance = encrypted(rds, key, BackupRetentionPeriod=1)
    lose(rds)
    assert status(rds) == "available" and lost_jobs(rds) == [], "nothing is lost"
    rds.call("RebootDBInstance", DBInstanceIdentifier="db1")
    set_state(rds.store, key, KeyState.DISABLED)
    lose(rds)
    lost = rds.get(DBInstance, "db1")
    assert status(rds) == "inaccessible-encryption-credentials-recoverable"
    assert lost.target is NodeTarget.STOPPED and lost_jobs(rds) == [LOSE_KEY.name], "the reboot has ended"
    assert volume_key_of(rds.store.view(), rds.collaborators[Vault], lost) is None
    event = rds.events()[-1]
    assert event.source_id == "db1" and key.arn in event.message and "within seven days" in event.message
    start = {"DBInstanceIdentifier": "db1"}
    assert rds.refused("StartDBInstance", **start).startswith(NOT_ACCESSIBLE)
    for operation in ("RebootDBInstance", "StopDBInstance"):
        assert rds.refused(operation, **start).startswith("InvalidDBInstanceStateFault")
    lose(rds)
    assert lost_jobs(rds) == [LOSE_KEY.name], "it is lost once"

    set_state(rds.store, key, KeyState.ENABLED)
    assert status(rds) == "inaccessible-encryption-credentials-recoverable", "until it is started"
    assert volume_key_of(rds.store.view(), rds.collaborators[Vault], lost) is None
    assert rds.call("StartDBInstance", **start)["DBInstance"]["DBInstanceStatus"] == "starting"
    found = rds.get(DBInstance, "db1")
    assert found.target is NodeTarget.RUNNING and found.restart_token > instance.restart_token
    assert lost_jobs(rds) == ["start_db_instance"] and found.key_lost_at is None
    assert volume_key_of(rds.store.view(), rds.collaborators[Vault], found) is not None


def test_after_seven_days_only_a_restore_helps(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    encrypted(rds, key, BackupRetentionPeriod=1)
    set_state(rds.store, key, KeyState.DISABLED)
    lose(rds)
    rds.change_instance(rds.get(DBInstance, "db1"), key_lost_for_good=True)
    set_state(rds.store, key, KeyState.ENABLED)
    assert status(rds) == "inaccessible-encryption-credentials"
    said = rds.refused("StartDBInstance", DBInstanceIdentifier="db1")
    assert said.startswith("InvalidDBInstanceStateFault") and "Restore it from a backup" in said
    rds.call("DeleteDBInstance", DBInstanceIdentifier="db1", SkipFinalSnapshot=True)
    assert status(rds) == "deleting" and lost_jobs(rds) == ["delete_db_instance"]


def test_without_automated_backups_the_word_is_another_and_a_start_helps_all_the_same(
    rds: Rds, fleet: SeenFleet, key: KmsKey
) -> None:
    encrypted(rds, key, BackupRetentionPeriod=0)
    set_state(rds.store, key, KeyState.DISABLED)
    lose(rds)
    assert status(rds) == "inaccessible-encryption-credentials"
    set_state(rds.store, key, KeyState.ENABLED)
    rds.call("StartDBInstance", DBInstanceIdentifier="db1")


def test_what_is_being_made_or_removed_or_not_encrypted_loses_nothing(rds: Rds, fleet: SeenFleet, key: KmsKey) -> None:
    create(rds, "plain", BackupRetentionPeriod=0)
    encrypted(rds, key, BackupRetentionPeriod=0)
    set_state(rds.store, key, KeyState.DISABLED)
    for change in ("creating", "deleting"):
        rds.change_instance(rds.get(DBInstance, "db1"), change=change)
        lose(rds)
    lose(rds, "plain")
    assert lost_jobs(rds) == []
    rds.change_instance(rds.get(DBInstance, "db1"), change="starting")
    lose(rds)
    assert lost_jobs(rds) == [LOSE_KEY.name]
