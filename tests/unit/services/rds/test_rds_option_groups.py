"""Option groups."""

from __future__ import annotations

from mainstay.model.db_instance import PendingModification
from mainstay.model.option_group import OptionGroup
from mainstay.services.rds.option_groups import default_option_group


def create(rds, name="Mine", engine="postgres", major="17", **more):
    return rds.call("CreateOptionGroup", OptionGroupName=name, EngineName=engine, MajorEngineVersion=major,
                    OptionGroupDescription="d", **more)  # fmt: skip


def refused(rds, name="n", engine="postgres", major="17"):
    return rds.refused("CreateOptionGroup", OptionGroupName=name, EngineName=engine, MajorEngineVersion=major,
                       OptionGroupDescription="d")  # fmt: skip


def test_create_and_describe(rds) -> None:
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


def test_create_refusals_and_quota(rds) -> None:
    for number in range(20):
        create(rds, f"g{number}")
    assert refused(rds, "g1") == "OptionGroupAlreadyExistsFault: An option group named g1 already exists."
    assert refused(rds) == "OptionGroupQuotaExceededFault: Cannot create more than 20 option groups"
    assert refused(rds, engine="db2").startswith("InvalidParameterValue: Invalid DB engine: db2")
    assert refused(rds, major="9").startswith("InvalidParameterCombination: Cannot find major version 9 for postgres")
    assert refused(rds, name="default:x").startswith("InvalidParameterValue: The parameter OptionGroupName is not")


def test_default_group_on_demand(rds) -> None:
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


def test_describe_by_engine_and_version(rds) -> None:
    create(rds, "a")
    create(rds, "b", major="18")

    def names(**more):
        return [one["OptionGroupName"] for one in rds.call("DescribeOptionGroups", **more)["OptionGroupsList"]]

    assert names(EngineName="postgres") == ["a", "b"]
    assert names(EngineName="postgres", MajorEngineVersion="18") == ["b"]
    assert names(EngineName="mysql") == []
    assert rds.refused("DescribeOptionGroups", MajorEngineVersion="18").startswith("InvalidParameterCombination")
    assert rds.refused("DescribeOptionGroups", OptionGroupName="a", EngineName="postgres").startswith(
        "InvalidParameterCombination"
    )


def test_no_option_exists(rds) -> None:
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


def test_delete_only_when_unused(rds) -> None:
    create(rds)
    instance = rds.instance(pending=PendingModification(option_group_name="mine"))
    in_use = "InvalidOptionGroupStateFault: The option group 'mine' cannot be deleted because it is in use."
    assert rds.refused("DeleteOptionGroup", OptionGroupName="mine") == in_use
    rds.change_instance(instance, pending=PendingModification(), option_group_name="mine")
    assert rds.refused("DeleteOptionGroup", OptionGroupName="mine") == in_use
    rds.change_instance(instance, pending=PendingModification())
    assert rds.call("DeleteOptionGroup", OptionGroupName="mine") is None
    assert rds.get(OptionGroup, "mine") is None


def test_copy(rds) -> None:
    create(rds)
    shown = rds.call("CopyOptionGroup", SourceOptionGroupIdentifier="mine", TargetOptionGroupIdentifier="Copy",
                     TargetOptionGroupDescription="x")["OptionGroup"]  # fmt: skip
    assert shown["OptionGroupName"] == "copy"
    assert shown["SourceOptionGroup"] == "arn:aws:rds:us-east-1:123456789012:og:mine"
    assert shown["SourceAccountId"] == "123456789012"
    assert shown["CopyTimestamp"] == rds.clock.wall()
