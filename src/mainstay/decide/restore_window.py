"""What the automated backups of an instance promise: from when until when, which backup a moment needs, what may go.

A moment can be restored if a backup was consistent at or before it and no part of the log is missing in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import ceil, floor

import msgspec

from mainstay.model.repository_job import BackupFacts

DAY_S = 24 * 3600.0


class RestoreWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Every moment from `earliest_at` to `latest_at` (epoch seconds, both inclusive) can be restored.

    Both are whole milliseconds, rounded inward: that is how the API shows them, and what it shows must be restorable.
    """

    earliest_at: float
    latest_at: float


class Gap(msgspec.Struct, frozen=True):
    """A part of the log is missing: nothing after `since` can be restored by backups begun before `until`.

    Both are epoch seconds, `until` 0.0: nothing is missing.
    """

    since: float = 0.0
    until: float = 0.0

    def cuts(self, backup: BackupFacts, at: float) -> bool:
        """Whether the log does not lead from the backup to the moment."""
        return backup.started_at < self.until and at > self.since


def moment_text(at: float) -> str:
    """A moment as messages tell it: UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def restore_window(backups: Sequence[BackupFacts], latest_at: float | None, gap: Gap) -> RestoreWindow | None:
    """The newest unbroken stretch that has a moment in it, None without one.

    A backup that heals a gap begins the new stretch once the log has gone past it; till then the old one counts.
    """
    if latest_at is None:
        return None
    healed = _stretch([backup for backup in backups if backup.started_at >= gap.until], latest_at)
    return healed or _stretch(backups, min(latest_at, gap.since))


def _stretch(backups: Sequence[BackupFacts], last: float) -> RestoreWindow | None:
    """From the first of the backups that was consistent by then."""
    moments = [backup.consistent_at for backup in backups if backup.consistent_at <= last]
    if not moments:
        return None
    earliest, latest = ceil(min(moments) * 1000) / 1000, floor(last * 1000) / 1000
    return RestoreWindow(earliest_at=earliest, latest_at=latest) if earliest <= latest else None


def base_backup(backups: Sequence[BackupFacts], at: float, gap: Gap) -> BackupFacts | None:
    """The newest backup from which the log leads to `at`, None if there is none."""
    leading = [backup for backup in backups if backup.consistent_at <= at and not gap.cuts(backup, at)]
    return max(leading, key=lambda backup: backup.consistent_at, default=None)


def expired(backups: Sequence[BackupFacts], now: float, retention_days: int) -> frozenset[str]:
    """Ids of the backups that no moment within the retention period needs: all before the newest that precedes it."""
    begins_at = now - retention_days * DAY_S
    before = sorted(
        (backup for backup in backups if backup.consistent_at <= begins_at), key=lambda backup: backup.consistent_at
    )
    return frozenset(backup.backup_id for backup in before[:-1])


def log_needed_from(backups: Sequence[BackupFacts], order: Callable[[str], int]) -> str | None:
    """The position from which the log must stay, None (all of it) while there is no backup.

    `order` orders positions. After a restore in place a later backup may be at an earlier position, of another history.
    """
    first = min(backups, key=lambda backup: order(backup.start_position), default=None)
    return None if first is None else first.start_position
