"""Where proxies and their endpoints are: subnets, security groups, interfaces and the address they listen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.model.db_proxy import DEFAULT_ENDPOINT, READ_ONLY, READ_WRITE, DBProxyEndpoint
from mainstay.model.ec2 import Subnet, Vpc
from mainstay.model.errors import ApiError, invalid_combination, invalid_value
from mainstay.services.ec2.changes import notify
from mainstay.services.ec2.interfaces import create_service_interface
from mainstay.services.operations import Call, Request
from mainstay.services.rds.placement import security_groups
from mainstay.services.rds.quotas import SUBNETS_PER_DB_SUBNET_GROUP
from mainstay.workflows import addresses

LEAST_ZONES = 2
DEFAULT_ENDPOINT_ZONES = 2
PROXY = "DB proxy"
"""What refusals call it."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The network side of an endpoint; `subnets` in the order of the request."""

    vpc_id: str
    subnets: tuple[Subnet, ...]
    group_ids: tuple[str, ...]

    @property
    def subnet_ids(self) -> tuple[str, ...]:
        """VpcSubnetIds."""
        return tuple(subnet.subnet_id for subnet in self.subnets)


def place(call: Call, request: Request) -> Place:
    """Where a request wants a proxy or an endpoint. Raises the `ApiError` that RDS gives for what does not fit."""
    for member, valid in (("EndpointNetworkType", ("IPV4",)), ("TargetConnectionNetworkType", ("IPV4",))):
        if request.get(member, "IPV4") not in valid:
            raise invalid_combination(
                f"Dual-stack and IPv6 proxies: not available in this version of Mainstay. Set {member} to IPV4."
            )
    subnets = _subnets(call, request["VpcSubnetIds"])
    vpc_id = subnets[0].vpc_id
    vpc = call.tx.get(Vpc, call.scope, vpc_id)
    if vpc is not None and vpc.instance_tenancy == "dedicated":
        raise invalid_value(f"A DB proxy can't be in a VPC with dedicated tenancy: {vpc_id}.")
    return Place(
        vpc_id=vpc_id,
        subnets=subnets,
        group_ids=security_groups(call, vpc_id, request.get("VpcSecurityGroupIds"), of=PROXY),
    )


def new_endpoint(call: Call, proxy_id: str, endpoint_id: str, where: Place, **fields: Any) -> DBProxyEndpoint:
    """Stores an endpoint with an address and interfaces of its own; a default one has interfaces in two zones."""
    block = addresses.endpoint_block(call.tx, call.settings)
    address = addresses.lease(call.tx, call.scope.account_id, block, endpoint_id)
    endpoint = DBProxyEndpoint(
        scope=call.scope,
        db_proxy_endpoint_id=endpoint_id,
        db_proxy_id=proxy_id,
        vpc_id=where.vpc_id,
        vpc_subnet_ids=where.subnet_ids,
        vpc_security_group_ids=where.group_ids,
        address=address,
        interface_ids=(),
        created_at=call.clock.wall(),
        **fields,
    )
    chosen = _in_two_zones(where.subnets) if endpoint.is_default else where.subnets
    interfaces = tuple(
        _interface(call, subnet.subnet_id, where.group_ids, f"Network interface for DBProxy {proxy_id}", address)
        for subnet in chosen
    )
    endpoint = msgspec.structs.replace(endpoint, interface_ids=interfaces)
    call.tx.insert(endpoint)
    notify(call)
    return endpoint


def check_target_role(request: Mapping[str, Any]) -> str:
    """TargetRole of CreateDBProxyEndpoint."""
    role: str = request.get("TargetRole", READ_WRITE)
    if role not in (READ_WRITE, READ_ONLY):
        raise invalid_value(f"Invalid TargetRole {role}. Valid values: {READ_WRITE}, {READ_ONLY}")
    return role


def check_not_reserved(name: str) -> str:
    """The name of an endpoint that users may give. `default` is that of every proxy's own endpoint."""
    if name == DEFAULT_ENDPOINT:
        raise invalid_value(f"The name {DEFAULT_ENDPOINT} is reserved for the endpoint that every DB proxy has.")
    return name


def _interface(call: Call, subnet_id: str, group_ids: Sequence[str], description: str, address: str) -> str:
    try:
        made = create_service_interface(
            call.tx, call.scope, subnet_id, group_ids, description,
            randomness=call.randomness, real_addresses=(address,),
        )  # fmt: skip
    except ApiError as error:
        if error.shape != "InsufficientFreeAddressesInSubnet":
            raise
        raise ApiError("InvalidSubnet", f"The subnet {subnet_id} has no free address for a DB proxy.") from error
    return made.interface_id


def _subnets(call: Call, ids: Sequence[str]) -> tuple[Subnet, ...]:
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        raise ApiError("InvalidSubnet", "Subnet IDs are required.")
    if len(wanted) > SUBNETS_PER_DB_SUBNET_GROUP:
        raise ApiError("InvalidSubnet", f"A DB proxy can have at most {SUBNETS_PER_DB_SUBNET_GROUP} subnets.")
    found = [call.tx.get(Subnet, call.scope, subnet_id) for subnet_id in wanted]
    subnets = tuple(subnet for subnet in found if subnet is not None)
    if len(subnets) < len(wanted):
        missing = sorted({*wanted} - {subnet.subnet_id for subnet in subnets})
        raise ApiError("InvalidSubnet", f"Some input subnets in :[{', '.join(missing)}] are invalid.")
    if len(vpc_ids := sorted({subnet.vpc_id for subnet in subnets})) > 1:
        raise ApiError("InvalidSubnet", f"The subnets belong to several VPCs: {', '.join(vpc_ids)}. Use one VPC.")
    zones = sorted({subnet.availability_zone for subnet in subnets})
    if len(zones) < LEAST_ZONES:
        raise ApiError(
            "InvalidSubnet",
            "The subnets of a DB proxy must cover at least two Availability Zones. Current AZ coverage:"
            f" {', '.join(zones)}. Add subnets in another zone.",
        )
    return subnets


def _in_two_zones(subnets: Sequence[Subnet]) -> list[Subnet]:
    by_zone: dict[str, Subnet] = {}
    for subnet in subnets:
        by_zone.setdefault(subnet.availability_zone, subnet)
    return list(by_zone.values())[:DEFAULT_ENDPOINT_ZONES]
