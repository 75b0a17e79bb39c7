"""Backups as users see them: DB snapshots (manual and automated), an instance's automated backups, their repositories.

Source: RDS API reference, DBSnapshot and DBInstanceAutomatedBackup.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mainstay.model.records import Record, Scope
from mainstay.model.repository_job import BackupFacts

MANUAL, AUTOMATED = "manual", "automated"
CREATING, AVAILABLE, FAILED = "creating", "available", "failed"
ACTIVE, RETAINED = "active", "retained"
PENDING, REPLICATING = "pending", "replicating"
ALL_ACCOUNTS = "all"


class InstanceFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What of an instance a backup remembers: what a restore takes over, and what the API shows of it."""

    db_instance_identifier: str
    dbi_resource_id: str
    engine: str
    engine_version: str
    db_instance_class: str
    allocated_storage_gib: int
    storage_type: str
    iops: int | None = None
    storage_throughput: int | None = None
    port: int
    availability_zone: str
    vpc_id: str
    instance_create_time: float
    master_username: str
    master_password_verifier: str
    license_model: str
    db_name: str = ""
    option_group_name: str
    iam_database_authentication_enabled: bool = False
    backup_retention_period_days: int = 0
    preferred_backup_window: str = ""
    copy_tags_to_snapshot: bool = False
    multi_az: bool = False
    storage_encrypted: bool = False
    kms_key_id: str = ""


