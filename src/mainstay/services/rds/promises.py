"""Which moments of an instance can be restored now: from what is recorded, and what its agent says of the log."""

from __future__ import annotations

from math import ceil

import msgspec

from mainstay.decide.restore_window import Gap, RestoreWindow, restore_window
from mainstay.model.db_snapshot import AVAILABLE, DBInstanceAutomatedBackup, DBSnapshot
from mainstay.model.node import NodeStatus
from mainstay.model.repository_job import BackupFacts, LogPromise
from mainstay.store import Reader
from mainstay.workflows.automated_backups import automated_snapshots, gap_of


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """How far the log is kept, and along which history."""

    latest_at: float | None
    timeline: str
    gap: Gap


def promise_of(backup: DBInstanceAutomatedBackup, seen: NodeStatus | None) -> Promise:
    """What the agent sees of the archive, or what was recorded last when it sees nothing."""
    archive = None if seen is None else seen.archive
    gap = gap_of(backup, 0.0 if archive is None else archive.gap_at)
    if archive is None or not archive.latest_restorable_at:
        return Promise(latest_at=backup.latest_restorable_at, timeline=backup.timeline, gap=gap)
    return Promise(
        latest_at=max(archive.latest_restorable_at, backup.latest_restorable_at or 0.0),
        timeline=archive.timeline or backup.timeline,
        gap=gap,
    )


def complete_backups(reader: Reader, backup: DBInstanceAutomatedBackup) -> list[BackupFacts]:
    """The automated backups there are."""
    rows: list[DBSnapshot] = automated_snapshots(reader, backup)
    return [row.backup for row in rows if row.status == AVAILABLE and row.backup is not None]


def window_of(reader: Reader, backup: DBInstanceAutomatedBackup, seen: NodeStatus | None) -> RestoreWindow | None:
    """From when until when moments can be restored."""
    promise = promise_of(backup, seen)
    return restore_window(complete_backups(reader, backup), promise.latest_at, promise.gap)


def log_promise(reader: Reader, backup: DBInstanceAutomatedBackup, seen: NodeStatus | None) -> LogPromise | None:
    """The log that the restore window needs, None without a window or while a gap of the log is not healed."""
    promise = promise_of(backup, seen)
    window = window_of(reader, backup, seen)
    if window is None or not promise.timeline:
        return None
    bases = [
        one
        for one in complete_backups(reader, backup)
        if one.started_at >= promise.gap.until and ceil(one.consistent_at * 1000) / 1000 >= window.earliest_at
    ]
    first = min(bases, key=lambda one: one.started_at, default=None)
    if first is None:
        return None
    archive = None if seen is None else seen.archive
    position = backup.position if archive is None else archive.position or backup.position
    return LogPromise(timeline=promise.timeline, start_position=first.start_position, end_position=position)
