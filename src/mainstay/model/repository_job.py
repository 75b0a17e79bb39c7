"""Work of an agent on a backup repository: what is ordered, and what is seen of it.

A repository is one prefix of the object storage under one data key: the backups and the log of one instance
(`mainstay.backups` has the format). A job may be ordered again any number of times: its id names it.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class RepositoryRef(msgspec.Struct, frozen=True, kw_only=True):
    """Where a repository is and the key it is sealed with (64 hexadecimal digits; a secret, never logged)."""

    prefix: str
    data_key: str

    def __repr__(self) -> str:
        return f"RepositoryRef(prefix={self.prefix!r}, data_key='****')"


class JobKind(StrEnum):
    """What is done.

    BACKUP: of the node `node_id` into `repository` as `backup_id`; with `cloned`, of a clone of its volume where there
    can be one, which is there at once (`JobStatus.local`), and with `node_id` "" of the clone that is there. COPY:
    `backup_id` and the log it needs from `repository` into `destination`. EXPIRE: everything in `repository` is removed
    but the backups `kept_backups`, the log from `kept_log_from` on (a position) and what of the log each kept backup
    needs; the clones of other backups go too. DESTROY: all of the repository.
    VERIFY: the backups `kept_backups`, each of which must be there, and the log are read back and checked; of the log
    what the backups need and what is `promised` must be there. CHECK: all that the engine of node `node_id` can read is
    read by it. COPY_LOG: the log that is `promised` in `repository` into `destination`, as far as it is not there.
    """

    BACKUP = "backup"
    COPY = "copy"
    EXPIRE = "expire"
    DESTROY = "destroy"
    VERIFY = "verify"
    CHECK = "check"
    COPY_LOG = "copy-log"


class LogPromise(msgspec.Struct, frozen=True, kw_only=True):
    """Everything between two positions can be replayed along `timeline`. `end_position` "": as far as is stored."""

    timeline: str
    start_position: str
    end_position: str = ""


class RepositoryJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One order. `subject` names whose workflow waits for it, as in jobs of the store.

    `kept_log_from` "": no log is needed but that of the kept backups; None: all of it stays. `volume_key` is the data
    key of an encrypted volume whose clone is read (a secret).
    """

    job_id: str
    kind: JobKind
    subject: str
    engine: str
    repository: RepositoryRef
    node_id: str = ""
    backup_id: str = ""
    destination: RepositoryRef | None = None
    kept_backups: tuple[str, ...] = ()
    kept_log_from: str | None = None
    promised: LogPromise | None = None
    cloned: bool = False
    volume_key: str = ""

    def __repr__(self) -> str:
        return f"RepositoryJob(job_id={self.job_id!r}, kind={self.kind.value!r}, repository={self.repository!r})"


class JobPhase(StrEnum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class BackupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished backup is. Positions are the engine's own words for places in its log, on one `timeline`.

    It can be restored to any moment from `consistent_at` (epoch seconds, the database's clock) on; of the log it needs
    what is between the two positions. `size_bytes` is what a restore writes, `stored_bytes` what was added to the
    repository. `from_standby`: its files were read from the standby of a Multi-AZ instance. `crash_consistent`: its
    files are those of one moment, as after a power cut: it needs no log, and its positions say nothing.
    """

    backup_id: str
    engine_version: str
    timeline: str
    start_position: str
    stop_position: str
    started_at: float
    consistent_at: float
    size_bytes: int = 0
    stored_bytes: int = 0
    from_standby: bool = False
    crash_consistent: bool = False


class LostLog(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log that was promised, and is missing or damaged."""

    start_position: str
    end_position: str


class JobStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent sees of a job. `fatal`: it will not be tried again by itself.

    A COPY's `backup` is the copy's; the `damages` of a VERIFY or a CHECK are sentences, one for each thing found;
    `lost_log` is what of the promised log a VERIFY found lost, at most LOST_MAX parts of it. `local`: there is a clone
    on the host, which can be restored from there while it is being stored. `copied_because` says why a BACKUP that was
    to be of a clone is not.
    """

    job_id: str
    subject: str
    phase: JobPhase
    bytes_done: int = 0
    bytes_total: int = 0
    started_at: float = 0.0
    backup: BackupFacts | None = None
    damages: tuple[str, ...] = ()
    lost_log: tuple[LostLog, ...] = ()
    failure: str = ""
    fatal: bool = False
    local: BackupFacts | None = None
    copied_because: str = ""

    @property
    def percent(self) -> int:
        """Progress for people, 0 to 100."""
        if self.phase is JobPhase.DONE:
            return 100
        return min(99, 100 * self.bytes_done // self.bytes_total) if self.bytes_total else 0
