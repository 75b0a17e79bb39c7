"""Roles and databases of a PostgreSQL instance, as on RDS: rdsadmin is ours, the master user is no superuser.

`statements` is pure and idempotent: running it again, whole or after a crash in the middle, ends in the same state.
Source: RDS user guide, "Master user account privileges", "Common DBA tasks for RDS for PostgreSQL".
"""

from __future__ import annotations

from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.engines.postgresql.iam_logins import IAM_ROLE
from mainstay.engines.postgresql.quoting import identifier, literal
from mainstay.model.node import NodeSpec

# Predefined roles that reach outside the instance. Up to PostgreSQL 15, CREATEROLE may grant itself any role that is no
# superuser, so there they must not exist under a name that GRANT could find.
OUTREACHING_ROLES = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")
CREATEROLE_IS_CONFINED_SINCE = 160000

SERVICE_ROLES = ("rds_superuser", "rds_password", "rds_replication", IAM_ROLE)
MONITOR_ROLES = {
    "pg_monitor": 100000,
    "pg_signal_backend": 90600,
    "pg_checkpoint": 150000,
    "pg_create_subscription": 160000,
    "pg_use_reserved_connections": 160000,
    "pg_maintain": 170000,
    "pg_signal_autovacuum_worker": 180000,
}

SETTABLE_BY_SUPERUSER_ROLE = (
    "session_replication_role", "log_min_duration_statement", "log_statement", "log_duration", "log_lock_waits",
    "log_temp_files", "log_parameter_max_length", "track_activities", "track_counts", "track_functions",
    "track_io_timing", "track_wal_io_timing", "deadlock_timeout", "temp_file_limit", "commit_delay",
    "auto_explain.log_min_duration", "auto_explain.log_analyze", "auto_explain.log_buffers", "auto_explain.log_format",
    "auto_explain.log_nested_statements", "auto_explain.log_timing", "auto_explain.log_triggers",
    "auto_explain.log_verbose", "auto_explain.sample_rate", "pg_stat_statements.track",
    "pg_stat_statements.track_utility", "pg_stat_statements.track_planning",
)  # fmt: skip
GRANT_SET_SINCE = 150000

# The verifier must reach neither the log nor a view that pg_monitor may read, whatever the parameter group says.
UNSEEN = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_min_error_statement": "panic",
    "track_activities": "off",
    "pg_stat_statements.track": "none",
    "pgaudit.log": "none",
}


def statements(spec: NodeSpec, server_version: int) -> list[str]:
    """Cluster-wide SQL, to be run in database `postgres` by rdsadmin, in order, each on its own."""
    master = identifier(spec.master.name)
    sql = ["SET synchronous_commit = 'on'"]  # a standby that takes over must know the new password too
    sql += [f"SET {name} = {literal(value)}" for name, value in UNSEEN.items()]
    sql += [_create_role(name) for name in SERVICE_ROLES]
    if server_version < CREATEROLE_IS_CONFINED_SINCE:
        hidden = ", ".join(literal(name) for name in OUTREACHING_ROLES)
        sql.append("SET allow_system_table_mods = on")
        sql.append(f"DELETE FROM pg_catalog.pg_authid WHERE rolname IN ({hidden})")  # noqa: S608 - constants, quoted
        sql.append("SET allow_system_table_mods = off")
    for name, since in MONITOR_ROLES.items():
        if server_version >= since:
            sql.append(f"GRANT {identifier(name)} TO rds_superuser WITH ADMIN OPTION")
    if server_version >= CREATEROLE_IS_CONFINED_SINCE:
        # Up to PostgreSQL 15 CREATEROLE is enough to grant it; see `iam_logins` for what else this does.
        sql.append(f"GRANT {IAM_ROLE} TO rds_superuser WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
    if server_version >= GRANT_SET_SINCE:
        sql += [f"GRANT SET ON PARAMETER {name} TO rds_superuser" for name in SETTABLE_BY_SUPERUSER_ROLE]
    sql.append(_create_role(spec.master.name))
    sql.append(
        f"ALTER ROLE {master} WITH LOGIN NOSUPERUSER CREATEDB CREATEROLE INHERIT NOREPLICATION NOBYPASSRLS"
        f" VALID UNTIL 'infinity' PASSWORD {literal(spec.master.password_verifier)}"
    )
    sql.append(f"GRANT rds_superuser TO {master} WITH ADMIN OPTION")
    return sql


def databases(spec: NodeSpec) -> list[tuple[str, str]]:
    """(database, owner) pairs that must exist."""
    wanted = [(ADMIN_ROLE, ADMIN_ROLE), ("postgres", spec.master.name)]
    if spec.database and spec.database != "postgres":
        wanted.append((spec.database, spec.master.name))
    return wanted


def _create_role(name: str) -> str:
    """CREATE ROLE has no IF NOT EXISTS."""
    return (
        f"DO $mainstay$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(name)})"
        f" THEN CREATE ROLE {identifier(name)}; END IF; END $mainstay$"
    )
