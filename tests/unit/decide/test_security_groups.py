"""Which sources security groups admit."""

from __future__ import annotations

import pytest

from mainstay.decide.security_groups import admitted_sources
from mainstay.model.ec2 import Permission, SecurityGroupRule
from mainstay.model.network import AccessList
from mainstay.model.records import Scope

SCOPE = Scope("123456789012", "us-east-1")


def rule(permission: Permission, *, is_egress: bool = False) -> SecurityGroupRule:
    return SecurityGroupRule(scope=SCOPE, rule_id="sgr-1", group_id="sg-1", is_egress=is_egress, permission=permission)


def tcp(port: int, last: int | None = None, **peer: str) -> SecurityGroupRule:
    return rule(Permission(protocol="tcp", from_port=port, to_port=port if last is None else last, **peer))


def test_no_rules_admit_nobody() -> None:
    assert admitted_sources([], 5432, {}) == AccessList()
    assert not AccessList().admits("127.0.0.1")


@pytest.mark.parametrize(("port", "admitted"), [(5431, False), (5432, True), (5440, True), (5441, False)])
def test_the_port_range_decides(port: int, admitted: bool) -> None:
    found = admitted_sources([tcp(5432, 5440, cidr_ipv4="10.0.0.0/8")], port, {})
    assert found.admits("10.1.2.3") == admitted


def test_other_protocols_and_egress_admit_nobody() -> None:
    udp = Permission(protocol="udp", from_port=0, to_port=65535, cidr_ipv4="0.0.0.0/0")
    icmp = Permission(protocol="icmp", cidr_ipv4="0.0.0.0/0")
    out = rule(Permission(protocol="-1", cidr_ipv4="0.0.0.0/0"), is_egress=True)
    assert admitted_sources([rule(udp), rule(icmp), out], 5432, {}) == AccessList()


def test_all_traffic_covers_every_port() -> None:
    everything = rule(Permission(protocol="-1", cidr_ipv6="::/0"))
    found = admitted_sources([everything], 1, {})
    assert found == AccessList(ipv6=("::/0",))
    assert found.admits("2001:db8::1")
    assert not found.admits("10.0.0.1")


def test_source_groups_become_their_members_addresses() -> None:
    members = {"sg-app": ["172.31.0.5", "127.0.1.7"], "sg-other": ["172.31.9.9"]}
    found = admitted_sources([tcp(5432, group_id="sg-app"), tcp(5432, group_id="sg-empty")], 5432, members)
    assert found.ipv4 == ("127.0.1.7/32", "172.31.0.5/32")
    assert not found.admits("172.31.9.9")


def test_the_list_is_minimal_and_ordered() -> None:
    blocks = ["10.0.0.128/25", "10.0.0.0/25", "10.0.0.7/32", "9.0.0.0/8"]
    found = admitted_sources([tcp(5432, cidr_ipv4=block) for block in blocks], 5432, {})
    assert found.ipv4 == ("9.0.0.0/8", "10.0.0.0/24")


def test_mapped_addresses_are_judged_as_ipv4() -> None:
    found = AccessList(ipv4=("10.0.0.0/8",), ipv6=("::1/128",))
    assert found.admits("::ffff:10.0.0.1")
    assert found.admits("::1")
    assert not found.admits("::ffff:11.0.0.1")
    assert not AccessList(ipv6=("::/0",)).admits("::ffff:10.0.0.1")


def test_nonsense_is_not_admitted() -> None:
    assert not AccessList(ipv4=("0.0.0.0/0",), ipv6=("::/0",)).admits("")
