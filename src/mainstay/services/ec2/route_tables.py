"""Route tables and their associations with subnets."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.ec2 import MEMBER, InternetGateway, Route, RouteTable, RouteTableAssociation, Subnet, Vpc
from mainstay.model.errors import ApiError, invalid_value
from mainstay.services.ec2.assembly import ANY_IPV4, LOCAL, local_route, main_route_table
from mainstay.services.ec2.limits import ROUTE_TABLES_PER_VPC
from mainstay.services.ec2.listing import Listing, flag, never, tag_list
from mainstay.services.ec2.resources import chosen, depends, missing, new_id, require
from mainstay.services.ec2.table import handles
from mainstay.services.ec2.tags import tags_at_creation
from mainstay.services.operations import Call, Request, Result
from mainstay.store import Reader

ASSOCIATED = {"State": "associated"}


class TableView(msgspec.Struct, frozen=True, kw_only=True):
    """A route table and the gateways attached to its VPC, by which its routes are alive or black holes."""

    table: RouteTable
    gateway_ids: frozenset[str]

    def state(self, route: Route) -> str:
        """A route is active while its target can carry packets."""
        return "active" if route.gateway_id == LOCAL or route.gateway_id in self.gateway_ids else "blackhole"


def has_internet_route(reader: Reader, subnet: Subnet) -> bool:
    """Whether the subnet is public: its route table sends everything else to an attached internet gateway."""
    tables = reader.find(RouteTable, subnet.scope, "vpc-id", subnet.vpc_id)
    own = [table for table in tables if any(one.subnet_id == subnet.subnet_id for one in table.associations)]
    table = own[0] if own else main_route_table(reader, subnet.scope, subnet.vpc_id)
    view = TableView(table=table, gateway_ids=_attached(reader, table))
    return any(route.destination == ANY_IPV4 and view.state(route) == "active" for route in table.routes)


def _attached(reader: Reader, table: RouteTable) -> frozenset[str]:
    gateways = reader.find(InternetGateway, table.scope, "vpc-id", table.vpc_id)
    return frozenset(gateway.gateway_id for gateway in gateways)


def _view(call: Call, table: RouteTable) -> TableView:
    return TableView(table=table, gateway_ids=_attached(call.tx, table))


def _show_association(table: RouteTable, association: RouteTableAssociation) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Main": association.main,
        "RouteTableAssociationId": association.association_id,
        "RouteTableId": table.route_table_id,
        "AssociationState": ASSOCIATED,
    }
    return shown | ({"SubnetId": association.subnet_id} if association.subnet_id else {})


def _show_route(view: TableView, route: Route) -> dict[str, Any]:
    destination = "DestinationIpv6CidrBlock" if ":" in route.destination else "DestinationCidrBlock"
    return {
        destination: route.destination,
        "GatewayId": route.gateway_id,
        "Origin": route.origin,
        "State": view.state(route),
    }


def _show(view: TableView) -> dict[str, Any]:
    table = view.table
    return {
        "RouteTableId": table.route_table_id,
        "VpcId": table.vpc_id,
        "OwnerId": table.scope.account_id,
        "Routes": [_show_route(view, route) for route in table.routes],
        "Associations": [_show_association(table, association) for association in table.associations],
        "PropagatingVgws": [],
        "Tags": tag_list(table.tags),
    }


_listing = Listing[TableView](
    member="RouteTables",
    key=lambda view: view.table.route_table_id,
    columns={
        "route-table-id": lambda view: (view.table.route_table_id,),
        "vpc-id": lambda view: (view.table.vpc_id,),
        "owner-id": lambda view: (view.table.scope.account_id,),
        "association.main": lambda view: [value for one in view.table.associations for value in flag(one.main)],
        "association.subnet-id": lambda view: [one.subnet_id for one in view.table.associations if one.subnet_id],
        "association.route-table-association-id": lambda view: [one.association_id for one in view.table.associations],
        "association.route-table-id": lambda view: (view.table.route_table_id,) if view.table.associations else (),
        "association.gateway-id": never,
        "route.destination-cidr-block": lambda view: [
            route.destination for route in view.table.routes if ":" not in route.destination
        ],
        "route.destination-ipv6-cidr-block": lambda view: [
            route.destination for route in view.table.routes if ":" in route.destination
        ],
        "route.gateway-id": lambda view: [route.gateway_id for route in view.table.routes],
        "route.origin": lambda view: [route.origin for route in view.table.routes],
        "route.state": lambda view: [view.state(route) for route in view.table.routes],
        "route.destination-prefix-list-id": never,
        "route.egress-only-internet-gateway-id": never,
        "route.instance-id": never,
        "route.nat-gateway-id": never,
        "route.transit-gateway-id": never,
        "route.vpc-peering-connection-id": never,
    },
    show=_show,
    tags=lambda view: view.table.tags,
)


@handles("CreateRouteTable", "VpcId", "TagSpecifications", creates=RouteTable)
def create_route_table(call: Call, request: Request) -> Result:
    """Makes a table that holds the local route."""
    vpc = require(call.tx, call.scope, Vpc, str(request["VpcId"]))
    tags = tags_at_creation(request, RouteTable)
    if len(call.tx.find(RouteTable, call.scope, "vpc-id", vpc.vpc_id)) >= ROUTE_TABLES_PER_VPC:
        raise ApiError("RouteTableLimitExceeded", "The maximum number of route tables has been reached.")
    table = RouteTable(
        scope=call.scope,
        route_table_id=new_id("rtb", call.randomness),
        vpc_id=vpc.vpc_id,
        routes=(local_route(vpc),),
        tags=tags,
    )
    call.tx.insert(table)
    return {"RouteTable": _show(_view(call, table))}


@handles("DeleteRouteTable", "RouteTableId", on=("RouteTableId", RouteTable))
def delete_route_table(call: Call, request: Request) -> Result:
    """Removes a table that nothing follows."""
    table = require(call.tx, call.scope, RouteTable, str(request["RouteTableId"]))
    if table.associations:
        raise depends("routeTable", table.route_table_id)
    call.tx.delete(table)
    return None


@handles("DescribeRouteTables", "RouteTableIds", "Filters", "MaxResults", "NextToken")
def describe_route_tables(call: Call, request: Request) -> Result:
    """Route tables by id or by filter."""
    tables = chosen(call.tx, call.scope, RouteTable, request.get("RouteTableIds"))
    return _listing.answer([_view(call, table) for table in tables], request)


@handles("AssociateRouteTable", "RouteTableId", "SubnetId", on=("RouteTableId", RouteTable))
def associate_route_table(call: Call, request: Request) -> Result:
    """Makes a subnet follow this table. Repeating it answers with the same association."""
    table = require(call.tx, call.scope, RouteTable, str(request["RouteTableId"]))
    if not request.get("SubnetId"):
        raise missing("subnetId")
    subnet = require(call.tx, call.scope, Subnet, str(request["SubnetId"]))
    _same_vpc(table.vpc_id, subnet.vpc_id, table.route_table_id, subnet.subnet_id)
    for other in call.tx.find(RouteTable, call.scope, "vpc-id", table.vpc_id):
        for association in other.associations:
            if association.subnet_id != subnet.subnet_id:
                continue
            if other.route_table_id == table.route_table_id:
                return {"AssociationId": association.association_id, "AssociationState": ASSOCIATED}
            raise ApiError(
                "Resource.AlreadyAssociated",
                f"the specified association for route table {table.route_table_id} "
                "conflicts with an existing association",
            )
    made = RouteTableAssociation(association_id=new_id("rtbassoc", call.randomness), subnet_id=subnet.subnet_id)
    call.tx.put(msgspec.structs.replace(table, associations=(*table.associations, made)))
    return {"AssociationId": made.association_id, "AssociationState": ASSOCIATED}


@handles("DisassociateRouteTable", "AssociationId")
def disassociate_route_table(call: Call, request: Request) -> Result:
    """Makes the subnet follow the main table again."""
    table, association = _association(call, str(request["AssociationId"]))
    if association.main:
        raise invalid_value(f"cannot disassociate the main route table association {association.association_id}")
    call.tx.put(_without(table, association))
    return None


@handles("ReplaceRouteTableAssociation", "AssociationId", "RouteTableId", on=("RouteTableId", RouteTable))
def replace_route_table_association(call: Call, request: Request) -> Result:
    """Moves an association to another table: a subnet's, or the VPC's choice of main table."""
    old, association = _association(call, str(request["AssociationId"]))
    new = require(call.tx, call.scope, RouteTable, str(request["RouteTableId"]))
    _same_vpc(old.vpc_id, new.vpc_id, old.route_table_id, new.route_table_id)
    if new.route_table_id == old.route_table_id:
        return {"NewAssociationId": association.association_id, "AssociationState": ASSOCIATED}
    moved = msgspec.structs.replace(association, association_id=new_id("rtbassoc", call.randomness))
    call.tx.put(_without(old, association))
    call.tx.put(msgspec.structs.replace(new, associations=(*new.associations, moved)))
    return {"NewAssociationId": moved.association_id, "AssociationState": ASSOCIATED}


def _association(call: Call, association_id: str) -> tuple[RouteTable, RouteTableAssociation]:
    for table in call.tx.find(RouteTable, call.scope, f"association:{association_id}", MEMBER):
        for association in table.associations:
            if association.association_id == association_id:
                return table, association
    raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{association_id}' does not exist")


def _without(table: RouteTable, association: RouteTableAssociation) -> RouteTable:
    kept = tuple(one for one in table.associations if one != association)
    return msgspec.structs.replace(table, associations=kept)


def _same_vpc(first: str, second: str, *resource_ids: str) -> None:
    if first != second:
        named = " and ".join(resource_ids)
        raise invalid_value(f"{named} belong to different networks")
