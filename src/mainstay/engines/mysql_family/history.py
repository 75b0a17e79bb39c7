"""An archived binary log as one sequence of transactions, up to a target.

Each transaction of the history comes once, in the order of the commits: what is known already is left out, and so is
what a former leader has logged and its successor never had. Where the log is not whole, that is told, and nothing else
comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import floor
from typing import Any

import msgspec

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.engines.mysql_family.binlog import QUERY, Event, events
from mainstay.engines.mysql_family.log_format import Begun, Gtid, LogFormat, Transactions
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
    """One event that is to be replayed. `begins` is the transaction that begins with it; a file's heading has none."""

    event: Event
    begins: Gtid | None = None
    ends: bool = False


class Reached(msgspec.Struct, frozen=True):
    """The target is reached: whatever came after the transaction `after` is not part of it, None: all that came is."""

    after: int | None = None


class Target:
    """Decides where the history ends, as its transactions come by, counted from 1.

    Where the log tells when a transaction was committed, that decides. Else a moment is taken as the beginning of its
    second, and timestamps decide only between the last mark before the moment and the first one at or after it: the log
    has been written past a mark when it was, whatever a statement says of itself.
    """

    def __init__(self, target: RestoreTarget, log_format: LogFormat[Any]) -> None:
        self._second = None if target.at is None else floor(target.at)
        self._at_us = None if target.at is None else round(target.at * _MICROSECONDS)
        self._place = parse_place(target.position) if target.position else None
        self._last = log_format.gtid(target.transaction) if target.transaction else None
        self.count = 0
        self._perhaps: int | None = None
        self._seen_last = False

    @property
    def undecided(self) -> bool:
        """Whether what came last may turn out to be beyond the target."""
        return self._perhaps is not None

    def known(self, gtid: Gtid) -> None:
        """A transaction of the history comes by that the database has already, and everything before it."""
        self._seen_last = gtid == self._last

    def begins(self, begun: Begun, place: Place) -> Reached | None:
        """A transaction begins: whether the history ends before it."""
        if self._seen_last or (self._place is not None and place >= self._place):
            return Reached()
        if self._second is not None and self._at_us is not None:
            if begun.committed_us is not None:
                if begun.committed_us >= self._at_us:
                    return Reached()
            elif self._perhaps is None and begun.second >= self._second:
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
    """What is to be replayed on a database that has the transactions `have`, to bring it to the target.

    `have` are those of the history up to one of them, in the order of the log; it is added to.
    """

    def __init__(
        self,
        archive: LogArchive,
        log_format: LogFormat[Any],
        lineage: Lineage,
        start: Place,
        have: Transactions,
        target: RestoreTarget,
    ) -> None:
        self._archive = archive
        self._format = log_format
        self._lineage = lineage
        self._start = start
        self._have = have
        self.target = Target(target, log_format)
        self.read_bytes = 0
        self._changes_hands = False

    def read(self) -> Iterator[Logged | Reached]:
        """Events, and in the end `Reached`. Raises `Permanent` for a log that is not whole, `Transient`.

        Blocking.
        """
        place = self._start
        for stretch in stretches(self._lineage, self._start):
            for file, parts in self._files(stretch):
                for found in self._of_file(Part(stretch.timeline, file, 0), parts, stretch):
                    yield found
                    if isinstance(found, Reached):
                        return
                place = Place(stretch.timeline, file, self._file_bytes)
            self._changes_hands = True
        self.target.end_of_log(place)
        yield Reached()

    def _of_file(self, file: Part, parts: list[Segment], stretch: Stretch) -> Iterator[Logged | Reached]:
        ends_at = self._format.transactions(stretch.ends_at) if stretch.ends_at else None
        begun: Begun | None = None
        for event in events(self._contents(parts)):
            found = self._format.begun(event)
            self._require_no_hole(event, ends_at, stretch)
            if event.kind in self._format.heading:
                yield Logged(event)
            elif found is not None:
                self._changes_hands = False
                begun = found if self._wanted(found.gtid, ends_at) else None
                if begun is not None:
                    if reached := self.target.begins(begun, Place(file.timeline, file.file, event.offset)):
                        yield reached
                        return
                    yield Logged(event, begins=begun.gtid)
            elif begun is not None and event.kind not in self._format.outside:
                ends = self._format.ends(event, begun)
                if ends:
                    self._have.add(begun.gtid)
                    self.target.ended(begun.gtid)
                yield Logged(event, ends=ends)
                if reached := self.target.goes_on(event):
                    yield reached
                    return

    def _require_no_hole(self, event: Event, ends_at: Transactions | None, stretch: Stretch) -> None:
        hole = self._format.hole(event, self._have, ends_at, stretch.unlogged, changes_hands=self._changes_hands)
        if hole:
            raise Permanent(f"the log archive lacks a part of the history: {hole} is missing")

    def _wanted(self, gtid: Gtid, ends_at: Transactions | None) -> bool:
        if ends_at is not None and gtid not in ends_at:
            return False
        if gtid in self._have:
            self.target.known(gtid)
            return False
        return True

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
