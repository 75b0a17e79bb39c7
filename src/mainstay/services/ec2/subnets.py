"""Subnets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from mainstay.decide.networks import (
    default_subnet_cidr,
    fits_subnet,
    overlaps_any,
    parse_ipv4,
    usable_count,
)
from mainstay.model.db_subnet_group import MEMBER, DBSubnetGroup
from mainstay.model.ec2 import NetworkInterface, RouteTable, Subnet, Vpc
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.assembly import build_subnet, default_vpc
from mainstay.services.ec2.limits import SUBNETS_PER_VPC
from mainstay.services.ec2.listing import Listing, flag, never, tag_list
from mainstay.services.ec2.regions import Zone, zones
from mainstay.services.ec2.resources import arn_of, chosen, depends, missing, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result

HOSTNAME_TYPES = ("ip-name", "resource-name")


class SubnetView(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet with what its description counts and looks up."""

    subnet: Subnet
    zone_id: str
    interface_count: int

    @property
    def available_count(self) -> int:
        """Addresses that can still be given out."""
        return usable_count(self.subnet.cidr_block) - self.interface_count


def _show(view: SubnetView) -> dict[str, Any]:
    subnet = view.subnet
    return {
        "SubnetId": subnet.subnet_id,
        "SubnetArn": arn_of(subnet),
        "VpcId": subnet.vpc_id,
        "OwnerId": subnet.scope.account_id,
        "State": "available",
        "CidrBlock": subnet.cidr_block,
        "AvailableIpAddressCount": view.available_count,
        "AvailabilityZone": subnet.availability_zone,
        "AvailabilityZoneId": view.zone_id,
        "DefaultForAz": subnet.default_for_az,
        "MapPublicIpOnLaunch": subnet.map_public_ip_on_launch,
        "MapCustomerOwnedIpOnLaunch": False,
        "AssignIpv6AddressOnCreation": False,
        "Ipv6CidrBlockAssociationSet": [],
        "Ipv6Native": False,
        "EnableDns64": False,
        "PrivateDnsNameOptionsOnLaunch": {
            "HostnameType": subnet.private_dns_hostname_type,
            "EnableResourceNameDnsARecord": subnet.resource_name_dns_a_record,
            "EnableResourceNameDnsAAAARecord": False,
        },
        "Tags": tag_list(subnet.tags),
    }


_listing = Listing[SubnetView](
    member="Subnets",
    key=lambda view: view.subnet.subnet_id,
    columns={
        "subnet-id": lambda view: (view.subnet.subnet_id,),
        "subnet-arn": lambda view: (arn_of(view.subnet),),
        "vpc-id": lambda view: (view.subnet.vpc_id,),
        "owner-id": lambda view: (view.subnet.scope.account_id,),
        "state": lambda _view: ("available",),
        "availability-zone": lambda view: (view.subnet.availability_zone,),
        "availabilityZone": lambda view: (view.subnet.availability_zone,),
        "availability-zone-id": lambda view: (view.zone_id,),
        "availabilityZoneId": lambda view: (view.zone_id,),
        "available-ip-address-count": lambda view: (str(view.available_count),),
        "cidr": lambda view: (view.subnet.cidr_block,),
        "cidrBlock": lambda view: (view.subnet.cidr_block,),
        "cidr-block": lambda view: (view.subnet.cidr_block,),
        "default-for-az": lambda view: flag(view.subnet.default_for_az),
        "defaultForAz": lambda view: flag(view.subnet.default_for_az),
        "map-public-ip-on-launch": lambda view: flag(view.subnet.map_public_ip_on_launch),
        "private-dns-name-options-on-launch.hostname-type": lambda view: (view.subnet.private_dns_hostname_type,),
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record": lambda view: flag(
            view.subnet.resource_name_dns_a_record
        ),
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": lambda _view: flag(False),
        "ipv6-native": lambda _view: flag(False),
        "enable-dns64": lambda _view: flag(False),
        "map-customer-owned-ip-on-launch": lambda _view: flag(False),
        "ipv6-cidr-block-association.ipv6-cidr-block": never,
        "ipv6-cidr-block-association.association-id": never,
        "ipv6-cidr-block-association.state": never,
        "customer-owned-ipv4-pool": never,
        "outpost-arn": never,
    },
    show=_show,
    tags=lambda view: view.subnet.tags,
)


def _views(call: Call, subnets: list[Subnet]) -> list[SubnetView]:
    zone_ids = {zone.name: zone.zone_id for zone in zones(call)}
    counts = Counter(interface.subnet_id for interface in call.tx.scan(NetworkInterface, call.scope))
    return [
        SubnetView(
            subnet=subnet,
            zone_id=zone_ids.get(subnet.availability_zone, ""),
            interface_count=counts[subnet.subnet_id],
        )
        for subnet in subnets
    ]


