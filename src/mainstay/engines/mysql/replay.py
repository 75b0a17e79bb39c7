"""Bringing a restored MySQL to its target: the family's way, after what a clone has from its source is set right."""

from __future__ import annotations

import structlog

from mainstay.engines.mysql.binlog import MYSQL_LOG
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.events import set_status
from mainstay.engines.mysql_family.quoting import account
from mainstay.engines.mysql_family.replay import FamilyReplay, Origin
from mainstay.engines.mysql_family.sessions import Error, Session, message_of, number_of, silent

FOLLOWERS_OF_THE_SOURCE = "SELECT User, Host FROM mysql.user WHERE User LIKE %s"
NO_SUCH_EVENT = 1539

log = structlog.get_logger()


class MysqlReplay(FamilyReplay):
    """`Recovery` for MySQL."""

    words = MYSQL_WORDS
    log_format = MYSQL_LOG

    async def set_right(self, session: Session, origin: Origin) -> None:
        """See `FamilyReplay`: accounts of the source's followers and of its copiers, and events as the leader has them.

        The events of a clone are in tables of the data dictionary, which nobody but a running engine can write.
        """
        for user, host in await session.execute(FOLLOWERS_OF_THE_SOURCE, (f"{MYSQL_WORDS.follower_user}%",)):
            await session.execute(f"DROP USER {account(str(user), str(host))}")
        for event in origin.events:
            try:
                await set_status(session, event, event.status)
            except Error as error:
                if silent(error) or number_of(error) != NO_SUCH_EVENT:
                    raise
                # It was made in this moment: its making is in the log.
                log.info("restore.no_such_event", name=event.name, error=message_of(error))
