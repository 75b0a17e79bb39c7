"""MariaDB's followers: one that takes over notes from where on its binary log is that of a leader."""

from __future__ import annotations

import asyncio

from mainstay.engines.mariadb.lineages import LeadsFrom, write_leads_from
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.followers import Followers
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.engines.mysql_family.log_places import file_number
from mainstay.engines.mysql_family.quoting import literal
from mainstay.engines.mysql_family.sessions import Session
from mainstay.engines.node_files import NodeFiles


class MariadbFollowers(Followers):
    """`Followers` whose logs are shipped after they have taken over."""

    async def before_leading(self, connection: Session, files: NodeFiles) -> None:
        """What it writes from now on is in the file that was begun just now, or in a later one."""
        [(name, *_)] = await connection.execute("SHOW MASTER STATUS")
        position = str(await connection.value("SELECT @@GLOBAL.gtid_slave_pos"))
        await asyncio.to_thread(write_leads_from, files.data, LeadsFrom(position=position, file=file_number(str(name))))


FOLLOWERS = MariadbFollowers(MARIADB_WORDS, lambda password: literal(native_password(password)))
