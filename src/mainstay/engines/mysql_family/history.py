"""An archived binary log as one sequence of transactions, up to a target.

Each transaction of the history comes once, in the order of the commits: what is known already is left out, and so is
what a former leader has logged and its successor never had. Where the log is not whole, that is told, and nothing else
comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import floor

import msgspec

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.engines.mysql_family.binlog import (
    FORMAT_DESCRIPTION,
    GTID,
    OUTSIDE,
    QUERY,
    Domains,
    Event,
    Gtid,
    events,
    parse_gtid,
    parse_position,
)
from mainstay.engines.mysql_family.log_places import (
    SEGMENT_BYTES,
    Lineage,
    Part,
    Place,
    Stretch,
    parse_place,
    parse_segment,
    stretches,
    timeline_name,
)
from mainstay.model.errors import Permanent
from mainstay.model.node import RestoreTarget

MARK = re.compile(rb"REPLACE INTO mysql\.rds_heartbeat2 VALUES \(3, (\d{16})\)")
_MICROSECONDS = 1e6


class Logged(msgspec.Struct, frozen=True):
    """One event that is to be replayed. `begins` is the transaction that begins with it; a file begins with neither."""

    event: Event
    begins: Gtid | None = None
    ends: bool = False


class Reached(msgspec.Struct, frozen=True):
    """The target is reached: whatever came after the transaction `after` is not part of it, None: all that came is."""

    after: int | None = None


class Target:
    """Decides where the history ends, as its transactions come by, counted from 1.

    A moment is taken as the beginning of its second. Timestamps decide only between the last mark before the moment and
    the first one at or after it: the log has been written past a mark when it was, whatever a statement says of itself.
    """

    def __init__(self, target: RestoreTarget, have: Domains) -> None:
        self._second = None if target.at is None else floor(target.at)
        self._place = parse_place(target.position) if target.position else None
        self._last = parse_gtid(target.transaction) if target.transaction else None
        self.count = 0
        self._perhaps: int | None = None
        self._seen_last = self._last is not None and have.get(self._last.domain) == self._last

    @property
    def undecided(self) -> bool:
        """Whether what came last may turn out to be beyond the target."""
        return self._perhaps is not None

    def begins(self, event: Event, place: Place) -> Reached | None:
        """A transaction begins: whether the history ends before it."""
        if self._seen_last or (self._place is not None and place >= self._place):
            return Reached()
        if self._second is not None and self._perhaps is None and event.timestamp >= self._second:
            self._perhaps = self.count
        self.count += 1
        return None

    def goes_on(self, event: Event) -> Reached | None:
        """An event inside the transaction that has begun last."""
        if self._second is None or event.kind != QUERY or (found := MARK.search(event.data)) is None:
            return None
        if int(found[1]) >= self._second * _MICROSECONDS:
            return Reached(self.count - 1 if self._perhaps is None else self._perhaps)
        self._perhaps = None
        return None

    def ended(self, gtid: Gtid) -> None:
        """The transaction that has begun last is complete."""
        self._seen_last |= gtid == self._last

    def end_of_log(self, end: Place) -> None:
        """There is no more. Raises `Permanent` if the target was not reached."""
        if not self._seen_last and (self._place is None or end < self._place):
            raise Permanent("the log archive ends before the target of the restore", hint="Choose an earlier moment.")


class History:
    """What is to be replayed on a database that has every transaction up to `have`, to bring it to the target."""

    def __init__(
        self, archive: LogArchive, lineage: Lineage, start: Place, have: Domains, target: RestoreTarget
    ) -> None:
        self._archive = archive
        self._lineage = lineage
        self._start = start
        self._have = {domain: one.sequence for domain, one in have.items()}
        self.target = Target(target, have)
        self.read_bytes = 0
        self._changes_hands = False

    def read(self) -> Iterator[Logged | Reached]:
        """Events, and in the end `Reached`. Raises `Permanent` for a log that is not whole, `Transient`.

        Blocking.
        """
        place = self._start
        for stretch in stretches(self._lineage, self._start):
            ends_at = parse_position(stretch.ends_at)
            for file, parts in self._files(stretch):
                for found in self._of_file(Part(stretch.timeline, file, 0), parts, ends_at or None):
                    yield found
                    if isinstance(found, Reached):
                        return
                place = Place(stretch.timeline, file, self._file_bytes)
            self._changes_hands = True
        self.target.end_of_log(place)
        yield Reached()

    def _of_file(self, file: Part, parts: list[Segment], ends_at: Domains | None) -> Iterator[Logged | Reached]:
        begun: Event | None = None
        for event in events(self._contents(parts)):
            if event.kind == FORMAT_DESCRIPTION:
                yield Logged(event)
            elif event.kind == GTID:
                self._require_no_hole(event.gtid)
                begun = event if self._wanted(event.gtid, ends_at) else None
                if begun is not None:
                    if reached := self.target.begins(event, Place(file.timeline, file.file, event.offset)):
                        yield reached
                        return
                    yield Logged(event, begins=event.gtid)
            elif begun is not None and event.kind not in OUTSIDE:
                ends = event.ends_transaction(standalone=begun.standalone)
                if ends:
                    self._have[begun.gtid.domain] = begun.gtid.sequence
                    self.target.ended(begun.gtid)
                yield Logged(event, ends=ends)
                if reached := self.target.goes_on(event):
                    yield reached
                    return

    def _require_no_hole(self, gtid: Gtid) -> None:
        """Where another leader's log begins, it begins with what is known, or just behind that."""
        if self._changes_hands and gtid.sequence > self._have.get(gtid.domain, 0) + 1:
            raise Permanent(f"the log archive lacks the end of a timeline: what comes before {gtid} is missing")
        self._changes_hands = False

    def _wanted(self, gtid: Gtid, ends_at: Domains | None) -> bool:
        if gtid.sequence <= self._have.get(gtid.domain, 0):
            return False
        return ends_at is None or (gtid.domain in ends_at and gtid.sequence <= ends_at[gtid.domain].sequence)

    def _files(self, stretch: Stretch) -> Iterator[tuple[int, list[Segment]]]:
        """The binary logs of a stretch, in order. Raises `Permanent` naming one that is missing."""
        stored = [one.segment for one in self._archive.segments(timeline_name(stretch.timeline))]
        files: dict[int, list[Segment]] = {}
        for segment in stored:
            part = parse_segment(segment.name)
            if part.file >= stretch.first_file and (stretch.last is None or part <= stretch.last):
                files.setdefault(part.file, []).append(segment)
        last = max(files, default=stretch.first_file) if stretch.last is None else stretch.last.file
        for file in range(stretch.first_file, last + 1):
            parts = files.get(file, [])
            if [parse_segment(one.name).part for one in parts] != list(range(len(parts))) or not parts:
                raise Permanent(f"the log archive lacks a part of binary log {file} of timeline {stretch.timeline}")
            yield file, parts

    def _contents(self, parts: list[Segment]) -> Iterator[bytes]:
        self._file_bytes = 0
        for number, segment in enumerate(parts):
            content = self._archive.read_segment(segment)
            if content is None or (number < len(parts) - 1 and len(content) != SEGMENT_BYTES):
                raise Permanent(f"the log segment {segment.name} is missing or not complete")
            self.read_bytes += len(content)
            self._file_bytes += len(content)
            yield content
