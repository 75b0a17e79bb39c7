"""How MySQL's binary logs call transactions: the UUID of the server that committed it first, and a number.

Source: MySQL source documentation, "Gtid_event" and "Previous_gtids_event" (libs/mysql/binlog/event/control_events.h),
Gtid_set::encode; MySQL manual 19.1.3. Since MySQL 8.0 the event that begins a transaction tells how long the
transaction is, and when it was committed, in microseconds, whatever its statements say of the time.
"""

from __future__ import annotations

import re
import struct
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import msgspec

from mainstay.engines.mysql_family.binlog import FORMAT_DESCRIPTION, HEADER_BYTES, ROTATE, STOP, Event
from mainstay.engines.mysql_family.log_format import Begun, LogFormat, Transactions
from mainstay.model.errors import Permanent

HEARTBEAT, GTID, ANONYMOUS_GTID, PREVIOUS_GTIDS, HEARTBEAT_2, TAGGED_GTID = 27, 33, 34, 35, 41, 42
_GTID = struct.Struct("<B16sQBQQ")
_MOMENT_BYTES = 7
_TWO_MOMENTS = 1 << 55
"""In the first moment, when this server received the transaction: there follows when the first one committed it."""

_COUNT = struct.Struct("<Q")
_INTERVAL = struct.Struct("<QQ")
_UUID_BYTES = 16
_FORMAT_BYTE = 7
_LENGTHS = {252: 2, 253: 3, 254: 8}
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_NAME = re.compile(rf"({_UUID}):(\d{{1,19}})", re.ASCII)
_OF_SERVER = re.compile(rf"({_UUID})((?::\d{{1,19}}(?:-\d{{1,19}})?)+)", re.ASCII)
_TAGGED = "the binary log has transactions whose GTID has a tag, which are not supported"


class Gtid(msgspec.Struct, frozen=True):
    """The name of a transaction; `server` is a UUID in lower case."""

    server: str
    number: int

    def __str__(self) -> str:
        return f"{self.server}:{self.number}"


class GtidSet(Transactions):
    """A set of transactions, as MySQL writes it ("uuid:1-5:7,uuid:1")."""

    def __init__(self) -> None:
        self._of_server: dict[str, list[tuple[int, int]]] = {}

    def __contains__(self, gtid: object) -> bool:
        return isinstance(gtid, Gtid) and self._covers(gtid.server, gtid.number, gtid.number)

    def __str__(self) -> str:
        return ",".join(
            f"{server}:" + ":".join(f"{first}-{last}" if last > first else str(first) for first, last in intervals)
            for server, intervals in sorted(self._of_server.items())
        )

    def add(self, gtid: Gtid) -> None:
        self.add_interval(gtid.server, gtid.number, gtid.number)

    def add_interval(self, server: str, first: int, last: int) -> None:
        """Both numbers included."""
        intervals = self._of_server.setdefault(server, [])
        if intervals and first == intervals[-1][1] + 1:
            intervals[-1] = (intervals[-1][0], last)
            return
        apart = [one for one in intervals if one[1] < first - 1 or one[0] > last + 1]
        touched = [one for one in intervals if one not in apart]
        merged = (min([first, *(one[0] for one in touched)]), max([last, *(one[1] for one in touched)]))
        self._of_server[server] = sorted([*apart, merged])

    def update(self, other: GtidSet) -> None:
        """All of the other one's as well."""
        for server, first, last in other.intervals():
            self.add_interval(server, first, last)

    def intervals(self) -> Iterator[tuple[str, int, int]]:
        """Server, first and last number of each."""
        for server, intervals in self._of_server.items():
            for first, last in intervals:
                yield server, first, last

    def within(self, other: GtidSet) -> GtidSet:
        """What both have."""
        both = GtidSet()
        for server, first, last in self.intervals():
            for begin, end in other._of_server.get(server, ()):
                if max(first, begin) <= min(last, end):
                    both.add_interval(server, max(first, begin), min(last, end))
        return both

    def lacks(self, other: GtidSet) -> str:
        """The first of the other one's intervals that is not wholly among these, "" if all are."""
        for server, first, last in other.intervals():
            if not self._covers(server, first, last):
                return f"{server}:{first}-{last}"
        return ""

    def includes(self, position: str) -> bool:
        return not self.lacks(parse_set(position))

    def _covers(self, server: str, first: int, last: int) -> bool:
        intervals = self._of_server.get(server, [])
        at = bisect_right(intervals, (first, 1 << 64)) - 1
        return at >= 0 and intervals[at][0] <= first and last <= intervals[at][1]


def parse_gtid(text: str) -> Gtid:
    """Of "3e11fa47-71ca-11e1-9e33-c80aa9429562:23". Raises `Permanent` for what is none."""
    found = _NAME.fullmatch(text.strip())
    if found is None:
        raise Permanent(f"{text[:100]!r} is no GTID")
    return Gtid(found[1].lower(), int(found[2]))


