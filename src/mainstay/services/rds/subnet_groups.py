"""DB subnet groups: CreateDBSubnetGroup, ModifyDBSubnetGroup, DeleteDBSubnetGroup, DescribeDBSubnetGroups.

Source: RDS API reference; RDS user guide, "Working with a DB instance in a VPC".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mainstay.decide.identifiers import check_description, check_subnet_group_name
from mainstay.decide.rds_tags import with_tags
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_subnet_group import DEFAULT_SUBNET_GROUP, DBSubnetGroup, GroupedSubnet
from mainstay.model.ec2 import Subnet, Vpc
from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.records import Scope
from mainstay.services.operations import Call, Request, Result
from mainstay.services.rds.demands import creates, on
from mainstay.services.rds.filters import NO_FILTERS, select
from mainstay.services.rds.paging import page
from mainstay.services.rds.quotas import DB_SUBNET_GROUPS, SUBNETS_PER_DB_SUBNET_GROUP, require_room
from mainstay.services.rds.resources import require
from mainstay.services.rds.table import handles
from mainstay.store import Reader

LEAST_ZONES = 2


def require_subnet_group(reader: Reader, scope: Scope, named: str) -> DBSubnetGroup:
    """The group of this name or ARN. Raises `ApiError` DBSubnetGroupNotFoundFault."""
    return require(reader, scope, DBSubnetGroup, named)


def default_subnet_group(call: Call) -> DBSubnetGroup:
    """The group `default`: the default subnets of the default VPC. Made when it is first needed.

    A group that no instance uses follows the default VPC when that was replaced. Raises `ApiError` InvalidSubnet
    without a default VPC.
    """
    present = call.tx.get(DBSubnetGroup, call.scope, DEFAULT_SUBNET_GROUP)
    if present is not None and _members(call, present):
        return present
    vpcs = call.tx.find(Vpc, call.scope, "is-default", "true")
    subnets = call.tx.find(Subnet, call.scope, "vpc-id", vpcs[0].vpc_id) if vpcs else []
    chosen = [subnet for subnet in subnets if subnet.default_for_az]
    if not chosen:
        raise ApiError(
            "InvalidSubnet",
            "No default subnet detected in VPC. Create a default VPC (aws ec2 create-default-vpc) or name a DB subnet"
            " group.",
        )
    wanted = DBSubnetGroup(
        scope=call.scope,
        db_subnet_group_name=DEFAULT_SUBNET_GROUP,
        description=DEFAULT_SUBNET_GROUP,
        vpc_id=vpcs[0].vpc_id,
        subnets=_grouped(chosen),
        tags={} if present is None else present.tags,
    )
    if present is None:
        call.tx.insert(wanted)
    elif present != wanted:
        call.tx.put(wanted)
    return wanted


def show_subnet_group(group: DBSubnetGroup) -> dict[str, Any]:
    """The group as every answer shows it."""
    return {
        "DBSubnetGroupName": group.db_subnet_group_name,
        "DBSubnetGroupDescription": group.description,
        "VpcId": group.vpc_id,
        "SubnetGroupStatus": "Complete",
        "Subnets": [
            {
                "SubnetIdentifier": subnet.subnet_id,
                "SubnetAvailabilityZone": {"Name": subnet.availability_zone},
                "SubnetOutpost": {},
                "SubnetStatus": "Active",
            }
            for subnet in group.subnets
        ],
        "DBSubnetGroupArn": group.arn,
        "SupportedNetworkTypes": ["IPV4"],
    }


@handles("CreateDBSubnetGroup", creates("subgrp", "DBSubnetGroupName"))
def create_db_subnet_group(call: Call, request: Request) -> Result:
    """Records a group of subnets of one VPC."""
    name = check_subnet_group_name(request["DBSubnetGroupName"])
    description = check_description(request["DBSubnetGroupDescription"], "DBSubnetGroupDescription")
    if call.tx.get(DBSubnetGroup, call.scope, name) is not None:
        raise ApiError("DBSubnetGroupAlreadyExistsFault", f"The DB subnet group '{name}' already exists.")
    require_room(
        call.tx.count(DBSubnetGroup, call.scope),
        DB_SUBNET_GROUPS,
        "DBSubnetGroupQuotaExceededFault",
        "DB subnet groups",
    )
    subnets = _subnets(call, request["SubnetIds"])
    group = DBSubnetGroup(
        scope=call.scope,
        db_subnet_group_name=name,
        description=description,
        vpc_id=_one_vpc(subnets),
        subnets=_grouped(subnets),
        tags=with_tags({}, request.get("Tags") or ()),
    )
    _check_coverage(group)
    call.tx.insert(group)
    return {"DBSubnetGroup": show_subnet_group(group)}


@handles("ModifyDBSubnetGroup", on("subgrp", "DBSubnetGroupName"))
def modify_db_subnet_group(call: Call, request: Request) -> Result:
    """Replaces the group's subnets, all of the same VPC; those that an instance uses must stay."""
    group = require_subnet_group(call.tx, call.scope, request["DBSubnetGroupName"])
    _refuse_default(group)
    subnets = _subnets(call, request["SubnetIds"])
    if any(subnet.vpc_id != group.vpc_id for subnet in subnets):
        raise invalid_value("The new Subnets are not in the same Vpc as the existing subnet group")
    description = request.get("DBSubnetGroupDescription")
    changed = msgspec.structs.replace(
        group,
        subnets=_grouped(subnets),
        description=(
            group.description if description is None else check_description(description, "DBSubnetGroupDescription")
        ),
    )
    _check_coverage(changed)
    kept = {subnet.subnet_id for subnet in changed.subnets}
    if used := sorted({instance.subnet_id for instance in _members(call, group)} - kept):
        raise ApiError(
            "SubnetAlreadyInUse", f"Some of the subnets to be deleted are currently in use: {', '.join(used)}"
        )
    call.tx.put(changed)
    return {"DBSubnetGroup": show_subnet_group(changed)}


