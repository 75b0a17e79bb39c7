"""The small table that a primary writes to, to show that it can. Row 1 is the node's own, row 2 is replicated."""

from __future__ import annotations

from mainstay.engines.mysql_family.sessions import Session

HEARTBEAT_TABLE = (
    "CREATE TABLE IF NOT EXISTS mysql.rds_heartbeat2 (id int NOT NULL PRIMARY KEY, value bigint) ENGINE=InnoDB"
)
WRITE = "REPLACE INTO mysql.rds_heartbeat2 VALUES (1, UNIX_TIMESTAMP())"
PULSE = "REPLACE INTO mysql.rds_heartbeat2 VALUES (2, UNIX_TIMESTAMP())"
IS_THERE = "SHOW TABLES FROM mysql LIKE 'rds\\_heartbeat2'"


async def mend(connection: Session) -> None:
    """Makes the table again where a user has dropped it: without marks in the log nobody knows how far it reaches.

    The session is ours and replicates nothing. Raises `Error`.
    """
    if not await connection.execute(IS_THERE):
        await connection.execute(HEARTBEAT_TABLE)
