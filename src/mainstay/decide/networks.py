"""CIDR arithmetic: canonical blocks, what lies in what, and the next free address of a subnet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses, ip_network

from mainstay.model.network import AccessList

FIRST_USABLE_OFFSET = 4  # network address, router, DNS, and one "for future use"
RESERVED_ADDRESSES = 5  # those four and the broadcast address
LARGEST_PREFIX_BITS = 16
SMALLEST_PREFIX_BITS = 28

_WITH_PREFIX_LENGTH = re.compile(r"[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}")
# This network, loopback, link-local, multicast and reserved: a VPC can use none of them.
_UNUSABLE = tuple(IPv4Network(block) for block in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))


def parse_ipv4(text: str) -> IPv4Network | None:
    """The IPv4 block with its host bits cleared, as EC2 canonicalizes it, or None if `text` is not a CIDR block."""
    network = _parse(text)
    return network if isinstance(network, IPv4Network) else None


def parse_ipv6(text: str) -> IPv6Network | None:
    """The IPv6 block with its host bits cleared, or None if `text` is not a CIDR block."""
    network = _parse(text)
    return network if isinstance(network, IPv6Network) else None


def fits_vpc(network: IPv4Network) -> bool:
    """Whether the block may be a VPC's: /16 to /28 and of usable addresses."""
    sized = LARGEST_PREFIX_BITS <= network.prefixlen <= SMALLEST_PREFIX_BITS
    return sized and not any(network.overlaps(block) for block in _UNUSABLE)


def fits_subnet(network: IPv4Network, vpc_cidr: str) -> bool:
    """Whether the block may be a subnet's of a VPC with this block: at least /28 and inside."""
    return network.prefixlen <= SMALLEST_PREFIX_BITS and network.subnet_of(IPv4Network(vpc_cidr))


def overlaps_any(network: IPv4Network, cidrs: Iterable[str]) -> bool:
    """Whether any of `cidrs` shares an address with `network`."""
    return any(network.overlaps(IPv4Network(cidr)) for cidr in cidrs)


def usable_count(cidr: str) -> int:
    """How many addresses of a subnet can be given out."""
    return IPv4Network(cidr).num_addresses - RESERVED_ADDRESSES


def is_reserved(cidr: str, address: IPv4Address) -> bool:
    """Whether an address inside the subnet is one of the first four or the last, which nobody gets."""
    network = IPv4Network(cidr)
    offset = int(address) - int(network.network_address)
    return offset < FIRST_USABLE_OFFSET or offset == network.num_addresses - 1


def next_free_address(cidr: str, taken: Collection[str]) -> str | None:
    """The lowest usable address of the subnet that is not in `taken`, or None when all are."""
    network = IPv4Network(cidr)
    used = {int(IPv4Address(address)) for address in taken}
    first = int(network.network_address) + FIRST_USABLE_OFFSET
    last = int(network.broadcast_address) - 1
    free = next((number for number in range(first, last + 1) if number not in used), None)
    return None if free is None else str(IPv4Address(free))


def default_subnet_cidr(vpc_cidr: str, zone_number: int) -> str:
    """The /20 of the default VPC's block that belongs to the n-th zone (from 0)."""
    network = IPv4Network(vpc_cidr)
    blocks = network.subnets(new_prefix=20)
    return str(next(block for number, block in enumerate(blocks) if number == zone_number))


def minimal_list(networks: Iterable[IPv4Network | IPv6Network]) -> AccessList:
    """The same addresses in the fewest networks, ordered."""
    chosen = list(networks)
    ipv4 = collapse_addresses(network for network in chosen if isinstance(network, IPv4Network))
    ipv6 = collapse_addresses(network for network in chosen if isinstance(network, IPv6Network))
    return AccessList(tuple(str(network) for network in ipv4), tuple(str(network) for network in ipv6))


def _parse(text: str) -> IPv4Network | IPv6Network | None:
    # ip_network alone also takes "10.0.0.0" and "10.0.0.0/255.0.0.0", which EC2 calls malformed.
    if not _WITH_PREFIX_LENGTH.fullmatch(text):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
