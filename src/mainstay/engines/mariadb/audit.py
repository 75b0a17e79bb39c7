"""The option MARIADB_AUDIT_PLUGIN: who logged in and what was asked, in audit/server_audit.log.

Sources: RDS user guide, "MariaDB Audit Plugin support"; MariaDB, "MariaDB Audit Plugin Options and System Variables".
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mainstay.engines.mysql_family.accounts import ADMIN
from mainstay.engines.mysql_family.sessions import Session
from mainstay.engines.node_files import NodeFiles
from mainstay.host.users import names_of
from mainstay.model.engine import DYNAMIC, ParameterDefinition
from mainstay.model.option_group import EngineOption

NAME = "MARIADB_AUDIT_PLUGIN"
LIBRARY = "server_audit.so"
LOGGING = "server_audit_logging"
EXCLUDED = "server_audit_excl_users"
DIRECTORY = "audit"
LOG_FILE = "server_audit.log"
FILE_PATH = "/rdsdbdata/log/audit/"
"""What RDS calls the place: clients may name it, and it says nothing else."""

IS_LOADED = "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_LIBRARY = 'server_audit.so'"
EVENTS = "CONNECT,QUERY,TABLE,QUERY_DDL,QUERY_DML,QUERY_DML_NO_SELECT,QUERY_DCL"


def _setting(name: str, data_type: str, default: str, allowed: str, description: str) -> ParameterDefinition:
    return ParameterDefinition(
        name=name,
        data_type=data_type,
        apply_type=DYNAMIC,
        default=default,
        allowed_values=allowed,
        description=description,
    )


OPTION = EngineOption(
    name=NAME,
    description="MariaDB Audit Plugin",
    settings=(
        _setting("SERVER_AUDIT_EVENTS", "list", "CONNECT,QUERY", EVENTS, "What is logged."),
        _setting("SERVER_AUDIT_EXCL_USERS", "string", "", "", "Users who are not logged, separated by commas."),
        _setting("SERVER_AUDIT_FILE_PATH", "string", FILE_PATH, FILE_PATH, "Where the log is: audit/server_audit.log."),
        _setting("SERVER_AUDIT_FILE_ROTATE_SIZE", "integer", "1000000", "1-1000000000", "Bytes of one log file."),
        _setting("SERVER_AUDIT_FILE_ROTATIONS", "integer", "9", "0-100", "How many full log files are kept."),
        _setting("SERVER_AUDIT_INCL_USERS", "string", "", "", "The only users who are logged, separated by commas."),
        _setting("SERVER_AUDIT_LOGGING", "string", "ON", "ON", "Whether anything is logged."),
        _setting("SERVER_AUDIT_QUERY_LOG_LIMIT", "integer", "1024", "0-2147483647", "Bytes of a statement's text."),
    ),
)


def parameters(settings: Mapping[str, str]) -> dict[str, str]:
    """The engine's settings that come of the option's."""
    values = {setting.name: settings.get(setting.name, setting.default) for setting in OPTION.settings}
    del values["SERVER_AUDIT_FILE_PATH"]
    return {name.lower(): value for name, value in values.items()}


def is_wanted(wanted: Mapping[str, str]) -> bool:
    """Whether an instance with these settings has the option."""
    return LOGGING in wanted


def own_options(wanted: Mapping[str, str], files: NodeFiles) -> dict[str, str]:
    """What users do not decide: where the log is, and that what our own sessions ask is not in it.

    That they connect is, all the same: the plugin leaves out no user's connections.
    """
    ours = (ADMIN, *names_of((os.geteuid(), files.volume.stat().st_uid)))
    return {
        "server_audit_output_type": "file",
        "server_audit_file_path": str(files.logs / DIRECTORY / LOG_FILE),
        EXCLUDED: ",".join(filter(None, (wanted.get(EXCLUDED, ""), *ours))),
    }


async def load(connection: Session) -> None:
    """Loads the plugin into a server that runs without it. Raises `Error`.

    Not for good: from its next start on the option file decides.
    """
    if not await connection.value(IS_LOADED):
        await connection.execute("INSTALL SONAME 'server_audit'")
        await connection.execute(f"DELETE FROM mysql.plugin WHERE dl = '{LIBRARY}'")  # noqa: S608 - a constant
