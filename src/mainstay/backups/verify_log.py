"""Reading an archived log back: every segment once, one in memory at a time, and none missing of those that are needed.

Engine-neutral: which segments a replay needs is told by the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from mainstay.backups.log_archive import SMALL, LogArchive, Segment, place_of
from mainstay.backups.parallel import Cancelled, Report
from mainstay.backups.repository import Repository
from mainstay.backups.sealing import Damaged


class NeededSegment(msgspec.Struct, frozen=True, array_like=True):
    """A segment that a replay reads, `end` bytes of it (0: whatever there is).

    `below`: with as many bytes it would go on in another segment, which is missing then (0: it never does).
    """

    timeline: str
    index: int
    name: str
    end: int = 0
    below: int = 0

    @property
    def segment(self) -> Segment:
        """As the archive knows it."""
        return Segment(self.timeline, self.index, self.name)


def verify_log(
    repository: Repository,
    needed: Sequence[NeededSegment],
    small: Sequence[str] = (),
    *,
    report: Report | None = None,
    stop: threading.Event | None = None,
) -> list[Damaged]:
    """Reads all segments and small files back; what is wrong, segments and files that are `needed` and missing too.

    `report` is told (bytes read, bytes in all) as they are stored. The log may grow meanwhile, nothing may be removed.
    """
    archive = LogArchive(repository)
    stored = archive.segments()
    wanted = {one.segment: one for one in needed}
    total = sum(one.stored for one in stored)
    read = 0
    found: list[Damaged] = []
    for one in stored:
        found += _look(archive, repository, wanted.pop(one.segment, None), one.segment, stop)
        read += one.stored
        if report is not None:
            report(read, total)
    for rest in wanted.values():  # one that was made whole while we listed it may have been overlooked
        found += _look(archive, repository, rest, rest.segment, stop)
    return found + _small_files(archive, repository, small)


def _look(
    archive: LogArchive,
    repository: Repository,
    needed: NeededSegment | None,
    segment: Segment,
    stop: threading.Event | None,
) -> list[Damaged]:
    if stop is not None and stop.is_set():
        raise Cancelled
    try:
        content = archive.read_segment(segment)
    except Damaged as error:
        return [Damaged(error.key, f"in log segment {segment.name}: {error.reason}")]
    if needed is None:
        return []
    key = repository.key(place_of(segment))
    if content is None:
        return [Damaged(key, f"the log segment {segment.name} is missing")]
    if len(content) < needed.end:
        reason = f"the log segment {segment.name} ends at byte {len(content)}, before {needed.end}"
        return [Damaged(key, reason)]
    if needed.below and len(content) >= needed.below:
        return [Damaged(key, f"the log segment {segment.name} goes on in another one, which is missing")]
    return []


def _small_files(archive: LogArchive, repository: Repository, needed: Sequence[str]) -> list[Damaged]:
    found = []
    for name in sorted({*archive.list_small(), *needed}):
        try:
            missing = archive.read_small(name) is None
        except Damaged as error:
            found.append(Damaged(error.key, f"in {name}: {error.reason}"))
            continue
        if missing:
            found.append(Damaged(repository.key(SMALL + name), f"the log's file {name} is missing"))
    return found
