"""A copy of PostgreSQL's data directory as it is at one moment, as after a power cut: a server that is started on it
recovers from the log in it, from the last checkpoint to the end, and nothing else is needed (manual 28.6, 25.2).

What is in an emptied directory, and a segment of the log that was recycled and not written yet, is no part of it.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg

from mainstay.backups.sources import walk
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.sessions import connect
from mainstay.engines.postgresql.wal import NAME, SEGMENT_BYTES, parse_segment
from mainstay.host.file_identity import files_as
from mainstay.host.files import fsync_directory
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.errors import Transient
from mainstay.model.node import NodeSpec

LEFT_OUT_FILES = frozenset(
    {"postmaster.pid", "postmaster.opts", "postgresql.auto.conf", "postgresql.auto.conf.tmp", "current_logfiles",
     "current_logfiles.tmp", "backup_label.old", "tablespace_map.old", "backup_manifest", "recovery.signal",
     "standby.signal", "promote"}
)  # fmt: skip
EMPTIED = frozenset(
    {"pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pgsql_tmp"}
)
PAGE_HEADER = struct.Struct("=HHIQ")
"""XLogPageHeaderData: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr (access/xlog_internal.h)."""

FLUSH = "SELECT pg_logical_emit_message(true, 'mainstay', 'snapshot')"


class PostgresqlCrashCopies:
    """`CrashCopies` for PostgreSQL."""

    async def flush(self, spec: NodeSpec, files: NodeFiles) -> None:
        """The commit of a small transaction brings to disk whatever was committed before, synchronously or not."""
        try:
            session = await connect(files.sockets, spec.port)
            try:
                await session.execute(b"SET synchronous_commit = local")
                await session.execute(FLUSH.encode())
            finally:
                await session.close()
        except psycopg.Error as error:
            raise Transient(f"the engine does not answer: {str(error).strip()}") from error

    def refusal(self, data: Path) -> str:
        with suppress(OSError):
            if any((data / "pg_tblspc").iterdir()):
                return "the database has tablespaces outside of its data directory"
        return ""

    def files(self, data: Path) -> Iterator[SourceFile]:
        for one in walk(data, _left_out):
            above, _, name = one.path.rpartition("/")
            if above == "pg_wal" and NAME.fullmatch(name) and not _is_written(Path(one.origin), name):
                continue
            yield one

    def prepare(self, data: Path, user: User) -> None:
        # As the engine's user: it owned these directories, and may have left links in them.
        with files_as(None if user.user_id is None or user.group_id is None else (user.user_id, user.group_id)):
            for name in LEFT_OUT_FILES:
                (data / name).unlink(missing_ok=True)
            for name in sorted(EMPTIED - {"pgsql_tmp"}):
                directory = data / name
                if directory.is_symlink() or not directory.is_dir():
                    directory.unlink(missing_ok=True)
                    directory.mkdir(mode=0o700)
                for child in directory.iterdir():
                    if child.is_dir() and not child.is_symlink():
                        shutil.rmtree(child)
                    else:
                        child.unlink()
            for name in ("archive_status", "summaries"):
                (data / "pg_wal" / name).mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(data / "postgresql.auto.conf", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.close(descriptor)
            data.chmod(0o700)
            fsync_directory(data)


def _left_out(path: str) -> bool:
    *above, name = path.split("/")
    if any(part in EMPTIED or part.startswith("pgsql_tmp") for part in above):
        return True
    return path in LEFT_OUT_FILES or name.startswith(("pgsql_tmp", "pg_internal.init"))


def _is_written(path: Path, name: str) -> bool:
    """Whether the segment's first page is its own: that of a recycled one is still the old segment's."""
    try:
        with path.open("rb") as file:
            header = file.read(PAGE_HEADER.size)
    except OSError:
        return True
    if len(header) < PAGE_HEADER.size:
        return True
    _magic, _info, _timeline, address = PAGE_HEADER.unpack(header)
    return bool(address == parse_segment(name)[1] * SEGMENT_BYTES)
