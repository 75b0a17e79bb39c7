"""VPCs and their attributes."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.decide.networks import fits_vpc, parse_ipv4
from mainstay.model.ec2 import (
    InternetGateway,
    NetworkAcl,
    NetworkInterface,
    Resource,
    RouteTable,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    Vpc,
)
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.assembly import DEFAULT_GROUP, build_default_vpc, build_vpc, default_vpc
from mainstay.services.ec2.limits import VPCS, require_room
from mainstay.services.ec2.listing import Listing, flag, never, tag_list, tags_of
from mainstay.services.ec2.resources import chosen, depends, missing, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result

# Attribute as DescribeVpcAttribute spells it -> the output member, and our field.
ATTRIBUTES = {
    "enableDnsSupport": ("EnableDnsSupport", "enable_dns_support"),
    "enableDnsHostnames": ("EnableDnsHostnames", "enable_dns_hostnames"),
    "enableNetworkAddressUsageMetrics": (
        "EnableNetworkAddressUsageMetrics",
        "enable_network_address_usage_metrics",
    ),
}
TENANCIES = ("default", "dedicated")


def _show(vpc: Vpc) -> dict[str, Any]:
    association = {
        "AssociationId": vpc.cidr_association_id,
        "CidrBlock": vpc.cidr_block,
        "CidrBlockState": {"State": "associated"},
    }
    return {
        "VpcId": vpc.vpc_id,
        "OwnerId": vpc.scope.account_id,
        "State": "available",
        "CidrBlock": vpc.cidr_block,
        "CidrBlockAssociationSet": [association],
        "Ipv6CidrBlockAssociationSet": [],
        "DhcpOptionsId": vpc.dhcp_options_id,
        "InstanceTenancy": vpc.instance_tenancy,
        "IsDefault": vpc.is_default,
        "Tags": tag_list(vpc.tags),
    }


_listing = Listing[Vpc](
    member="Vpcs",
    key=Vpc.key,
    columns={
        "vpc-id": lambda vpc: (vpc.vpc_id,),
        "cidr": lambda vpc: (vpc.cidr_block,),
        "cidr-block-association.cidr-block": lambda vpc: (vpc.cidr_block,),
        "cidr-block-association.association-id": lambda vpc: (vpc.cidr_association_id,),
        "cidr-block-association.state": lambda _vpc: ("associated",),
        "ipv6-cidr-block-association.ipv6-cidr-block": never,
        "ipv6-cidr-block-association.ipv6-pool": never,
        "ipv6-cidr-block-association.association-id": never,
        "ipv6-cidr-block-association.state": never,
        "dhcp-options-id": lambda vpc: (vpc.dhcp_options_id,),
        "is-default": lambda vpc: flag(vpc.is_default),
        "isDefault": lambda vpc: flag(vpc.is_default),
        "owner-id": lambda vpc: (vpc.scope.account_id,),
        "state": lambda _vpc: ("available",),
    },
    show=_show,
    tags=tags_of,
)


@handles("CreateVpc", "CidrBlock", "InstanceTenancy", "TagSpecifications", creates=Vpc)
def create_vpc(call: Call, request: Request) -> Result:
    """Makes a VPC with its main route table, default network ACL and default security group."""
    text = str(request.get("CidrBlock") or "")
    if not text:
        raise missing("cidrBlock")
    network = parse_ipv4(text)
    if network is None:
        raise invalid_value(f"Value ({text}) for parameter cidrBlock is invalid. This is not a valid CIDR block.")
    if not fits_vpc(network):
        raise ApiError("InvalidVpc.Range", f"The CIDR '{text}' is invalid.")
    tenancy = str(request.get("InstanceTenancy") or "default")
    if tenancy not in TENANCIES:
        raise invalid_value(f"Value ({tenancy}) for parameter instanceTenancy is invalid.")
    tags = tags_at_creation(request, Vpc)
    require_room(call.tx, call.scope, Vpc, VPCS, "VpcLimitExceeded", "VPCs")
    vpc = build_vpc(call.tx, call.scope, call.randomness, str(network), instance_tenancy=tenancy, tags=tags)
    return {"Vpc": _show(vpc)}


@handles("CreateDefaultVpc", creates=Vpc)
def create_default_vpc(call: Call, request: Request) -> Result:
    """Makes the default VPC anew after the user deleted it."""
    if default_vpc(call.tx, call.scope) is not None:
        raise ApiError("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
    require_room(call.tx, call.scope, Vpc, VPCS, "VpcLimitExceeded", "VPCs")
    return {"Vpc": _show(build_default_vpc(call.tx, call.scope, call.settings, call.randomness))}


@handles("DeleteVpc", "VpcId", on=("VpcId", Vpc))
def delete_vpc(call: Call, request: Request) -> Result:
    """Removes a VPC in which nothing is left but what it was born with."""
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    if _is_used(call, vpc):
        raise depends("vpc", vpc.vpc_id)
    born_with: tuple[type[Resource], ...] = (RouteTable, NetworkAcl, SecurityGroup)
    for kind in born_with:
        for resource in call.tx.find(kind, call.scope, "vpc-id", vpc.vpc_id):
            if isinstance(resource, SecurityGroup):
                for rule in call.tx.find(SecurityGroupRule, call.scope, "group-id", resource.group_id):
                    call.tx.delete(rule)
            call.tx.delete(resource)
    call.tx.delete(vpc)
    return None


def _is_used(call: Call, vpc: Vpc) -> bool:
    kinds: tuple[type[Resource], ...] = (Subnet, NetworkInterface, InternetGateway)
    if any(call.tx.find(kind, call.scope, "vpc-id", vpc.vpc_id) for kind in kinds):
        return True
    groups = call.tx.find(SecurityGroup, call.scope, "vpc-id", vpc.vpc_id)
    tables = call.tx.find(RouteTable, call.scope, "vpc-id", vpc.vpc_id)
    return any(group.name != DEFAULT_GROUP for group in groups) or any(not table.main for table in tables)


@handles("DescribeVpcs", "VpcIds", "Filters", "MaxResults", "NextToken")
def describe_vpcs(call: Call, request: Request) -> Result:
    """VPCs by id or by filter."""
    return _listing.answer(chosen(call.tx, call.scope, Vpc, request.get("VpcIds")), request)


@handles("DescribeVpcAttribute", "VpcId", "Attribute", on=("VpcId", Vpc))
def describe_vpc_attribute(call: Call, request: Request) -> Result:
    """One attribute of a VPC."""
    attribute = str(request["Attribute"])
    if attribute not in ATTRIBUTES:
        raise invalid_value(f"Value ({attribute}) for parameter attribute is invalid. Unknown attribute.")
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    member, field = ATTRIBUTES[attribute]
    return {"VpcId": vpc.vpc_id, member: {"Value": getattr(vpc, field)}}


@handles(
    "ModifyVpcAttribute",
    "VpcId",
    *(member for member, _field in ATTRIBUTES.values()),
    on=("VpcId", Vpc),
)
def modify_vpc_attribute(call: Call, request: Request) -> Result:
    """Sets one attribute of a VPC; EC2 takes one per request."""
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    given = {
        name: (field, request[member].get("Value"))
        for name, (member, field) in ATTRIBUTES.items()
        if request.get(member) is not None
    }
    if not given:
        raise missing("attribute")
    if len(given) > 1:
        raise invalid_combination(f"Fields for multiple attribute types specified: {', '.join(given)}")
    ((name, (field, value)),) = given.items()
    if value is None:
        raise missing(f"{name}.value")
    call.tx.put(msgspec.structs.replace(vpc, **{field: bool(value)}))
    return None
