"""Network ACLs and DHCP options: each VPC has the default ones, which cannot be replaced."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.ec2 import NetworkAcl, RegionNetwork, Subnet
from mainstay.model.errors import ApiError
from mainstay.services.ec2.listing import Listing, flag, never, tag_list
from mainstay.services.ec2.resources import chosen
from mainstay.services.ec2.table import handles
from mainstay.services.operations import Call, Request, Result

ALL_TRAFFIC = "0.0.0.0/0"
ALLOW_NUMBER = 100
DENY_NUMBER = 32767


class AclView(msgspec.Struct, frozen=True, kw_only=True):
    """A network ACL with the subnets of its VPC, all of which follow it."""

    acl: NetworkAcl
    subnets: tuple[Subnet, ...]


# What a default ACL holds: everything is allowed both ways; the last entry stands for "and the rest is not".
_ENTRIES: list[dict[str, Any]] = [
    {
        "CidrBlock": ALL_TRAFFIC,
        "Egress": egress,
        "Protocol": "-1",
        "RuleAction": action,
        "RuleNumber": number,
    }
    for egress in (True, False)
    for number, action in ((ALLOW_NUMBER, "allow"), (DENY_NUMBER, "deny"))
]


def _show(view: AclView) -> dict[str, Any]:
    return {
        "NetworkAclId": view.acl.acl_id,
        "VpcId": view.acl.vpc_id,
        "OwnerId": view.acl.scope.account_id,
        "IsDefault": True,
        "Entries": _ENTRIES,
        "Associations": [
            {
                "NetworkAclAssociationId": subnet.acl_association_id,
                "NetworkAclId": view.acl.acl_id,
                "SubnetId": subnet.subnet_id,
            }
            for subnet in view.subnets
        ],
        "Tags": tag_list(view.acl.tags),
    }


_acls = Listing[AclView](
    member="NetworkAcls",
    key=lambda view: view.acl.acl_id,
    columns={
        "network-acl-id": lambda view: (view.acl.acl_id,),
        "vpc-id": lambda view: (view.acl.vpc_id,),
        "owner-id": lambda view: (view.acl.scope.account_id,),
        "default": lambda _view: flag(True),
        "association.association-id": lambda view: [subnet.acl_association_id for subnet in view.subnets],
        "association.network-acl-id": lambda view: (view.acl.acl_id,) if view.subnets else (),
        "association.subnet-id": lambda view: [subnet.subnet_id for subnet in view.subnets],
        "entry.cidr": lambda _view: (ALL_TRAFFIC,),
        "entry.egress": lambda _view: (*flag(True), *flag(False)),
        "entry.protocol": lambda _view: ("-1",),
        "entry.rule-action": lambda _view: ("allow", "deny"),
        "entry.rule-number": lambda _view: (str(ALLOW_NUMBER), str(DENY_NUMBER)),
        "entry.ipv6-cidr": never,
        "entry.icmp.code": never,
        "entry.icmp.type": never,
        "entry.port-range.from": never,
        "entry.port-range.to": never,
    },
    show=_show,
    tags=lambda view: view.acl.tags,
)


@handles("DescribeNetworkAcls", "NetworkAclIds", "Filters", "MaxResults", "NextToken")
def describe_network_acls(call: Call, request: Request) -> Result:
    """The default network ACL of each VPC."""
    views = [
        AclView(acl=acl, subnets=tuple(call.tx.find(Subnet, call.scope, "vpc-id", acl.vpc_id)))
        for acl in chosen(call.tx, call.scope, NetworkAcl, request.get("NetworkAclIds"))
    ]
    return _acls.answer(views, request)


def _configurations(options: RegionNetwork) -> dict[str, str]:
    region = options.scope.region
    return {"domain-name": domain_name(region), "domain-name-servers": "AmazonProvidedDNS"}


def domain_name(region: str) -> str:
    """The private DNS domain of a region's addresses."""
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


_dhcp_options = Listing[RegionNetwork](
    member="DhcpOptions",
    key=lambda options: options.dhcp_options_id,
    columns={
        "dhcp-options-id": lambda options: (options.dhcp_options_id,),
        "owner-id": lambda options: (options.scope.account_id,),
        "key": lambda options: _configurations(options).keys(),
        "value": lambda options: _configurations(options).values(),
    },
    show=lambda options: {
        "DhcpOptionsId": options.dhcp_options_id,
        "OwnerId": options.scope.account_id,
        "DhcpConfigurations": [
            {"Key": key, "Values": [{"Value": value}]} for key, value in _configurations(options).items()
        ],
        "Tags": [],
    },
    tags=lambda _options: {},
)


@handles("DescribeDhcpOptions", "DhcpOptionsIds", "Filters", "MaxResults", "NextToken")
def describe_dhcp_options(call: Call, request: Request) -> Result:
    """The region's default DHCP options, which every VPC uses."""
    options = call.tx.scan(RegionNetwork, call.scope)
    known = {one.dhcp_options_id for one in options}
    for wanted in request.get("DhcpOptionsIds") or ():
        if wanted not in known:
            raise ApiError("InvalidDhcpOptionID.NotFound", f"The dhcpOption ID '{wanted}' does not exist")
    return _dhcp_options.answer(options, request)
