"""Backups of MariaDB: mariadb-backup, whose copy is prepared at once, so that it is known to be good."""

from __future__ import annotations

from mainstay.engines.mariadb.crash_copies import MariadbCrashCopies
from mainstay.engines.mariadb.physical_copy import copy_running
from mainstay.engines.mariadb.replay import MariadbReplay
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.backups import Copying, FamilyBackups
from mainstay.engines.mysql_family.events import EventState
from mainstay.engines.mysql_family.exported import Stock
from mainstay.engines.mysql_family.followers import empty_directory
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.quoting import literal


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
    )

    async def copy(self, copying: Copying) -> tuple[EventState, ...]:
        await empty_directory(copying.data, copying.host.user)
        changes = [_set_status(event) for event in copying.events]
        await copy_running(copying.source, copying.data, copying.host.build, copying.host.user, changes=changes)
        return ()


def _set_status(event: EventState) -> str:
    return (
        f"UPDATE mysql.event SET status = {literal(event.status)}"  # noqa: S608 - quoted
        f" WHERE db = {literal(event.schema)} AND name = {literal(event.name)}"
    )
