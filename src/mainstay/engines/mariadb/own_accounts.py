"""The accounts that are ours on a MariaDB server, and putting them back.

MariaDB keeps nobody who has CREATE USER, as the master user has, from other accounts: they can be dropped, renamed, and
given another way to log in. So what they are to be is looked at again and again, and made so. Nothing here is
replicated: every node has its own accounts, and mends them itself, also when DROP USER came to it by replication.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.accounts import ADMIN, OWN_HOST
from mainstay.engines.mysql_family.local_sessions import run_all
from mainstay.engines.mysql_family.quoting import account, literal
from mainstay.engines.mysql_family.sessions import Error, Session, silent

BEYOND = (
    "SUPER", "FILE", "SHUTDOWN", "RELOAD", "CREATE TABLESPACE", "SET USER", "FEDERATED ADMIN", "CONNECTION ADMIN",
    "READ_ONLY ADMIN", "REPLICATION SLAVE ADMIN", "REPLICATION MASTER ADMIN", "BINLOG ADMIN", "BINLOG REPLAY",
)  # fmt: skip
"""What no user can be granted, since the master user has none of it; one of our accounts, renamed, would have it."""

_STRAYS = f"""SELECT DISTINCT GRANTEE FROM information_schema.USER_PRIVILEGES
 WHERE PRIVILEGE_TYPE IN ({", ".join(map(literal, BEYOND))}) AND NOT (PRIVILEGE_TYPE = 'CONNECTION ADMIN'
 AND GRANTEE LIKE {literal(f"'{MARIADB_WORDS.follower_user}%")})"""  # noqa: S608 - constants
"""Followers' accounts have that one, and under another name no longer."""
_ACCOUNTS = "SELECT User, Host FROM mysql.user"
"""What information_schema calls them is not quoted: a user may have any name."""

_SESSIONS = "SELECT ID, USER FROM information_schema.PROCESSLIST WHERE HOST <> 'localhost'"

log = structlog.get_logger()


def statements(operators: Sequence[str]) -> list[str]:
    """SQL that makes them as they are to be, whatever a user has done to them.

    One for each system user that may operate the node over its socket, named as that user is, because unix_socket
    compares the two names; and rdsadmin, to which nobody logs in, the definer of what runs with its privileges.
    """
    return [statement for name, locked in _wanted(operators) for statement in _making(name, locked)]


def names(operators: Sequence[str]) -> set[tuple[str, str]]:
    """User and host of each."""
    return {(name, OWN_HOST) for name, _locked in _wanted(operators)}


async def unmake(connection: Session, users: Iterable[str]) -> None:
    """There are none of these names any more; sessions that are open go on. Raises `Error`."""
    await run_all(connection, [f"DROP USER IF EXISTS {account(user, OWN_HOST)}" for user in sorted(users)])


async def mend(connection: Session, operators: Sequence[str]) -> None:
    """Makes what is not as it is to be anew, and takes from other accounts what reaches beyond the master user's.

    The session is ours and replicates nothing. Raises `Error`: if the engine answered, it lacks a privilege for that.
    """
    for name, locked in _wanted(operators):
        if not await _is_sound(connection, name, locked):
            log.warning("accounts.mended", account=name)
            await run_all(connection, _making(name, locked))
    ours = {_grantee(*one) for one in names(operators)}
    strays = {grantee for (grantee,) in await connection.execute(_STRAYS)} - ours
    for user, host in await connection.execute(_ACCOUNTS) if strays else ():
        if _grantee(user, host) in strays:
            log.warning("accounts.cut_back", user=user, host=host)
            await _cut_back(connection, str(user), str(host))


def _wanted(operators: Sequence[str]) -> list[tuple[str, bool]]:
    """Name, and whether nobody may log in to it."""
    return [(ADMIN, True), *((name, False) for name in operators)]


def _making(name: str, locked: bool) -> list[str]:
    own, lock = account(name, OWN_HOST), "LOCK" if locked else "UNLOCK"
    return [
        f"CREATE USER IF NOT EXISTS {own} IDENTIFIED VIA unix_socket",
        f"ALTER USER {own} IDENTIFIED VIA unix_socket REQUIRE NONE ACCOUNT {lock}",
        f"GRANT ALL ON *.* TO {own} WITH GRANT OPTION",
    ]


async def _is_sound(connection: Session, name: str, locked: bool) -> bool:
    own = account(name, OWN_HOST)
    try:
        made = str(await connection.value(f"SHOW CREATE USER {own}"))
        grants = [str(row[0]) for row in await connection.execute(f"SHOW GRANTS FOR {own}")]
    except Error as error:
        if silent(error):
            raise
        return False  # there is none
    whole = any(line.startswith("GRANT ALL PRIVILEGES ON *.* ") and "WITH GRANT OPTION" in line for line in grants)
    enters = "VIA unix_socket ACCOUNT LOCK" if locked else "VIA unix_socket"
    return whole and made.partition(" IDENTIFIED ")[2].strip() == enters


def _grantee(user: str, host: str) -> str:
    """An account as information_schema tells it."""
    return f"'{user}'@'{host}'"


async def _cut_back(connection: Session, user: str, host: str) -> None:
    """Its sessions end: they keep the privileges that they began with."""
    await connection.execute(f"REVOKE {', '.join(BEYOND)} ON *.* FROM {account(user, host)}")
    for thread, whose in await connection.execute(_SESSIONS):
        if whose == user:
            try:
                await connection.execute(f"KILL {int(thread)}")
            except Error as error:
                if silent(error):
                    raise
