"""Security groups: what guards a database's endpoint. Their rules are in `rules.py`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from mainstay.model.ec2 import Permission, SecurityGroup, SecurityGroupRule, Vpc
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.ec2.assembly import DEFAULT_GROUP, add_rule, allow_all, default_vpc
from mainstay.services.ec2.interfaces import members_of
from mainstay.services.ec2.limits import SECURITY_GROUPS, require_room
from mainstay.services.ec2.listing import Column, Listing, never, tag_list
from mainstay.services.ec2.permissions import (
    ICMP,
    WITH_PORTS,
    checked_group_description,
    group_by_name,
    named_group,
    show_permissions,
)
from mainstay.services.ec2.resources import arn_of, chosen, missing, new_id, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result

_NAME = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}")


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """A group with its rules and the names of the groups they refer to."""

    group: SecurityGroup
    ingress: tuple[Permission, ...]
    egress: tuple[Permission, ...]
    names: dict[str, str]


def _show(view: GroupView) -> dict[str, Any]:
    group = view.group
    return {
        "GroupId": group.group_id,
        "GroupName": group.name,
        "Description": group.description,
        "VpcId": group.vpc_id,
        "OwnerId": group.scope.account_id,
        "SecurityGroupArn": arn_of(group),
        "IpPermissions": show_permissions(view.ingress, group.scope.account_id),
        "IpPermissionsEgress": show_permissions(view.egress, group.scope.account_id),
        "Tags": tag_list(group.tags),
    }


def _ports(permissions: Iterable[Permission], field: str) -> list[str]:
    return [str(getattr(one, field)) for one in permissions if one.protocol in (*WITH_PORTS, *ICMP)]


def _permission_columns(prefix: str, field: str) -> dict[str, Column[GroupView]]:
    """The filters on a group's rules in one direction; `field` is the view's field that holds them."""

    def rules(view: GroupView) -> tuple[Permission, ...]:
        found: tuple[Permission, ...] = getattr(view, field)
        return found

    return {
        f"{prefix}.cidr": lambda view: [one.cidr_ipv4 for one in rules(view) if one.cidr_ipv4],
        f"{prefix}.ipv6-cidr": lambda view: [one.cidr_ipv6 for one in rules(view) if one.cidr_ipv6],
        f"{prefix}.from-port": lambda view: _ports(rules(view), "from_port"),
        f"{prefix}.to-port": lambda view: _ports(rules(view), "to_port"),
        f"{prefix}.protocol": lambda view: [one.protocol for one in rules(view)],
        f"{prefix}.group-id": lambda view: [one.group_id for one in rules(view) if one.group_id],
        f"{prefix}.group-name": lambda view: [
            view.names[one.group_id] for one in rules(view) if one.group_id in view.names
        ],
        f"{prefix}.user-id": lambda view: [view.group.scope.account_id for one in rules(view) if one.group_id],
        f"{prefix}.prefix-list-id": never,
    }


_listing = Listing[GroupView](
    member="SecurityGroups",
    key=lambda view: view.group.group_id,
    columns={
        "group-id": lambda view: (view.group.group_id,),
        "group-name": lambda view: (view.group.name,),
        "description": lambda view: (view.group.description,),
        "vpc-id": lambda view: (view.group.vpc_id,),
        "owner-id": lambda view: (view.group.scope.account_id,),
        **_permission_columns("ip-permission", "ingress"),
        **_permission_columns("egress.ip-permission", "egress"),
    },
    show=_show,
    tags=lambda view: view.group.tags,
)


def _views(call: Call, groups: list[SecurityGroup]) -> list[GroupView]:
    ingress: dict[str, list[Permission]] = defaultdict(list)
    egress: dict[str, list[Permission]] = defaultdict(list)
    for rule in call.tx.scan(SecurityGroupRule, call.scope):
        (egress if rule.is_egress else ingress)[rule.group_id].append(rule.permission)
    names = {group.group_id: group.name for group in call.tx.scan(SecurityGroup, call.scope)}
    return [
        GroupView(
            group=group, ingress=tuple(ingress[group.group_id]), egress=tuple(egress[group.group_id]), names=names
        )
        for group in groups
    ]


@handles("CreateSecurityGroup", "GroupName", "Description", "VpcId", "TagSpecifications", creates=SecurityGroup)
def create_security_group(call: Call, request: Request) -> Result:
    """Makes a group that allows everything out and nothing in."""
    name = _checked_name(str(request.get("GroupName") or ""))
    if not request.get("Description"):
        raise missing("groupDescription")
    description = checked_group_description(str(request["Description"]))
    vpc = _vpc(call, request)
    tags = tags_at_creation(request, SecurityGroup)
    if any(group.name == name for group in call.tx.find(SecurityGroup, call.scope, "vpc-id", vpc.vpc_id)):
        raise ApiError("InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc.vpc_id}'")
    require_room(call.tx, call.scope, SecurityGroup, SECURITY_GROUPS, "SecurityGroupLimitExceeded", "security groups")
    group = SecurityGroup(
        scope=call.scope,
        group_id=new_id("sg", call.randomness),
        name=name,
        description=description,
        vpc_id=vpc.vpc_id,
        tags=tags,
    )
    call.tx.insert(group)
    add_rule(call.tx, group, allow_all(), call.randomness, is_egress=True)
    return {"GroupId": group.group_id, "SecurityGroupArn": arn_of(group), "Tags": tag_list(tags)}


def _checked_name(name: str) -> str:
    if not name:
        raise missing("groupName")
    if name.lower().startswith("sg-"):
        raise invalid_value(
            f"invalid value for parameter groupName: {name}. Group names may not be in the format sg-*."
        )
    if name.lower() == DEFAULT_GROUP:
        raise invalid_value(f"Cannot use reserved security group name: {name}")
    if not _NAME.fullmatch(name) or name != name.strip():
        raise invalid_value(
            f"Value ({name[:255]}) for parameter GroupName is invalid. Valid names are up to 255 characters from the "
            "following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
        )
    return name


def _vpc(call: Call, request: Request) -> Vpc:
    if vpc_id := request.get("VpcId"):
        return require(call.tx, call.scope, Vpc, str(vpc_id))
    vpc = default_vpc(call.tx, call.scope)
    if vpc is None:
        raise ApiError("VPCIdNotSpecified", "No default VPC for this user")
    return vpc


@handles("DeleteSecurityGroup", "GroupId", "GroupName", on=("GroupId", SecurityGroup))
def delete_security_group(call: Call, request: Request) -> Result:
    """Removes a group that guards no interface and is no other group's source."""
    group = named_group(call, request)
    if group.name == DEFAULT_GROUP:
        raise ApiError(
            "CannotDelete", f'the specified group: "{group.group_id}" name: "{group.name}" cannot be deleted by a user'
        )
    referring = call.tx.find(SecurityGroupRule, call.scope, "referenced-group-id", group.group_id)
    if members_of(call.tx, call.scope, group.group_id) or any(rule.group_id != group.group_id for rule in referring):
        raise ApiError("DependencyViolation", f"resource {group.group_id} has a dependent object")
    for rule in call.tx.find(SecurityGroupRule, call.scope, "group-id", group.group_id):
        call.tx.delete(rule)
    call.tx.delete(group)
    return {"Return": True, "GroupId": group.group_id}


@handles("DescribeSecurityGroups", "GroupIds", "GroupNames", "Filters", "MaxResults", "NextToken")
def describe_security_groups(call: Call, request: Request) -> Result:
    """Groups by id, by name (default VPC) or by filter."""
    ids, names = request.get("GroupIds"), request.get("GroupNames")
    by_name = [group_by_name(call, str(name)) for name in dict.fromkeys(names or ())]
    by_id = chosen(call.tx, call.scope, SecurityGroup, ids) if ids or not names else []
    found = {group.group_id: group for group in (*by_id, *by_name)}
    return _listing.answer(_views(call, list(found.values())), request)