@handles("DeleteDBSubnetGroup", on("subgrp", "DBSubnetGroupName"))
def delete_db_subnet_group(call: Call, request: Request) -> Result:
    """Forgets a group that no instance uses or is about to use."""
    group = require_subnet_group(call.tx, call.scope, request["DBSubnetGroupName"])
    _refuse_default(group)
    if members := _members(call, group):
        raise ApiError(
            "InvalidDBSubnetGroupStateFault",
            f"Cannot delete the subnet group '{group.db_subnet_group_name}' because at least one database instance:"
            f" {members[0].db_instance_identifier} is still using it.",
        )
    call.tx.delete(group)
    return None


@handles("DescribeDBSubnetGroups", on("subgrp", "DBSubnetGroupName"))
def describe_db_subnet_groups(call: Call, request: Request) -> Result:
    """One group, or all of them a page at a time."""
    named = request.get("DBSubnetGroupName")
    groups = [require_subnet_group(call.tx, call.scope, named)] if named else call.tx.scan(DBSubnetGroup, call.scope)
    shown, more = page(select(groups, request, NO_FILTERS), lambda group: group.db_subnet_group_name, request)
    return {"DBSubnetGroups": [show_subnet_group(group) for group in shown]} | more


def _members(call: Call, group: DBSubnetGroup) -> list[DBInstance]:
    """Instances in the group, and those that will move to it in their maintenance window."""
    name = group.db_subnet_group_name
    return [
        instance
        for instance in call.tx.scan(DBInstance, call.scope)
        if name in (instance.db_subnet_group_name, instance.pending.db_subnet_group_name)
    ]


def _subnets(call: Call, ids: Sequence[str]) -> list[Subnet]:
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        raise ApiError("InvalidSubnet", "Subnet IDs are required.")
    if len(wanted) > SUBNETS_PER_DB_SUBNET_GROUP:
        raise ApiError(
            "DBSubnetQuotaExceededFault",
            f"A DB subnet group can have at most {SUBNETS_PER_DB_SUBNET_GROUP} subnets.",
        )
    found = [call.tx.get(Subnet, call.scope, subnet_id) for subnet_id in wanted]
    if missing := [subnet_id for subnet_id, subnet in zip(wanted, found, strict=True) if subnet is None]:
        raise ApiError("InvalidSubnet", f"Some input subnets in :[{', '.join(missing)}] are invalid.")
    return [subnet for subnet in found if subnet is not None]


def _one_vpc(subnets: Sequence[Subnet]) -> str:
    vpc_ids = sorted({subnet.vpc_id for subnet in subnets})
    if len(vpc_ids) > 1:
        raise ApiError("InvalidSubnet", f"The subnets belong to several VPCs: {', '.join(vpc_ids)}. Use one VPC.")
    return vpc_ids[0]


def _grouped(subnets: Sequence[Subnet]) -> tuple[GroupedSubnet, ...]:
    return tuple(sorted(GroupedSubnet(subnet.subnet_id, subnet.availability_zone) for subnet in subnets))


def _check_coverage(group: DBSubnetGroup) -> None:
    zones = sorted({subnet.availability_zone for subnet in group.subnets})
    if len(zones) < LEAST_ZONES:
        raise ApiError(
            "DBSubnetGroupDoesNotCoverEnoughAZs",
            "The DB subnet group doesn't meet Availability Zone (AZ) coverage requirement. Current AZ coverage:"
            f" {', '.join(zones)}. Add subnets to cover at least {LEAST_ZONES} AZs.",
        )


def _refuse_default(group: DBSubnetGroup) -> None:
    if group.db_subnet_group_name == DEFAULT_SUBNET_GROUP:
        raise invalid_value("The default DB subnet group can be neither modified nor deleted.")
