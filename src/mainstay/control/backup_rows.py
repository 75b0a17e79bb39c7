"""Automated backups and snapshots as `mainstay backups list --json` shows them: plain values, times epoch seconds."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import (
    AVAILABLE,
    CREATING,
    BackupRepository,
    DBInstanceAutomatedBackup,
    DBSnapshot,
    Proof,
)
from mainstay.model.node import ArchiveStatus
from mainstay.model.repository_job import JobPhase, JobStatus
from mainstay.services.rds.promises import complete_backups, promise_of, window_of
from mainstay.services.rds.restore_test_request import is_overdue
from mainstay.store import Reader
from mainstay.workflows.automated_backups import automated_snapshots
from mainstay.workflows.fleet import Fleet, last_seen_leader


def automated_row(
    view: Reader,
    fleet: Fleet,
    backup: DBInstanceAutomatedBackup,
    repository: BackupRepository,
    now: float,
    interval_days: int,
) -> dict[str, Any]:
    """All automated backups of one instance together.

    `lag_s` is how old the newest restorable moment is, None when nobody ships the log. `gap_at`: a part of the log is
    missing, so nothing between then and the next backup can be restored. `size_bytes` is what the newest backup writes
    when it is restored, `stored_bytes` what all of them take, without the log; `from_standby`: its files were read from
    the standby; `copy_of`: they follow the instance's backups in that region. `restore_test_age_s` is how long ago the
    last good restore test was, None: there was none.
    """
    found = view.find(DBInstance, backup.scope, "dbi-resource-id", backup.facts.dbi_resource_id)
    seen = last_seen_leader(fleet, found[0]) if found else None
    archive = None if seen is None else seen.archive
    if backup.copy_of is not None:  # what it has is what was copied last
        archive = ArchiveStatus(latest_restorable_at=backup.latest_restorable_at or 0.0, failure=backup.copy_failure)
    window = window_of(view, backup, seen)
    promise = promise_of(backup, seen)
    backups = complete_backups(view, backup)
    newest = max(backups, key=lambda one: one.consistent_at, default=None)
    rows = automated_snapshots(view, backup)
    shipping = archive is not None and archive.latest_restorable_at > 0
    return {
        "kind": "automated",
        "name": backup.automated_backup_id,
        "instance": backup.facts.db_instance_identifier,
        "dbi_resource_id": backup.facts.dbi_resource_id,
        "region": backup.scope.region,
        "copy_of": None if backup.copy_of is None else backup.copy_of.region,
        "account": backup.scope.account_id,
        "status": backup.status,
        "backups": len(backups),
        "failed": [row.failure for row in rows if row.status not in (AVAILABLE, "creating")],
        "created_at": None if newest is None else newest.consistent_at,
        "next_backup_at": backup.next_backup_at,
        "size_bytes": 0 if newest is None else newest.size_bytes,
        "stored_bytes": sum(one.stored_bytes for one in backups),
        "from_standby": newest is not None and newest.from_standby,
        "kms_key_id": repository.kms_key_id,
        "earliest_at": None if window is None else window.earliest_at,
        "latest_at": None if window is None else window.latest_at,
        "lag_s": max(0.0, now - archive.latest_restorable_at) if shipping and archive is not None else None,
        "archive_failure": "" if archive is None else archive.failure,
        "gap_at": promise.gap.since or None,
        "gap_open": promise.gap.until > (backup.last_backup_at or 0.0),
        "verified": shown(repository.verified),
        "restore_tested": shown(repository.restore_tested),
        "restore_test_age_s": None if repository.restore_proven_at is None else now - repository.restore_proven_at,
        "restore_test_overdue": backup.copy_of is None and is_overdue(repository, now, interval_days),
    }


def snapshot_row(row: DBSnapshot, kms_key_id: str, status: JobStatus | None, now: float) -> dict[str, Any]:
    """One snapshot, with the members of `automated_row` that it has; `status` is of the job that makes it.

    `progress` is {"bytes_done", "bytes_total", "seconds"} while it is made, or stored. `way` is "clone" or "copy", ""
    where there was no choice, `local` tells of one that is on its host only.
    """
    facts = row.backup
    progress = None
    begun = status is not None and status.phase is JobPhase.RUNNING and status.started_at
    if begun and status is not None and (row.status == CREATING or row.local):
        progress = {"bytes_done": status.bytes_done, "bytes_total": status.bytes_total,
                    "seconds": max(0.0, now - status.started_at)}  # fmt: skip
    return {
        "kind": f"{row.snapshot_type} snapshot",
        "name": row.db_snapshot_identifier,
        "instance": row.facts.db_instance_identifier,
        "dbi_resource_id": row.facts.dbi_resource_id,
        "region": row.scope.region,
        "account": row.scope.account_id,
        "status": row.status,
        "progress": progress,
        "failed": [row.failure] if row.failure else [],
        "created_at": row.snapshot_create_time,
        "size_bytes": 0 if facts is None else facts.size_bytes,
        "stored_bytes": 0 if facts is None else facts.stored_bytes,
        "from_standby": facts is not None and facts.from_standby,
        "kms_key_id": kms_key_id,
        "verified": shown(row.verified),
        "way": "clone" if facts is not None and facts.crash_consistent else "copy" if row.copied_because else "",
        "local": row.local,
        "copied_because": row.copied_because,
    }


def shown(proof: Proof | None) -> dict[str, Any] | None:
    """None for what was never looked at."""
    if proof is None:
        return None
    filled = {"damages": [], "failure": "", "moment": None, "size_bytes": 0} | msgspec.to_builtins(proof)
    return {**filled, "good": proof.good}
