"""Copies a stretch of an archived log into another repository, under its key, as far as it is not there yet."""

from __future__ import annotations

from collections.abc import Callable

from mainstay.backups.log_archive import LogArchive, StoredSegment
from mainstay.engines.backups import EngineBackups
from mainstay.model.errors import Permanent
from mainstay.model.repository_job import LogPromise

PIECES_MAX = 32
"""More pieces of one growing segment are stored again as one."""


def copy_log(
    source: LogArchive,
    target: LogArchive,
    promised: LogPromise,
    backups: EngineBackups,
    note: Callable[[int, int], None],
) -> None:
    """All that a replay between the two positions needs is in the target when this returns. May be repeated.

    Raises `Permanent` naming what the source has not got, or has damaged.
    """
    present = set(target.list_small())
    for name in source.list_small():
        content = None if name in present else source.read_small(name)
        if content is not None:
            target.put_small(name, content)
    name = backups.history_file(promised.timeline)
    history = (source.read_small(name) or b"").decode(errors="replace") if name else ""
    stored = source.segments()
    needed = backups.segments_between(
        promised.start_position, promised.end_position, promised.timeline, history, stored
    )
    there = {one.segment: one for one in target.segments()}
    here = {one.segment: one for one in stored}
    for number, one in enumerate(needed):
        note(number, len(needed))
        have = there.get(one.segment)
        if have is None or not (have.whole or have.end >= one.end > 0):
            _copy(source, target, here.get(one.segment), have, one.end, one.name)
    note(len(needed), len(needed))


def _copy(
    source: LogArchive,
    target: LogArchive,
    stored: StoredSegment | None,
    have: StoredSegment | None,
    end: int,
    name: str,
) -> None:
    data = None if stored is None else source.read_segment(stored.segment)
    if stored is None or data is None:
        raise Permanent(f"the log segment {name} is missing")
    if len(data) < end:
        raise Permanent(f"the log segment {name} ends at byte {len(data)}, before {end}")
    if stored.whole:
        target.complete(stored.segment, data)
        return
    begin = 0 if have is None or target.pieces(stored.segment) >= PIECES_MAX else have.end
    if data[begin:]:
        target.append_piece(stored.segment, begin, data[begin:])
        if have is not None and not begin:
            target.delete_covered(stored.segment)
