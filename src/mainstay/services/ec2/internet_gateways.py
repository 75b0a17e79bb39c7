"""Internet gateways. A publicly accessible database needs one attached to its VPC, as in RDS."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.ec2 import InternetGateway, Vpc
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.ec2.limits import INTERNET_GATEWAYS, require_room
from mainstay.services.ec2.listing import Listing, tag_list, tags_of
from mainstay.services.ec2.resources import chosen, depends, new_id, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result


def _show(gateway: InternetGateway) -> dict[str, Any]:
    return {
        "InternetGatewayId": gateway.gateway_id,
        "OwnerId": gateway.scope.account_id,
        # An attached gateway is "available", in this API alone.
        "Attachments": [{"State": "available", "VpcId": gateway.vpc_id}] if gateway.vpc_id else [],
        "Tags": tag_list(gateway.tags),
    }


_listing = Listing[InternetGateway](
    member="InternetGateways",
    key=InternetGateway.key,
    columns={
        "internet-gateway-id": lambda gateway: (gateway.gateway_id,),
        "attachment.vpc-id": lambda gateway: (gateway.vpc_id,) if gateway.vpc_id else (),
        "attachment.state": lambda gateway: ("available",) if gateway.vpc_id else (),
        "owner-id": lambda gateway: (gateway.scope.account_id,),
    },
    show=_show,
    tags=tags_of,
)


@handles("CreateInternetGateway", "TagSpecifications", creates=InternetGateway)
def create_internet_gateway(call: Call, request: Request) -> Result:
    """Makes a gateway that is attached to nothing yet."""
    tags = tags_at_creation(request, InternetGateway)
    require_room(
        call.tx,
        call.scope,
        InternetGateway,
        INTERNET_GATEWAYS,
        "InternetGatewayLimitExceeded",
        "internet gateways",
    )
    gateway = InternetGateway(scope=call.scope, gateway_id=new_id("igw", call.randomness), tags=tags)
    call.tx.insert(gateway)
    return {"InternetGateway": _show(gateway)}


@handles("AttachInternetGateway", "InternetGatewayId", "VpcId", on=("InternetGatewayId", InternetGateway))
def attach_internet_gateway(call: Call, request: Request) -> Result:
    """Attaches the gateway to a VPC that has none."""
    gateway = require(call.tx, call.scope, InternetGateway, str(request["InternetGatewayId"]))
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    if gateway.vpc_id:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"resource {gateway.gateway_id} is already attached to network {gateway.vpc_id}",
        )
    if call.tx.find(InternetGateway, call.scope, "vpc-id", vpc.vpc_id):
        raise invalid_value(f"Network {vpc.vpc_id} already has an internet gateway attached")
    call.tx.put(msgspec.structs.replace(gateway, vpc_id=vpc.vpc_id))
    return None


@handles("DetachInternetGateway", "InternetGatewayId", "VpcId", on=("InternetGatewayId", InternetGateway))
def detach_internet_gateway(call: Call, request: Request) -> Result:
    """Detaches the gateway; routes to it become black holes."""
    gateway = require(call.tx, call.scope, InternetGateway, str(request["InternetGatewayId"]))
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    if gateway.vpc_id != vpc.vpc_id:
        raise ApiError("Gateway.NotAttached", f"resource {gateway.gateway_id} is not attached to network {vpc.vpc_id}")
    call.tx.put(msgspec.structs.replace(gateway, vpc_id=""))
    return None


@handles("DeleteInternetGateway", "InternetGatewayId", on=("InternetGatewayId", InternetGateway))
def delete_internet_gateway(call: Call, request: Request) -> Result:
    """Removes a gateway that is attached to nothing."""
    gateway = require(call.tx, call.scope, InternetGateway, str(request["InternetGatewayId"]))
    if gateway.vpc_id:
        raise depends("internetGateway", gateway.gateway_id)
    call.tx.delete(gateway)
    return None


@handles("DescribeInternetGateways", "InternetGatewayIds", "Filters", "MaxResults", "NextToken")
def describe_internet_gateways(call: Call, request: Request) -> Result:
    """Gateways by id or by filter."""
    found = chosen(call.tx, call.scope, InternetGateway, request.get("InternetGatewayIds"))
    return _listing.answer(found, request)
