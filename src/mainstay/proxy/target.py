"""Who gets a server connection: one budget per proxy, one pool per user and database in it, one queue for all.

Guarantees: never more connections than the budget, counting those that are being opened; connections are handed out in
the order of asking; whoever waits longer than the borrow timeout is told so; a connection is given to another session
only when it is free and clean. Where several workers share the budget, a `Lender` has it.
Source: RDS user guide, "RDS Proxy connection considerations".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog

from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres.effects import Effect, effects
from mainstay.proxy.budget import Lender, budget
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.opening import INIT, LIMIT, Opener, query_failed
from mainstay.proxy.pool import Pool
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.statements import Statements

if TYPE_CHECKING:
    from mainstay.proxy.session import ClientSession

TIMED_OUT = "Timed-out waiting to acquire database connection."
IDLE_SURPLUS_AFTER_S = 300.0
LIFETIME_S = 24 * 3600.0
LENDING_S = 0.25
"""So long whoever asks waits at least where connections come from a lender."""

log = structlog.get_logger()


class Database:
    """Where a proxy's connections go now. `place` is a Unix socket's path or (host, port); None: nowhere."""

    def __init__(self) -> None:
        self.place: str | tuple[str, int] | None = None
        self.epoch = 0


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
        self.connections: set[ServerConnection] = set()
        self.waiters: deque[tuple[float, ClientSession]] = deque()
        self.opener = Opener(self)
        self.looked_at = now()
        """The time, to about a quarter of a second."""

        self.sessions: dict[int, ClientSession] = {}
        """Every client that was let in, by the number in its cancel key."""

        self.sessions_of_all: dict[int, ClientSession] = self.sessions
        """Those of every proxy of this process."""

        self.lender: Lender | None = None
        self.over = False
        """Whether there are more connections than there may be, so that the next one that comes free must go."""

        self._serving = self._again = False
        self._blocked = False
        """Whoever asks now cannot be served before something else happens."""

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
        return len(self.connections) + self.opener.under_way + lender.spare - lender.limit

    @property
    def wanted(self) -> int:
        """How many more connections those who wait could use at once; none while a failure must be waited out."""
        return 0 if self.opener.pausing else max(0, len(self.waiters) - self.opener.coming)

    def entered(self, session: ClientSession) -> None:
        """A client was let in."""
        self.sessions[session.number] = self.sessions_of_all[session.number] = session
        self.metrics.add("ClientConnectionsSetupSucceeded")

    def left(self, session: ClientSession) -> None:
        """A client, let in or not, is gone."""
        self.sessions.pop(session.number, None)
        self.sessions_of_all.pop(session.number, None)
        self.metrics.add("ClientConnectionsClosed")

    def pool(self, user: ProxyUser, database: str) -> Pool:
        """The pool of a user in a database; a changed password counts for connections opened from now on."""
        key = (user.username, database)
        found = self.pools.get(key)
        if found is None:
            found = self.pools[key] = Pool(self, user, database)
        found.user = user
        return found

    def know(self, users: Mapping[str, ProxyUser]) -> None:
        """Users by name, with the passwords that count for connections opened from now on."""
        for pool in self.pools.values():
            pool.user = users.get(pool.user.username, pool.user)
        self.opener.know(users)

    def initialise_by(self, sql: bytes) -> None:
        """The query that every connection runs first; those that have run another one serve nobody new."""
        if sql == self.init_query:
            return
        self.init_query = sql
        for connection in list(self.opener.settling):  # the other query may hang
            self.opener.give_up(connection)
        for connection in list(self.connections):
            connection.retired = True
            if connection in connection.pool.idle:
                connection.close()

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
        self.opener.resume()
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
        coming: dict[Pool, int] = {}
        while self.waiters:
            asked_at, session = self.waiters.popleft()
            pool = session.pool
            connection = pool.idle.take(session.state.version)
            if connection is not None:
                self.metrics.borrowed(self.now() - asked_at)
                session.granted(connection)
                continue
            kept.append((asked_at, session))
            if coming.setdefault(pool, self.opener.coming_for(pool)):
                coming[pool] -= 1
            elif self._make_room(pool):
                self.opener.open(pool)
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
        if len(self.connections) + self.opener.under_way < self.budget:
            return True
        others = [one for other in self.pools.values() if other is not pool for one in other.idle.all()]
        if not others:
            return False
        min(others, key=lambda one: one.idle_since).close()
        return True

    # What sessions and connections tell

    def acquire(self, session: ClientSession) -> ServerConnection | None:
        """A connection at once, or None: then `granted` or `refused` follows."""
        if not self.waiters:
            connection = session.pool.idle.take(session.state.version)
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
        self.opener.settling.pop(connection, None)
        if connection.retired or self.surplus > 0:
            connection.close()
        else:
            connection.idle_since = self.looked_at
            connection.pool.idle.add(connection)
        if self.waiters:
            self.serve()

    def answered(self, connection: ServerConnection, purpose: str, rows: bytes, failed: bool) -> None:
        """The answer to a query of ours."""
        if purpose in (LIMIT, INIT):
            self.opener.answered(connection, purpose, rows, failed)
        elif failed:
            query_failed(connection, purpose)
        elif purpose == "clean":
            connection.applied, connection.applied_version, connection.bare = {}, None, True
            connection.prepared.clear()
            connection.unnamed = None

    def learned(self, max_connections: int) -> None:
        """The engine has told its limit."""
        self.max_connections = max_connections
        if self.lender is not None:
            self.lender.learned(max_connections)

    def refuse(self, pool: Pool, sqlstate: str, message: str) -> None:
        """Whoever waits for a connection of this pool is told that there will be none."""
        for entry in [entry for entry in self.waiters if entry[1].pool is pool]:
            self.waiters.remove(entry)
            entry[1].refused(sqlstate, message)

    def forget(self, connection: ServerConnection) -> None:
        """The connection is closed."""
        self.connections.discard(connection)
        self.opener.settling.pop(connection, None)
        if connection in connection.pool.idle:
            connection.pool.idle.remove(connection)
        self.over = self.surplus > 0
        if self.waiters:
            asyncio.get_running_loop().call_soon(self.serve)

    def expire(self) -> None:
        """Tells those who have waited too long; called about ten times a second while there are any."""
        self.looked_at = self.now()
        # What others keep idle comes a moment later, also for who would not wait at all.
        timeout_s = self.borrow_timeout_s if self.lender is None else max(self.borrow_timeout_s, LENDING_S)
        oldest = self.now() - timeout_s
        while self.waiters and self.waiters[0][0] <= oldest:
            asked_at, session = self.waiters.popleft()
            self._blocked = False
            self.metrics.add("DatabaseConnectionsBorrowTimedOut")
            detail = f" {self.opener.problem}" if self.opener.problem else ""
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
        idle = sorted((one for pool in self.pools.values() for one in pool.idle.all()), key=lambda one: one.idle_since)
        surplus = len(idle) - self.idle_allowed if self.max_connections else 0
        for connection in idle:
            unused = now - connection.idle_since > (0 if self.max_idle_percent == 0 else IDLE_SURPLUS_AFTER_S)
            if now - connection.opened_at > LIFETIME_S or (surplus > 0 and unused):
                connection.close()
                surplus -= 1
        self.shrink()
        self.opener.tidy(now)

    def shrink(self) -> None:
        """Closes idle connections beyond the budget, the longest unused first; the others go when they come free."""
        if self.surplus > 0:
            idle = sorted(
                (one for pool in self.pools.values() for one in pool.idle.all()), key=lambda one: one.idle_since
            )
            for connection in idle[: self.surplus]:
                connection.close()
        self.over = self.surplus > 0

    def close(self) -> None:
        """Closes every connection."""
        for connection in list(self.connections):
            connection.close()
