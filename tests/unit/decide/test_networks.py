"""CIDR arithmetic."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.decide.networks import (
    default_subnet_cidr,
    fits_subnet,
    fits_vpc,
    is_reserved,
    minimal_list,
    next_free_address,
    overlaps_any,
    parse_ipv4,
    parse_ipv6,
    usable_count,
)


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "010.0.0.0/8", "a/8", "::/0"])
def test_what_is_no_ipv4_block(text: str) -> None:
    assert parse_ipv4(text) is None


def test_blocks_are_made_canonical() -> None:
    assert str(parse_ipv4("100.68.0.18/18")) == "100.68.0.0/18"
    assert str(parse_ipv6("2001:DB8:0::1/32")) == "2001:db8::/32"
    assert parse_ipv6("10.0.0.0/8") is None
    assert parse_ipv6("fe80::1%eth0/64") is None


@pytest.mark.parametrize(
    ("cidr", "fits"),
    [
        ("10.0.0.0/16", True),
        ("10.0.0.0/28", True),
        ("10.0.0.0/15", False),
        ("10.0.0.0/29", False),
        ("127.0.0.0/16", False),
        ("169.254.0.0/16", False),
        ("224.0.0.0/16", False),
        ("0.0.0.0/16", False),
        ("198.51.0.0/16", True),
    ],
)
def test_vpc_sizes_and_ranges(cidr: str, fits: bool) -> None:
    assert fits_vpc(IPv4Network(cidr)) == fits


def test_subnets_lie_in_their_vpc() -> None:
    assert fits_subnet(IPv4Network("10.0.1.0/24"), "10.0.0.0/16")
    assert fits_subnet(IPv4Network("10.0.0.0/16"), "10.0.0.0/16")
    assert not fits_subnet(IPv4Network("10.1.0.0/24"), "10.0.0.0/16")
    assert not fits_subnet(IPv4Network("10.0.0.0/15"), "10.0.0.0/16")
    assert not fits_subnet(IPv4Network("10.0.0.0/29"), "10.0.0.0/16")
    assert overlaps_any(IPv4Network("10.0.0.0/20"), ["10.1.0.0/24", "10.0.15.0/24"])
    assert not overlaps_any(IPv4Network("10.0.0.0/20"), ["10.0.16.0/24"])


def test_default_subnets_follow_each_other() -> None:
    assert [default_subnet_cidr("172.31.0.0/16", number) for number in (0, 1, 15)] == [
        "172.31.0.0/20",
        "172.31.16.0/20",
        "172.31.240.0/20",
    ]


def test_the_first_four_and_the_last_address_are_reserved() -> None:
    assert usable_count("10.0.0.0/28") == 11
    given_out: list[str] = []
    while (address := next_free_address("10.0.0.0/28", given_out)) is not None:
        given_out.append(address)
    assert given_out == [f"10.0.0.{number}" for number in range(4, 15)]
    assert next_free_address("10.0.0.0/28", set(given_out) - {"10.0.0.9"}) == "10.0.0.9"
    reserved = [number for number in range(16) if is_reserved("10.0.0.0/28", IPv4Address(f"10.0.0.{number}"))]
    assert reserved == [0, 1, 2, 3, 15]


networks4 = st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
    lambda pair: IPv4Network(f"192.0.2.{pair[0]}/{pair[1]}", strict=False)
)


@given(st.lists(networks4, max_size=6))
def test_a_minimal_list_admits_the_same_addresses(networks: list[IPv4Network]) -> None:
    short = minimal_list(networks)
    assert len(short.ipv4) <= len(networks)
    for number in range(256):
        address = IPv4Address(f"192.0.2.{number}")
        assert short.admits(str(address)) == any(address in network for network in networks)
    assert minimal_list(reversed(networks)) == short
