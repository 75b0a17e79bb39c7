"""Making a MySQL data directory from nothing, and the accounts that are ours in it."""

from __future__ import annotations

from pathlib import Path

from mainstay.engines.mysql.packages import SERVER
from mainstay.engines.mysql.words import MYSQL_WORDS
from mainstay.engines.mysql_family.accounts import ADMIN, OWN_HOST
from mainstay.engines.mysql_family.heartbeat import HEARTBEAT_TABLE
from mainstay.engines.mysql_family.layout import arguments, place_options
from mainstay.engines.mysql_family.local_sessions import UNHINDERED
from mainstay.engines.mysql_family.quoting import account
from mainstay.model.engine import EngineBuild

SHARE = ("mysql",)
ROOT = "root"
"""What --initialize-insecure makes, without a password. No client is let in before it is gone."""

DROP_ROOT = (
    "SET @root = (SELECT IF(COUNT(*), 'DROP USER root@localhost', 'DO 0') FROM mysql.global_grants"
    " WHERE USER = 'root' AND HOST = 'localhost' AND PRIV = 'SYSTEM_USER')",
    "PREPARE root FROM @root",
    "EXECUTE root",
)
"""One that a user has made has no such privilege, and stays: that it was dropped would be in no log, and a restore
could not pass over what the user does with it next."""

QUICKLY = {
    "secure_file_priv": "NULL",
    "performance_schema": "0",
    "skip_log_bin": "1",
    "auto_generate_certs": "0",
    "innodb_redo_log_capacity": str(8 << 20),
    "innodb_doublewrite": "0",
    "innodb_flush_log_at_trx_commit": "0",
}
"""A directory that is not complete, and on the disk, is thrown away: nothing in between need be safe."""

APPLY_CONFIGURATION = (
    "SET @apply = (SELECT IF(COUNT(*), 'CALL mysql.rds_apply_configuration()', 'DO 0') FROM information_schema.ROUTINES"
    " WHERE ROUTINE_SCHEMA = 'mysql' AND ROUTINE_NAME = 'rds_apply_configuration')",
    "PREPARE apply FROM @apply",
    "EXECUTE apply",
)
"""What users have set by mysql.rds_set_configuration, which a new node does not know yet."""


def server(build: EngineBuild) -> str:
    """Path of the server program."""
    return str((build.bin_directory / SERVER).resolve())


def lock_of(socket: Path) -> Path:
    """Where the server that listens there keeps its number, to keep others out.

    One that was killed leaves it, and no other starts there while any process that it may signal has that number: a
    zombie, or an engine of another instance. Whoever starts one has seen to it that there is no other.
    """
    return socket.with_name(f"{socket.name}.lock")


def bootstrap_command(build: EngineBuild) -> list[str]:
    """The server that makes a data directory and ends; the place of the data is to be added."""
    options = place_options(build, *SHARE) | QUICKLY
    return [server(build), "--no-defaults", "--initialize-insecure", *arguments(options)]


def startup_script(operators: tuple[str, ...]) -> str:
    """SQL that the engine runs at every start, before it takes a connection (init_file), with all privileges.

    Makes the accounts that we need, whatever a user has done to them: one for each system user that may operate the
    node over its socket, named as that user is, because auth_socket compares the two names; and rdsadmin, to which
    nobody logs in, the definer of what runs with its privileges. With SYSTEM_USER, which is among ALL, they are out
    of the reach of users who have not got it. Never replicated: every node has its own.
    """
    lines = [f"SET SESSION sql_log_bin = 0, {UNHINDERED}", *MYSQL_WORDS.unseen]
    if ROOT not in operators:
        lines += DROP_ROOT
    for name, locked in ((ADMIN, "LOCK"), *((operator, "UNLOCK") for operator in operators)):
        own = account(name, OWN_HOST)
        lines += [
            f"CREATE USER IF NOT EXISTS {own} IDENTIFIED WITH auth_socket ACCOUNT {locked}",
            f"ALTER USER {own} IDENTIFIED WITH auth_socket ACCOUNT {locked}",
            f"GRANT ALL ON *.* TO {own} WITH GRANT OPTION",
        ]
    return "".join(f"{line};\n" for line in (*lines, HEARTBEAT_TABLE, *APPLY_CONFIGURATION))
