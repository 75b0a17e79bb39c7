"""Network interfaces as the rest of the program uses them: making, regrouping and removing those of services, and the
access list that a set of security groups comes to.

Every function that changes who is in a group records the change (`changes.py`); callers outside EC2's own handlers
tell the listener themselves, after their transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import msgspec

from mainstay.decide.networks import is_reserved, next_free_address
from mainstay.decide.security_groups import admitted_sources
from mainstay.host.randomness import Randomness
from mainstay.model.ec2 import (
    MEMBER,
    NetworkInterface,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    Vpc,
)
from mainstay.model.errors import ApiError, invalid_value
from mainstay.model.network import AccessList
from mainstay.model.records import Scope
from mainstay.services.ec2.assembly import default_group
from mainstay.services.ec2.changes import record_change
from mainstay.services.ec2.limits import GROUPS_PER_INTERFACE, NETWORK_INTERFACES, require_room
from mainstay.services.ec2.network_acls import domain_name
from mainstay.services.ec2.resources import new_id, require
from mainstay.store import Reader, Transaction

RDS = "amazon-rds"


class InterfaceWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a new interface shall be. Without an address it gets the subnet's next free one, without groups the VPC's
    default group."""

    subnet_id: str
    group_ids: tuple[str, ...] = ()
    private_address: str = ""
    description: str = ""
    requester: str = ""
    client_token: str = ""
    real_addresses: tuple[str, ...] = ()
    tags: dict[str, str] = {}


def create_service_interface(
    tx: Transaction,
    scope: Scope,
    subnet_id: str,
    group_ids: Sequence[str],
    description: str,
    *,
    randomness: Randomness,
    requester: str = RDS,
    real_addresses: Sequence[str] = (),
) -> NetworkInterface:
    """An interface of a service's own, in use from the start, that users see but cannot change or delete.

    `real_addresses` are where its packets come from on this host (the instance's endpoint address).
    Raises `ApiError`: InvalidSubnetID.NotFound, InvalidGroup.NotFound, InsufficientFreeAddressesInSubnet …
    """
    wish = InterfaceWish(
        subnet_id=subnet_id,
        group_ids=tuple(group_ids),
        description=description,
        requester=requester,
        real_addresses=tuple(real_addresses),
    )
    return create_interface(tx, scope, wish, randomness)


def set_interface_groups(
    tx: Transaction, scope: Scope, interface_id: str, group_ids: Sequence[str]
) -> NetworkInterface:
    """Puts the interface into exactly these groups; raises `ApiError` if one does not exist in its VPC."""
    interface = require(tx, scope, NetworkInterface, interface_id)
    groups = _checked_groups(tx, scope, interface.vpc_id, group_ids)
    return _put(tx, msgspec.structs.replace(interface, group_ids=groups))


def set_real_addresses(tx: Transaction, scope: Scope, interface_id: str, addresses: Sequence[str]) -> NetworkInterface:
    """Says where the interface's packets come from on this host's network."""
    interface = require(tx, scope, NetworkInterface, interface_id)
    return _put(tx, msgspec.structs.replace(interface, real_addresses=tuple(addresses)))


def delete_service_interface(tx: Transaction, scope: Scope, interface_id: str) -> None:
    """Removes the interface and frees its address; one that is gone already is no error (workflow steps repeat)."""
    interface = tx.get(NetworkInterface, scope, interface_id)
    if interface is not None:
        tx.delete(interface)
        record_change(tx, scope)


def access_list_for(reader: Reader, scope: Scope, group_ids: Sequence[str], port: int) -> AccessList:
    """Who may connect to TCP `port` of an interface in these groups, at this moment of the store."""
    rules = [rule for group_id in group_ids for rule in reader.find(SecurityGroupRule, scope, "group-id", group_id)]
    sources = {rule.permission.group_id for rule in rules if rule.permission.group_id and not rule.is_egress}
    members = {
        group_id: [address for interface in members_of(reader, scope, group_id) for address in interface.addresses]
        for group_id in sources
    }
    return admitted_sources(rules, port, members)


