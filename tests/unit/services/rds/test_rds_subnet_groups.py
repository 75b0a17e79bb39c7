"""DB subnet groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.rds_calls import Rds
from mainstay.model.db_instance import PendingModification
from mainstay.model.db_subnet_group import DBSubnetGroup
from mainstay.model.ec2 import Subnet, Vpc
from mainstay.model.errors import ApiError
from mainstay.services.rds.subnet_groups import default_subnet_group

AB = ["subnet-a", "subnet-b"]


def create(rds: Rds, name: str = "Mine", subnets: Sequence[str] = AB, **more: Any) -> Any:
    return rds.call(
        "CreateDBSubnetGroup", DBSubnetGroupName=name, DBSubnetGroupDescription="d", SubnetIds=subnets, **more
    )


def refused(rds: Rds, name: str = "mine", subnets: Sequence[str] = AB, **more: Any) -> str:
    request = {"DBSubnetGroupName": name, "DBSubnetGroupDescription": "d", "SubnetIds": subnets}
    return rds.refused("CreateDBSubnetGroup", **(request | more))


def test_create_answers_and_stores_in_lower_case(rds: Rds) -> None:
    shown = create(rds, Tags=[{"Key": "k", "Value": "v"}])["DBSubnetGroup"]
    assert shown["DBSubnetGroupName"] == "mine"
    assert shown["DBSubnetGroupArn"] == "arn:aws:rds:us-east-1:123456789012:subgrp:mine"
    assert shown["SubnetGroupStatus"] == "Complete"
    assert shown["VpcId"] == "vpc-1"
    assert [
        (one["SubnetIdentifier"], one["SubnetAvailabilityZone"], one["SubnetStatus"]) for one in shown["Subnets"]
    ] == [
        ("subnet-a", {"Name": "us-east-1a"}, "Active"),
        ("subnet-b", {"Name": "us-east-1b"}, "Active"),
    ]
    assert rds.call("DescribeDBSubnetGroups", DBSubnetGroupName="MINE") == {"DBSubnetGroups": [shown]}
    assert rds.get(DBSubnetGroup, "mine").tags == {"k": "v"}


def test_create_refusals(rds: Rds, group: str) -> None:
    assert refused(rds) == "DBSubnetGroupAlreadyExistsFault: The DB subnet group 'mine' already exists."
    assert refused(rds, "n", ["subnet-a", "subnet-a2"]) == (
        "DBSubnetGroupDoesNotCoverEnoughAZs: The DB subnet group doesn't meet Availability Zone (AZ) coverage"
        " requirement. Current AZ coverage: us-east-1a. Add subnets to cover at least 2 AZs."
    )
    assert refused(rds, "n", ["subnet-a", "subnet-q", "subnet-r"]) == (
        "InvalidSubnet: Some input subnets in :[subnet-q, subnet-r] are invalid."
    )
    assert refused(rds, "n", []) == "InvalidSubnet: Subnet IDs are required."
    assert refused(rds, "n", ["subnet-a", "subnet-y"]).startswith("InvalidSubnet: The subnets belong to several VPCs")
    assert refused(rds, "default").startswith("InvalidParameterValue")
    assert refused(rds, "n", [f"subnet-{number}" for number in range(21)]).startswith("DBSubnetQuotaExceededFault")


def test_group_quota(rds: Rds) -> None:
    for number in range(50):
        create(rds, f"g{number}")
    assert refused(rds, "one-more") == "DBSubnetGroupQuotaExceededFault: Cannot create more than 50 DB subnet groups"


def test_modify_replaces_subnets_but_keeps_used_ones(rds: Rds, group: str) -> None:
    rds.instance()
    request = {"DBSubnetGroupName": "mine", "SubnetIds": ["subnet-a", "subnet-c"], "DBSubnetGroupDescription": "new"}
    shown = rds.call("ModifyDBSubnetGroup", **request)["DBSubnetGroup"]
    assert [one["SubnetIdentifier"] for one in shown["Subnets"]] == ["subnet-a", "subnet-c"]
    assert shown["DBSubnetGroupDescription"] == "new"
    assert rds.refused("ModifyDBSubnetGroup", DBSubnetGroupName="mine", SubnetIds=["subnet-b", "subnet-c"]) == (
        "SubnetAlreadyInUse: Some of the subnets to be deleted are currently in use: subnet-a"
    )
    assert rds.refused("ModifyDBSubnetGroup", DBSubnetGroupName="mine", SubnetIds=["subnet-x", "subnet-y"]) == (
        "InvalidParameterValue: The new Subnets are not in the same Vpc as the existing subnet group"
    )
    assert rds.refused("ModifyDBSubnetGroup", DBSubnetGroupName="no", SubnetIds=AB) == (
        "DBSubnetGroupNotFoundFault: DB subnet group 'no' does not exist."
    )


def test_delete_only_when_unused(rds: Rds, group: str) -> None:
    instance = rds.instance(db_subnet_group_name="other", pending=PendingModification(db_subnet_group_name="mine"))
    assert rds.refused("DeleteDBSubnetGroup", DBSubnetGroupName="mine") == (
        "InvalidDBSubnetGroupStateFault: Cannot delete the subnet group 'mine' because at least one database instance:"
        " db1 is still using it."
    )
    rds.change_instance(instance, pending=PendingModification())
    assert rds.call("DeleteDBSubnetGroup", DBSubnetGroupName="mine") is None
    assert rds.call("DescribeDBSubnetGroups") == {"DBSubnetGroups": []}


def test_default_group_appears_when_needed_and_is_protected(rds: Rds) -> None:
    assert rds.call("DescribeDBSubnetGroups") == {"DBSubnetGroups": []}
    made = rds.run(default_subnet_group)
    assert [subnet.subnet_id for subnet in made.subnets] == ["subnet-a", "subnet-b", "subnet-c"]
    assert rds.run(default_subnet_group) == made
    for operation in ("DeleteDBSubnetGroup", "ModifyDBSubnetGroup"):
        assert rds.refused(operation, DBSubnetGroupName="default", SubnetIds=AB).startswith("InvalidParameterValue")


def test_unused_default_group_follows_a_new_default_vpc(rds: Rds) -> None:
    rds.run(default_subnet_group)
    with rds.store.transaction() as tx:
        tx.delete(rds.get(Vpc, "vpc-1"))
    with pytest.raises(ApiError, match="InvalidSubnet: No default subnet detected in VPC"):
        rds.run(default_subnet_group)
    rds.insert(Vpc(scope=rds.scope, vpc_id="vpc-3", cidr_block="10.0.0.0/16", cidr_association_id="x",
                   dhcp_options_id="d", is_default=True),
               Subnet(scope=rds.scope, subnet_id="subnet-n", vpc_id="vpc-3", cidr_block="10.0.0.0/24",
                      availability_zone="us-east-1a", acl_association_id="acl", default_for_az=True))  # fmt: skip
    assert rds.run(default_subnet_group).vpc_id == "vpc-3"
    rds.instance(db_subnet_group_name="default")
    with rds.store.transaction() as tx:
        tx.delete(rds.get(Vpc, "vpc-3"))
    assert rds.run(default_subnet_group).vpc_id == "vpc-3"


def test_pages_and_filters(rds: Rds) -> None:
    for number in range(25):
        create(rds, f"g{number:02}")
    first = rds.call("DescribeDBSubnetGroups", MaxRecords=20)
    assert len(first["DBSubnetGroups"]) == 20
    rest = rds.call("DescribeDBSubnetGroups", MaxRecords=20, Marker=first["Marker"])
    assert [one["DBSubnetGroupName"] for one in rest["DBSubnetGroups"]] == [f"g{number}" for number in range(20, 25)]
    assert "Marker" not in rest
    assert rds.refused("DescribeDBSubnetGroups", Filters=[{"Name": "vpc", "Values": ["x"]}]) == (
        "InvalidParameterValue: Unrecognized filter name: vpc"
    )


def test_subnets_of_groups_can_be_found_by_index(rds: Rds, group: str) -> None:
    with rds.store.read() as tx:
        assert [one.key() for one in tx.find(DBSubnetGroup, rds.scope, "subnet:subnet-a", "member")] == ["mine"]
        assert tx.find(DBSubnetGroup, rds.scope, "subnet:subnet-c", "member") == []
