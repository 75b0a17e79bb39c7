"""Reading binary logs, event by event, without a server.

Source: MySQL internals manual, "Binary Log Event"; MariaDB Knowledge Base, "Replication protocol" (events 161 to 164).
Nothing but the frame of an event is looked into, and what tells where a transaction begins and what it is called.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from mainstay.model.errors import Permanent

MAGIC = b"\xfebin"
EVENT_BYTES_MAX = 1 << 30
STOP, ROTATE, FORMAT_DESCRIPTION = 3, 4, 15
BINLOG_CHECKPOINT, GTID, GTID_LIST, START_ENCRYPTION = 161, 162, 163, 164
QUERY, XID, XA_PREPARE, QUERY_COMPRESSED = 2, 16, 38, 165
OUTSIDE = frozenset({STOP, ROTATE, FORMAT_DESCRIPTION, BINLOG_CHECKPOINT, GTID_LIST, START_ENCRYPTION})
"""Events that belong to the file, not to a transaction."""

IN_USE = 0x1
_HEADER = struct.Struct("<IBIIIH")
_GTID = struct.Struct("<QIB")
_LISTED = struct.Struct("<IIQ")
_STANDALONE = 0x1
_LIST_COUNT = 0x0FFF_FFFF
_POSITION = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,20})", re.ASCII)
_ENDS = re.compile(rb"(?:COMMIT|ROLLBACK)[^a-zA-Z]{0,8}$")

Domains = dict[int, "Gtid"]
"""A GTID position: the last transaction of each domain."""

State = dict[tuple[int, int], int]
"""The last sequence number of each (domain, server)."""


class Gtid(msgspec.Struct, frozen=True):
    """The name of a transaction."""

    domain: int
    server: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"


def parse_gtid(text: str) -> Gtid:
    """Of "0-1-4711". Raises `Permanent` for what is none."""
    found = _POSITION.fullmatch(text.strip())
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


class Event(msgspec.Struct, frozen=True):
    """One event as it stands in its file, `offset` bytes into it. `timestamp` is in epoch seconds."""

    timestamp: int
    kind: int
    server: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + len(self.data)

    @property
    def gtid(self) -> Gtid:
        """Of an event that begins a transaction."""
        sequence, domain, _flags = _GTID.unpack_from(self.data, _HEADER.size)
        return Gtid(domain, self.server, sequence)

    @property
    def standalone(self) -> bool:
        """Whether the transaction that begins here is one statement, with nothing that ends it."""
        flags: int = _GTID.unpack_from(self.data, _HEADER.size)[2]
        return bool(flags & _STANDALONE)

    @property
    def listed(self) -> list[Gtid]:
        """Of the list at the beginning of a file: the last transaction of each domain and server before it."""
        (count,) = struct.unpack_from("<I", self.data, _HEADER.size)
        first = _HEADER.size + 4
        rows = [_LISTED.unpack_from(self.data, first + number * _LISTED.size) for number in range(count & _LIST_COUNT)]
        return [Gtid(domain, server, sequence) for domain, server, sequence in rows]

    def ends_transaction(self, *, standalone: bool) -> bool:
        """Whether this event, one inside a transaction, is its last."""
        if standalone:
            return self.kind in (QUERY, QUERY_COMPRESSED)
        if self.kind in (XID, XA_PREPARE):
            return True
        # With a checksum there are four more bytes behind the statement.
        return self.kind == QUERY and any(_ENDS.search(self.data[-16 : len(self.data) - cut]) for cut in (0, 4))

    @property
    def closed(self) -> bytes:
        """The event without the mark that its file is being written."""
        flags_at = _HEADER.size - 2
        flags = int.from_bytes(self.data[flags_at : _HEADER.size], "little") & ~IN_USE
        return self.data[:flags_at] + flags.to_bytes(2, "little") + self.data[_HEADER.size :]


def events(parts: Iterable[bytes]) -> Iterator[Event]:
    """The whole events of one file, which comes in parts. What is cut off at its end is left out.

    Raises `Permanent` for what is no binary log, and for an encrypted one.
    """
    buffer, at, offset, begun = b"", 0, 0, False
    for part in parts:
        buffer, at = buffer[at:] + part, 0
        if not begun and len(buffer) >= len(MAGIC):
            if not buffer.startswith(MAGIC):
                raise Permanent("that is no binary log: it does not begin like one")
            begun, at, offset = True, len(MAGIC), len(MAGIC)
        while begun and len(buffer) - at >= _HEADER.size:
            timestamp, kind, server, length, _next, _flags = _HEADER.unpack_from(buffer, at)
            if not _HEADER.size <= length <= EVENT_BYTES_MAX:
                raise Permanent(f"the binary log is damaged at byte {offset}: an event of {length} bytes")
            if len(buffer) - at < length:
                break
            if kind == START_ENCRYPTION:
                raise Permanent("the binary log is encrypted by the engine, and cannot be read")
            yield Event(timestamp, kind, server, offset, buffer[at : at + length])
            at, offset = at + length, offset + length


def state_of(found: Iterable[Event], state: State | None = None) -> State:
    """The last transaction of each domain and server, from the beginning of a file to the end of these events."""
    last: State = dict(state or {})
    for event in found:
        if event.kind == GTID_LIST:
            last |= {(one.domain, one.server): one.sequence for one in event.listed}
        elif event.kind == GTID:
            last[event.gtid.domain, event.server] = event.gtid.sequence
    return last


def highest(state: State) -> dict[int, int]:
    """The last sequence number of each domain, whoever wrote it."""
    found: dict[int, int] = {}
    for (domain, _server), sequence in state.items():
        found[domain] = max(sequence, found.get(domain, 0))
    return found
