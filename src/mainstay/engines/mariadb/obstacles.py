"""What stops an applier: a user's statement about accounts of ours that are not as they were when it ran.

DROP, RENAME, ALTER or CREATE USER of one of them is in the binary log; that it was put back afterwards is not
(`own_accounts`). So the account may be missing where it was there, or there where it was not. In a restore the
statement is then tried with our accounts there, and without them; what it asks of other accounts is done exactly once,
and what is left of it is passed over. A follower passes over nothing, as there are followers of its own log: what the
statement needs is made, and that it is tried again goes without saying. Every other error stays one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import structlog

from mainstay.engines.mariadb import own_accounts
from mainstay.engines.mariadb.words import MARIADB_WORDS
from mainstay.engines.mysql_family.accounts import EVERY_HOST
from mainstay.engines.mysql_family.heartbeat import HEARTBEAT_TABLE
from mainstay.engines.mysql_family.local_sessions import run_all
from mainstay.engines.mysql_family.quoting import account
from mainstay.engines.mysql_family.sessions import Session

GO_ON = "START SLAVE SQL_THREAD"
SKIP_ONE = "SET GLOBAL sql_slave_skip_counter = 1"
"""The transaction at which the applier has stopped, as it commits in the order of the log. What went before is kept."""

CREATE, RENAME = "CREATE", "RENAME"
ACCOUNTS_TABLE = "mysql.global_priv"
"""Users who have DELETE on all databases need no DROP USER; rows are logged as rows, and can be missing too."""

NAMED_BYTES_MAX = 256
"""Longer lists of accounts are cut off in the engine's message."""

_FAILED = re.compile(r"Error 'Operation ([A-Z]+) USER failed for (.*?)' on query\. Default database: ", re.DOTALL)
_NO_GRANT = re.compile(r"Error 'There is no such grant defined for user '([^']*)' on host '([^']*)'")
_ACCOUNT = re.compile(r"'([^']*)'@'([^']*)'")

Accounts = frozenset[tuple[str, str]]

log = structlog.get_logger()


class Complaint(msgspec.Struct, frozen=True):
    """For which accounts a statement has failed. For all others that it names it has been done."""

    operation: str
    accounts: Accounts


def complaint(error: str) -> Complaint | None:
    """What an applier's error, in English, says of accounts; None if it is of another kind, or not told whole."""
    if found := _NO_GRANT.match(error):
        return Complaint("REVOKE", frozenset({(found[1], found[2])}))
    if (found := _FAILED.match(error)) is None:
        return None
    named = _ACCOUNT.findall(found[2])
    if ",".join(f"'{user}'@'{host}'" for user, host in named) != found[2] or len(found[2]) >= NAMED_BYTES_MAX:
        return None
    return Complaint(found[1], frozenset(named))


class Obstacles:
    """Those that one replay meets, one after the other."""

    def __init__(self, operators: Sequence[str]) -> None:
        self._operators = operators
        self._at = ""
        self._tries = 0
        self._undone: Accounts | None = None

    def unmade(self, at: str) -> bool:
        """Whether our accounts were taken away for the transaction that comes behind the GTID position `at`."""
        return at == self._at and self._tries > 1

    async def overcome(self, session: Session, at: str, error: str) -> bool:
        """Lets an applier go on that has stopped with this error behind the GTID position `at`.

        False if it is not about our accounts; they are then as they are to be. The session is ours and replicates
        nothing. Raises `Error`.
        """
        if at != self._at:
            self._at, self._tries, self._undone = at, 0, None
        told = complaint(error)
        if told is not None:
            self._undone = told.accounts if self._undone is None else self._undone & told.accounts
            if self._is_done(told.operation, self._undone):
                log.warning("restore.passed_over", behind=at, error=error)
                await run_all(session, (SKIP_ONE, GO_ON))
                return True
        self._tries += 1
        if self._tries == 2 and (told is not None or ACCOUNTS_TABLE in error):
            await own_accounts.unmake(session, [user for user, _host in own_accounts.names(self._operators)])
        else:
            await self._make(session, frozenset() if told is None else told.accounts)
            if self._tries > 1:
                return False
        log.warning("restore.tried_again", behind=at, error=error)
        await session.execute(GO_ON)
        return True

    def _is_done(self, operation: str, undone: Accounts) -> bool:
        """Whether nothing is left of a statement but what our accounts become in the end in any case.

        One that is renamed lives on as a user's: that is not passed over before it was tried with it and without it.
        """
        if not undone:
            return True
        return _are_ours(undone, self._operators) and (operation != RENAME or self._tries > 1)

    async def _make(self, session: Session, named: Accounts) -> None:
        await run_all(session, [*own_accounts.statements(self._operators), HEARTBEAT_TABLE])
        await _make_followers(session, named)


async def make_way(session: Session, operators: Sequence[str], error: str) -> None:
    """Of a follower that has stopped with this error; what it unmakes is soon put back. Raises `Error`.

    The session is ours and replicates nothing. Our accounts are as they are to be. Only those are unmade that the
    statement is about: without the one that we log in to, the engine would be started again.
    """
    told = complaint(error)
    if told is None:
        return
    ours = _are_ours(told.accounts, operators)
    if (told.operation == CREATE and ours) or (told.operation == RENAME and not ours):  # to a name of ours
        named = [user for user, _host in own_accounts.names(operators) if user in error]
        await own_accounts.unmake(session, named)
    elif ours:
        await _make_followers(session, told.accounts)


async def _make_followers(session: Session, named: Accounts) -> None:
    """Those accounts under which followers follow, or followed; for these the log needs them and nobody else."""
    for user, host in sorted(named):
        if _is_followers(user, host):
            await session.execute(f"CREATE USER IF NOT EXISTS {account(user, host)} ACCOUNT LOCK")
            await session.execute(f"GRANT {MARIADB_WORDS.follower_rights} ON *.* TO {account(user, host)}")


def _are_ours(named: Accounts, operators: Sequence[str]) -> bool:
    return all(one in own_accounts.names(operators) or _is_followers(*one) for one in named)


def _is_followers(user: str, host: str) -> bool:
    return host == EVERY_HOST and user.startswith(MARIADB_WORDS.follower_user)


async def remove_followers(session: Session) -> None:
    """The accounts under which nodes follow the engine that was restored from. Raises `Error`."""
    pattern = f"{MARIADB_WORDS.follower_user}%"
    for user, host in await session.execute("SELECT User, Host FROM mysql.user WHERE User LIKE %s", (pattern,)):
        await session.execute(f"DROP USER {account(str(user), str(host))}")
