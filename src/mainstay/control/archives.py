"""Writes down how far the log of each instance is kept, as the agents have seen it.

What is recorded is at most a minute older than what was seen, and what was seen last before an instance goes is
recorded by its deletion (workflows/delete_db_instance.py). A gap is recorded, and a new backup begun, at once.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from mainstay.host.clock import Clock
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import DBInstanceAutomatedBackup
from mainstay.model.errors import MainstayError
from mainstay.model.node import ArchiveStatus
from mainstay.store import Reader, Store
from mainstay.workflows.automated_backups import backup_record, note_archive
from mainstay.workflows.fleet import Fleet, last_seen_leader

RECORD_EVERY_S = 60.0
log = structlog.get_logger()


class ArchiveRecorder:
    """Looks at what is seen of an instance whenever something new is. `wake`: a job may have become due."""

    def __init__(self, store: Store, fleet: Fleet, clock: Clock, wake: Callable[[], None]) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._wake = wake

    def look(self, dbi_resource_id: str) -> None:
        """Records what is new; what cannot be recorded now is recorded with the next news."""
        try:
            if self._news(self._store.view(), dbi_resource_id) is None:
                return
            with self._store.transaction() as tx:
                news = self._news(tx, dbi_resource_id)
                if news is not None:
                    note_archive(tx, news[0], news[1], self._clock.wall())
            self._wake()
        except MainstayError as error:
            log.error("archives.not_recorded", dbi_resource_id=dbi_resource_id, error=error.message)

    def _news(self, reader: Reader, dbi_resource_id: str) -> tuple[DBInstanceAutomatedBackup, ArchiveStatus] | None:
        found = reader.find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
        backup = backup_record(reader, found[0]) if found else None
        seen = last_seen_leader(self._fleet, found[0]) if found else None
        if backup is None or seen is None or seen.archive is None:
            return None
        archive = seen.archive
        if archive.gap_at > backup.gap_at:
            return backup, archive
        moved = archive.latest_restorable_at > (backup.latest_restorable_at or 0.0)
        old = self._clock.wall() >= backup.archive_recorded_at + RECORD_EVERY_S
        return (backup, archive) if moved and old else None
