"""Names and places in the write-ahead log, as pure functions.

Source: PostgreSQL manual 73.6 "WAL internals"; file names are timeline, then the segment's number in two halves
(`XLogFileName`), a timeline's history file lists where each of its ancestors ends (`readTimeLineHistory`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

NAME = re.compile(r"[0-9A-F]{24}")
SEGMENT_BYTES = 16 << 20
"""What initdb gives; ours is never asked for another."""

_PER_FILE_GROUP = (1 << 32) // SEGMENT_BYTES


def parse_lsn(text: str) -> int:
    """Bytes since the beginning of the log, of "16/B374D848"."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def format_lsn(position: int) -> str:
    """The other way."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def segment_name(timeline: int, number: int) -> str:
    """File name of the segment with this number (its first byte's position / SEGMENT_BYTES)."""
    return f"{timeline:08X}{number // _PER_FILE_GROUP:08X}{number % _PER_FILE_GROUP:08X}"


def parse_segment(name: str) -> tuple[int, int]:
    """(timeline, number) of a segment's file name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a WAL segment")
    return int(name[:8], 16), int(name[8:16], 16) * _PER_FILE_GROUP + int(name[16:], 16)


def segments_after(name: str, count: int) -> list[str]:
    """File names of the segments that follow on the same timeline; none if that is not a segment's name."""
    if not NAME.fullmatch(name):
        return []
    timeline, number = parse_segment(name)
    return [segment_name(timeline, number + step) for step in range(1, count + 1)]


def whole(data: bytes) -> bytes:
    """A segment that has not ended, as the server takes it."""
    return data.ljust(SEGMENT_BYTES, b"\0")


class Ancestor(msgspec.Struct, frozen=True):
    """A timeline and where the next one parts from it."""

    timeline: int
    ends_at: int


def parse_history(text: str) -> tuple[Ancestor, ...]:
    """The lines of a history file, oldest ancestor first."""
    found = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split()
        if len(fields) >= 2:
            found.append(Ancestor(int(fields[0]), parse_lsn(fields[1])))
    return tuple(found)


def timeline_of(number: int, timeline: int, ancestors: Iterable[Ancestor]) -> int:
    """On which timeline recovery towards `timeline` reads this segment.

    The segment in which a timeline parts from its ancestor is read from the younger one's file, which begins with a
    copy of the ancestor's part.
    """
    for ancestor in ancestors:
        if number < ancestor.ends_at // SEGMENT_BYTES:
            return ancestor.timeline
    return timeline