def members_of(reader: Reader, scope: Scope, group_id: str) -> list[NetworkInterface]:
    """The interfaces in a security group."""
    return reader.find(NetworkInterface, scope, f"group:{group_id}", MEMBER)


def private_dns_name(interface: NetworkInterface) -> str:
    """The name that the address has inside its VPC."""
    return f"ip-{interface.private_address.replace('.', '-')}.{domain_name(interface.scope.region)}"


def create_interface(tx: Transaction, scope: Scope, wish: InterfaceWish, randomness: Randomness) -> NetworkInterface:
    """Makes the interface wished for, or raises what EC2 answers."""
    subnet = require(tx, scope, Subnet, wish.subnet_id)
    vpc = require(tx, scope, Vpc, subnet.vpc_id)
    require_room(tx, scope, NetworkInterface, NETWORK_INTERFACES, "NetworkInterfaceLimitExceeded", "network interfaces")
    wanted = wish.group_ids or (default_group(tx, scope, vpc.vpc_id).group_id,)
    interface = NetworkInterface(
        scope=scope,
        interface_id=new_id("eni", randomness),
        subnet_id=subnet.subnet_id,
        vpc_id=vpc.vpc_id,
        availability_zone=subnet.availability_zone,
        private_address=_address(tx, scope, subnet, wish.private_address),
        mac_address=_mac_address(randomness),
        group_ids=_checked_groups(tx, scope, vpc.vpc_id, wanted),
        description=wish.description,
        requester=wish.requester,
        attachment_id=new_id("ela-attach", randomness) if wish.requester else "",
        client_token=wish.client_token,
        real_addresses=wish.real_addresses,
        tags=wish.tags,
    )
    tx.insert(interface)
    record_change(tx, scope)
    return interface


def _put(tx: Transaction, interface: NetworkInterface) -> NetworkInterface:
    tx.put(interface)
    record_change(tx, interface.scope)
    return interface


def _checked_groups(reader: Reader, scope: Scope, vpc_id: str, group_ids: Sequence[str]) -> tuple[str, ...]:
    unique = tuple(dict.fromkeys(group_ids))
    if not unique:
        raise invalid_value("An interface needs at least one security group.")
    if len(unique) > GROUPS_PER_INTERFACE:
        raise ApiError(
            "SecurityGroupsPerInterfaceLimitExceeded",
            f"The maximum number of security groups per interface has been reached ({GROUPS_PER_INTERFACE}).",
        )
    for group_id in unique:
        if require(reader, scope, SecurityGroup, group_id).vpc_id != vpc_id:
            raise ApiError(
                "InvalidGroup.NotFound", "You have specified two resources that belong to different networks."
            )
    return unique


def _address(reader: Reader, scope: Scope, subnet: Subnet, wanted: str) -> str:
    interfaces = reader.find(NetworkInterface, scope, "subnet-id", subnet.subnet_id)
    taken = {interface.private_address for interface in interfaces}
    if not wanted:
        free = next_free_address(subnet.cidr_block, taken)
        if free is None:
            raise ApiError(
                "InsufficientFreeAddressesInSubnet",
                "The specified subnet does not have enough free addresses to satisfy the request.",
            )
        return free
    try:
        address = IPv4Address(wanted)
    except ValueError as error:
        raise invalid_value(f"invalid value for parameter address: {wanted}") from error
    if address not in IPv4Network(subnet.cidr_block):
        raise invalid_value("Address does not fall within the subnet's address range")
    if is_reserved(subnet.cidr_block, address):
        raise invalid_value("Address is in subnet's reserved address range")
    if str(address) in taken:
        raise ApiError("InvalidIPAddress.InUse", f"Address {address} is in use.")
    return str(address)


def _mac_address(randomness: Randomness) -> str:
    # 02 in the first byte: a locally administered unicast address, as EC2's are.
    return ":".join(f"{byte:02x}" for byte in (0x02, *randomness.token_bytes(5)))
