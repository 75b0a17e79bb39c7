"""Bringing a restored MySQL to its target: the family's way, after what a clone has from its source is set right."""

from __future__ import annotations

from mainstay.engines.mysql.binlog import MYSQL_LOG
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.quoting import account
from mainstay.engines.mysql_family.replay import FamilyReplay, Origin
from mainstay.engines.mysql_family.sessions import Session

FOLLOWERS_OF_THE_SOURCE = (
    "SELECT USER, HOST FROM mysql.global_grants WHERE PRIV = 'SYSTEM_USER' AND USER LIKE %s"  # no user can have it
)


class MysqlReplay(FamilyReplay):
    """`Recovery` for MySQL."""

    words = MYSQL_WORDS
    log_format = MYSQL_LOG

    async def set_right(self, session: Session, origin: Origin) -> None:
        """See `FamilyReplay`: accounts of the source's followers and of its copiers as well."""
        for user, host in await session.execute(FOLLOWERS_OF_THE_SOURCE, (f"{MYSQL_WORDS.follower_user}%",)):
            await session.execute(f"DROP USER {account(str(user), str(host))}")
        await super().set_right(session, origin)
