"""Backups of MariaDB: what mariadb-backup writes is stored as it comes, and made consistent when it is restored.

Nothing is copied beside the data, so a backup needs no room there, and it is stored while it is made. What is left to
do, `mariadb-backup --prepare`, is InnoDB's recovery; the blocks of what was not prepared differ less from backup to
backup. A restore test (docs/backups.md) does it as every restore does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from mainstay.backups.sources import walk
from mainstay.backups.streams import StreamBroken
from mainstay.engines.backups import BackupEnd
from mainstay.engines.mariadb.crash_copies import MariadbCrashCopies
from mainstay.engines.mariadb.physical_copy import is_prepared, prepare, stream_running
from mainstay.engines.mariadb.replay import MariadbReplay
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.backups import Begun, FamilyBackups, end_of
from mainstay.engines.mysql_family.exported import Stock
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.replay import read_origin, write_origin
from mainstay.engines.mysql_family.trees import fsync_tree
from mainstay.host.processes import User
from mainstay.host.threads import to_its_end
from mainstay.model.backup import SourceFile
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient

LAST_WORDS_S = 5.0


class MariadbBackups(FamilyBackups):
    """`EngineBackups` for MariaDB."""

    title = "MariaDB"
    words = MARIADB_WORDS
    replay = MariadbReplay
    crash_copies = MariadbCrashCopies()
    stock = Stock(
        title="MariaDB",
        server="mariadbd",
        client="mariadb",
        options=(),
        recovers=(f"log_bin = {BINLOG}",),
        socket_login="unix_socket",
        remarks="Of a backup that was read from a standby, events are SLAVESIDE_DISABLED: ALTER EVENT ... ENABLE.\n"
        "If it is to follow another server: mainstay.recovery has its position, for SET GLOBAL gtid_slave_pos.\n",
    )

    @asynccontextmanager
    async def open(self, begun: Begun) -> AsyncIterator[StreamedBackup]:
        size = await asyncio.to_thread(_size, begun.host.files.data)
        backup = StreamedBackup(begun, size)
        try:
            yield backup
        except StreamBroken:
            await backup.raise_failure()
            raise
        finally:
            await backup.end()

    async def complete_copy(self, data: Path, build: Callable[[], EngineBuild], user: User) -> None:
        """A backup of a version that prepared it when it was made knows its position itself, and is as it should be."""
        if await asyncio.to_thread(is_prepared, data):
            return
        gtids = await prepare(data, build(), user)
        origin = await asyncio.to_thread(read_origin, data)
        await asyncio.to_thread(write_origin, data, msgspec.structs.replace(origin, gtids=gtids))
        await to_its_end(fsync_tree, data)


class StreamedBackup:
    """`OpenBackup` of a copy that is stored while it is made."""

    sources: Sequence[SourceFile] = ()

    def __init__(self, begun: Begun, size: int) -> None:
        self._begun = begun
        self._making: asyncio.Task[None] | None = None
        self.streamed_bytes = size
        self.from_standby = begun.standby is not None

    async def stream(self, pipe: int) -> None:
        """See `OpenBackup`."""
        begun, own = self._begun, os.dup(pipe)
        copying = stream_running(begun.source, begun.working, begun.host.build, begun.host.user, own)
        self._making = asyncio.create_task(copying)
        self._making.add_done_callback(lambda _task: os.close(own))

    async def finish(self) -> BackupEnd:
        """See `OpenBackup`."""
        if self._making is None:
            raise Transient("the backup was not begun")
        try:
            await self._making
        except Permanent as error:  # an engine that stopped: it may run at the next try
            raise Transient(f"copying failed: {error.message}", retry_after_s=2.0, hint=error.hint) from error
        return await end_of(self._begun)

    async def raise_failure(self) -> None:
        """If it is the copying that has failed, raises what its program said of that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self.finish()

    async def end(self) -> None:
        """Nothing is copied any more."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)


def _size(data: Path) -> int:
    """About what a copy has: all but the binary logs."""
    return sum(one.size for one in walk(data) if not one.path.startswith(BINLOG))
