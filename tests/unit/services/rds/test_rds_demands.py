"""What RDS calls must be allowed to do."""

from __future__ import annotations

from harness.rds_calls import Rds
from mainstay.services.operations import Demand

PREFIX = "arn:aws:rds:us-east-1:123456789012:"


def test_a_named_resource_with_its_tags(rds: Rds, group: str) -> None:
    rds.call("AddTagsToResource", ResourceName=PREFIX + "subgrp:mine", Tags=[{"Key": "team", "Value": "red"}])
    tags: dict[str, str | list[str]] = {"aws:ResourceTag/team": "red", "rds:subgrp-tag/team": "red"}
    for named in ("Mine", PREFIX + "subgrp:mine"):
        assert rds.demands("DeleteDBSubnetGroup", DBSubnetGroupName=named) == [
            Demand(action="rds:DeleteDBSubnetGroup", resource=PREFIX + "subgrp:mine", context=tags)
        ]
    assert rds.demands("DescribeDBSubnetGroups") == [
        Demand(action="rds:DescribeDBSubnetGroups", resource=PREFIX + "subgrp:*")
    ]


def test_an_arn_of_elsewhere_lends_no_tags(rds: Rds, group: str) -> None:
    rds.call("AddTagsToResource", ResourceName=PREFIX + "subgrp:mine", Tags=[{"Key": "team", "Value": "red"}])
    foreign = "arn:aws:rds:eu-west-1:123456789012:subgrp:mine"
    assert rds.demands("DeleteDBSubnetGroup", DBSubnetGroupName=foreign) == [
        Demand(action="rds:DeleteDBSubnetGroup", resource=foreign)
    ]


def test_creation_with_tags_demands_tagging_too(rds: Rds) -> None:
    request = {"DBParameterGroupName": "New", "Tags": [{"Key": "team", "Value": "red"}]}
    context: dict[str, str | list[str]] = {
        "aws:TagKeys": ["team"],
        "aws:RequestTag/team": "red",
        "rds:req-tag/team": "red",
    }
    assert rds.demands("CreateDBParameterGroup", **request) == [
        Demand(action="rds:CreateDBParameterGroup", resource=PREFIX + "pg:new", context=context),
        Demand(action="rds:AddTagsToResource", resource=PREFIX + "pg:new", context=context),
    ]
    del request["Tags"]
    assert rds.demands("CreateDBParameterGroup", **request) == [
        Demand(action="rds:CreateDBParameterGroup", resource=PREFIX + "pg:new")
    ]


def test_the_request_wins_over_the_instance(rds: Rds) -> None:
    rds.instance(tags={"team": "red"}, db_name="shop")
    (demand,) = rds.demands("ModifyDBInstance", DBInstanceIdentifier="DB1", AllocatedStorage=500)
    assert demand.resource == PREFIX + "db:db1"
    assert demand.context == {
        "aws:ResourceTag/team": "red",
        "rds:db-tag/team": "red",
        "rds:DatabaseEngine": "postgres",
        "rds:DatabaseClass": "db.t3.micro",
        "rds:DatabaseName": "shop",
        "rds:StorageSize": "500",
        "rds:PubliclyAccessible": "false",
    }


def test_optional_targets_only_when_named(rds: Rds) -> None:
    request = {"DBInstanceIdentifier": "x", "Engine": "postgres", "OptionGroupName": "og1", "MultiAZ": True}
    demands = rds.demands("CreateDBInstance", **request)
    assert [demand.resource for demand in demands] == [PREFIX + "db:x", PREFIX + "og:og1"]
    assert demands[0].context == {"rds:DatabaseEngine": "postgres", "rds:MultiAz": "true"}


def test_tag_operations_are_about_the_arn(rds: Rds) -> None:
    arn = PREFIX + "og:default:postgres-17"
    assert rds.demands("RemoveTagsFromResource", ResourceName=arn, TagKeys=["a"]) == [
        Demand(action="rds:RemoveTagsFromResource", resource=arn, context={"aws:TagKeys": ["a"]})
    ]


def test_operations_without_a_resource(rds: Rds) -> None:
    assert rds.demands("DescribeEvents") == [Demand(action="rds:DescribeEvents")]
