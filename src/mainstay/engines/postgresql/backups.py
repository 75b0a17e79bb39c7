"""Backups of PostgreSQL: the low-level base backup (manual 25.3.4) and recovery from the archive (25.3.5).

`files` are copied from the data directory of the running primary, or of its standby (standby_files.py), between
pg_backup_start and pg_backup_stop on the primary; pages torn meanwhile are made whole by the full page images in the
log between the two positions. What must be read last or together (pg_control, backup_label) comes with
`BackupEnd.extra_files`, always from the primary.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from mainstay.backups.log_archive import LogArchive, Segment, StoredSegment
from mainstay.backups.sources import walk
from mainstay.backups.verify_log import NeededSegment
from mainstay.engines.backups import BackupEnd, BackupHost, LogPiece, LogSource, Recovery, Standby
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql import exported, imported
from mainstay.engines.postgresql.checking import check_databases
from mainstay.engines.postgresql.configuration import FETCH_SCRIPT
from mainstay.engines.postgresql.crash_copies import PostgresqlCrashCopies
from mainstay.engines.postgresql.log_server import LogServer
from mainstay.engines.postgresql.log_source import PostgresqlLogSource
from mainstay.engines.postgresql.sessions import Session, connect
from mainstay.engines.postgresql.standby_files import settle
from mainstay.engines.postgresql.wal import (
    NAME,
    SEGMENT_BYTES,
    format_lsn,
    parse_history,
    parse_lsn,
    parse_segment,
    segment_name,
    segments_after,
    timeline_of,
    whole,
)
from mainstay.host.files import fsync_directory
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec, RestoreSpec
from mainstay.model.repository_job import BackupFacts

CONTROL_FILE = "global/pg_control"
RECOVERY_FILE = "recovery.signal"
SKIPPED_FILES = frozenset(
    {"postmaster.pid", "postmaster.opts", "postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label.old",
     "tablespace_map.old", "backup_manifest", RECOVERY_FILE, "standby.signal", "promote", CONTROL_FILE}
)  # fmt: skip
EMPTIED_DIRECTORIES = frozenset(
    {"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans",
     "pgsql_tmp"}
)  # fmt: skip
MADE_DIRECTORIES = ("pg_wal/archive_status", "pg_wal/summaries")
CONTROL_FILE_READS = 20
FAILURES = (
    "recovery ended before configured recovery target was reached",
    "requested recovery stop point is before consistent recovery point",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "WAL ends before end of online backup",
)
"""What another start will not change. That a file could not be fetched is none of it: if the archive is to blame, the
server of the log says so, and otherwise the engine may ask again."""


class PostgresqlBackups:
    """`EngineBackups` for PostgreSQL."""

    segment_bytes = SEGMENT_BYTES
    log_directory = "pg_wal"
    crash_copies = PostgresqlCrashCopies()

    def log_source(self, spec: NodeSpec, files: NodeFiles) -> LogSource:
        return PostgresqlLogSource(spec, files)

    def begin(
        self, spec: NodeSpec, host: BackupHost, backup_id: str, standby: Standby | None
    ) -> AbstractAsyncContextManager[BaseBackup]:
        return _base_backup(spec, host.files, backup_id, standby)

    async def complete_copy(self, data: Path, build: Callable[[], EngineBuild], user: User) -> None:
        """Nothing: it is the log that makes the files consistent."""

    def prepare_restored(self, data: Path, user: User) -> None:
        """Leaves nothing of the source's own life behind and asks for archive recovery (manual 25.3.5, step 7)."""
        for name, content in ((RECOVERY_FILE, b""), ("postgresql.auto.conf", b"")):
            path = data / name
            path.write_bytes(content)
            path.chmod(0o600)
            user.give(path)
        for name in (*sorted(EMPTIED_DIRECTORIES - {"pgsql_tmp"}), *MADE_DIRECTORIES):
            path = data / name
            path.mkdir(mode=0o700, exist_ok=True)
            user.give(path)
        data.chmod(0o700)
        fsync_directory(data)

    def recovering(self, files: NodeFiles) -> bool:
        return (files.data / RECOVERY_FILE).exists()

    def recovery_options(self, restore: RestoreSpec, files: NodeFiles) -> tuple[str, ...]:
        """On the command line, so that the configuration files are those of any primary and nothing waits for a
        restart afterwards. `hot_standby` off: no room demanded by the source stands in the way (manual 26.4.3), except
        where it is to be looked at.
        """
        script = shlex.quote(str(files.configuration / FETCH_SCRIPT)).replace("%", "%%")
        target = restore.target
        settings = {
            "restore_command": f'/bin/sh {script} "%f" "%p"',
            "hot_standby": "on" if restore.paused else "off",
            "recovery_target_action": "pause" if restore.paused else "promote",
            "recovery_target_timeline": str(int(target.timeline, 16)) if target.timeline else "current",
        }
        if target.at is not None:
            settings["recovery_target_time"] = datetime.fromtimestamp(target.at, UTC).isoformat(sep=" ")
        elif target.position:
            settings["recovery_target_lsn"] = target.position
        elif target.transaction:
            settings["recovery_target_xid"] = target.transaction
        else:
            settings["recovery_target"] = "immediate"
        return tuple(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))

    def recovery(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> Recovery:
        def fetch(name: str) -> bytes | None:
            if not NAME.fullmatch(name):
                return archive.read_small(name)
            return archive.read_segment(Segment(name[:8], self.index_of(name), name))

        return LogServer(files.restoring, user, fetch)

    def segments_after(self, name: str, count: int) -> list[str]:
        return segments_after(name, count)

    def whole_segment(self, data: bytes) -> bytes:
        return whole(data)

    def recovery_failure(self, log_text: str) -> str:
        for line in reversed(log_text.splitlines()):
            if ("FATAL" in line or "PANIC" in line) and any(text in line for text in FAILURES):
                return line.split("FATAL:", 1)[-1].split("PANIC:", 1)[-1].strip()
        return ""

    def index_of(self, segment: str) -> int:
        return parse_segment(segment)[1]

    def index_at(self, position: str) -> int:
        return parse_lsn(position) // SEGMENT_BYTES

    async def check(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, note: Callable[[int, int], None]
    ) -> tuple[str, ...]:
        return await check_databases(spec, files, build, user, note)

    def segments_between(
        self, start: str, end: str, timeline: str, history: str, stored: Sequence[StoredSegment]
    ) -> Sequence[NeededSegment]:
        first, last = parse_lsn(start) // SEGMENT_BYTES, (parse_lsn(end) - 1) // SEGMENT_BYTES
        target, ancestors = int(timeline, 16), parse_history(history)
        found = []
        for number in range(first, last + 1):
            own = timeline_of(number, target, ancestors)
            needed = min(SEGMENT_BYTES, parse_lsn(end) - number * SEGMENT_BYTES)
            found.append(NeededSegment(f"{own:08X}", number, segment_name(own, number), needed))
        return found

    def export_files(self, facts: BackupFacts, owner: str) -> dict[str, bytes]:
        return exported.files(facts, owner)

    def import_refusal(self, names: Mapping[str, int]) -> str:
        return imported.refusal(names)

    async def check_import(self, data: Path, build: EngineBuild, user: User, *, has_manifest: bool) -> None:
        await imported.check(data, build, user, has_manifest=has_manifest)

    async def convert_import(self, data: Path, build: EngineBuild, user: User, master: str) -> None:
        await imported.convert(data, build, user, master)

    def history_file(self, timeline: str) -> str:
        return "" if int(timeline, 16) == 1 else f"{timeline}.history"

    def position_in(self, segment: str, offset: int) -> str:
        return format_lsn(parse_segment(segment)[1] * SEGMENT_BYTES + offset)


class BaseBackup:
    """`OpenBackup` for PostgreSQL; see `_base_backup`."""

    streamed_bytes = None

    def __init__(self, session: Session, files: NodeFiles, start_position: str, standby: Standby | None) -> None:
        self._data = files.data
        self._session = session
        self._start_position = start_position
        self._standby = standby
        self.from_standby = standby is not None
        self.sources = list(walk(files.data if standby is None else standby.files.data, excluded))

    async def stream(self, pipe: int) -> None:
        """Never asked: there are only `sources`."""

    async def finish(self) -> BackupEnd:
        """See `OpenBackup`."""
        if self._standby is not None and not self._standby.unchanged():
            raise Transient("the standby was restarted or has taken over while its files were read", retry_after_s=1.0)
        try:
            cursor = await self._session.execute(b"SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)")
            row = await cursor.fetchone()
            cursor = await self._session.execute(
                b"SELECT extract(epoch FROM clock_timestamp())::float8, pg_walfile_name(%s::pg_lsn)", (row and row[0],)
            )
            after = await cursor.fetchone()
        except psycopg.Error as error:
            raise Transient(f"the engine did not end the backup: {str(error).strip()}") from error
        if row is None or after is None:
            raise Transient("the engine did not end the backup")
        stop_position, label, tablespaces = row
        if tablespaces and tablespaces.strip():
            raise Permanent("the database has tablespaces outside of its data directory: they cannot be backed up")
        timeline = str(after[1])[:8]
        return BackupEnd(
            timeline=timeline,
            start_position=self._start_position,
            stop_position=stop_position,
            consistent_at=after[0],
            extra_files=(
                SourceFile(path="backup_label", mode=0o600, content=label.encode()),
                SourceFile(path=CONTROL_FILE, mode=0o600, content=_control_file(self._data)),
            ),
            log=tuple(self._log(int(timeline, 16), stop_position)),
        )

    def _log(self, timeline: int, stop_position: str) -> Iterator[LogPiece]:
        """Whole segments: pg_backup_stop has begun a new one."""
        first = parse_lsn(self._start_position) // SEGMENT_BYTES
        last = (parse_lsn(stop_position) - 1) // SEGMENT_BYTES
        for number in range(first, last + 1):
            name = segment_name(timeline, number)
            path = self._data / "pg_wal" / name
            yield LogPiece(timeline=f"{timeline:08X}", segment=name, path=path, start=0, end=SEGMENT_BYTES, last=True)


@asynccontextmanager
async def _base_backup(
    spec: NodeSpec, files: NodeFiles, backup_id: str, standby: Standby | None
) -> AsyncIterator[BaseBackup]:
    """The session must stay open until the end (manual 25.3.4); its temporary slot keeps the log for as long."""
    try:
        session = await connect(files.sockets, spec.port)
    except psycopg.Error as error:
        raise Transient(f"the engine does not answer: {str(error).strip()}") from error
    try:
        slot = "mainstay_" + "".join(one if one.isalnum() else "_" for one in backup_id.lower())[:40]
        await session.execute(b"SET statement_timeout = 0")
        await session.execute(b"SET idle_session_timeout = 0")
        await session.execute(b"SELECT pg_create_physical_replication_slot(%s, true, true)", (slot,))
        cursor = await session.execute(b"SELECT pg_backup_start(%s, true)::text", (f"mainstay {backup_id}",))
        row = await cursor.fetchone()
        if row is None:
            raise Transient("the engine did not begin the backup")
        if standby is not None and not await settle(session, standby, row[0]):
            standby = None
        yield BaseBackup(session, files, row[0], standby)
    except psycopg.Error as error:
        raise Transient(f"the engine does not back up: {str(error).strip()}") from error
    finally:
        await session.close()


def excluded(path: str) -> bool:
    """Whether this path below the data directory is no part of a base backup (manual 25.3.4.1)."""
    *above, name = path.split("/")
    if any(part in EMPTIED_DIRECTORIES or part.startswith("pgsql_tmp") for part in above):
        return True
    return path in SKIPPED_FILES or name.startswith(("pgsql_tmp", "pg_internal.init"))


def _control_file(data: Path) -> bytes:
    """The control file is written in place: what two reads agree on was not caught in the middle."""
    path = data / CONTROL_FILE
    before = path.read_bytes()
    for _ in range(CONTROL_FILE_READS):
        again = path.read_bytes()
        if again == before:
            return again
        before = again
    raise Transient("the engine's control file does not keep still")
