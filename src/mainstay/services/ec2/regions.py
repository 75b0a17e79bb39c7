"""Regions, Availability Zones and account attributes."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.ec2 import Vpc
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.ec2.limits import ELASTIC_ADDRESSES, GROUPS_PER_INTERFACE, INSTANCES
from mainstay.services.ec2.listing import Listing, never
from mainstay.services.ec2.table import handles
from mainstay.services.operations import Call, Request, Result

# A zone id abbreviates its region: us-east-1 is use1, ap-southeast-2 is apse2.
_DIRECTIONS = {
    "north": "n",
    "south": "s",
    "east": "e",
    "west": "w",
    "central": "c",
    "northeast": "ne",
    "northwest": "nw",
    "southeast": "se",
    "southwest": "sw",
    "gov": "g",
}
NOT_REQUIRED = "opt-in-not-required"


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One Availability Zone."""

    region: str
    name: str
    zone_id: str


def zone_id(region: str, number: int) -> str:
    """The id of a region's n-th zone (from 1), in AWS's form ("use1-az1")."""
    first, *directions, last = region.split("-")
    return f"{first}{''.join(_DIRECTIONS.get(word, word) for word in directions)}{last}-az{number}"


def zones(call: Call) -> list[Zone]:
    """The zones of the call's region, in order."""
    region = call.scope.region
    names = call.settings.availability_zones.get(region, ())
    return [
        Zone(region=region, name=name, zone_id=zone_id(region, number)) for number, name in enumerate(names, start=1)
    ]


_regions = Listing[str](
    member="Regions",
    key=lambda region: region,
    columns={
        "region-name": lambda region: (region,),
        "endpoint": lambda region: (f"ec2.{region}.amazonaws.com",),
        "opt-in-status": lambda _region: (NOT_REQUIRED,),
    },
    show=lambda region: {
        "RegionName": region,
        "Endpoint": f"ec2.{region}.amazonaws.com",
        "OptInStatus": NOT_REQUIRED,
    },
)


@handles("DescribeRegions", "RegionNames", "AllRegions", "Filters")
def describe_regions(call: Call, request: Request) -> Result:
    """The regions this installation has; all are enabled."""
    names = list(dict.fromkeys(request.get("RegionNames") or call.settings.regions))
    if unknown := [name for name in names if name not in call.settings.regions]:
        raise invalid_value(f"Invalid region names: {', '.join(unknown)}")
    return _regions.answer(names, request)


def _show_zone(zone: Zone) -> dict[str, Any]:
    return {
        "State": "available",
        "OptInStatus": NOT_REQUIRED,
        "Messages": [],
        "RegionName": zone.region,
        "ZoneName": zone.name,
        "ZoneId": zone.zone_id,
        "GroupName": f"{zone.region}-zg-1",
        "NetworkBorderGroup": zone.region,
        "ZoneType": "availability-zone",
    }


_zones = Listing[Zone](
    member="AvailabilityZones",
    key=lambda zone: zone.name,
    columns={
        "region-name": lambda zone: (zone.region,),
        "zone-name": lambda zone: (zone.name,),
        "zone-id": lambda zone: (zone.zone_id,),
        "zone-type": lambda _zone: ("availability-zone",),
        "state": lambda _zone: ("available",),
        "opt-in-status": lambda _zone: (NOT_REQUIRED,),
        "group-name": lambda zone: (f"{zone.region}-zg-1",),
        "network-border-group": lambda zone: (zone.region,),
        "message": never,
        "parent-zone-id": never,
        "parent-zone-name": never,
    },
    show=_show_zone,
)


@handles("DescribeAvailabilityZones", "ZoneNames", "ZoneIds", "AllAvailabilityZones", "Filters")
def describe_availability_zones(call: Call, request: Request) -> Result:
    """The zones of the region; one host can carry several, so that Multi-AZ works on a single machine."""
    found = zones(call)
    for member, attribute in (("ZoneNames", "name"), ("ZoneIds", "zone_id")):
        wanted = request.get(member) or ()
        known = {getattr(zone, attribute) for zone in found}
        if unknown := [name for name in wanted if name not in known]:
            raise invalid_value(f"Invalid availability zone{'-id' if member == 'ZoneIds' else ''}: [{unknown[0]}]")
        found = [zone for zone in found if not wanted or getattr(zone, attribute) in wanted]
    return _zones.answer(found, request)


@handles("DescribeAccountAttributes", "AttributeNames")
def describe_account_attributes(call: Call, request: Request) -> Result:
    """The account's limits and its default VPC."""
    default = call.tx.find(Vpc, call.scope, "is-default", "true")
    attributes = {
        "supported-platforms": "VPC",
        "default-vpc": default[0].vpc_id if default else "none",
        "vpc-max-security-groups-per-interface": str(GROUPS_PER_INTERFACE),
        "max-instances": str(INSTANCES),
        "max-elastic-ips": str(ELASTIC_ADDRESSES),
        "vpc-max-elastic-ips": str(ELASTIC_ADDRESSES),
    }
    wanted = request.get("AttributeNames") or list(attributes)
    if unknown := [name for name in wanted if name not in attributes]:
        raise ApiError("InvalidParameterValue", f"Value ({unknown[0]}) for parameter attributeName is invalid.")
    return {
        "AccountAttributes": [
            {"AttributeName": name, "AttributeValues": [{"AttributeValue": attributes[name]}]} for name in wanted
        ]
    }
