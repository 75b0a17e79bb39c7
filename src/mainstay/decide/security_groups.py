"""Which sources the security groups of an interface admit to a TCP port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from mainstay.decide.networks import minimal_list
from mainstay.model.ec2 import ALL_PROTOCOLS, Permission, SecurityGroupRule
from mainstay.model.network import AccessList

TCP = "tcp"


def admitted_sources(rules: Iterable[SecurityGroupRule], port: int, members: Mapping[str, Sequence[str]]) -> AccessList:
    """The networks that may connect to TCP `port` of an interface whose groups hold `rules`.

    `members` gives the addresses of the interfaces in each source group; a group without members admits nobody.
    Rules only ever admit, so the groups of an interface add up; egress rules are ignored, because answers to an
    admitted connection always pass (security groups are stateful).
    """
    return minimal_list(
        network
        for rule in rules
        if not rule.is_egress and covers_tcp(rule.permission, port)
        for network in _sources(rule.permission, members)
    )


def covers_tcp(permission: Permission, port: int) -> bool:
    """Whether the rule's protocol and port range include TCP `port`."""
    if permission.protocol == ALL_PROTOCOLS:
        return True
    return permission.protocol == TCP and permission.from_port <= port <= permission.to_port


def _sources(permission: Permission, members: Mapping[str, Sequence[str]]) -> Iterator[IPv4Network | IPv6Network]:
    if permission.group_id:
        yield from (ip_network(address) for address in members.get(permission.group_id, ()))
    else:
        yield ip_network(permission.peer)
