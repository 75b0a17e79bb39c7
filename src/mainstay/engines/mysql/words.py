"""MySQL's words for what MariaDB does as well (MySQL manual 15.4 and 19.4.10)."""

from __future__ import annotations

from mainstay.engines.mysql_family.binlog import MAGIC
from mainstay.engines.mysql_family.words import Words

MYSQL_WORDS = Words(
    source="source",
    follower="replica",
    change="CHANGE REPLICATION SOURCE TO",
    position="SOURCE_RETRY_COUNT=0, SOURCE_AUTO_POSITION=1",
    received="Retrieved_Gtid_Set",
    is_applied="SELECT GTID_SUBSET(%s, @@GLOBAL.gtid_executed)",
    wait_applied="SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s) = 0",
    start_keeps=True,
    # It is there before those that it hands work to. The one that receives has a host.
    hands_out="SELECT MIN(ID) FROM information_schema.PROCESSLIST WHERE USER = 'system user' AND HOST = ''",
    identified="WITH caching_sha2_password AS",
    status_table="performance_schema.global_status",
    acknowledged="Rpl_semi_sync_source_yes_tx",
    sent_all="Source has sent all binlog to replica",
    lost=(
        ("Got fatal error 1236", "the source has removed, or never had, what this replica needs next"),
        ("failed executing transaction", "this replica could not apply a transaction of its source"),
        ("Relay log read failure", "what this replica had received is damaged"),
        ("Error in Log_event::read_log_event", "what this replica had received is damaged"),
    ),
    unseen=(
        "SET SESSION sql_log_off = 1",
        # There is no switch for the slow log of one session: nothing takes so long and looks at so many rows.
        "SET SESSION long_query_time = 31536000",
        "SET SESSION min_examined_row_limit = 4294967295",
        "UPDATE performance_schema.threads SET INSTRUMENTED = 'NO', HISTORY = 'NO'"
        " WHERE PROCESSLIST_ID = CONNECTION_ID()",
    ),
    follower_user="rdsrepl-",
    password_characters=32,
    # The last keeps the master user from changing them; with the second no init_connect and no limit shuts them out.
    follower_rights="REPLICATION SLAVE, CONNECTION_ADMIN, SYSTEM_USER",
    logged="SELECT @@GLOBAL.gtid_executed",
    applied="SELECT @@GLOBAL.gtid_executed",
    unlogged="SELECT @@GLOBAL.gtid_purged",
    mark_session=(),
    end_is_forced=False,  # it counts what is written, and forces it after that, without the lock
    set_relay_log="CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_USER='nobody',"
    f" SOURCE_AUTO_POSITION=0, RELAY_LOG_FILE=%s, RELAY_LOG_POS={len(MAGIC)}",
    must_be={"rpl_semi_sync_source_wait_for_replica_count": "1"},
)
