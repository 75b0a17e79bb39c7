"""Option groups."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.rds_backups import create as create_instance
from harness.rds_backups import finished, prepare
from harness.rds_calls import Rds
from mainstay.engines.mariadb.rules import MariadbRules
from mainstay.engines.registry import Engines
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance, PendingModification
from mainstay.model.db_snapshot import DBSnapshot
from mainstay.model.option_group import OptionGroup
from mainstay.services.rds.option_groups import default_option_group
from mainstay.workflows.modification import put_into_force
from mainstay.workflows.repositories import Makings, facts_of


def create(rds: Rds, name: str = "Mine", engine: str = "postgres", major: str = "17", **more: Any) -> Any:
    return rds.call("CreateOptionGroup", OptionGroupName=name, EngineName=engine, MajorEngineVersion=major,
                    OptionGroupDescription="d", **more)  # fmt: skip


def refused(rds: Rds, name: str = "n", engine: str = "postgres", major: str = "17") -> str:
    return rds.refused("CreateOptionGroup", OptionGroupName=name, EngineName=engine, MajorEngineVersion=major,
                       OptionGroupDescription="d")  # fmt: skip


def test_create_and_describe(rds: Rds) -> None:
    shown = create(rds)["OptionGroup"]
    assert shown == {
        "OptionGroupName": "mine",
        "OptionGroupDescription": "d",
        "EngineName": "postgres",
        "MajorEngineVersion": "17",
        "Options": [],
        "AllowsVpcAndNonVpcInstanceMemberships": True,
        "OptionGroupArn": "arn:aws:rds:us-east-1:123456789012:og:mine",
    }
    assert rds.call("DescribeOptionGroups", OptionGroupName="mine") == {"OptionGroupsList": [shown]}


def test_create_refusals_and_quota(rds: Rds) -> None:
    for number in range(20):
        create(rds, f"g{number}")
    assert refused(rds, "g1") == "OptionGroupAlreadyExistsFault: An option group named g1 already exists."
    assert refused(rds) == "OptionGroupQuotaExceededFault: Cannot create more than 20 option groups"
    assert refused(rds, engine="db2").startswith("InvalidParameterValue: Invalid DB engine: db2")
    assert refused(rds, major="9").startswith("InvalidParameterCombination: Cannot find major version 9 for postgres")
    assert refused(rds, name="default:x").startswith("InvalidParameterValue: The parameter OptionGroupName is not")


def test_default_group_on_demand(rds: Rds) -> None:
    group = rds.run(default_option_group, "default:postgres-17")
    assert (group.engine_name, group.major_engine_version) == ("postgres", "17")
    arn = "arn:aws:rds:us-east-1:123456789012:og:default:postgres-18"
    (shown,) = rds.call("DescribeOptionGroups", OptionGroupName=arn)["OptionGroupsList"]
    assert shown["OptionGroupArn"] == arn
    assert rds.refused("DescribeOptionGroups", OptionGroupName="default:postgres-9") == (
        "OptionGroupNotFoundFault: Specified OptionGroupName: default:postgres-9 not found."
    )
    for operation in ("DeleteOptionGroup", "ModifyOptionGroup"):
        assert rds.refused(operation, OptionGroupName="default:postgres-17").startswith("InvalidParameterValue")


def test_describe_by_engine_and_version(rds: Rds) -> None:
    create(rds, "a")
    create(rds, "b", major="18")

    def names(**more: Any) -> list[str]:
        return [one["OptionGroupName"] for one in rds.call("DescribeOptionGroups", **more)["OptionGroupsList"]]

    assert names(EngineName="postgres") == ["a", "b"]
    assert names(EngineName="postgres", MajorEngineVersion="18") == ["b"]
    assert names(EngineName="mysql") == []
    assert rds.refused("DescribeOptionGroups", MajorEngineVersion="18").startswith("InvalidParameterCombination")
    assert rds.refused("DescribeOptionGroups", OptionGroupName="a", EngineName="postgres").startswith(
        "InvalidParameterCombination"
    )


AUDIT = "MARIADB_AUDIT_PLUGIN"


@pytest.fixture
def mariadb(rds: Rds) -> Rds:
    """With MariaDB 11.8 beside PostgreSQL, and the option group "mine" of it."""
    before = rds.collaborators[Engines]
    build = msgspec.structs.replace(rds.builds.present[0], engine="mariadb", version="11.8.9", major="11.8")
    rds.builds.present.append(build)
    rules = {"postgres": before.rules("postgres"), "mariadb": MariadbRules(lambda _build: {})}
    rds.collaborators[Engines] = Engines(before.builds, rules)
    create(rds, engine="mariadb", major="11.8")
    return rds


def include(name: str = AUDIT, apply: bool = True, **settings: str) -> dict[str, Any]:
    option = {"OptionName": name, "OptionSettings": [{"Name": one, "Value": value} for one, value in settings.items()]}
    return {"OptionGroupName": "mine", "OptionsToInclude": [option], "ApplyImmediately": apply}


def settings_of(shown: dict[str, Any]) -> dict[str, Any]:
    [option] = shown["OptionGroup"]["Options"]
    assert option["OptionName"] == AUDIT
    return {setting["Name"]: setting.get("Value") for setting in option["OptionSettings"]}


def test_an_option_is_offered_added_changed_and_removed(mariadb: Rds) -> None:
    rds = mariadb
    [offered] = rds.call("DescribeOptionGroupOptions", EngineName="mariadb")["OptionGroupOptions"]
    assert (offered["Name"], offered["MajorEngineVersion"]) == (AUDIT, "11.8")
    shown = settings_of(rds.call("ModifyOptionGroup", **include(SERVER_AUDIT_EVENTS="CONNECT,QUERY_DDL")))
    assert shown["SERVER_AUDIT_EVENTS"] == "CONNECT,QUERY_DDL" and shown["SERVER_AUDIT_FILE_ROTATIONS"] == "9"
    assert {setting["SettingName"] for setting in offered["OptionGroupOptionSettings"]} == set(shown)
    shown = settings_of(rds.call("ModifyOptionGroup", **include(SERVER_AUDIT_EXCL_USERS="batch")))
    assert shown["SERVER_AUDIT_EVENTS"] == "CONNECT,QUERY_DDL" and shown["SERVER_AUDIT_EXCL_USERS"] == "batch"
    [described] = rds.call("DescribeOptionGroups", OptionGroupName="mine")["OptionGroupsList"]
    assert settings_of({"OptionGroup": described}) == shown
    copied = rds.call("CopyOptionGroup", SourceOptionGroupIdentifier="mine", TargetOptionGroupIdentifier="copy",
                      TargetOptionGroupDescription="x")  # fmt: skip
    assert settings_of(copied) == shown
    gone = rds.call("ModifyOptionGroup", OptionGroupName="mine", OptionsToRemove=[AUDIT])
    assert gone["OptionGroup"]["Options"] == []


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("MEMCACHED", {}, "Unknown option: MEMCACHED"),
        (AUDIT, {"SERVER_AUDIT_TEA": "1"}, "Unknown setting of the option MARIADB_AUDIT_PLUGIN: SERVER_AUDIT_TEA"),
        (AUDIT, {"SERVER_AUDIT_FILE_ROTATIONS": "101"}, "Invalid parameter value: 101 for"),
        (AUDIT, {"SERVER_AUDIT_EVENTS": "CONNECT,DINNER"}, "Invalid parameter value: CONNECT,DINNER for"),
        (AUDIT, {"SERVER_AUDIT_LOGGING": "OFF"}, "Invalid parameter value: OFF for"),
        (AUDIT, {"SERVER_AUDIT_FILE_PATH": "/etc/"}, "Invalid parameter value: /etc/ for"),
        (AUDIT, {"SERVER_AUDIT_INCL_USERS": "{EndPointPort}"}, "The setting SERVER_AUDIT_INCL_USERS takes no formula"),
        (AUDIT, {"SERVER_AUDIT_INCL_USERS": "a\nb"}, "The value of parameter SERVER_AUDIT_INCL_USERS contains"),
    ],
)
def test_what_no_option_and_no_setting_can_be(mariadb: Rds, name: str, settings: dict[str, Any], said: str) -> None:
    refusal = mariadb.refused("ModifyOptionGroup", **include(name, **settings))
    assert refusal.startswith(f"InvalidParameterValue: {said}")
    assert mariadb.get(OptionGroup, "mine").options == {}


def test_an_option_takes_no_port_and_one_that_is_not_there_cannot_be_removed(mariadb: Rds) -> None:
    wanted = include()
    wanted["OptionsToInclude"][0]["Port"] = 3306
    assert "takes no Port" in mariadb.refused("ModifyOptionGroup", **wanted)
    gone = mariadb.refused("ModifyOptionGroup", OptionGroupName="mine", OptionsToRemove=[AUDIT])
    assert gone == "InvalidParameterValue: The option group mine has no option MARIADB_AUDIT_PLUGIN."


def test_instances_of_the_group_follow_at_once(mariadb: Rds) -> None:
    rds = mariadb
    rds.instance(engine="mariadb", engine_version="11.8.9", option_group_name="mine")
    rds.instance("db2", engine="mariadb", engine_version="11.8.9", option_group_name="default:mariadb-11-8")
    assert rds.refused("ModifyOptionGroup", **include(apply=False)).startswith("InvalidParameterCombination")
    assert rds.jobs() == []
    rds.call("ModifyOptionGroup", **include())
    assert [(job.program, job.subject) for job in rds.jobs()] == [("refresh_db_instance", "db:db-DB1")]


def test_no_option_exists(rds: Rds) -> None:
    create(rds)
    assert rds.call("DescribeOptionGroupOptions", EngineName="postgres", MajorEngineVersion="17") == {
        "OptionGroupOptions": []
    }
    assert rds.refused("DescribeOptionGroupOptions", EngineName="db2").startswith("InvalidParameterValue")
    include = [{"OptionName": "MARIADB_AUDIT_PLUGIN"}]
    assert rds.refused("ModifyOptionGroup", OptionGroupName="mine", OptionsToInclude=include) == (
        "InvalidParameterValue: Unknown option: MARIADB_AUDIT_PLUGIN"
    )
    assert rds.refused("ModifyOptionGroup", OptionGroupName="mine") == (
        "InvalidParameterValue: At least one option must be added, modified, or removed."
    )


IN_USE = "InvalidOptionGroupStateFault: The option group 'mine' cannot be deleted because it is in use."


def test_delete_only_when_unused(rds: Rds) -> None:
    create(rds)
    instance = rds.instance(pending=PendingModification(option_group_name="mine"))
    in_use = f"{IN_USE} It is associated with the DB instance db1."
    assert rds.refused("DeleteOptionGroup", OptionGroupName="mine") == in_use
    rds.change_instance(instance, pending=PendingModification(), option_group_name="mine")
    assert rds.refused("DeleteOptionGroup", OptionGroupName="mine") == in_use
    rds.change_instance(instance, pending=PendingModification())
    assert rds.call("DeleteOptionGroup", OptionGroupName="mine") is None
    assert rds.get(OptionGroup, "mine") is None


@pytest.mark.parametrize("kind", ["manual", "automated"])
def test_delete_only_when_no_snapshot_remembers_it(rds: Rds, kind: str) -> None:
    """RDS user guide, "Deleting an option group": of a DB instance, a manual or an automated DB snapshot."""
    create(rds)
    facts = msgspec.structs.replace(facts_of(rds.instance()), option_group_name="mine")
    snapshot = DBSnapshot(scope=rds.scope, db_snapshot_identifier="last", snapshot_type=kind, facts=facts,
                          repository_id="r", backup_id="b", requested_at=1.0)  # fmt: skip
    rds.insert(snapshot)
    assert rds.refused("DeleteOptionGroup", OptionGroupName="mine") == (
        f"{IN_USE} It is associated with the {kind} DB snapshot last."
    )
    with rds.store.transaction() as tx:
        tx.delete(snapshot)
    assert rds.call("DeleteOptionGroup", OptionGroupName="mine") is None


def test_a_group_that_waits_for_the_maintenance_window_is_shown(rds: Rds, group: str) -> None:
    prepare(rds)
    create(rds)
    create_instance(rds)

    def shown(**changes: Any) -> tuple[list[tuple[str, str]], dict[str, Any]]:
        instance = rds.call("ModifyDBInstance", DBInstanceIdentifier="db1", **changes)["DBInstance"]
        [described] = rds.call("DescribeDBInstances", DBInstanceIdentifier="db1")["DBInstances"]
        assert described["OptionGroupMemberships"] == instance["OptionGroupMemberships"]
        memberships = [(one["OptionGroupName"], one["Status"]) for one in instance["OptionGroupMemberships"]]
        return memberships, instance["PendingModifiedValues"]

    default = "default:postgres-17"
    waiting = [(default, "pending-maintenance-removal"), ("mine", "pending-maintenance-apply")]
    assert shown(OptionGroupName="mine") == (waiting, {})
    assert rds.get(DBInstance, "db1").change == ""
    assert shown(OptionGroupName=default) == ([(default, "in-sync")], {}), "taken back"
    assert shown(OptionGroupName="mine") == (waiting, {})
    # Its window begins: the workflow puts it into force.
    makings = Makings(rds.collaborators[Vault], rds.randomness, rds.clock.wall())
    with rds.store.transaction() as tx:
        put_into_force(tx, rds.clock, makings, rds.get(DBInstance, "db1"), rds.get(DBInstance, "db1"))
    [present] = rds.call("DescribeDBInstances", DBInstanceIdentifier="db1")["DBInstances"]
    assert present["OptionGroupMemberships"] == [{"OptionGroupName": "mine", "Status": "applying"}]
    finished(rds, "db1")
    [present] = rds.call("DescribeDBInstances", DBInstanceIdentifier="db1")["DBInstances"]
    assert present["OptionGroupMemberships"] == [{"OptionGroupName": "mine", "Status": "in-sync"}]
    assert shown(OptionGroupName=default, ApplyImmediately=True) == ([(default, "applying")], {})


def test_copy(rds: Rds) -> None:
    create(rds)
    shown = rds.call("CopyOptionGroup", SourceOptionGroupIdentifier="mine", TargetOptionGroupIdentifier="Copy",
                     TargetOptionGroupDescription="x")["OptionGroup"]  # fmt: skip
    assert shown["OptionGroupName"] == "copy"
    assert shown["SourceOptionGroup"] == "arn:aws:rds:us-east-1:123456789012:og:mine"
    assert shown["SourceAccountId"] == "123456789012"
    assert shown["CopyTimestamp"] == rds.clock.wall()
