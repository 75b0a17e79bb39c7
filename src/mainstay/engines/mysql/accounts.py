"""Users and databases of a MySQL instance, as on RDS: the master user has no SUPER, and cannot get it.

Source: RDS user guide, "Role-based privilege model for RDS for MySQL". The master user has the role
rds_superuser_role. What reaches further on a server that AWS has not patched is left out of it: whatever would let
its holder write the tables of schema mysql (a partial revoke), and RELOAD, with which the binary log can be thrown
away that a standby follows; FLUSH_TABLES and its like stand in for it.
"""

from __future__ import annotations

from mainstay.engines.mysql_family.accounts import EVERY_HOST
from mainstay.engines.mysql_family.quoting import account, identifier, literal
from mainstay.model.node import NodeSpec

ROLE = account("rds_superuser_role", EVERY_HOST)

GRANTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES,"
    " CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE, REPLICATION CLIENT, CREATE VIEW, SHOW VIEW,"
    " CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER, CREATE ROLE, DROP ROLE"
)
"""Not among them, as on RDS: SUPER, FILE, SHUTDOWN, CREATE TABLESPACE."""

DYNAMIC_GRANTS = (
    "APPLICATION_PASSWORD_ADMIN", "FLUSH_OPTIMIZER_COSTS", "FLUSH_PRIVILEGES", "FLUSH_STATUS", "FLUSH_TABLES",
    "FLUSH_USER_RESOURCES", "ROLE_ADMIN", "SET_ANY_DEFINER", "SET_USER_ID", "SHOW_ROUTINE", "XA_RECOVER_ADMIN",
)  # fmt: skip
"""Those that the engine's version has: SET_USER_ID became SET_ANY_DEFINER in MySQL 8.4."""

NOT_IN_MYSQL = (
    "INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW,"
    " CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER"
)
REVOKED = "REVOKE INSERT, UPDATE, DELETE"
"""How SHOW GRANTS begins the line of what was taken away from the role."""

KNOWN_PRIVILEGES = "SHOW PRIVILEGES"


def role_statements(known_privileges: frozenset[str], has: frozenset[str]) -> list[str]:
    """SQL that makes the role, nothing if it `has` its privileges (lines of SHOW GRANTS) already.

    Granting them anew would for a moment give what the partial revoke takes away, which is therefore done last.
    """
    if any(line.startswith(REVOKED) for line in has):
        return []
    dynamic = ", ".join(name for name in DYNAMIC_GRANTS if name in known_privileges)
    return [
        f"CREATE ROLE IF NOT EXISTS {ROLE}",
        f"GRANT {dynamic} ON *.* TO {ROLE} WITH GRANT OPTION",
        f"GRANT {GRANTS} ON *.* TO {ROLE} WITH GRANT OPTION",
        f"REVOKE {NOT_IN_MYSQL} ON mysql.* FROM {ROLE}",
    ]


def statements(spec: NodeSpec) -> list[str]:
    """SQL for the master user and the first database. Running it again, also from the middle, changes nothing."""
    master = account(spec.master.name, EVERY_HOST)
    identified = f"{master} IDENTIFIED WITH caching_sha2_password AS {literal(spec.master.password_verifier)}"
    sql = [
        f"CREATE USER IF NOT EXISTS {identified}",
        f"ALTER USER {identified} PASSWORD EXPIRE NEVER ACCOUNT UNLOCK",
        f"GRANT {ROLE} TO {master} WITH ADMIN OPTION",
        f"ALTER USER {master} DEFAULT ROLE {ROLE}",
    ]
    if spec.database:
        sql.append(f"CREATE DATABASE IF NOT EXISTS {identifier(spec.database)}")
    return sql
