"""Backups of MySQL: clones, which the engine brings to a consistent state when it is started on one."""

from __future__ import annotations

from mainstay.engines.mysql.physical_copy import copy_running
from mainstay.engines.mysql.replay import MysqlReplay
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.backups import Copying, FamilyBackups
from mainstay.engines.mysql_family.events import EventState
from mainstay.engines.mysql_family.exported import Stock


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

    async def copy(self, copying: Copying) -> tuple[EventState, ...]:
        host = copying.host
        await copy_running(
            copying.spec, copying.source, copying.data, host.files.sockets, host.build, host.user, once=True
        )
        return copying.events
