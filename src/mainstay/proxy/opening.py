"""A target's connections from the wish for one until it can be used, and what is known of a target that gives none.

Guarantees: a connection is handed to the queue only when the engine has let it in, has told its limit and has run the
initialization query; whatever goes wrong before that is remembered as the target's problem, unless it is the fault of
one client's request, and is tried again as long as somebody waits or the problem stands. Who gets a connection, and
whether one more may be opened, is the queue's to decide (`target.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from mainstay.model.proxy import ProxyUser
from mainstay.proxy.connecting import open_connection
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.pool import Pool
from mainstay.proxy.server import ServerConnection

if TYPE_CHECKING:
    from mainstay.proxy.target import Target

SETTLING_S = 10.0
"""So long a connection may take from its login until it can be used: the initialization query may hang."""

LOOK_AGAIN_S = 10.0
"""So often a connection is tried while the last one could not be had and nobody waits: has the target come back?"""

OPEN_RETRY_S = 0.25
"""So long nothing is opened for those who wait after a connection could not be had."""

LIMIT, INIT = "max-connections", "init"
"""What a connection is asked before it can be used (`ServerConnection.ask`)."""

_OF_THE_REQUEST = frozenset({"3D000", "42501"})
"""What is wrong with the database that a client named; it says nothing of the target."""

_OF_THE_USER = frozenset({"28000", "28P01"})

log = structlog.get_logger()


def query_failed(connection: ServerConnection, purpose: str) -> str:
    """Ends a connection on which a query of ours went wrong; what the engine said."""
    error, connection.ask_error = connection.ask_error, None
    log.warning("proxy.query_failed", purpose=purpose, error=str(error))
    connection.close()
    return str(error)


class Opener:
    """Opens the connections of one target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.connector: Callable[[Pool], Awaitable[ServerConnection]] = open_connection
        self.under_way = 0
        """How many are being connected and logged in."""

        self.settling: dict[ServerConnection, float] = {}
        """Those that are logged in and cannot be used yet, and since when."""

        self.problem = ""
        """Why the last connection could not be had; "" if it could."""

        self.problem_sqlstate = ""
        self._failed_at = 0.0
        self._failed_pool: Pool | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def health_problem(self) -> str:
        """Why the target would not serve a client now; "" if it would, though perhaps not every user."""
        return "" if self._target.connections and self.problem_sqlstate in _OF_THE_USER else self.problem

    @property
    def refuses_user(self) -> bool:
        """Whether the problem is that the engine does not take what the secret says."""
        return self.problem_sqlstate in _OF_THE_USER

    @property
    def coming(self) -> int:
        """How many will be there to be used if all goes well."""
        return self.under_way + len(self.settling)

    @property
    def pausing(self) -> bool:
        """Whether a failure is waited out."""
        return self._retry is not None

    def resume(self) -> None:
        """No failure is waited out any more."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def coming_for(self, pool: Pool) -> int:
        """How many of them are of this pool."""
        return pool.opening + sum(1 for one in self.settling if one.pool is pool)

    def know(self, users: Mapping[str, ProxyUser]) -> None:
        """Only these count from now on: what went wrong for another one is no problem any more."""
        failed = self._failed_pool
        if failed is not None and failed.user.username not in users:
            self.problem = ""

    # One connection

    def open(self, pool: Pool) -> None:
        """Begins to open one, for which there must be room. It comes by `Target.settled`, or the failure is told."""
        pool.opening += 1
        self.under_way += 1
        task = asyncio.create_task(self._opened(pool))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _opened(self, pool: Pool) -> None:
        connection: ServerConnection | None = None
        error: Exception | None = None
        database = self._target.database
        epoch, password = database.epoch, pool.user.password
        try:
            connection = await self.connector(pool)
        except Exception as raised:
            error = raised
        pool.opening -= 1
        self.under_way -= 1
        if connection is not None and not connection.closed and epoch == database.epoch:
            self.problem = self.problem_sqlstate = ""
            pool.logged_in(password)
            pool.welcome.learn(connection.parameters)
            self._settle(connection)
            return
        if connection is not None:
            connection.close()
        self._failed(pool, error, password)

    def _settle(self, connection: ServerConnection) -> None:
        """Asks a connection that is logged in what must be asked before it can be used."""
        target = self._target
        target.connections.add(connection)
        if target.init_query or not target.max_connections:
            self.settling[connection] = target.now()
        if not target.max_connections:
            connection.ask(b"SHOW max_connections", LIMIT)
        elif target.init_query:
            connection.ask(target.init_query, INIT)
        else:
            target.settled(connection)

    def answered(self, connection: ServerConnection, purpose: str, rows: bytes, failed: bool) -> None:
        """The answer to `LIMIT` or `INIT`. If it was the last one, the connection is free now, and tells so itself."""
        target = self._target
        if purpose == LIMIT and not failed and rows[6:].isdigit():
            target.learned(int(rows[6:]))
            if target.init_query:
                connection.ask(target.init_query, INIT)
        elif failed or purpose == LIMIT:
            error = query_failed(connection, purpose)
            if purpose == INIT:
                failure = LoginFailed("08006", f"the initialization query failed: {error}")
                self._failed(connection.pool, failure, connection.pool.user.password)

    def give_up(self, connection: ServerConnection) -> Pool:
        """Ends a connection that is not ready yet, and what it is doing."""
        del self.settling[connection]
        connection.pool.abandoned(connection, dirty=False, started=True)
        return connection.pool

    # Failures

    def _failed(self, pool: Pool, error: Exception | None, password: str) -> None:
        problem = str(error or "the database moved meanwhile")
        if isinstance(error, LoginFailed) and pool.hopeless(error, password):
            # No retry heals a wrong password or a database that does not exist: whoever waits for this pool is told.
            self._target.refuse(pool, error.sqlstate, f"Request returned an error: {error}")
        self.unreachable(problem, pool, error.sqlstate if isinstance(error, LoginFailed) else "")

    def unreachable(self, problem: str, pool: Pool | None = None, sqlstate: str = "") -> None:
        """A connection could not be opened; it is tried again soon if somebody waits."""
        target = self._target
        target.metrics.add("DatabaseConnectionsSetupFailed")
        if sqlstate not in _OF_THE_REQUEST:
            self.problem, self.problem_sqlstate = problem, sqlstate
            self._failed_at, self._failed_pool = target.now(), pool
        user, database = ("", "") if pool is None else (pool.user.username, pool.database)
        log.warning("proxy.connection_failed", user=user, database=database, error=problem)
        if target.waiters and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(OPEN_RETRY_S, target.serve)

    def tidy(self, now: float) -> None:
        """Gives up what does not settle, and looks whether a target that failed is there again."""
        for connection, since in list(self.settling.items()):
            if now - since > SETTLING_S:
                pool = self.give_up(connection)
                words = f"the initialization query took longer than {SETTLING_S:.0f} s"
                self._failed(pool, LoginFailed("08006", words), pool.user.password)
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        """Whether the target is there again after a failure; with clients that wait nobody else needs to look."""
        target, pool = self._target, self._failed_pool
        busy = target.waiters or self.under_way or self.settling
        if not self.problem or pool is None or busy or target.lender is not None or target.database.place is None:
            return
        if now - self._failed_at > LOOK_AGAIN_S and len(target.connections) < target.budget:
            self._failed_at = now
            self.open(pool)