def parse_set(text: str) -> GtidSet:
    """Of what MySQL shows as gtid_executed. Raises `Permanent`."""
    parsed = GtidSet()
    for one in filter(None, (part.strip() for part in text.split(","))):
        found = _OF_SERVER.fullmatch(one)
        if found is None:
            raise Permanent(f"{one[:100]!r} is no GTID set")
        for interval in found[2].removeprefix(":").split(":"):
            first, _, last = interval.partition("-")
            parsed.add_interval(found[1].lower(), int(first), int(last or first))
    return parsed


def gtid_of(event: Event) -> Gtid:
    """Of an event that begins a transaction."""
    _flags, server, number, *_clock = _GTID.unpack_from(event.data, HEADER_BYTES)
    return Gtid(str(uuid.UUID(bytes=server)), number)


def previous_gtids(event: Event) -> GtidSet:
    """Of the event at the beginning of a file: what the files before it have. Raises `Permanent`."""
    data, at = event.data, HEADER_BYTES
    if data[at + _FORMAT_BYTE]:
        raise Permanent(_TAGGED)
    found = GtidSet()
    (servers,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    for _server in range(servers):
        server = str(uuid.UUID(bytes=data[at : at + _UUID_BYTES]))
        (count,) = _COUNT.unpack_from(data, at + _UUID_BYTES)
        at += _UUID_BYTES + _COUNT.size
        for _interval in range(count):
            first, behind = _INTERVAL.unpack_from(data, at)
            found.add_interval(server, first, behind - 1)
            at += _INTERVAL.size
    return found


class MysqlLogFormat(LogFormat[GtidSet]):
    """`LogFormat` for MySQL."""

    outside = frozenset({STOP, ROTATE, FORMAT_DESCRIPTION, PREVIOUS_GTIDS, HEARTBEAT, HEARTBEAT_2})
    heading = frozenset({FORMAT_DESCRIPTION, PREVIOUS_GTIDS})
    counts_anew = True

    def gtid(self, text: str) -> Gtid:
        return parse_gtid(text)

    def transactions(self, position: str) -> GtidSet:
        return parse_set(position)

    def begun(self, event: Event) -> Begun | None:
        if event.kind in (ANONYMOUS_GTID, TAGGED_GTID):
            raise Permanent(_TAGGED if event.kind == TAGGED_GTID else "the binary log has transactions without a GTID")
        if event.kind != GTID:
            return None
        committed_us, at = _moment(event.data, HEADER_BYTES + _GTID.size)
        length = _packed(event.data, at)
        return Begun(
            gtid=gtid_of(event),
            second=event.timestamp,
            committed_us=committed_us,
            ends_at=event.offset + length,
        )

    def ends(self, event: Event, begun: Begun) -> bool:
        return begun.ends_at is not None and event.end >= begun.ends_at

    def hole(self, event: Event, have: GtidSet, ends_at: GtidSet | None, unlogged: str, *, changes_hands: bool) -> str:
        """Every file tells what comes before it."""
        if event.kind != PREVIOUS_GTIDS:
            return ""
        before = _before(event, unlogged)
        return have.lacks(before if ends_at is None else before.within(ends_at))

    def told(self, found: Iterable[Event], unlogged: str) -> GtidSet:
        told = parse_set(unlogged)
        for event in found:
            if event.kind == PREVIOUS_GTIDS:
                told.update(previous_gtids(event))
            elif event.kind == GTID:
                told.add(gtid_of(event))
        return told

    def begins_within(self, found: Iterable[Event], unlogged: str, known: GtidSet) -> bool:
        for event in found:
            if event.kind == PREVIOUS_GTIDS:
                return not known.lacks(_before(event, unlogged))
        return False


def _before(event: Event, unlogged: str) -> GtidSet:
    """Everything before the file that begins with this event."""
    before = parse_set(unlogged)
    before.update(previous_gtids(event))
    return before


def _moment(data: bytes, at: int) -> tuple[int, int]:
    """When the first server has committed the transaction, and where the event goes on."""
    here = int.from_bytes(data[at : at + _MOMENT_BYTES], "little")
    at += _MOMENT_BYTES
    if not here & _TWO_MOMENTS:
        return here, at
    first = int.from_bytes(data[at : at + _MOMENT_BYTES], "little")
    return first or here & ~_TWO_MOMENTS, at + _MOMENT_BYTES


def _packed(data: bytes, at: int) -> int:
    """An integer of the protocol's variable length (MySQL source documentation, "Protocol::LengthEncodedInteger")."""
    first = data[at]
    return first if first not in _LENGTHS else int.from_bytes(data[at + 1 : at + 1 + _LENGTHS[first]], "little")


MYSQL_LOG = MysqlLogFormat()
