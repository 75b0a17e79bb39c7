"""Names and places in an archived binary log, as pure functions.

The log of an instance is the binary logs of whoever led it, one timeline for each leader. A binary log may have any
length (a transaction is never cut), so it is archived in segments of SEGMENT_BYTES, the last of which is shorter, if
need be empty: a full one always goes on in another. Positions are "<timeline>/<binary log>:<offset>".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from mainstay.backups.log_archive import StoredSegment
from mainstay.backups.verify_log import NeededSegment
from mainstay.model.errors import Permanent

SEGMENT_BYTES = 16 << 20
FIRST_TIMELINE = 1
_FILE_BITS, _PART_BITS = 28, 20
_NAME = re.compile(r"(?P<timeline>\d{8})\.(?P<log>[A-Za-z0-9_-]{1,40})\.(?P<file>\d{6,9})\.(?P<part>\d{6})", re.ASCII)
_POSITION = re.compile(r"(?P<timeline>\d{1,5})/(?P<file>\d{1,9}):(?P<offset>\d{1,15})", re.ASCII)


class Place(msgspec.Struct, frozen=True, order=True):
    """`offset` bytes into a binary log of a timeline, both by their numbers."""

    timeline: int
    file: int
    offset: int

    def __str__(self) -> str:
        return f"{self.timeline}/{self.file}:{self.offset}"


class Part(msgspec.Struct, frozen=True, order=True):
    """One segment: the `part`-th stretch of SEGMENT_BYTES of a binary log."""

    timeline: int
    file: int
    part: int

    @property
    def index(self) -> int:
        """Orders the segments of all timelines."""
        return (self.timeline << _FILE_BITS | self.file) << _PART_BITS | self.part

    def name(self, log: str) -> str:
        """Of the segment, `log` being what the engine's binary logs are called before their number."""
        return f"{timeline_name(self.timeline)}.{log}.{self.file:06d}.{self.part:06d}"


def timeline_name(number: int) -> str:
    """In the order of the numbers."""
    return f"{number:08d}"


def parse_place(text: str) -> Place:
    """Of "1/17:4711". Raises `Permanent`."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise Permanent(f"{text[:100]!r} is no position in a binary log")
    return Place(int(found["timeline"]), int(found["file"]), int(found["offset"]))


def parse_segment(name: str) -> Part:
    """Of a segment's name. Raises `Permanent`."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Permanent(f"{name[:100]!r} is no segment of a binary log")
    return Part(int(found["timeline"]), int(found["file"]), int(found["part"]))


def file_number(name: str) -> int:
    """Of the binary log "mysql-bin-changelog.000017"."""
    return int(name.rpartition(".")[2])


class Stretch(msgspec.Struct, frozen=True):
    """What of a timeline belongs to the history: from the beginning of a file to a part, which is included.

    `ends_at` is the GTID position at which the next timeline parts from it, "" if there is no next one. `unlogged` are
    transactions that its leader had before the first file and that no binary log of its own ever had.
    """

    timeline: int
    first_file: int
    last: Part | None = None
    ends_at: str = ""
    unlogged: str = ""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log of a leader comes from: it is of this timeline, from this file on, behind these stretches."""

    timeline: int
    first_file: int
    ancestors: tuple[Stretch, ...] = ()
    unlogged: str = ""

    def ended(self, last: Part, ends_at: str) -> tuple[Stretch, ...]:
        """What comes before the timeline that parts from this one here."""
        return (*self.ancestors, Stretch(self.timeline, self.first_file, last, ends_at, self.unlogged))


def parse_lineage(content: bytes) -> Lineage:
    """Of a timeline's small file in the archive, which is JSON. Raises `Permanent`."""
    try:
        return msgspec.json.decode(content, type=Lineage)
    except msgspec.DecodeError as error:
        raise Permanent(f"the history of the log cannot be read: {error}") from error


def history_name(timeline: str) -> str:
    """The small file with the lineage of the timeline."""
    return f"{timeline}.history"


def stretches(lineage: Lineage, start: Place) -> list[Stretch]:
    """What is read from `start` on, in order. Raises `Permanent` if the lineage does not come by there."""
    own = Stretch(lineage.timeline, lineage.first_file, unlogged=lineage.unlogged)
    found = [one for one in (*lineage.ancestors, own) if one.timeline >= start.timeline]
    if not found or found[0].timeline != start.timeline or start.file < found[0].first_file:
        raise Permanent(f"the log of timeline {lineage.timeline} does not come from {start}")
    return [msgspec.structs.replace(found[0], first_file=start.file), *found[1:]]


def between(
    start: Place, end: Place, lineage: Lineage, stored: Sequence[StoredSegment], log: str
) -> list[NeededSegment]:
    """The segments from the beginning of the file of `start` to `end`, those that are missing among them."""
    if start == end:
        return []
    needed: list[NeededSegment] = []
    there = {parse_segment(one.segment.name) for one in stored}
    for stretch in stretches(lineage, start):
        last = stretch.last
        if stretch.timeline == lineage.timeline:
            last = Part(end.timeline, end.file, max(0, end.offset - 1) // SEGMENT_BYTES)
        if last is not None:
            needed += _of_stretch(stretch, last, end, there, log)
    return needed


def _of_stretch(stretch: Stretch, last: Part, end: Place, there: set[Part], log: str) -> list[NeededSegment]:
    needed = []
    at = Part(stretch.timeline, stretch.first_file, 0)
    while at <= last:
        following = Part(at.timeline, at.file, at.part + 1)
        goes_on = following in there or (at not in there and any(one.file == at.file and one > at for one in there))
        goes_on |= at.file == last.file and at.part < last.part
        if at == last:
            length = end.offset - at.part * SEGMENT_BYTES if (at.timeline, at.file) == (end.timeline, end.file) else 0
            needed.append(_needed(at, log, length if length < SEGMENT_BYTES else 0))
            break
        needed.append(_needed(at, log, SEGMENT_BYTES) if goes_on else _needed(at, log, 0, below=SEGMENT_BYTES))
        at = following if goes_on else Part(at.timeline, at.file + 1, 0)
    return needed


def _needed(part: Part, log: str, length: int, below: int = 0) -> NeededSegment:
    return NeededSegment(timeline_name(part.timeline), part.index, part.name(log), max(0, length), below)
