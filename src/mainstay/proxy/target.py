"""Who gets a server connection: one budget per proxy, one pool per user and database in it, one queue for all.

Guarantees: never more connections than the budget, counting those that are being opened; connections are handed out in
the order of asking; whoever waits longer than the borrow timeout is told so; a connection is given to another session
only when it is free and clean. Where several workers share the budget, a `Lender` has it.
Source: RDS user guide, "RDS Proxy connection considerations".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import structlog

from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres.effects import Effect, effects
from mainstay.proxy.connecting import open_connection
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.pool import Pool
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.statements import Statements

if TYPE_CHECKING:
    from mainstay.proxy.session import ClientSession

TIMED_OUT = "Timed-out waiting to acquire database connection."
RESERVED_CONNECTIONS = 3
"""Of max_connections the engine keeps some for superusers (superuser_reserved_connections)."""

IDLE_SURPLUS_AFTER_S = 300.0
SETTLING_S = 10.0
"""So long a connection may take from its login until it can be used: the initialization query may hang."""

LOOK_AGAIN_S = 10.0
"""So often a connection is tried while the last one could not be had and nobody waits: has the target come back?"""

_OF_THE_REQUEST = frozenset({"3D000", "42501"})
"""What is wrong with the database that a client named; it says nothing of the target."""

_OF_THE_USER = frozenset({"28000", "28P01"})

LIFETIME_S = 24 * 3600.0
OPEN_RETRY_S = 0.25
LENDING_S = 0.25
"""So long whoever asks waits at least where connections come from a lender."""

log = structlog.get_logger()


def budget(max_connections: int, percent: int) -> int:
    """How many connections a proxy may have to an engine with this limit. One, while it is not known (0)."""
    if not max_connections:
        return 1
    return max(1, min(max_connections * percent // 100, max_connections - RESERVED_CONNECTIONS))


class Database:
    """Where a proxy's connections go now. `place` is a Unix socket's path or (host, port); None: nowhere."""

    def __init__(self) -> None:
        self.place: str | tuple[str, int] | None = None
        self.epoch = 0


class Lender(Protocol):
    """Where a worker's connections come from when workers share the budget. `limit` is how many it may have now, and
    `idle_allowed` how many of them idle; what it lacks it asks for and gets later.
    """

    limit: int
    idle_allowed: int

    @property
    def spare(self) -> int:
        """How many it was given and has not used yet."""

    def claim(self) -> bool:
        """Takes one of the spare ones for a connection that is opened now; False if there is none."""

    def lacks(self) -> None:
        """What it lacks may have changed."""

    def disconnected(self, connection: ServerConnection) -> None:
        """Its socket is closed."""

    def learned(self, max_connections: int) -> None:
        """The engine has told its limit."""


class Target:
    """The budget of one proxy on its database, and everybody who wants a part of it."""

    def __init__(self, database: Database, metrics: Metrics, now: Callable[[], float]) -> None:
        self.database = database
        self.metrics = metrics
        self.now = now
        self.max_connections = 0
        """The engine's own limit; 0: not known yet."""

        self.max_connections_percent = 100
        self.max_idle_percent = 50
        self.borrow_timeout_s = 120.0
        self.init_query = b""
        self.strict = False
        self.statements = Statements()
        self.pools: dict[tuple[str, str], Pool] = {}
        self.opening = 0
        self.connections: set[ServerConnection] = set()
        self.waiters: deque[tuple[float, ClientSession]] = deque()
        self.settling: dict[ServerConnection, float] = {}
        """Those that are logged in and cannot be used yet, and since when."""

        self.problem = ""
        """Why the last connection could not be had; "" if it could."""

        self.problem_sqlstate = ""
        self._failed_at = 0.0
        self._failed_pool: Pool | None = None
        self.looked_at = now()
        """The time, to about a tenth of a second."""

        self.on_left: Callable[[ClientSession], None] = lambda session: None
        self.lender: Lender | None = None
        self.over = False
        """Whether there are more connections than there may be, so that the next one that comes free must go."""

        self._serving = self._again = False
        self._blocked = False
        """Whoever asks now cannot be served before something else happens."""

        self.connector: Callable[[Pool], Awaitable[ServerConnection]] = open_connection
        self._retry: asyncio.TimerHandle | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._effects = lru_cache(maxsize=4096)(self._judge)

    def _judge(self, sql: bytes, strict: bool) -> tuple[tuple[Effect, ...], ...]:
        found = effects(sql, strict=strict)
        return found if any(found) else ()

    def effects_of(self, sql: bytes) -> tuple[tuple[Effect, ...], ...]:
        """See `protocol.postgres.effects`; empty if the text does nothing to its session."""
        return self._effects(sql, self.strict) if len(sql) < 4096 else self._judge(sql, self.strict)

    @property
    def budget(self) -> int:
        """How many connections there may be here."""
        lender = self.lender
        return self.whole_budget if lender is None else lender.limit

    @property
    def whole_budget(self) -> int:
        """How many there may be of the proxy."""
        return budget(self.max_connections, self.max_connections_percent)

    @property
    def idle_allowed(self) -> int:
        """How many there may be that nobody uses."""
        lender = self.lender
        if lender is not None:
            return lender.idle_allowed
        return self.max_connections * self.max_idle_percent // 100

    @property
    def surplus(self) -> int:
        """How many more there are than there may be."""
        lender = self.lender
        if lender is None:
            return len(self.connections) - self.budget
        return len(self.connections) + self.opening + lender.spare - lender.limit

    @property
    def wanted(self) -> int:
        """How many more connections those who wait could use at once; none while a failure must be waited out."""
        coming = self.opening + len(self.settling)
        return 0 if self._retry is not None else max(0, len(self.waiters) - coming)

    def pool(self, user: ProxyUser, database: str) -> Pool:
        """The pool of a user in a database; a changed password counts for connections opened from now on."""
        key = (user.username, database)
        if key not in self.pools:
            self.pools[key] = Pool(self, user, database)
        self.pools[key].user = user
        return self.pools[key]

    def know(self, users: Mapping[str, ProxyUser]) -> None:
        """Users by name, with the passwords that count for connections opened from now on."""
        for pool in self.pools.values():
            pool.user = users.get(pool.user.username, pool.user)
        failed = self._failed_pool
        if failed is not None and failed.user.username not in users:
            self.problem = ""

    def initialise_by(self, sql: bytes) -> None:
        """The query that every connection runs first; those that have run another one serve nobody new."""
        if sql == self.init_query:
            return
        self.init_query = sql
        for connection in list(self.settling):  # the other query may hang
            self._give_up(connection)
        for connection in list(self.connections):
            connection.retired = True
            if connection in connection.pool.idle:
                connection.close()

    @property
    def health_problem(self) -> str:
        """Why the target would not serve a client now; "" if it would, though perhaps not every user."""
        return "" if self.connections and self.problem_sqlstate in _OF_THE_USER else self.problem

    @property
    def refuses_user(self) -> bool:
        """Whether the problem is that the engine does not take what the secret says."""
        return self.problem_sqlstate in _OF_THE_USER

    def moved(self, place: str | tuple[str, int] | None, epoch: int) -> None:
        """The database is elsewhere now, or nowhere: what is connected to another place is of no use."""
        database = self.database
        if (place, epoch) == (database.place, database.epoch):
            return
        gone = place != database.place or epoch != database.epoch
        database.place, database.epoch = place, epoch
        if gone and place is not None:
            self.max_connections = 0  # it may have been started with another limit
            for connection in list(self.connections):
                connection.lost("the database failed over")
        if place is not None:
            self.serve()

    def serve(self) -> None:
        """Hands free connections to those who wait, in order, and opens what the budget allows for the others."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._serving:
            self._again = True
            return
        self._serving = self._again = True
        try:
            while self._again:
                self._again = False
                self._serve()
        finally:
            self._serving = False

    def _serve(self) -> None:
        """Strictly in order: who cannot be served stops the queue, so that nobody is overtaken by another pool's."""
        kept: list[tuple[float, ClientSession]] = []
        self._blocked = False
        opening: dict[Pool, int] = {}
        while self.waiters:
            asked_at, session = self.waiters.popleft()
            pool = session.pool
            connection = pool.take_idle(session)
            if connection is not None:
                self.metrics.borrowed(self.now() - asked_at)
                session.granted(connection)
                continue
            kept.append((asked_at, session))
            if opening.setdefault(pool, pool.opening + sum(1 for one in self.settling if one.pool is pool)):
                opening[pool] -= 1
            elif self._make_room(pool):
                self._open(pool)
            else:
                self._blocked = True
                break
        self.waiters.extendleft(reversed(kept))

    def _make_room(self, pool: Pool) -> bool:
        """Whether one more connection may be opened now; an idle one of another pool goes for it."""
        if self.database.place is None:
            return False
        lender = self.lender
        if lender is not None:
            if lender.claim():
                return True
            lender.lacks()
            return False
        if len(self.connections) + self.opening < self.budget:
            return True
        others = [one for other in self.pools.values() if other is not pool for one in other.idle]
        if not others:
            return False
        min(others, key=lambda one: one.idle_since).close()
        return True

    def _open(self, pool: Pool) -> None:
        pool.opening += 1
        self.opening += 1
        task = asyncio.create_task(self._opened(pool))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _opened(self, pool: Pool) -> None:
        connection: ServerConnection | None = None
        error: Exception | None = None
        epoch, password = self.database.epoch, pool.user.password
        try:
            connection = await self.connector(pool)
        except Exception as raised:
            error = raised
        pool.opening -= 1
        self.opening -= 1
        if connection is not None and not connection.closed and epoch == self.database.epoch:
            self.problem = self.problem_sqlstate = ""
            pool.logged_in(password)
            pool.welcome.learn(connection.parameters)
            self.connections.add(connection)
            if self.init_query or not self.max_connections:
                self.settling[connection] = self.now()
            if not self.max_connections:
                connection.ask(b"SHOW max_connections", "max-connections")
            elif self.init_query:
                connection.ask(self.init_query, "init")
            else:
                self.settled(connection)
            return
        if connection is not None:
            connection.close()
        self._failed(pool, error, password)

    def _failed(self, pool: Pool, error: Exception | None, password: str) -> None:
        problem = str(error or "the database moved meanwhile")
        if isinstance(error, LoginFailed) and pool.hopeless(error, password):
            # No retry heals a wrong password or a database that does not exist: whoever waits for this pool is told.
            for entry in [entry for entry in self.waiters if entry[1].pool is pool]:
                self.waiters.remove(entry)
                entry[1].refused(error.sqlstate, f"Request returned an error: {error}")
        self.unreachable(problem, pool, error.sqlstate if isinstance(error, LoginFailed) else "")

    def unreachable(self, problem: str, pool: Pool | None = None, sqlstate: str = "") -> None:
        """A connection could not be opened; it is tried again soon if somebody waits."""
        self.metrics.add("DatabaseConnectionsSetupFailed")
        if sqlstate not in _OF_THE_REQUEST:
            self.problem, self.problem_sqlstate = problem, sqlstate
            self._failed_at, self._failed_pool = self.now(), pool
        user, database = ("", "") if pool is None else (pool.user.username, pool.database)
        log.warning("proxy.connection_failed", user=user, database=database, error=problem)
        if self.waiters and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(OPEN_RETRY_S, self.serve)

    # What sessions and connections tell

    def acquire(self, session: ClientSession) -> ServerConnection | None:
        """A connection at once, or None: then `granted` or `refused` follows."""
        if not self.waiters:
            connection = session.pool.take_idle(session)
            if connection is not None:
                self.metrics.borrowed(0.0)
                return connection
        self.waiters.append((self.now(), session))
        if self.borrow_timeout_s <= 0 and self.lender is None and not self._make_room(session.pool):
            asyncio.get_running_loop().call_soon(self.expire)
        if not self._blocked:
            # Not from within the caller's loop over its bytes: a connection could be granted before it has stopped.
            asyncio.get_running_loop().call_soon(self.serve)
        return None

    def hand_over(self, connection: ServerConnection) -> None:
        """A connection that its session needs no more, for the first who waits: the usual case of `settled`."""
        asked_at, session = self.waiters[0]
        pool = connection.pool
        usual = session.pool is pool and not pool.idle and connection.free and self.surplus <= 0
        if self._serving or not usual:
            self.settled(connection)
            return
        self.waiters.popleft()
        self._serving, self._again = True, False
        try:
            self.metrics.borrowed(self.now() - asked_at)
            session.granted(connection)
        finally:
            self._serving = False
        if self._again:
            self.serve()

    def settled(self, connection: ServerConnection) -> None:
        """The connection is free and nobody's: the first who can use it gets it."""
        if connection.closed or not connection.free or connection.owner is not None:
            return
        if connection in connection.pool.idle:
            return
        self.settling.pop(connection, None)
        if connection.retired or self.surplus > 0:
            connection.close()
        else:
            connection.idle_since = self.now()
            connection.pool.idle.append(connection)
        if self.waiters:
            self.serve()

    def answered(self, connection: ServerConnection, purpose: str, rows: bytes, failed: bool) -> None:
        """The answer to a query of ours."""
        if purpose == "max-connections" and not failed and rows[6:].isdigit():
            self.max_connections = int(rows[6:])
            if self.lender is not None:
                self.lender.learned(self.max_connections)
            if self.init_query:
                connection.ask(self.init_query, "init")
        elif failed or purpose == "max-connections":
            error, connection.ask_error = connection.ask_error, None
            log.warning("proxy.query_failed", purpose=purpose, error=str(error))
            connection.close()
            if purpose == "init":
                failure = LoginFailed("08006", f"the initialization query failed: {error}")
                self._failed(connection.pool, failure, connection.pool.user.password)
        elif purpose == "clean":
            connection.applied, connection.applied_version, connection.bare = {}, None, True
            connection.prepared.clear()
            connection.unnamed = None

    def forget(self, connection: ServerConnection) -> None:
        """The connection is closed."""
        self.connections.discard(connection)
        self.settling.pop(connection, None)
        if connection in connection.pool.idle:
            connection.pool.idle.remove(connection)
        self.over = self.surplus > 0
        if self.waiters:
            asyncio.get_running_loop().call_soon(self.serve)

    def expire(self) -> None:
        """Tells those who have waited too long; called about ten times a second."""
        self.looked_at = self.now()
        # What others keep idle comes a moment later, also for who would not wait at all.
        timeout_s = self.borrow_timeout_s if self.lender is None else max(self.borrow_timeout_s, LENDING_S)
        oldest = self.now() - timeout_s
        while self.waiters and self.waiters[0][0] <= oldest:
            asked_at, session = self.waiters.popleft()
            self._blocked = False
            self.metrics.add("DatabaseConnectionsBorrowTimedOut")
            detail = f" {self.problem}" if self.problem else ""
            session.refused("08000", TIMED_OUT)
            log.warning("proxy.borrow_timed_out", client=session.number, waited_s=self.now() - asked_at, reason=detail)
        if self.waiters and not self._blocked:
            self.serve()

    def forget_waiter(self, session: ClientSession) -> None:
        """The session does not want a connection any more."""
        for entry in self.waiters:
            if entry[1] is session:
                self.waiters.remove(entry)
                break
        if self.waiters and self._blocked:  # it may have been the first, for whom the others had to wait
            self._blocked = False
            asyncio.get_running_loop().call_soon(self.serve)

    def tidy(self) -> None:
        """Closes connections that are surplus, or old; called about once a second."""
        now = self.now()
        idle = sorted((one for pool in self.pools.values() for one in pool.idle), key=lambda one: one.idle_since)
        surplus = len(idle) - self.idle_allowed if self.max_connections else 0
        for connection in idle:
            unused = now - connection.idle_since > (0 if self.max_idle_percent == 0 else IDLE_SURPLUS_AFTER_S)
            if now - connection.opened_at > LIFETIME_S or (surplus > 0 and unused):
                connection.close()
                surplus -= 1
        self.shrink()
        for connection, since in list(self.settling.items()):
            if now - since > SETTLING_S:
                pool = self._give_up(connection)
                words = f"the initialization query took longer than {SETTLING_S:.0f} s"
                self._failed(pool, LoginFailed("08006", words), pool.user.password)
        self._look_again(now)

    def _give_up(self, connection: ServerConnection) -> Pool:
        """Ends a connection that is not ready yet, and what it is doing."""
        del self.settling[connection]
        connection.pool.abandoned(connection, dirty=False, started=True)
        return connection.pool

    def _look_again(self, now: float) -> None:
        """Whether the target is there again after a failure; with clients that wait nobody else needs to look."""
        pool, busy = self._failed_pool, self.waiters or self.opening or self.settling
        if not self.problem or pool is None or busy or self.lender is not None or self.database.place is None:
            return
        if now - self._failed_at > LOOK_AGAIN_S and len(self.connections) < self.budget:
            self._failed_at = now
            self._open(pool)

    def shrink(self) -> None:
        """Closes idle connections beyond the budget, the longest unused first; the others go when they come free."""
        if self.surplus > 0:
            idle = sorted((one for pool in self.pools.values() for one in pool.idle), key=lambda one: one.idle_since)
            for connection in idle[: self.surplus]:
                connection.close()
        self.over = self.surplus > 0

    def close(self) -> None:
        """Closes every connection."""
        for connection in list(self.connections):
            connection.close()
