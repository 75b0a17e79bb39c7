"""MariaDB at the API: a major version has two parts, and what is not there is refused in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import SeenFleet, create, facts, finished
from harness.rds_calls import DEFINITIONS, Rds
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.registry import Engines
from mainstay.model.db_snapshot import AVAILABLE, DBSnapshot
from mainstay.model.records import Scope

ARN = "arn:aws:rds:us-east-1:123456789012:snapshot:one"


@pytest.fixture
def mariadb(rds: Rds, fleet: SeenFleet) -> Rds:
    """With MariaDB 10.11.9, 11.8.8 and 11.8.9 too, an instance "db1" of 11.8.8 and a snapshot "one" of it."""
    before = rds.collaborators[Engines]
    for version, major in (("10.11.9", "10.11"), ("11.8.8", "11.8"), ("11.8.9", "11.8")):
        of_postgresql = rds.builds.present[0]
        build = msgspec.structs.replace(
            of_postgresql, engine="mariadb", version=version, major=major, family=f"mariadb{major}"
        )
        rds.builds.present.append(build)
    rules = {"postgres": before.rules("postgres"), "mariadb": MariadbRules(lambda _build: DEFINITIONS)}
    rds.collaborators[Engines] = Engines(before.builds, rules)
    create(rds, Engine="mariadb", EngineVersion="11.8.8", BackupRetentionPeriod=0)
    rds.call("CreateDBSnapshot", DBInstanceIdentifier="db1", DBSnapshotIdentifier="one")
    finished(rds, "db1")
    with rds.store.transaction() as tx:
        row = tx.get(DBSnapshot, rds.scope, "one")
        assert row
        tx.put(msgspec.structs.replace(row, status=AVAILABLE, backup=facts("one", 1000.0)))
    return rds


def changed(rds: Rds, **members: Any) -> str:
    """What ModifyDBInstance says of the version from now on, or why it refuses."""
    request = {"DBInstanceIdentifier": "db1", "ApplyImmediately": True, **members}
    try:
        shown = rds.call("ModifyDBInstance", **request)["DBInstance"]
    except Exception as refused:
        return str(refused)
    return str(shown["PendingModifiedValues"].get("EngineVersion", shown["EngineVersion"]))


def test_an_instance_goes_up_within_its_major_version_only(mariadb: Rds) -> None:
    for allowed in ({}, {"AllowMajorVersionUpgrade": True}):
        said = changed(mariadb, EngineVersion="10.11.9", **allowed)
        assert "Cannot upgrade mariadb from 11.8.8 to 10.11.9: a version cannot be taken back." in said
        assert "load a dump" in said
    assert "Cannot find version 17.5 for mariadb" in changed(mariadb, EngineVersion="17.5")
    assert changed(mariadb, EngineVersion="11.8.9") == "11.8.9"


def test_an_instance_of_an_old_major_version_is_told_another_way(mariadb: Rds) -> None:
    mariadb.change_instance(mariadb.instance("old", engine="mariadb", engine_version="10.11.9"))
    said = mariadb.refused("ModifyDBInstance", DBInstanceIdentifier="old", EngineVersion="11.8",
                           AllowMajorVersionUpgrade=True)  # fmt: skip
    assert "Cannot upgrade mariadb from 10.11.9 to 11.8.9: major version upgrades are not available" in said
    assert "Create a DB instance of version 11.8.9 and load a dump" in said


def test_an_instance_keeps_its_engine(mariadb: Rds) -> None:
    assert "Cannot change the engine of db1 from mariadb to mysql" in changed(mariadb, Engine="mysql")
    assert changed(mariadb, Engine="mariadb") == "11.8.8"


def test_a_snapshot_of_a_major_version_with_two_parts_is_upgraded(mariadb: Rds) -> None:
    shown = mariadb.call("ModifyDBSnapshot", DBSnapshotIdentifier="one", EngineVersion="11.8.9")["DBSnapshot"]
    assert shown["EngineVersion"] == "11.8.9"
    said = mariadb.refused("ModifyDBSnapshot", DBSnapshotIdentifier="one", EngineVersion="10.11")
    assert "from 11.8.9 to 10.11.9: a version cannot be taken back" in said


def test_a_copy_has_option_groups_of_its_major_version(mariadb: Rds) -> None:
    mariadb.call("CreateOptionGroup", OptionGroupName="mine", EngineName="mariadb", MajorEngineVersion="11.8",
                 OptionGroupDescription="d")  # fmt: skip
    copied = {"SourceDBSnapshotIdentifier": "one", "TargetDBSnapshotIdentifier": "two", "OptionGroupName": "mine"}
    assert mariadb.call("CopyDBSnapshot", **copied)["DBSnapshot"]["OptionGroupName"] == "mine"
    mariadb.scope = Scope(mariadb.scope.account_id, "eu-west-1")
    elsewhere = {"SourceDBSnapshotIdentifier": ARN, "TargetDBSnapshotIdentifier": "three"}
    assert mariadb.call("CopyDBSnapshot", **elsewhere)["DBSnapshot"]["OptionGroupName"] == "default:mariadb-11-8"


@pytest.mark.parametrize(
    "members",
    [
        {"CloudwatchLogsExportConfiguration": {"EnableLogTypes": ["error"]}},
        {"AutomationMode": "all-paused"},
        {"AwsBackupRecoveryPointArn": "arn:aws:backup:us-east-1:123456789012:recovery-point:x"},
        {"TagSpecifications": [{"ResourceType": "auto-backup", "Tags": [{"Key": "a", "Value": "b"}]}]},
    ],
    ids=lambda members: next(iter(members)),
)
def test_what_is_not_there_is_not_passed_over_in_silence(mariadb: Rds, members: dict[str, Any]) -> None:
    said = changed(mariadb, **members)
    assert "not available in this version of Mainstay" in said and next(iter(members)) in said


def test_no_more_log_exports_are_taken(mariadb: Rds) -> None:
    assert changed(mariadb, CloudwatchLogsExportConfiguration={"DisableLogTypes": ["error"]}) == "11.8.8"


@pytest.mark.parametrize(("engine", "days"), [("mariadb", 1), ("mariadb", 0), ("postgres", 1)])
def test_a_snapshot_of_a_replica_that_could_only_fail_is_refused(mariadb: Rds, engine: str, days: int) -> None:
    """Its log is its source's: what its own automated backups begin with is not there before it is promoted."""
    version = {"mariadb": "11.8.8", "postgres": "17.5"}[engine]
    replica = create(mariadb, "replica", Engine=engine, EngineVersion=version, BackupRetentionPeriod=days)
    mariadb.change_instance(replica, source_dbi_resource_id="db-SOURCE")
    wanted = {"DBInstanceIdentifier": "replica", "DBSnapshotIdentifier": "of-replica"}
    if (engine, days) == ("mariadb", 1):
        said = mariadb.refused("CreateDBSnapshot", **wanted)
        assert said.startswith("InvalidDBInstanceStateFault: Cannot create a snapshot of replica")
        assert "Make a snapshot of its source, or turn them off first (BackupRetentionPeriod 0)" in said
    else:
        assert mariadb.call("CreateDBSnapshot", **wanted)["DBSnapshot"]["Status"] == "creating"
