"""The `mysql.rds_*` procedures of MariaDB."""

from __future__ import annotations

from mainstay.engines.mysql_family.procedures import APPLY, BODIES, ONLY_ON_REPLICAS, TABLES, create, of_a_user

OWN_BODIES = {
    "rds_kill_query_id(IN number BIGINT)": f"""{of_a_user("QUERY_ID = number")}
  KILL QUERY ID number;""",
    "rds_replica_status()": "SHOW REPLICA STATUS;",
    "rds_skip_repl_error()": f"""{ONLY_ON_REPLICAS}
  STOP SLAVE;
  SET GLOBAL sql_slave_skip_counter = 1;
  START SLAVE;""",
}


def procedures() -> list[str]:
    """SQL for a session of our own, in order, each on its own. Running it again changes nothing."""
    made = [create("CREATE OR REPLACE", signature, body) for signature, body in (BODIES | OWN_BODIES).items()]
    return [*TABLES, *made, APPLY]