@handles(
    "CreateSubnet",
    "VpcId",
    "CidrBlock",
    "AvailabilityZone",
    "AvailabilityZoneId",
    "TagSpecifications",
    creates=Subnet,
)
def create_subnet(call: Call, request: Request) -> Result:
    """Cuts a subnet out of a VPC's block."""
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    text = str(request.get("CidrBlock") or "")
    if not text:
        raise missing("cidrBlock")
    network = parse_ipv4(text)
    if network is None:
        raise invalid_value(f"Value ({text}) for parameter cidrBlock is invalid. This is not a valid CIDR block.")
    if not fits_subnet(network, vpc.cidr_block):
        raise ApiError("InvalidSubnet.Range", f"The CIDR '{text}' is invalid.")
    zone = _zone(call, request)
    tags = tags_at_creation(request, Subnet)
    present = call.tx.find(Subnet, call.scope, "vpc-id", vpc.vpc_id)
    if overlaps_any(network, (subnet.cidr_block for subnet in present)):
        raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{text}' conflicts with another subnet")
    if len(present) >= SUBNETS_PER_VPC:
        raise ApiError("SubnetLimitExceeded", "The maximum number of subnets has been reached.")
    subnet = build_subnet(call.tx, vpc, call.randomness, str(network), zone.name, tags=tags)
    return {"Subnet": _show(_views(call, [subnet])[0])}


def _zone(call: Call, request: Request) -> Zone:
    """The zone asked for by name or id; without either, one of the region's at random, as EC2 chooses."""
    known = zones(call)
    name, zone_id = request.get("AvailabilityZone"), request.get("AvailabilityZoneId")
    if name and zone_id:
        raise invalid_combination("Only one of availabilityZone and availabilityZoneId can be specified.")
    if not name and not zone_id:
        return known[call.randomness.below(len(known))]
    for zone in known:
        if name == zone.name or zone_id == zone.zone_id:
            return zone
    names = ", ".join(zone.name if name else zone.zone_id for zone in known)
    parameter = "availabilityZone" if name else "availabilityZoneId"
    raise invalid_value(
        f"Value ({name or zone_id}) for parameter {parameter} is invalid. "
        f"Subnets can currently only be created in the following availability zones: {names}."
    )


@handles("CreateDefaultSubnet", "AvailabilityZone", "AvailabilityZoneId", creates=Subnet)
def create_default_subnet(call: Call, request: Request) -> Result:
    """Makes a zone's default subnet anew after the user deleted it."""
    if not (request.get("AvailabilityZone") or request.get("AvailabilityZoneId")):
        raise missing("availabilityZone")
    zone = _zone(call, request)
    vpc = default_vpc(call.tx, call.scope)
    if vpc is None:
        raise ApiError("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
    present = call.tx.find(Subnet, call.scope, "vpc-id", vpc.vpc_id)
    if any(subnet.default_for_az and subnet.availability_zone == zone.name for subnet in present):
        raise ApiError(
            "DefaultSubnetAlreadyExistsInAvailabilityZone",
            f"A default subnet already exists in the Availability Zone {zone.name}.",
        )
    cidr = default_subnet_cidr(vpc.cidr_block, zones(call).index(zone))
    network = parse_ipv4(cidr)
    if network is not None and overlaps_any(network, (subnet.cidr_block for subnet in present)):
        raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{cidr}' conflicts with another subnet")
    subnet = build_subnet(call.tx, vpc, call.randomness, cidr, zone.name, default_for_az=True)
    return {"Subnet": _show(_views(call, [subnet])[0])}


@handles("DeleteSubnet", "SubnetId", on=("SubnetId", Subnet))
def delete_subnet(call: Call, request: Request) -> Result:
    """Removes a subnet without interfaces that no DB subnet group has, and its route table association with it."""
    subnet = require(call.tx, call.scope, Subnet, str(request["SubnetId"]))
    groups = call.tx.find(DBSubnetGroup, call.scope, f"subnet:{subnet.subnet_id}", MEMBER)
    interfaces = call.tx.find(NetworkInterface, call.scope, "subnet-id", subnet.subnet_id)
    if groups or interfaces:
        raise depends("subnet", subnet.subnet_id)
    for table in call.tx.find(RouteTable, call.scope, "vpc-id", subnet.vpc_id):
        kept = tuple(one for one in table.associations if one.subnet_id != subnet.subnet_id)
        if kept != table.associations:
            call.tx.put(msgspec.structs.replace(table, associations=kept))
    call.tx.delete(subnet)
    return None


@handles("DescribeSubnets", "SubnetIds", "Filters", "MaxResults", "NextToken")
def describe_subnets(call: Call, request: Request) -> Result:
    """Subnets by id or by filter."""
    return _listing.answer(_views(call, chosen(call.tx, call.scope, Subnet, request.get("SubnetIds"))), request)


@handles(
    "ModifySubnetAttribute",
    "SubnetId",
    "MapPublicIpOnLaunch",
    "PrivateDnsHostnameTypeOnLaunch",
    "EnableResourceNameDnsARecordOnLaunch",
    on=("SubnetId", Subnet),
)
def modify_subnet_attribute(call: Call, request: Request) -> Result:
    """Sets the attributes given."""
    subnet = require(call.tx, call.scope, Subnet, str(request["SubnetId"]))
    changes: dict[str, Any] = {}
    for member, field in (
        ("MapPublicIpOnLaunch", "map_public_ip_on_launch"),
        ("EnableResourceNameDnsARecordOnLaunch", "resource_name_dns_a_record"),
    ):
        if request.get(member) is not None:
            changes[field] = bool(request[member].get("Value"))
    if hostname_type := request.get("PrivateDnsHostnameTypeOnLaunch"):
        if hostname_type not in HOSTNAME_TYPES:
            raise invalid_value(f"Value ({hostname_type}) for parameter privateDnsHostnameTypeOnLaunch is invalid.")
        changes["private_dns_hostname_type"] = hostname_type
    call.tx.put(msgspec.structs.replace(subnet, **changes))
    return None
