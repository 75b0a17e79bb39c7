"""Routes: to an internet gateway, or inside the VPC. No other kind of target exists here."""

from __future__ import annotations

import msgspec

from mainstay.decide.networks import parse_ipv4, parse_ipv6
from mainstay.model.ec2 import InternetGateway, Route, RouteTable
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.assembly import LOCAL
from mainstay.services.ec2.limits import ROUTES_PER_TABLE
from mainstay.services.ec2.resources import missing, require
from mainstay.services.ec2.table import handles
from mainstay.services.operations import Call, Request, Result

DESTINATIONS = ("DestinationCidrBlock", "DestinationIpv6CidrBlock")


@handles("CreateRoute", "RouteTableId", *DESTINATIONS, "GatewayId", on=("RouteTableId", RouteTable))
def create_route(call: Call, request: Request) -> Result:
    """Adds a route to the internet gateway of the table's VPC. Repeating it succeeds."""
    table = require(call.tx, call.scope, RouteTable, str(request["RouteTableId"]))
    route = Route(destination=_destination(request), gateway_id=_gateway(call, table, request))
    present = _find(table, route.destination)
    if present == route:
        return {"Return": True}
    if present is not None:
        raise ApiError("RouteAlreadyExists", f"The route identified by {route.destination} already exists.")
    if len(table.routes) >= ROUTES_PER_TABLE:
        raise ApiError("RouteLimitExceeded", "The maximum number of routes has been reached.")
    call.tx.put(msgspec.structs.replace(table, routes=(*table.routes, route)))
    return {"Return": True}


@handles("ReplaceRoute", "RouteTableId", *DESTINATIONS, "GatewayId", on=("RouteTableId", RouteTable))
def replace_route(call: Call, request: Request) -> Result:
    """Gives an existing route another target."""
    table = require(call.tx, call.scope, RouteTable, str(request["RouteTableId"]))
    present = _existing(table, request)
    _refuse_local(table, present, "replace")
    route = msgspec.structs.replace(present, gateway_id=_gateway(call, table, request))
    call.tx.put(msgspec.structs.replace(table, routes=tuple(route if one == present else one for one in table.routes)))
    return None


@handles("DeleteRoute", "RouteTableId", *DESTINATIONS, on=("RouteTableId", RouteTable))
def delete_route(call: Call, request: Request) -> Result:
    """Removes a route."""
    table = require(call.tx, call.scope, RouteTable, str(request["RouteTableId"]))
    present = _existing(table, request)
    _refuse_local(table, present, "remove")
    call.tx.put(msgspec.structs.replace(table, routes=tuple(one for one in table.routes if one != present)))
    return None


def _destination(request: Request) -> str:
    """The one destination of the request, in canonical form."""
    given = [member for member in DESTINATIONS if request.get(member)]
    if not given:
        raise missing("destinationCidrBlock")
    if len(given) > 1:
        raise invalid_combination("A route has either an IPv4 or an IPv6 destination, not both.")
    text = str(request[given[0]])
    network = parse_ipv4(text) if given[0] == DESTINATIONS[0] else parse_ipv6(text)
    if network is None:
        parameter = given[0][0].lower() + given[0][1:]
        raise invalid_value(f"Value ({text}) for parameter {parameter} is invalid. This is not a valid CIDR block.")
    return str(network)


def _gateway(call: Call, table: RouteTable, request: Request) -> str:
    gateway_id = str(request.get("GatewayId") or "")
    if not gateway_id:
        raise missing("gatewayId")
    gateway = call.tx.get(InternetGateway, call.scope, gateway_id)
    if gateway is None:
        raise ApiError("InvalidGatewayID.NotFound", f"The gateway ID '{gateway_id}' does not exist")
    if gateway.vpc_id != table.vpc_id:
        raise invalid_value(
            f"route table {table.route_table_id} and network gateway {gateway_id} belong to different networks"
        )
    return gateway_id


def _find(table: RouteTable, destination: str) -> Route | None:
    return next((route for route in table.routes if route.destination == destination), None)


def _existing(table: RouteTable, request: Request) -> Route:
    destination = _destination(request)
    route = _find(table, destination)
    if route is None:
        family = "destination-ipv6-cidr-block" if ":" in destination else "destination-cidr-block"
        raise ApiError(
            "InvalidRoute.NotFound", f"no route with {family} {destination} in route table {table.route_table_id}"
        )
    return route


def _refuse_local(table: RouteTable, route: Route, verb: str) -> None:
    if route.gateway_id == LOCAL:
        raise invalid_value(f"cannot {verb} local route {route.destination} in route table {table.route_table_id}")
