"""Bringing a restored MariaDB to its target: the family's way, once it knows which transactions it has.

Our own accounts are looked after meanwhile: the log has what users did to them (`obstacles`).
"""

from __future__ import annotations

import time

import structlog

from mainstay.backups.log_archive import LogArchive
from mainstay.engines.mariadb import own_accounts
from mainstay.engines.mariadb.binlog import MARIADB_LOG, position_of_copy
from mainstay.engines.mariadb.obstacles import Obstacles, remove_followers
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.local_sessions import operators
from mainstay.engines.mysql_family.replay import FamilyReplay, Origin
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, silent
from mainstay.engines.node_files import NodeFiles
from mainstay.host.processes import User
from mainstay.model.node import RestoreSpec

TEND_INTERVAL_S = 1.0

log = structlog.get_logger()


class MariadbReplay(FamilyReplay):
    """`Recovery` for MariaDB."""

    words = MARIADB_WORDS
    log_format = MARIADB_LOG

    def __init__(self, restore: RestoreSpec, files: NodeFiles, user: User, archive: LogArchive) -> None:
        super().__init__(restore, files, user, archive)
        self._operators = operators(files)
        self._obstacles = Obstacles(self._operators)
        self._tended_at = 0.0

    async def set_right(self, session: Session, origin: Origin) -> None:
        """See `FamilyReplay`: up to where the copy has its source's log, which is in no table of a copy of a leader.

        A source that has logged nothing itself (a follower just made) has its position in the copied table already.
        """
        if origin.gtids:
            recorded = str(await session.value(self.words.applied))
            await session.execute("SET GLOBAL gtid_slave_pos = %s", (position_of_copy(origin.gtids, recorded),))
        await super().set_right(session, origin)

    async def overcome(self, session: Session, applied: str, error: str) -> bool:
        """See `FamilyReplay`."""
        return await self._obstacles.overcome(session, applied, error)

    async def tend(self, session: Session, applied: str) -> None:
        """See `FamilyReplay`: whoever looks at the node, or takes over from us, must be able to log in."""
        now = time.monotonic()
        if now - self._tended_at >= TEND_INTERVAL_S and not self._obstacles.unmade(applied):
            self._tended_at = now
            await self._mend(session)

    async def finish(self, session: Session) -> None:
        """See `FamilyReplay`."""
        await self._mend(session)
        await remove_followers(session)

    async def _mend(self, session: Session) -> None:
        """The next start makes what cannot be mended now: rows that a user has taken away are still known."""
        try:
            await own_accounts.mend(session, self._operators)
        except Error as error:
            if silent(error):
                raise
            log.warning("restore.accounts_not_mended", error=message_of(error))
