"""The zone of the endpoints' names: the bytes of a DNS query in, the bytes of its answer out. No sockets, no clock.

    mydb.<hash>.<region>.rds.<zone>   CNAME of the host where clients reach the current primary: the endpoint's address
    ip-127-64-0-5.compute.<zone>      A or AAAA of that address, as EC2 names its hosts
    <zone>                            SOA, NS

Guarantees, tested in tests/unit/endpoint/test_names.py: no bytes make it raise; only this zone is answered for
(REFUSED elsewhere, no recursion); a name without the type that was asked for is no error, one that does not exist is
NXDOMAIN, both with the SOA (RFC 2308); an answer over UDP has at most `DNS_UDP_BYTES_MAX`. A name that two routes
claim, as may be for a moment during a rename, leads to neither: SERVFAIL, so that nobody reaches the wrong database.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, NamedTuple

import structlog
from dnslib import (
    AAAA,
    CLASS,
    CNAME,
    EDNS0,
    NS,
    OPCODE,
    QTYPE,
    RCODE,
    RR,
    SOA,
    A,
    DNSError,
    DNSHeader,
    DNSLabel,
    DNSQuestion,
    DNSRecord,
)
from dnslib.buffer import BufferError as MalformedError
from dnslib.label import DNSBuffer

from mainstay.endpoint.limits import (
    DNS_QUERY_BYTES_MAX,
    DNS_TTL_S,
    DNS_UDP_BYTES_MAX,
    DNS_UDP_BYTES_WITHOUT_EDNS,
    DNS_ZONE_TTL_S,
)
from mainstay.model.route import Route

HOSTS_LABEL = "compute"
SERVER_LABEL = "ns"
CONTACT_LABEL = "hostmaster"
_SOA_TIMES = (3600, 600, 86400)  # refresh, retry, expire: for secondaries, of which there are none
_BAD_VERSION = 16  # RFC 6891: the lower four bits go to the header, the rest to the OPT record
_TRANSFERS_AND_META = range(249, 255)  # TKEY, TSIG, IXFR, AXFR, MAILB, MAILA; 255, ANY, is answered
_MORE_RECORDS_MAX = 3  # OPT, a transaction signature, the SOA of an IXFR; each may cost a name of pointers
_LABEL_BYTES_MAX = 63
_NAME_BYTES_MAX = 255

Name = tuple[bytes, ...]
log = structlog.get_logger()


class _Query(NamedTuple):
    """A well-formed query. `udp_bytes` is None without EDNS."""

    question: Any
    udp_bytes: int | None
    edns_version: int
    dnssec_ok: bool


class _Found(NamedTuple):
    """What is said about a question."""

    rcode: int
    answers: tuple[Any, ...] = ()
    negative: bool = False
    additional: tuple[Any, ...] = ()


class Names:
    """The zone as the routing table stands."""

    def __init__(self, zone: str, server_address: str) -> None:
        """`server_address` is where this zone is served: the address of its name server."""
        self._zone = zone
        self._apex = _name(zone)
        self._server = f"{SERVER_LABEL}.{zone}"
        self._server_address = server_address
        self.replace((), serial=1)

    def replace(self, routes: Iterable[Route], *, serial: int) -> None:
        """Answers follow these routes from now on. The serial must grow with every change (RFC 1982)."""
        hosts = {_name(self._server): self._server_address}
        aliases: dict[Name, str | None] = {}
        for route in routes:
            alias = _name(route.name) if route.name else ()
            if not _within(alias, self._apex) or alias == self._apex:
                continue  # made under another `dns_zone`, or by an agent that sends no names
            host = self._host_of(route.address)
            hosts[_name(host)] = route.address
            if alias in aliases:
                log.warning("endpoint.name_claimed_twice", name=route.name, endpoint_id=route.endpoint_id)
            aliases[alias] = None if alias in aliases else host
        self._hosts = hosts
        self._aliases = {alias: host for alias, host in aliases.items() if alias not in hosts}
        every = [*hosts, *self._aliases]
        self._known = {name[at:] for name in every for at in range(len(name) - len(self._apex) + 1)}
        self._serial = serial % 2**32

    def answer(self, message: bytes, *, udp: bool) -> bytes | None:
        """The answer to one message; None: it deserves none, being no query at all."""
        try:
            header = DNSHeader.parse(DNSBuffer(message))
        except DNSError:
            return None
        if header.qr:
            return None  # answering answers would let two servers talk forever
        reply = DNSRecord(DNSHeader(id=header.id, bitmap=0, qr=1, opcode=header.opcode, rd=header.rd))
        if header.opcode != OPCODE.QUERY:
            reply.header.rcode = RCODE.NOTIMP
            return bytes(reply.pack())
        query = _read(message)
        if query is None:
            reply.header.rcode = RCODE.FORMERR
            return bytes(reply.pack())
        return self._compose(reply, query, udp=udp)

    def _compose(self, reply: Any, query: _Query, *, udp: bool) -> bytes:
        reply.add_question(query.question)
        found = self._find(query.question) if query.edns_version == 0 else _Found(_BAD_VERSION)
        reply.header.rcode = found.rcode & 0xF
        reply.header.aa = int(found.rcode in (RCODE.NOERROR, RCODE.NXDOMAIN))
        reply.add_answer(*found.answers)
        if found.negative:
            reply.add_auth(self._soa(self._zone, ttl=DNS_TTL_S))
        reply.add_ar(*found.additional)
        edns = None
        if query.udp_bytes is not None:
            flags = "do" if query.dnssec_ok else ""
            edns = EDNS0(udp_len=DNS_UDP_BYTES_MAX, flags=flags, ext_rcode=found.rcode >> 4)
            reply.add_ar(edns)
        packed = bytes(reply.pack())
        if not udp or len(packed) <= _udp_room(query.udp_bytes):
            return packed
        reply.header.tc = 1
        reply.rr, reply.auth, reply.ar = [], [], [edns] if edns is not None else []
        return bytes(reply.pack())

    def _find(self, question: Any) -> _Found:
        name = tuple(label.lower() for label in question.qname.label)
        if question.qclass != CLASS.IN or not _within(name, self._apex) or question.qtype in _TRANSFERS_AND_META:
            return _Found(RCODE.REFUSED)
        if name == self._apex:
            return self._find_apex(question)
        if name in self._hosts:
            records = _addresses(question.qname, self._hosts[name], question.qtype)
            return _Found(RCODE.NOERROR, records, negative=not records)
        if name in self._aliases:
            return self._find_alias(question, self._aliases[name])
        return _Found(RCODE.NOERROR if name in self._known else RCODE.NXDOMAIN, negative=True)

    def _find_apex(self, question: Any) -> _Found:
        if question.qtype in (QTYPE.SOA, QTYPE.ANY):  # ANY: one set of records is enough (RFC 8482)
            return _Found(RCODE.NOERROR, (self._soa(question.qname, ttl=DNS_ZONE_TTL_S),))
        if question.qtype == QTYPE.NS:
            server = RR(question.qname, QTYPE.NS, ttl=DNS_ZONE_TTL_S, rdata=NS(_label(self._server)))
            return _Found(
                RCODE.NOERROR, (server,), additional=_addresses(_label(self._server), self._server_address, QTYPE.ANY)
            )
        return _Found(RCODE.NOERROR, negative=True)

    def _find_alias(self, question: Any, host: str | None) -> _Found:
        if host is None:
            return _Found(RCODE.SERVFAIL)
        alias = RR(question.qname, QTYPE.CNAME, ttl=DNS_TTL_S, rdata=CNAME(_label(host)))
        if question.qtype in (QTYPE.CNAME, QTYPE.ANY):
            return _Found(RCODE.NOERROR, (alias,))
        records = _addresses(_label(host), self._hosts[_name(host)], question.qtype)
        return _Found(RCODE.NOERROR, (alias, *records), negative=not records)

    def _host_of(self, address: str) -> str:
        plain = ip_address(address).exploded.replace(".", "-").replace(":", "-")
        return f"ip-{plain}.{HOSTS_LABEL}.{self._zone}"

    def _soa(self, owner: Any, *, ttl: int) -> Any:
        contact = f"{CONTACT_LABEL}.{self._zone}"
        times = (self._serial, *_SOA_TIMES, DNS_TTL_S)
        return RR(_label(owner), QTYPE.SOA, ttl=ttl, rdata=SOA(_label(self._server), _label(contact), times))


def _read(message: bytes) -> _Query | None:
    """None: damaged, or not exactly one question. Of what else a query may carry, only EDNS means something here."""
    if len(message) > DNS_QUERY_BYTES_MAX:
        return None  # also bounds how deep and how long pointers can lead
    buffer = DNSBuffer(message)
    try:
        header = DNSHeader.parse(buffer)
        if header.q != 1 or header.a or header.auth + header.ar > _MORE_RECORDS_MAX:
            return None
        question = DNSQuestion.parse(buffer)
        if not _sized(question.qname.label) or question.qtype == QTYPE.OPT:
            return None
        udp_bytes, version, dnssec_ok = None, 0, False
        for _ in range(header.auth + header.ar):
            owner = buffer.decode_name()
            kind, size, details, length = buffer.unpack("!HHIH")
            buffer.get(length)
            if kind == QTYPE.OPT:
                if udp_bytes is not None or owner.label:
                    return None
                udp_bytes, version, dnssec_ok = size, details >> 16 & 0xFF, bool(details & 0x8000)
    except (DNSError, MalformedError):
        return None
    return _Query(question, udp_bytes, version, dnssec_ok)


def _sized(name: Name) -> bool:
    """Within the bounds of RFC 1035; dnslib reads more than it can write."""
    lengths = [len(label) for label in name]
    return max(lengths, default=0) <= _LABEL_BYTES_MAX and sum(lengths) + len(lengths) + 1 <= _NAME_BYTES_MAX


def _udp_room(udp_bytes: int | None) -> int:
    if udp_bytes is None:
        return DNS_UDP_BYTES_WITHOUT_EDNS
    return max(DNS_UDP_BYTES_WITHOUT_EDNS, min(udp_bytes, DNS_UDP_BYTES_MAX))


def _addresses(owner: Any, address: str, wanted: int) -> tuple[Any, ...]:
    """The address record, if it is of the wanted type."""
    kind, rdata = (QTYPE.AAAA, AAAA) if ":" in address else (QTYPE.A, A)
    return (RR(owner, kind, ttl=DNS_TTL_S, rdata=rdata(address)),) if wanted in (kind, QTYPE.ANY) else ()


def _within(name: Name, apex: Name) -> bool:
    return name[-len(apex) :] == apex


def _name(text: str) -> Name:
    """For comparing: labels in lower case."""
    return tuple(text.lower().encode("ascii").split(b"."))


def _label(name: Any) -> Any:
    """For writing. From bytes, because dnslib would take text for an internationalised name and encode it again."""
    return DNSLabel(name.encode("ascii")) if isinstance(name, str) else name
