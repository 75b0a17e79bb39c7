"""Loopback addresses of endpoints and nodes.

All of 127.0.0.0/8 is this machine, so every instance can have the port it asked for on an address of its own, without
root and without DNS. Endpoints live in 127.64.0.0/11, nodes in 127.96.0.0/11; every service (MAINSTAY_HOME) has its own
slot of 4096 addresses in each, so that several services run side by side (`control/address_slot.py`).
"""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path

from mainstay.model.addresses import AddressLease, AddressSlot
from mainstay.model.errors import ApiError
from mainstay.model.records import GLOBAL_REGION, Scope
from mainstay.settings import Settings
from mainstay.store import Reader, Transaction

ENDPOINTS = ipaddress.IPv4Network("127.64.0.0/11")
NODES = ipaddress.IPv4Network("127.96.0.0/11")
SLOT_PREFIX_LENGTH = 20
SLOTS: int = 2 ** (SLOT_PREFIX_LENGTH - ENDPOINTS.prefixlen)


def endpoint_block(reader: Reader, settings: Settings) -> ipaddress.IPv4Network:
    """Where endpoint addresses come from: the network that was set, or this service's slot of the loopback pool."""
    if settings.endpoint_network:
        return ipaddress.IPv4Network(settings.endpoint_network)
    return blocks(_slot(reader, settings))[0]


def node_block(reader: Reader, settings: Settings) -> ipaddress.IPv4Network:
    """Where the addresses come from on which engines listen."""
    return blocks(_slot(reader, settings))[1]


def blocks(number: int) -> tuple[ipaddress.IPv4Network, ipaddress.IPv4Network]:
    """The addresses of a slot: for endpoints and for nodes."""
    offset = number * 2 ** (32 - SLOT_PREFIX_LENGTH)
    endpoints, nodes = (
        ipaddress.IPv4Network((int(pool.network_address) + offset, SLOT_PREFIX_LENGTH)) for pool in (ENDPOINTS, NODES)
    )
    return endpoints, nodes


def preferred_slot(home: Path) -> int:
    """The slot that a service of this home has unless another service has it already."""
    return int.from_bytes(hashlib.sha256(str(home).encode()).digest()[:4], "big") % SLOTS


def any_leased(reader: Reader, account_id: str) -> bool:
    """Whether any loopback address of a slot is in use."""
    held = (ipaddress.IPv4Address(one.address) for one in reader.scan(AddressLease, Scope(account_id, GLOBAL_REGION)))
    return any(address in pool for address in held for pool in (ENDPOINTS, NODES))


def _slot(reader: Reader, settings: Settings) -> int:
    chosen = reader.get(AddressSlot, Scope(settings.account_id, GLOBAL_REGION), AddressSlot.CURRENT)
    return preferred_slot(settings.home) if chosen is None else chosen.number


def lease(tx: Transaction, account_id: str, block: ipaddress.IPv4Network, holder: str) -> str:
    """The holder's address in the block: the one it has, or the lowest free one.

    Raises `ApiError` InsufficientDBInstanceCapacity when all are taken.
    """
    scope = Scope(account_id, GLOBAL_REGION)
    leases = tx.scan(AddressLease, scope)
    for held in leases:
        if held.holder == holder and ipaddress.IPv4Address(held.address) in block:
            return held.address
    taken = {held.address for held in leases}
    for address in block.hosts():
        if str(address) not in taken and not str(address).endswith((".0", ".255")):
            tx.insert(AddressLease(scope=scope, address=str(address), holder=holder))
            return str(address)
    raise ApiError("InsufficientDBInstanceCapacityFault", f"All addresses of {block} are in use.")


def release(tx: Transaction, account_id: str, holder: str) -> None:
    """Gives back every address of the holder."""
    for held in tx.find(AddressLease, Scope(account_id, GLOBAL_REGION), "holder", holder):
        tx.delete(held)
