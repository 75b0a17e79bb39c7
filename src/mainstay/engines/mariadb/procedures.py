"""The `mysql.rds_*` procedures of MariaDB."""

from __future__ import annotations

from mainstay.engines.mysql_family.procedures import APPLY, BODIES, ONLY_ON_REPLICAS, TABLES, create

OWN_BODIES = {
    "rds_skip_repl_error()": f"""{ONLY_ON_REPLICAS}
  STOP SLAVE;
  SET GLOBAL sql_slave_skip_counter = 1;
  START SLAVE;""",
}


def procedures() -> list[str]:
    """SQL for a session of our own, in order, each on its own. Running it again changes nothing."""
    made = [create("CREATE OR REPLACE", signature, body) for signature, body in (BODIES | OWN_BODIES).items()]
    return [*TABLES, *made, APPLY]
