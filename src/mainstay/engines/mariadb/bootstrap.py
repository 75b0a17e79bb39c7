"""Making a MariaDB data directory from nothing, and the accounts that are ours in it.

mariadb-install-db is a shell script around `mariadbd --bootstrap`; what it feeds to it is in the build's own files.
"""

from __future__ import annotations

from pathlib import Path

from mainstay.engines.mariadb import own_accounts
from mainstay.engines.mariadb.packages import SERVER
from mainstay.engines.mysql_family.heartbeat import HEARTBEAT_TABLE
from mainstay.engines.mysql_family.layout import arguments, messages_directory, place_options
from mainstay.engines.mysql_family.local_sessions import UNHINDERED
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent

SHARE = ("mariadb", "mysql")

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


APPLY_CONFIGURATION = """DELIMITER //
BEGIN NOT ATOMIC
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL mysql.rds_apply_configuration();
END//
DELIMITER ;
"""
"""What users have set by mysql.rds_set_configuration, which a new node does not know yet."""


def server(build: EngineBuild) -> str:
    """Path of the server program."""
    return str((build.bin_directory / SERVER).resolve())


def bootstrap_command(build: EngineBuild) -> list[str]:
    """The server that takes `bootstrap_script` on its standard input and ends; the place of the data is to be added."""
    return [
        server(build),
        "--no-defaults",
        "--bootstrap",
        *arguments(place_options(build, *SHARE)),
        "--skip-networking",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=16M",
        "--enforce-storage-engine=",
        "--log-warnings=0",
    ]


def place_of_data(data: Path) -> list[str]:
    """What is to be added: a server removes at its start what another one has in a directory of temporary files."""
    return [f"--datadir={data}", f"--tmpdir={data}"]


def bootstrap_script(build: EngineBuild) -> bytes:
    """The system schemas, and no account at all: ours are made at every start, by `startup_script`."""
    share = messages_directory(build, *SHARE)
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

    Makes the accounts that we need (`own_accounts`). Never replicated: every node has its own.
    """
    first = f"SET SESSION sql_log_bin = 0, {UNHINDERED}"
    lines = (first, *own_accounts.statements(operators), HEARTBEAT_TABLE)
    return "".join(f"{line};\n" for line in lines) + APPLY_CONFIGURATION
