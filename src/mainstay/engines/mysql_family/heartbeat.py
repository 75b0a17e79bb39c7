"""The small table that a primary writes to, to show that it can. Row 1 is the node's own, row 2 is replicated."""

from __future__ import annotations

HEARTBEAT_TABLE = (
    "CREATE TABLE IF NOT EXISTS mysql.rds_heartbeat2 (id int NOT NULL PRIMARY KEY, value bigint) ENGINE=InnoDB"
)
WRITE = "REPLACE INTO mysql.rds_heartbeat2 VALUES (1, UNIX_TIMESTAMP())"
PULSE = "REPLACE INTO mysql.rds_heartbeat2 VALUES (2, UNIX_TIMESTAMP())"
