"""Making a MariaDB data directory from nothing, and the accounts that are ours in it.

mariadb-install-db is a shell script around `mariadbd --bootstrap`; what it feeds to it is in the build's own files.
"""

from __future__ import annotations

from pathlib import Path

from mainstay.engines.mariadb.packages import SERVER
from mainstay.engines.mysql_family.quoting import account
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

ADMIN = "rdsadmin"
OWN_HOST = "localhost"
"""Names sessions over the Unix socket only, because names are not resolved (skip_name_resolve)."""

SCRIPTS = (
    "*_system_tables.sql",
    "*_performance_tables.sql",
    "*_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "*_sys_schema.sql",
)
HOST_ACCOUNTS = "@current_hostname"
"""In lines that make accounts for the name of this host; mariadb-install-db leaves them out as well."""


HEARTBEAT_TABLE = (
    "CREATE TABLE IF NOT EXISTS mysql.rds_heartbeat2 (id int NOT NULL PRIMARY KEY, value bigint) ENGINE=InnoDB;"
)
"""Row 1 is the node's own, row 2 is replicated (monitor.py)."""

APPLY_CONFIGURATION = """DELIMITER //
BEGIN NOT ATOMIC
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL mysql.rds_apply_configuration();
END//
DELIMITER ;
"""
"""What users have set by mysql.rds_set_configuration, which a new node does not know yet."""


def messages_directory(build: EngineBuild) -> Path:
    """Where the build has its messages, character sets and SQL files."""
    for name in ("mariadb", "mysql"):
        found = build.share_directory / name
        if (found / "charsets").is_dir():
            return found
    raise Permanent(f"{build.name} has no message files", hint="Remove its directory and install it again.")


def server(build: EngineBuild) -> str:
    """Path of the server program."""
    return str((build.bin_directory / SERVER).resolve())


def place_options(build: EngineBuild) -> dict[str, str]:
    """Where the engine finds its own files: the paths compiled into it are those of the host's packages."""
    share = messages_directory(build)
    return {
        "basedir": str(build.prefix / "usr"),
        "lc_messages_dir": str(share),
        "character_sets_dir": str(share / "charsets"),
        "plugin_dir": str(build.library_directory),
    }


def bootstrap_command(build: EngineBuild, data: Path) -> list[str]:
    """The server that takes `bootstrap_script` on its standard input and ends."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in place_options(build).items()]
    return [
        server(build),
        "--no-defaults",
        "--bootstrap",
        f"--datadir={data}",
        *options,
        "--skip-networking",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=16M",
        "--enforce-storage-engine=",
        "--log-warnings=0",
    ]


def bootstrap_script(build: EngineBuild) -> bytes:
    """The system schemas, and no account at all: ours are made at every start, by `startup_script`."""
    share = messages_directory(build)
    lines = ["CREATE DATABASE mysql;", "USE mysql;", "SET @auth_root_socket=NULL;"]
    for pattern in SCRIPTS:
        found = sorted(share.glob(pattern))
        if not found:
            raise Permanent(f"{build.name} lacks {pattern}", hint="Remove its directory and install it again.")
        text = found[0].read_text()
        lines += [line for line in text.splitlines() if HOST_ACCOUNTS not in line]
    lines += ["DELETE FROM mysql.global_priv WHERE User = 'root';", "DELETE FROM mysql.proxies_priv;", ""]
    return "\n".join(lines).encode()


def startup_script(operators: tuple[str, ...]) -> str:
    """SQL that the engine runs at every start, before it takes a connection (init_file), with all privileges.

    Makes the accounts that we need, whatever a user has done to them: one for each system user that may operate the
    node over its socket, named as that user is, because unix_socket compares the two names; and rdsadmin, to which
    nobody logs in, the definer of what runs with its privileges. Never replicated: every node has its own.
    """
    admin = account(ADMIN, OWN_HOST)
    lines = [
        "SET sql_log_bin=0;",
        f"CREATE USER IF NOT EXISTS {admin} ACCOUNT LOCK;",
        f"ALTER USER {admin} IDENTIFIED VIA unix_socket ACCOUNT LOCK;",
        f"GRANT ALL ON *.* TO {admin} WITH GRANT OPTION;",
    ]
    for operator in operators:
        own = account(operator, OWN_HOST)
        lines += [
            f"CREATE USER IF NOT EXISTS {own} IDENTIFIED VIA unix_socket;",
            f"ALTER USER {own} IDENTIFIED VIA unix_socket ACCOUNT UNLOCK;",
            f"GRANT ALL ON *.* TO {own} WITH GRANT OPTION;",
        ]
    lines.append(HEARTBEAT_TABLE)
    return "".join(f"{line}\n" for line in lines) + APPLY_CONFIGURATION
