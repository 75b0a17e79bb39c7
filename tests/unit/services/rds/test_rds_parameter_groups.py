"""DB parameter groups as such."""

from __future__ import annotations

from typing import Any

import pytest

from harness.rds_calls import Rds
from mainstay.model.db_parameter_group import DBParameterGroup
from mainstay.model.errors import ApiError
from mainstay.services.rds.parameter_groups import default_parameter_group


def create(rds: Rds, name: str = "Mine", family: str = "postgres17", **more: Any) -> Any:
    return rds.call(
        "CreateDBParameterGroup", DBParameterGroupName=name, DBParameterGroupFamily=family, Description="d", **more
    )


def test_create_and_describe(rds: Rds) -> None:
    shown = create(rds, Tags=[{"Key": "a", "Value": "b"}])["DBParameterGroup"]
    assert shown == {
        "DBParameterGroupName": "mine",
        "DBParameterGroupFamily": "postgres17",
        "Description": "d",
        "DBParameterGroupArn": "arn:aws:rds:us-east-1:123456789012:pg:mine",
    }
    assert rds.call("DescribeDBParameterGroups") == {"DBParameterGroups": [shown]}
    assert rds.call("DescribeDBParameterGroups", DBParameterGroupName=shown["DBParameterGroupArn"]) == {
        "DBParameterGroups": [shown]
    }


def test_create_refusals(rds: Rds) -> None:
    create(rds)
    request = {"DBParameterGroupName": "mine", "DBParameterGroupFamily": "postgres17", "Description": "d"}
    assert rds.refused("CreateDBParameterGroup", **request) == (
        "DBParameterGroupAlreadyExistsFault: Parameter group mine already exists"
    )
    assert rds.refused("CreateDBParameterGroup", **(request | {"DBParameterGroupFamily": "postgres9"})) == (
        "InvalidParameterValue: ParameterGroupFamily postgres9 is not a valid parameter group family"
    )
    assert rds.refused("CreateDBParameterGroup", **(request | {"DBParameterGroupName": "default.x"})).startswith(
        "InvalidParameterValue: The parameter DBParameterGroupName is not a valid identifier."
    )
    assert rds.refused("DescribeDBParameterGroups", DBParameterGroupName="no") == (
        "DBParameterGroupNotFoundFault: DBParameterGroup not found: no"
    )


def test_quota_leaves_default_groups_out(rds: Rds) -> None:
    rds.run(default_parameter_group, "default.postgres17")
    for number in range(50):
        create(rds, f"g{number}")
    request = {"DBParameterGroupName": "one-more", "DBParameterGroupFamily": "postgres17", "Description": "d"}
    assert rds.refused("CreateDBParameterGroup", **request) == (
        "DBParameterGroupQuotaExceededFault: Cannot create more than 50 DB parameter groups"
    )


def test_default_group_appears_when_named(rds: Rds) -> None:
    assert rds.call("DescribeDBParameterGroups") == {"DBParameterGroups": []}
    (shown,) = rds.call("DescribeDBParameterGroups", DBParameterGroupName="default.postgres17")["DBParameterGroups"]
    assert shown["Description"] == "Default parameter group for postgres17"
    assert rds.call("DescribeDBParameterGroups") == {"DBParameterGroups": [shown]}
    with pytest.raises(ApiError, match=r"DBParameterGroup not found: default\.postgres16"):
        rds.run(default_parameter_group, "default.postgres16")


def test_default_group_is_protected(rds: Rds) -> None:
    assert rds.refused("DeleteDBParameterGroup", DBParameterGroupName="default.postgres17") == (
        "InvalidDBParameterGroupStateFault: Default DBParameterGroup cannot be deleted: default.postgres17"
    )


def test_delete_waits_for_members_attached_or_in_force(rds: Rds) -> None:
    create(rds)
    expected = (
        "InvalidDBParameterGroupStateFault: One or more database instances are still members of this parameter group"
        " mine, so the group cannot be deleted"
    )
    instance = rds.instance(db_parameter_group_name="mine")
    assert rds.refused("DeleteDBParameterGroup", DBParameterGroupName="mine") == expected
    rds.change_instance(instance, db_parameter_group_name="default.postgres17")
    assert rds.refused("DeleteDBParameterGroup", DBParameterGroupName="mine") == expected
    rds.change_instance(
        instance, db_parameter_group_name="default.postgres17", parameter_group_in_force="default.postgres17"
    )
    assert rds.call("DeleteDBParameterGroup", DBParameterGroupName="mine") is None
    assert rds.get(DBParameterGroup, "mine") is None


def test_copy_takes_values_but_no_tags(rds: Rds) -> None:
    create(rds, Tags=[{"Key": "a", "Value": "b"}])
    work_mem = {"ParameterName": "work_mem", "ParameterValue": "64", "ApplyMethod": "immediate"}
    rds.call("ModifyDBParameterGroup", DBParameterGroupName="mine", Parameters=[work_mem])
    rds.call(
        "CopyDBParameterGroup",
        SourceDBParameterGroupIdentifier="arn:aws:rds:us-east-1:123456789012:pg:mine",
        TargetDBParameterGroupIdentifier="Copy",
        TargetDBParameterGroupDescription="copied",
    )
    copy = rds.get(DBParameterGroup, "copy")
    assert copy.value_of("work_mem") == "64"
    assert copy.tags == {}
    assert copy.description == "copied"
    assert rds.refused(
        "CopyDBParameterGroup",
        SourceDBParameterGroupIdentifier="arn:aws:rds:eu-west-1:123456789012:pg:mine",
        TargetDBParameterGroupIdentifier="c2",
        TargetDBParameterGroupDescription="x",
    ).startswith("InvalidParameterValue: The specified resource name does not match an RDS resource in this region")
