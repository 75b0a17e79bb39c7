"""Backups of MySQL: clones beside the data, which the engine brings to a consistent state when it is started on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mainstay.backups.sources import walk
from mainstay.engines.backups import BackupEnd
from mainstay.engines.copy_room import free_bytes
from mainstay.engines.mysql.physical_copy import copy_running
from mainstay.engines.mysql.replay import MysqlReplay
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.backups import Begun, FamilyBackups, end_of
from mainstay.engines.mysql_family.copy_room import size_of_copy
from mainstay.engines.mysql_family.exported import Stock
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.backup import SourceFile
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient


class MysqlBackups(FamilyBackups):
    """`EngineBackups` for MySQL."""

    title = "MySQL"
    words = MYSQL_WORDS
    replay = MysqlReplay
    stock = Stock(
        title="MySQL",
        server="mysqld",
        client="mysql",
        options=(
            "plugin_load_add=auth_socket=auth_socket.so", "mysqlx=0", "secure_file_priv=NULL", "gtid_mode=ON",
            "enforce_gtid_consistency=ON",
        ),
        socket_login="auth_socket",
        remarks="Of a backup that was read from a standby, events are REPLICA_SIDE_DISABLED: ALTER EVENT ... ENABLE.\n",
    )  # fmt: skip

    @asynccontextmanager
    async def open(self, begun: Begun) -> AsyncIterator[ClonedBackup]:
        host, copy = begun.host, begun.working / "data"
        await asyncio.to_thread(_require_room, host.files, begun.working.parent)
        try:
            await copy_running(begun.spec, begun.source, copy, host.files.sockets, host.build, host.user, once=True)
        except Permanent as error:  # no room, an engine that stopped: it may be gone at the next try
            raise Transient(f"copying failed: {error.message}", retry_after_s=2.0, hint=error.hint) from error
        end = await end_of(begun)
        yield ClonedBackup(copy, end, from_standby=begun.standby is not None)

    async def complete_copy(self, data: Path, build: Callable[[], EngineBuild], user: User) -> None:
        """Nothing: a server can be started on a clone."""


class ClonedBackup:
    """`OpenBackup` of a copy that was made."""

    streamed_bytes = None

    def __init__(self, copy: Path, end: BackupEnd, *, from_standby: bool) -> None:
        self._end = end
        self.from_standby = from_standby
        self.sources: Sequence[SourceFile] = list(walk(copy))

    async def stream(self, pipe: int) -> None:
        """Never asked: there are only `sources`."""

    async def finish(self) -> BackupEnd:
        """See `OpenBackup`."""
        return self._end


def _require_room(files: NodeFiles, beside: Path) -> None:
    """Raises `Permanent` rather than fill the disk that a database, this one perhaps, lives on."""
    size, free = size_of_copy(files.data), free_bytes(beside)
    if size > free:
        raise Permanent(
            f"a backup of MySQL is copied beside the data first, which takes {size >> 20} MiB;"
            f" {beside} has {free >> 20} MiB free",
            hint="Allocate more storage." if beside == files.volume else "Make room on this host.",
        )
