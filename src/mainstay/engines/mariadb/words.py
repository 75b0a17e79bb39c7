"""MariaDB's words for what MySQL does as well (MariaDB: "Replication Commands", "Semisynchronous Replication")."""

from __future__ import annotations

from mainstay.engines.mysql_family.binlog import MAGIC
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.quoting import literal
from mainstay.engines.mysql_family.words import Words

MARIADB_WORDS = Words(
    source="master",
    follower="slave",
    change="CHANGE MASTER TO",
    position="MASTER_USE_GTID=slave_pos",
    received="Gtid_IO_Pos",
    is_applied="SELECT @@GLOBAL.gtid_slave_pos = %s",
    wait_applied="SELECT MASTER_GTID_WAIT(%s, %s) = 0",
    start_keeps=False,
    hands_out="",
    identified="VIA mysql_native_password USING",
    status_table="information_schema.GLOBAL_STATUS",
    acknowledged="RPL_SEMI_SYNC_MASTER_GET_ACK",
    sent_all="Master has sent all binlog to slave",
    lost=(
        ("which is not in the master's binlog", "the source has removed, or never had, what this replica needs next"),
        ("Got fatal error 1236", "the source cannot send what this replica needs next"),
        ("out-of-order sequence number", "this replica has transactions that its source never had"),
        ("Slave SQL: Error", "this replica could not apply a transaction of its source"),
        ("Slave: Error", "this replica could not apply a transaction of its source"),
        ("Relay log read failure", "what this replica had received is damaged"),
        ("Error in Log_event::read_log_event", "what this replica had received is damaged"),
    ),
    unseen=(
        "SET SESSION sql_log_off = 1",
        "SET SESSION slow_query_log = 0",
        "UPDATE performance_schema.threads SET INSTRUMENTED = 'NO', HISTORY = 'NO'"
        " WHERE PROCESSLIST_ID = CONNECTION_ID()",
    ),
    follower_user="rdsrepladmin-",
    password_characters=64,
    follower_rights="REPLICATION SLAVE, CONNECTION ADMIN",  # so that no init_connect and no limit shuts them out
    logged="SELECT @@GLOBAL.gtid_binlog_pos",
    applied="SELECT @@GLOBAL.gtid_slave_pos",
    unlogged="SELECT ''",
    mark_session=(
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET SESSION binlog_format = 'STATEMENT'",
    ),
    end_is_forced=True,
    # Without a name for what it has from a source, 11.8 crashes (compare_log_name).
    set_relay_log="CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_USER='nobody', MASTER_USE_GTID=no,"
    f" MASTER_LOG_FILE={literal(f'{BINLOG}.000001')}, MASTER_LOG_POS={len(MAGIC)},"
    f" RELAY_LOG_FILE=%s, RELAY_LOG_POS={len(MAGIC)}",
)
