"""Users, databases and procedures of a MariaDB instance, as on RDS: the master user has no SUPER.

`statements` is pure and idempotent: running it again, whole or after a crash in the middle, ends in the same state.
Source: RDS user guide, "Master user account privileges", "MariaDB on Amazon RDS SQL reference".
"""

from __future__ import annotations

from mainstay.engines.mysql_family.accounts import EVERY_HOST
from mainstay.engines.mysql_family.quoting import account, identifier, literal
from mainstay.model.node import NodeSpec

GRANTS = """SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES,
 CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE, REPLICATION CLIENT, CREATE VIEW, SHOW VIEW,
 CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER, DELETE HISTORY, SLAVE MONITOR""".replace("\n", "")
"""Not among them, as on RDS: SUPER, FILE, SHUTDOWN, CREATE TABLESPACE, and what SUPER was split into.

Nor is RELOAD, which RDS grants: its server refuses RESET MASTER nevertheless, Debian's does not. That throws away the
log that a standby follows and restores need, and begins another one whose GTIDs are those of the former: a standby goes
on in it without what was committed meanwhile, and a restore ends in something that never was.
"""


KNOWN_PRIVILEGES = "SHOW PRIVILEGES"
LATER_GRANTS = ("SHOW CREATE ROUTINE",)
"""Those that not every version has (11.3): without one of them GRANT ALL on a schema is refused to the master user."""


def statements(spec: NodeSpec, known_privileges: frozenset[str]) -> list[str]:
    """SQL for a session of our own, in order, each on its own. `known_privileges`: in capitals."""
    granted = ", ".join((GRANTS, *(one for one in LATER_GRANTS if one in known_privileges)))
    master = account(spec.master.name, EVERY_HOST)
    sql = [
        f"CREATE USER IF NOT EXISTS {master} IDENTIFIED VIA mysql_native_password USING"
        f" {literal(spec.master.password_verifier)}",
        f"ALTER USER {master} IDENTIFIED VIA mysql_native_password USING {literal(spec.master.password_verifier)}"
        " PASSWORD EXPIRE NEVER ACCOUNT UNLOCK",
        f"GRANT {granted} ON *.* TO {master} WITH GRANT OPTION",
        f"REVOKE RELOAD ON *.* FROM {master}",  # of an instance made when it was granted
    ]
    if spec.database:
        sql.append(f"CREATE DATABASE IF NOT EXISTS {identifier(spec.database)}")
    return sql
