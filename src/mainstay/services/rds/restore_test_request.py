"""Asking for a restore test of an instance's automated backups. The work is `workflows/restore_test.py`."""

from __future__ import annotations

from mainstay.decide.restore_window import DAY_S
from mainstay.model.db_snapshot import BackupRepository, DBInstanceAutomatedBackup
from mainstay.store import Job, Transaction

PROGRAM = "restore_test"
FIRST_STEP = "restore"
DEADLINE_S = 12 * 3600.0
HALF_DAY_S = DAY_S / 2
GRACE_DAYS = 2


def subject_of(repository_id: str) -> str:
    """Of the job that tests the repository."""
    return f"restore-test:{repository_id}"


def request_restore_test_in(tx: Transaction, now: float, backup: DBInstanceAutomatedBackup) -> Job:
    """Starts the program, or joins one that is under way."""
    subject = subject_of(backup.repository_id)
    for job in tx.jobs(subject):
        return job
    return tx.add_job(
        Job(
            program=PROGRAM,
            subject=subject,
            scope=backup.scope,
            step=FIRST_STEP,
            frame={
                "dbi_resource_id": backup.facts.dbi_resource_id,
                "job_id": f"{backup.repository_id}-check-{int(now * 1000)}",
            },
            due_at=now,
            created_at=now,
            deadline_at=now + DEADLINE_S,
        )
    )


def is_due(repository: BackupRepository, now: float, interval_days: int) -> bool:
    """Whether the last test, or the beginning, is as long ago as the setting says.

    Half a day early is not too early: it is asked once a day, after the daily backup, whose moment varies. A test that
    was not possible (no room, say) is due again after a day.
    """
    tested = repository.restore_tested
    last_at = repository.created_at if tested is None else tested.at
    days = 1 if tested is not None and tested.failure else interval_days
    return interval_days > 0 and now >= last_at + days * DAY_S - HALF_DAY_S


def is_overdue(repository: BackupRepository, now: float, interval_days: int) -> bool:
    """Whether no test has been good for two days longer than the setting says.

    A test follows a daily backup, and one that was not possible is made again the next day; beyond that it does not
    come by itself.
    """
    proven_at = repository.restore_proven_at or repository.created_at
    return interval_days > 0 and now >= proven_at + (interval_days + GRACE_DAYS) * DAY_S


def is_untold(repository: BackupRepository, now: float, interval_days: int) -> bool:
    """Whether it is overdue and nobody was told of it for as long as the setting says."""
    told_at = repository.overdue_told_at
    again = told_at is None or now >= told_at + interval_days * DAY_S
    return again and is_overdue(repository, now, interval_days)