class Proof(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What looking at backups came to: a verification (everything read back), or a restore test (really restored).

    `at` is when it ended, `seconds` how long it took, `moment` what a restore test restored to (all epoch seconds);
    `size_bytes` what was read. `damages` are sentences; `failure` says why it could not be done.
    """

    at: float
    seconds: float
    size_bytes: int = 0
    moment: float | None = None
    damages: tuple[str, ...] = ()
    failure: str = ""

    @property
    def good(self) -> bool:
        """Whether it found everything as it should be."""
        return not self.damages and not self.failure


class BackupRepository(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One prefix of the object storage and the data key that everything below it is sealed with.

    `sealed_data_key`: sealed by the service's vault, or, where `kms_key_id` (a key ARN) is given, wrapped by that key.
    `dbi_resource_id` is the instance whose data it holds. `doomed`: nothing new may be put there, it is being removed.
    `verified` and `restore_tested` are the last looks at all of it; `restore_proven_at` is when a restore test was last
    good, `overdue_told_at` when it was told that one is overdue. `last_kept_backups` and `last_kept_log_from` say
    what was kept when it was last cleared, None: never cleared.
    """

    KIND: ClassVar[str] = "backup-repository"

    repository_id: str
    prefix: str
    engine: str
    sealed_data_key: str
    kms_key_id: str = ""
    created_at: float
    dbi_resource_id: str = ""
    doomed: bool = False
    last_kept_backups: tuple[str, ...] | None = None
    last_kept_log_from: str | None = None
    verified: Proof | None = None
    restore_tested: Proof | None = None
    restore_proven_at: float | None = None
    overdue_told_at: float | None = None

    def key(self) -> str:
        return self.repository_id

    @property
    def subject(self) -> str:
        """Of the jobs that work on it."""
        return f"repository:{self.repository_id}"


class BackupRef(msgspec.Struct, frozen=True, kw_only=True):
    """One backup in the repository of any scope."""

    scope: Scope
    repository_id: str
    backup_id: str


class DBSnapshot(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One snapshot. `status`: creating (copies too), available, failed. `backup` is there from available on.

    `copy_of` is what a copy is being made of by copying data; a copy that shares its source's data has none.
    `restore_accounts`: who may restore it (account ids, "all"). `source_db_snapshot_arn` and `source_region` are set on
    copies. `local`: it is available on its host only, as a clone, and is being stored; `copied_because` says why one
    that was to be a clone is none. `wrapped_volume_key` is the data key of the volume that an encrypted clone shows,
    wrapped by its KMS key for the instance `volume_key_owner`. Times are epoch seconds; `snapshot_create_time` is when
    it was complete, `snapshot_database_time` the moment of the database it shows.
    """

    KIND: ClassVar[str] = "db-snapshot"

    db_snapshot_identifier: str
    snapshot_type: str = MANUAL
    facts: InstanceFacts
    repository_id: str
    backup_id: str
    status: str = "creating"
    percent_progress: int = 0
    failure: str = ""
    requested_at: float
    snapshot_create_time: float | None = None
    original_snapshot_create_time: float | None = None
    snapshot_database_time: float | None = None
    source_region: str = ""
    source_db_snapshot_arn: str = ""
    restore_accounts: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    backup: BackupFacts | None = None
    copy_of: BackupRef | None = None
    verified: Proof | None = None
    local: bool = False
    copied_because: str = ""
    wrapped_volume_key: str = ""
    volume_key_owner: str = ""

    def key(self) -> str:
        return self.db_snapshot_identifier

    def index(self) -> dict[str, str]:
        copied = self.copy_of is not None and self.status == CREATING
        source = {"copied-from": self.copy_of.repository_id} if copied and self.copy_of is not None else {}
        return source | {
            "dbi-resource-id": self.facts.dbi_resource_id,
            "db-instance": self.facts.db_instance_identifier,
            "repository": self.repository_id,
        }

    @property
    def subject(self) -> str:
        """Of the job that makes it."""
        return snapshot_subject(self.repository_id, self.backup_id)

    @property
    def job_id(self) -> str:
        """Of the agent's job that makes it."""
        return f"{self.repository_id}-{self.backup_id}"

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:snapshot:<identifier>`."""
        return self.scope.arn("rds", f"snapshot:{self.db_snapshot_identifier}")


def snapshot_subject(repository_id: str, backup_id: str) -> str:
    """The subject of the job that makes this backup for a DB snapshot."""
    return f"snapshot:{repository_id}-{backup_id}"


class LogMark(msgspec.Struct, frozen=True, array_like=True):
    """Every commit up to `at` (epoch seconds) is in the log before `position`, as the engine names it."""

    at: float
    position: str


class DBInstanceAutomatedBackup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The automated backups of one instance. `status`: creating, active, retained; of a copy of them in another region
    pending, replicating, retained.

    `latest_restorable_at`, `timeline` and `position` are what was last recorded of its archive; of a living instance
    the agent knows better. `gap_at`: the log has a gap, which a backup begun then or later heals; 0.0 without one.
    `gap_since` is the last moment before it, 0.0 for `gap_at` itself. `log_marks` are places of moments in the log.
    `facts` are those of the instance when it was last backed up. `next_backup_at` is when the next one is due.
    `copy_of` is the scope of the instance whose backups a copy follows, None: they are the instance's own;
    `copy_failure` says why it does not get on now.
    """

    KIND: ClassVar[str] = "db-instance-automated-backup"

    facts: InstanceFacts
    automated_backup_id: str
    repository_id: str
    status: str = "creating"
    backup_retention_period_days: int
    latest_restorable_at: float | None = None
    timeline: str = ""
    position: str = ""
    retained_since: float | None = None
    last_backup_at: float | None = None
    next_backup_at: float | None = None
    gap_at: float = 0.0
    gap_since: float = 0.0
    log_marks: tuple[LogMark, ...] = ()
    archive_recorded_at: float = 0.0
    copy_of: Scope | None = None
    copy_failure: str = ""
    tags: dict[str, str] = {}

    def key(self) -> str:
        return self.facts.dbi_resource_id

    def index(self) -> dict[str, str]:
        found = {"db-instance": self.facts.db_instance_identifier, "automated-backup-id": self.automated_backup_id}
        return found if self.copy_of is None else found | {"copy-of": self.facts.dbi_resource_id}

    @property
    def subject(self) -> str:
        """Of the job that takes the backups, or follows them."""
        if self.copy_of is not None:
            return f"backup-copy:{self.automated_backup_id}"
        return f"backup:{self.facts.dbi_resource_id}"

    @property
    def instance_arn(self) -> str:
        """Of the instance."""
        return (self.copy_of or self.scope).arn("rds", f"db:{self.facts.db_instance_identifier}")

    @property
    def gap_open(self) -> bool:
        """Whether no backup has been taken since the gap."""
        return self.gap_at > (self.last_backup_at or 0.0)

    @property
    def arn(self) -> str:
        """`arn:aws:rds:<region>:<account>:auto-backup:<id>`."""
        return self.scope.arn("rds", f"auto-backup:{self.automated_backup_id}")
