"""How MariaDB's binary logs call transactions: domain, server and a number that grows within the domain.

Source: MariaDB Knowledge Base, "Replication protocol" (events 161 to 164), "Global transaction ID".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping

import msgspec

from mainstay.engines.mysql_family.binlog import (
    FORMAT_DESCRIPTION,
    HEADER_BYTES,
    QUERY,
    ROTATE,
    START_ENCRYPTION,
    STOP,
    XID,
    Event,
)
from mainstay.engines.mysql_family.log_format import Begun, LogFormat, Transactions
from mainstay.model.errors import Permanent

XA_PREPARE, BINLOG_CHECKPOINT, GTID, GTID_LIST, QUERY_COMPRESSED = 38, 161, 162, 163, 165
_GTID = struct.Struct("<QIB")
_LISTED = struct.Struct("<IIQ")
_STANDALONE = 0x1
_LIST_COUNT = 0x0FFF_FFFF
_NAME = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,20})", re.ASCII)
_ENDS = re.compile(rb"(?:COMMIT|ROLLBACK)[^a-zA-Z]{0,8}$")


class Gtid(msgspec.Struct, frozen=True):
    """The name of a transaction."""

    domain: int
    server: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"


Domains = dict[int, Gtid]
"""A GTID position: the last transaction of each domain."""


def parse_gtid(text: str) -> Gtid:
    """Of "0-1-4711". Raises `Permanent` for what is none."""
    found = _NAME.fullmatch(text.strip())
    if found is None:
        raise Permanent(f"{text[:100]!r} is no GTID")
    return Gtid(int(found[1]), int(found[2]), int(found[3]))


def parse_position(text: str) -> Domains:
    """Of "0-1-4711,1-1-5"; of two of a domain the later. Raises `Permanent`."""
    found: Domains = {}
    for one in text.split(","):
        if one.strip():
            gtid = parse_gtid(one)
            if gtid.domain not in found or found[gtid.domain].sequence < gtid.sequence:
                found[gtid.domain] = gtid
    return found


def format_position(position: Mapping[int, Gtid]) -> str:
    """The other way."""
    return ",".join(str(position[domain]) for domain in sorted(position))


def position_of_copy(told: str, recorded: str) -> str:
    """Up to where a copy has its source's log: what the source said when it was made, or its own table's word.

    A follower counts a transaction some time after its commit, so what it says can be too little: under load one copy
    in ten has transactions more (group commits of parallel appliers), which would be applied twice. Its table was
    written by those transactions and is exact. A leader does not write in that table, and what it says is exact. The
    two are told apart by the server that wrote last: a leader's table is not of its own server, or is older.
    """
    known, position = parse_position(recorded), parse_position(told)
    for domain, gtid in position.items():
        other = known.get(domain, gtid)
        if other.server == gtid.server and other.sequence > gtid.sequence:
            position[domain] = other
    return format_position(position)


def gtid_of(event: Event) -> Gtid:
    """Of an event that begins a transaction."""
    sequence, domain, _flags = _GTID.unpack_from(event.data, HEADER_BYTES)
    return Gtid(domain, event.server, sequence)


def listed(event: Event) -> list[Gtid]:
    """Of the list at the beginning of a file: the last transaction of each domain and server before it."""
    (count,) = struct.unpack_from("<I", event.data, HEADER_BYTES)
    first = HEADER_BYTES + 4
    rows = [_LISTED.unpack_from(event.data, first + number * _LISTED.size) for number in range(count & _LIST_COUNT)]
    return [Gtid(domain, server, sequence) for domain, server, sequence in rows]


class DomainTransactions(Transactions):
    """Within a domain everything up to the last one, whoever wrote it; and the last one of each server."""

    def __init__(self, last: Iterable[Gtid] = ()) -> None:
        self._of_server: dict[tuple[int, int], int] = {}
        self._of_domain: dict[int, int] = {}
        for one in last:
            self.add(one)

    def __contains__(self, gtid: object) -> bool:
        return isinstance(gtid, Gtid) and gtid.sequence <= self.reached(gtid.domain)

    def add(self, gtid: Gtid) -> None:
        self._of_server[gtid.domain, gtid.server] = gtid.sequence
        self._of_domain[gtid.domain] = max(gtid.sequence, self.reached(gtid.domain))

    def includes(self, position: str) -> bool:
        return all(one in self for one in parse_position(position).values())

    def reached(self, domain: int) -> int:
        """The last number of the domain."""
        return self._of_domain.get(domain, 0)

    def reached_of_server(self, gtid: Gtid) -> int:
        """The last number that this one's server wrote in its domain."""
        return self._of_server.get((gtid.domain, gtid.server), 0)


class MariadbLogFormat(LogFormat[DomainTransactions]):
    """`LogFormat` for MariaDB."""

    outside = frozenset({STOP, ROTATE, FORMAT_DESCRIPTION, BINLOG_CHECKPOINT, GTID_LIST, START_ENCRYPTION})

    def gtid(self, text: str) -> Gtid:
        return parse_gtid(text)

    def transactions(self, position: str) -> DomainTransactions:
        return DomainTransactions(parse_position(position).values())

    def begun(self, event: Event) -> Begun | None:
        if event.kind != GTID:
            return None
        flags: int = _GTID.unpack_from(event.data, HEADER_BYTES)[2]
        return Begun(gtid=gtid_of(event), second=event.timestamp, standalone=bool(flags & _STANDALONE))

    def ends(self, event: Event, begun: Begun) -> bool:
        if begun.standalone:
            return event.kind in (QUERY, QUERY_COMPRESSED)
        if event.kind in (XID, XA_PREPARE):
            return True
        # With a checksum there are four more bytes behind the statement.
        return event.kind == QUERY and any(_ENDS.search(event.data[-16 : len(event.data) - cut]) for cut in (0, 4))

    def hole(
        self,
        event: Event,
        have: DomainTransactions,
        ends_at: DomainTransactions | None,
        unlogged: str,
        *,
        changes_hands: bool,
    ) -> str:
        """Where another leader's log begins, it begins with what is known, or just behind that."""
        if event.kind != GTID or not changes_hands:
            return ""
        gtid = gtid_of(event)
        before = Gtid(gtid.domain, gtid.server, gtid.sequence - 1)
        return "" if before in have else f"what comes before {gtid}"

    def told(self, found: Iterable[Event], unlogged: str) -> DomainTransactions:
        last = DomainTransactions()
        for event in found:
            for gtid in listed(event) if event.kind == GTID_LIST else [gtid_of(event)] if event.kind == GTID else []:
                last.add(gtid)
        return last

    def begins_within(self, found: Iterable[Event], unlogged: str, known: DomainTransactions) -> bool:
        for event in found:
            if event.kind == GTID_LIST and listed(event):
                return all(one.sequence <= known.reached_of_server(one) for one in listed(event))
            if event.kind == GTID:  # the first file of a copy lists nothing: it begins behind what was copied
                first = gtid_of(event)
                return first.sequence <= known.reached(first.domain) + 1
        return False


MARIADB_LOG = MariadbLogFormat()
