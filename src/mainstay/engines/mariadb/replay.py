"""Bringing a restored MariaDB to its target: the family's way, once it knows which transactions it has."""

from __future__ import annotations

from mainstay.engines.mariadb.binlog import MARIADB_LOG
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.replay import FamilyReplay, Origin
from mainstay.engines.mysql_family.sessions import Session


class MariadbReplay(FamilyReplay):
    """`Recovery` for MariaDB."""

    words = MARIADB_WORDS
    log_format = MARIADB_LOG

    async def set_right(self, session: Session, origin: Origin) -> None:
        """See `FamilyReplay`: up to where the copy has its source's log, which is in no table of a copy of a leader.

        A source that has logged nothing itself (a follower just made) has its position in the copied table already.
        """
        if origin.gtids:
            await session.execute("SET GLOBAL gtid_slave_pos = %s", (origin.gtids,))
        await super().set_right(session, origin)
