"""Networks as values that cross process boundaries."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec


class AccessList(msgspec.Struct, frozen=True):
    """The source networks that may connect. Empty admits nobody.

    Each tuple is minimal (no network lies in another, none can be merged) and ordered, so two lists that admit the
    same addresses are equal. Networks are in canonical CIDR notation.
    """

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()

    def admits(self, address: str) -> bool:
        """Whether a connection from `address` may be accepted.

        An IPv4-mapped IPv6 address (what a dual-stack socket reports) is judged as IPv4. Text that is no address is
        refused.
        """
        try:
            source = ip_address(address)
        except ValueError:
            return False
        if isinstance(source, IPv6Address):
            if source.ipv4_mapped is None:
                return any(source in network for network in _parsed(self.ipv6))
            source = source.ipv4_mapped
        return any(source in network for network in _parsed(self.ipv4))


@lru_cache(maxsize=4096)
def _parsed(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    # Every new connection asks, lists change rarely: parse each distinct list once.
    return tuple(ip_network(network) for network in networks)
