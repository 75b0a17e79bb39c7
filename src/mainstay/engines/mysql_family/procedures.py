"""The `mysql.rds_*` procedures that users of RDS know, made with the rights of rdsadmin.

Each does one thing that needs a privilege which the master user has not, and nothing else: arguments are numbers or
one of a few names, never text that becomes SQL. Sources: RDS user guide, "RDS for MariaDB stored procedures",
"RDS for MySQL stored procedure reference".
"""

from __future__ import annotations

from mainstay.engines.mysql_family.accounts import ADMIN, OWN_HOST
from mainstay.engines.mysql_family.quoting import account

RETENTION_HOURS_MAX = 168
RETENTION_HOURS_DEFAULT = 24
"""RDS keeps none that it does not need; a follower that was away for less than a day is to find what it lacks."""

SECONDS_PER_HOUR = 3600

CONFIGURATION_TABLE = (
    "CREATE TABLE IF NOT EXISTS mysql.rds_configuration (name varchar(100) NOT NULL PRIMARY KEY,"
    " value varchar(100) NULL, description varchar(300) NOT NULL) ENGINE=InnoDB"
)
CONFIGURATION_ROW = (
    "INSERT IGNORE INTO mysql.rds_configuration VALUES ('binlog retention hours', NULL,"
    " 'binlog retention hours specifies the duration in hours before binary logs are automatically deleted.')"
)


def of_a_user(which: str) -> str:
    """What a procedure does first that ends something: the processes of which this is true are a user's, not ours.

    Its caller's own process looks like one of ours from within the procedure.
    """
    return f"""DECLARE known INT;
  SELECT COUNT(*) INTO known FROM information_schema.PROCESSLIST
   WHERE {which} AND (ID = CONNECTION_ID()
   OR USER NOT IN ('rdsadmin', 'system user', 'event_scheduler', 'unauthenticated user')
   AND USER NOT LIKE 'rdsrepl-%' AND USER NOT LIKE 'rdsrepladmin-%' AND HOST <> 'localhost');
  IF known = 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'There is no such thread, or it is not one of a user';
  END IF;"""  # noqa: S608 - a constant


# What a replica does by itself must not be in its log, or it could never follow anybody again. Its users cannot write
# there, so that nothing of theirs is left out if one of them ends such a call in the middle.
_BEGIN_LOCAL = "IF @@GLOBAL.read_only THEN SET SESSION sql_log_bin = 0; END IF;"
_END_LOCAL = "IF @@GLOBAL.read_only THEN SET SESSION sql_log_bin = 1; END IF;"

BODIES = {
    "rds_kill(IN thread BIGINT)": f"""{of_a_user("ID = thread")}
  KILL thread;""",
    "rds_kill_query(IN thread BIGINT)": f"""{of_a_user("ID = thread")}
  KILL QUERY thread;""",
    "rds_rotate_slow_log()": f"""{_BEGIN_LOCAL}
  CREATE TABLE IF NOT EXISTS mysql.slow_log_next LIKE mysql.slow_log;
  DROP TABLE IF EXISTS mysql.slow_log_backup;
  RENAME TABLE mysql.slow_log TO mysql.slow_log_backup, mysql.slow_log_next TO mysql.slow_log;
  {_END_LOCAL}""",
    "rds_rotate_general_log()": f"""{_BEGIN_LOCAL}
  CREATE TABLE IF NOT EXISTS mysql.general_log_next LIKE mysql.general_log;
  DROP TABLE IF EXISTS mysql.general_log_backup;
  RENAME TABLE mysql.general_log TO mysql.general_log_backup, mysql.general_log_next TO mysql.general_log;
  {_END_LOCAL}""",
    "rds_innodb_buffer_pool_dump_now()": "SET GLOBAL innodb_buffer_pool_dump_now = 1;",
    "rds_innodb_buffer_pool_load_now()": "SET GLOBAL innodb_buffer_pool_load_now = 1;",
    "rds_innodb_buffer_pool_load_abort()": "SET GLOBAL innodb_buffer_pool_load_abort = 1;",
    "rds_show_configuration()": "SELECT name, value, description FROM mysql.rds_configuration ORDER BY name;",
    "rds_set_configuration(IN wanted VARCHAR(100), IN number INT)": f"""DECLARE most INT DEFAULT {RETENTION_HOURS_MAX};
  IF NOT (wanted <=> 'binlog retention hours') THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'The only configuration is: binlog retention hours';
  END IF;
  IF number IS NOT NULL AND number NOT BETWEEN 1 AND most THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'binlog retention hours is NULL or 1 to 168';
  END IF;
  {_BEGIN_LOCAL}
  UPDATE mysql.rds_configuration SET value = number WHERE name = wanted;
  {_END_LOCAL}
  CALL mysql.rds_apply_configuration();""",  # noqa: S608 - constants
    "rds_apply_configuration()": f"""DECLARE hours INT;
  SELECT value INTO hours FROM mysql.rds_configuration WHERE name = 'binlog retention hours';
  SET GLOBAL binlog_expire_logs_seconds = COALESCE(hours, {RETENTION_HOURS_DEFAULT}) * {SECONDS_PER_HOUR};""",  # noqa: S608 - constants
}
"""Signature -> what the procedure does, for both engines."""

ONLY_ON_REPLICAS = """IF @@GLOBAL.read_only = 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'This DB instance is not a read replica';
  END IF;"""

TABLES = (CONFIGURATION_TABLE, CONFIGURATION_ROW)
APPLY = "CALL mysql.rds_apply_configuration()"


def create(verb: str, signature: str, body: str, comment: str = "") -> str:
    """The statement that makes a procedure: `verb` is CREATE, or what the engine has in its place."""
    said = f" COMMENT '{comment}'" if comment else ""
    definer = account(ADMIN, OWN_HOST)
    return f"{verb} DEFINER={definer} PROCEDURE mysql.{signature}{said} SQL SECURITY DEFINER\nBEGIN\n  {body}\nEND"
