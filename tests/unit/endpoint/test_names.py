"""The zone of the endpoints' names: what is answered to each question, and to no question at all."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from dnslib import CLASS, EDNS0, OPCODE, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import example, given
from hypothesis import strategies as st

from mainstay.endpoint.limits import DNS_QUERY_BYTES_MAX, DNS_UDP_BYTES_MAX
from mainstay.endpoint.names import Names
from mainstay.model.errors import Permanent
from mainstay.model.route import Route

change = msgspec.structs.replace
ZONE = "mainstay.internal"
MYDB = f"mydb.abc123def456.us-west-2.rds.{ZONE}"
HOST = f"ip-127-64-0-5.compute.{ZONE}"
ROUTE = Route(endpoint_id="db-1", address="127.64.0.5", port=5432, epoch=1, name=MYDB, target_address="127.96.0.9",
              target_port=24000)  # fmt: skip
SIX = change(ROUTE, endpoint_id="db-6", address="2001:db8::5", target_address=None, name=f"six.x.us-west-2.rds.{ZONE}")


def zone(*routes: Route, name: str = ZONE) -> Names:
    names = Names(name, "127.0.0.1")
    names.replace(routes, serial=7)
    return names


def ask(names: Names, name: str, kind: str = "A", *, udp: bool = True, edns: Any = None, **header: int) -> DNSRecord:
    query = DNSRecord(DNSHeader(**header), q=DNSQuestion(name, getattr(QTYPE, kind)))
    if edns is not None:
        query.add_ar(edns)
    answer = names.answer(bytes(query.pack()), udp=udp)
    assert answer is not None
    parsed = DNSRecord.parse(answer)
    assert (parsed.header.id, parsed.header.qr, parsed.header.ra) == (query.header.id, 1, 0)
    return parsed


def lines(records: list[Any]) -> list[str]:
    return [f"{one.rname} {one.ttl} {QTYPE[one.rtype]} {one.rdata}" for one in records]


def status(answer: DNSRecord) -> str:
    """Code, whether authoritative, and how many records of each section."""
    counts = f"{len(answer.rr)} {len(answer.auth)} {len(answer.ar)}"
    return f"{RCODE[answer.header.rcode]} {'aa' if answer.header.aa else '--'} {counts}"


def test_a_name_leads_to_the_host_where_clients_reach_the_primary_and_never_to_the_engine() -> None:
    answer = ask(zone(ROUTE), MYDB)
    assert lines(answer.rr) == [f"{MYDB}. 5 CNAME {HOST}.", f"{HOST}. 5 A 127.64.0.5"]
    assert status(answer) == "NOERROR aa 2 0 0"
    assert lines(ask(zone(ROUTE), HOST).rr) == [f"{HOST}. 5 A 127.64.0.5"]
    held = change(ROUTE, target_address=None, target_port=0)
    assert lines(ask(zone(held), MYDB).rr) == lines(answer.rr), "clients of an endpoint on hold must be able to wait"


def test_case_does_not_matter_and_is_given_back_as_it_came() -> None:
    asked = MYDB.upper().replace("MYDB", "mYdB")
    answer = ask(zone(change(ROUTE, name=MYDB.title())), asked)
    assert str(answer.q.qname) == f"{asked}." == str(answer.rr[0].rname)
    assert answer.rr[1].rdata.data == (127, 64, 0, 5)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (MYDB, "AAAA", "NOERROR aa 1 1 0"),
        (MYDB, "TXT", "NOERROR aa 1 1 0"),
        (MYDB, "CNAME", "NOERROR aa 1 0 0"),
        (MYDB, "ANY", "NOERROR aa 1 0 0"),
        (HOST, "AAAA", "NOERROR aa 0 1 0"),
        (HOST, "MX", "NOERROR aa 0 1 0"),
        (HOST, "ANY", "NOERROR aa 1 0 0"),
        (f"other.abc123def456.us-west-2.rds.{ZONE}", "A", "NXDOMAIN aa 0 1 0"),
        (f"below.{MYDB}", "A", "NXDOMAIN aa 0 1 0"),
        (f"ip-127-64-0-6.compute.{ZONE}", "A", "NXDOMAIN aa 0 1 0"),
        (f"abc123def456.us-west-2.rds.{ZONE}", "A", "NOERROR aa 0 1 0"),  # exists, because mydb is below it
        (f"rds.{ZONE}", "A", "NOERROR aa 0 1 0"),
        (f"compute.{ZONE}", "A", "NOERROR aa 0 1 0"),
        (f"eu-west-1.rds.{ZONE}", "A", "NXDOMAIN aa 0 1 0"),
        (ZONE, "A", "NOERROR aa 0 1 0"),
        (ZONE, "SOA", "NOERROR aa 1 0 0"),
        (ZONE, "ANY", "NOERROR aa 1 0 0"),
        (ZONE, "NS", "NOERROR aa 1 0 1"),
        (f"ns.{ZONE}", "A", "NOERROR aa 1 0 0"),
        (ZONE, "AXFR", "REFUSED -- 0 0 0"),
        (ZONE, "IXFR", "REFUSED -- 0 0 0"),
        ("internal", "SOA", "REFUSED -- 0 0 0"),
        (".", "NS", "REFUSED -- 0 0 0"),
        ("example.com", "A", "REFUSED -- 0 0 0"),
        (f"not{ZONE}", "A", "REFUSED -- 0 0 0"),
    ],
)
def test_every_kind_of_answer(name: str, kind: str, expected: str) -> None:
    answer = ask(zone(ROUTE), name, kind)
    assert status(answer) == expected
    for soa in answer.auth:
        assert (str(soa.rname), QTYPE[soa.rtype], soa.ttl) == (f"{ZONE}.", "SOA", 5)
        assert soa.rdata.times == (7, 3600, 600, 86400, 5)


def test_the_zone_names_its_server() -> None:
    answer = ask(zone(), ZONE, "NS")
    assert lines(answer.rr) == [f"{ZONE}. 300 NS ns.{ZONE}."]
    assert lines(answer.ar) == [f"ns.{ZONE}. 5 A 127.0.0.1"]
    (soa,) = ask(zone(), ZONE, "SOA").rr
    assert (str(soa.rdata.mname), str(soa.rdata.rname)) == (f"ns.{ZONE}.", f"hostmaster.{ZONE}.")


def test_an_ipv6_endpoint_has_an_aaaa_record_and_no_a_record() -> None:
    answer = ask(zone(SIX), SIX.name, "AAAA")
    assert lines(answer.rr)[1] == f"ip-2001-0db8-0000-0000-0000-0000-0000-0005.compute.{ZONE}. 5 AAAA 2001:db8::5"
    assert status(ask(zone(SIX), SIX.name)) == "NOERROR aa 1 1 0"


def test_a_withdrawn_or_renamed_route_loses_its_name_at_once() -> None:
    names = zone(ROUTE)
    renamed = change(ROUTE, name=MYDB.replace("mydb", "yours"))
    names.replace([renamed], serial=8)
    assert status(ask(names, MYDB)) == "NXDOMAIN aa 0 1 0"
    assert ask(names, MYDB).auth[0].rdata.times[0] == 8
    assert status(ask(names, renamed.name)) == "NOERROR aa 2 0 0"
    names.replace([], serial=9)
    assert status(ask(names, renamed.name)) == "NXDOMAIN aa 0 1 0"
    assert status(ask(names, HOST)) == "NXDOMAIN aa 0 1 0"
    assert status(ask(names, f"rds.{ZONE}")) == "NXDOMAIN aa 0 1 0"


def test_a_name_claimed_twice_leads_to_neither() -> None:
    twice = change(ROUTE, endpoint_id="db-2", address="127.64.0.6", name=MYDB.upper())
    assert status(ask(zone(ROUTE, twice), MYDB)) == "SERVFAIL -- 0 0 0"
    assert status(ask(zone(ROUTE, twice), HOST)) == "NOERROR aa 1 0 0"


@pytest.mark.parametrize("name", ["", f"a.rds.not{ZONE}", "a.example.com", ZONE])
def test_a_route_whose_name_is_not_below_the_zone_is_not_served_by_name(name: str) -> None:
    names = zone(change(ROUTE, name=name))
    assert status(ask(names, ZONE, "SOA")) == "NOERROR aa 1 0 0"
    if name and name != ZONE:
        assert status(ask(names, name)) == "REFUSED -- 0 0 0"


def test_edns_sets_the_size_and_is_answered_with_edns() -> None:
    plain = ask(zone(ROUTE), MYDB, "TXT")
    assert plain.ar == []
    answer = ask(zone(ROUTE), MYDB, edns=EDNS0(udp_len=4096, flags="do"))
    (opt,) = answer.ar
    assert (opt.rclass, opt.edns_do, opt.edns_ver, opt.edns_rcode) == (DNS_UDP_BYTES_MAX, 1, 0, 0)
    assert len(answer.rr) == 2
    answer = ask(zone(ROUTE), MYDB, edns=EDNS0(version=1, udp_len=512))
    assert (answer.header.rcode, answer.ar[0].edns_rcode, len(answer.rr)) == (0, 1, 0), "BADVERS is 16"


def test_what_does_not_fit_into_a_datagram_is_truncated_and_whole_over_tcp() -> None:
    long = ".".join(["z" * 60] * 3)
    route = change(ROUTE, name=f"{'m' * 40}.abc123def456.us-west-2.rds.{long}")
    asked = route.name.upper()  # another case than in the zone, so that the names do not compress each other
    names = zone(route, name=long)
    small = ask(names, asked, "TXT")
    assert (small.header.tc, status(small)) == (1, "NOERROR aa 0 0 0")
    small = ask(names, asked, "TXT", edns=EDNS0(udp_len=100))
    assert (small.header.tc, len(small.pack()) <= 512, len(small.ar)) == (1, True, 1)
    for whole in (ask(names, asked, "TXT", edns=EDNS0(udp_len=65535)), ask(names, asked, "TXT", udp=False)):
        assert (whole.header.tc, len(whole.rr), len(whole.auth)) == (0, 1, 1)


def test_what_is_no_plain_question() -> None:
    names = zone(ROUTE)
    assert RCODE[ask(names, MYDB, opcode=OPCODE.UPDATE).header.rcode] == "NOTIMP"
    assert RCODE[ask(names, MYDB, opcode=OPCODE.NOTIFY).header.rcode] == "NOTIMP"
    assert ask(names, MYDB, rd=1).header.rd == 1
    chaos = DNSRecord(q=DNSQuestion("version.bind", QTYPE.TXT, CLASS.CH))
    assert RCODE[DNSRecord.parse(names.answer(bytes(chaos.pack()), udp=True)).header.rcode] == "REFUSED"
    hesiod = DNSRecord(q=DNSQuestion(MYDB, QTYPE.A, CLASS.Hesiod))
    assert RCODE[DNSRecord.parse(names.answer(bytes(hesiod.pack()), udp=True)).header.rcode] == "REFUSED"


QUERY = bytes(DNSRecord(DNSHeader(id=1, rd=0), q=DNSQuestion(MYDB)).pack())
HEADER = bytes.fromhex("0001 0000 0001 0000 0000 0000")
FORMERR = bytes.fromhex("0001 8001 0000 0000 0000 0000")
OPT = bytes.fromhex("00 0029 04d0 00000000 0000")


@pytest.mark.parametrize(
    "message",
    [
        HEADER,
        HEADER + b"\x04mydb",
        HEADER + b"\xc0\x0c\x00\x01\x00\x01",  # a pointer to itself
        HEADER + b"\x01a\xc0\x0c\x00\x01\x00\x01",
        HEADER + b"\x41" + b"a" * 65 + b"\0\x00\x01\x00\x01",  # a label of 65 bytes
        HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\0\x00\x01\x00\x01",  # a name of 257 bytes
        HEADER + b"\x02\xff\xfe\0\x00\x01\x00\x01",
        HEADER + b"\0\x00\x29\x00\x01",  # a question for OPT
        HEADER[:5] + b"\2" + HEADER[6:] + QUERY[12:] * 2,  # two questions
        HEADER[:5] + b"\0" + HEADER[6:],  # none
        QUERY[:7] + b"\1" + QUERY[8:] + QUERY[12:],  # answers in a query
        QUERY[:11] + b"\2" + QUERY[12:] + OPT * 2,
        QUERY[:11] + b"\1" + QUERY[12:] + b"\1a" + OPT,  # OPT of a name
        QUERY[:11] + b"\1" + QUERY[12:] + OPT[:-2] + b"\0\4",  # shorter than it says
        QUERY[:11] + b"\4" + QUERY[12:] + b"\0\0\1\0\1\0\0\0\0\0\0" * 4,
        QUERY + b"\0" * DNS_QUERY_BYTES_MAX,
    ],
)
def test_damaged_queries_are_a_format_error_and_never_answered_with_more_bytes(message: bytes) -> None:
    assert zone(ROUTE).answer(message, udp=True) == FORMERR
    assert len(message) >= len(FORMERR)


def test_answers_and_scraps_are_not_answered() -> None:
    names = zone(ROUTE)
    assert names.answer(QUERY[:2] + b"\x80" + QUERY[3:], udp=True) is None
    assert names.answer(QUERY[:11], udp=True) is None
    assert names.answer(b"", udp=False) is None


@given(st.binary(max_size=DNS_QUERY_BYTES_MAX + 20), st.booleans())
@example(HEADER + b"\x01\x01" * 200 + b"\xc0\x0d\xc0\x0e\xc0\x0c", True)
def test_no_bytes_make_it_raise(message: bytes, udp: bool) -> None:
    _check(message, udp)


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_no_bytes_behind_a_plausible_header_make_it_raise(rest: bytes, questions: int, more: int, udp: bool) -> None:
    _check(b"\0\1\0\0" + bytes([0, questions, 0, 0, 0, 0, 0, more]) + rest, udp)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_no_damage_to_a_good_query_makes_it_raise(seed: int, count: int) -> None:
    chance = random.Random(seed)
    message = bytearray(QUERY[:11] + b"\1" + QUERY[12:] + OPT)
    for _ in range(count):
        message[chance.randrange(len(message))] = chance.randrange(256)
    _check(bytes(message), True)


def test_the_longest_chain_of_pointers_is_followed() -> None:
    start = len(QUERY) + 11  # of the data of the first further record
    links = [12, *range(start, start + 2 * 200, 2)]
    chain = b"".join((0xC000 | link).to_bytes(2, "big") for link in links[:-1])
    record = b"\0\0\1\0\1\0\0\0\0" + len(chain).to_bytes(2, "big") + chain
    owner = (0xC000 | links[-1]).to_bytes(2, "big")
    message = QUERY[:11] + b"\2" + QUERY[12:] + record + owner + b"\0\1\0\1\0\0\0\0\0\0"
    assert len(message) <= DNS_QUERY_BYTES_MAX
    answer = zone(ROUTE).answer(message, udp=True)
    assert answer is not None and status(DNSRecord.parse(answer)) == "NOERROR aa 2 0 0"


def _check(message: bytes, udp: bool) -> None:
    names = zone(ROUTE, SIX)
    answer = names.answer(message, udp=udp)
    if answer is None:
        assert len(message) < 12 or message[2] & 0x80
        return
    assert answer[:2] == message[:2] and answer[2] & 0x80
    assert len(answer) <= (DNS_UDP_BYTES_MAX if udp else 65535)
    DNSRecord.parse(answer)


@pytest.mark.parametrize("name", ["a..b", "-a.b", "a-.b", "a_b.c", "a.b.", "ä.b", "a" * 64 + ".b", "a." * 126 + "bc"])
def test_a_route_takes_only_dns_names(name: str) -> None:
    with pytest.raises(Permanent, match="not a DNS name"):
        change(ROUTE, name=name)
    assert change(ROUTE, name="a." * 126 + "b").name
