"""Who gets a server connection: one budget per proxy, one pool per user and database in it, one queue for all.

Guarantees: never more connections than the budget, counting those that are being opened; connections are handed out in
the order of asking; whoever waits longer than the borrow timeout is told so; a connection is given to another session
only when it is free and clean. Source: RDS user guide, "RDS Proxy connection considerations".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog

from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.effects import Effect, effects
from mainstay.proxy.connecting import open_connection
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.statements import Statements
from mainstay.proxy.welcome import Welcome

if TYPE_CHECKING:
    from mainstay.proxy.session import ClientSession

TIMED_OUT = "Timed-out waiting to acquire database connection."
RESERVED_CONNECTIONS = 3
"""Of max_connections the engine keeps some for superusers (superuser_reserved_connections)."""

IDLE_SURPLUS_AFTER_S = 300.0
LIFETIME_S = 24 * 3600.0
CLEAN = b"DISCARD ALL"
OPEN_RETRY_S = 0.25
CANCEL_TIMEOUT_S = 5.0
_RETRIABLE = frozenset({"53300", "57P03", "08006", "08001", "57P01"})
_NOT_TAKEN = "28P01"
ROTATION_S = 15.0
"""So long the new password of a user may take to come here when the engine has it already (Secrets Manager user guide,
"How rotation works": it is set in the database, tested, and only then the secret's current value)."""

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
        self.opening = 0
        self.connections: set[ServerConnection] = set()
        self.waiters: deque[tuple[float, ClientSession]] = deque()
        self.problem = ""
        self.on_left: Callable[[ClientSession], None] = lambda session: None
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
        """How many connections there may be. One, until the engine has told its limit."""
        if not self.max_connections:
            return 1
        share = self.max_connections * self.max_connections_percent // 100
        return max(1, min(share, self.max_connections - RESERVED_CONNECTIONS))

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
            if opening.setdefault(pool, pool.opening):
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
            self.problem = ""
            pool.logged_in(password)
            pool.welcome.learn(connection.parameters)
            self.connections.add(connection)
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
        self.metrics.add("DatabaseConnectionsSetupFailed")
        self.problem = str(error or "the database moved meanwhile")
        log.warning("proxy.connection_failed", user=pool.user.username, database=pool.database, error=self.problem)
        if isinstance(error, LoginFailed) and pool.hopeless(error, password):
            # No retry heals a wrong password or a database that does not exist: whoever waits for this pool is told.
            for entry in [entry for entry in self.waiters if entry[1].pool is pool]:
                self.waiters.remove(entry)
                entry[1].refused(error.sqlstate, f"Request returned an error: {error}")
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
        if self.borrow_timeout_s <= 0 and not self._make_room(session.pool):
            asyncio.get_running_loop().call_soon(self.expire)
        if not self._blocked:
            # Not from within the caller's loop over its bytes: a connection could be granted before it has stopped.
            asyncio.get_running_loop().call_soon(self.serve)
        return None

    def hand_over(self, connection: ServerConnection) -> None:
        """A connection that its session needs no more, for the first who waits: the usual case of `settled`."""
        asked_at, session = self.waiters[0]
        pool = connection.pool
        usual = session.pool is pool and not pool.idle and connection.free and len(self.connections) <= self.budget
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
        if connection.retired or len(self.connections) > self.budget:
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
            connection.applied, connection.applied_version = {}, None
            connection.prepared.clear()
            connection.unnamed = None

    def forget(self, connection: ServerConnection) -> None:
        """The connection is closed."""
        self.connections.discard(connection)
        if connection in connection.pool.idle:
            connection.pool.idle.remove(connection)
        if self.waiters:
            asyncio.get_running_loop().call_soon(self.serve)

    def expire(self) -> None:
        """Tells those who have waited too long; called often."""
        oldest = self.now() - self.borrow_timeout_s
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
        surplus = len(idle) - self.max_connections * self.max_idle_percent // 100 if self.max_connections else 0
        for connection in idle:
            unused = now - connection.idle_since > (0 if self.max_idle_percent == 0 else IDLE_SURPLUS_AFTER_S)
            if now - connection.opened_at > LIFETIME_S or (surplus > 0 and unused):
                connection.close()
                surplus -= 1
        for connection in idle[: max(0, len(self.connections) - self.budget)]:
            connection.close()

    def close(self) -> None:
        """Closes every connection."""
        for connection in list(self.connections):
            connection.close()


class Pool:
    """Connections of one user in one database."""

    def __init__(self, target: Target, user: ProxyUser, database: str) -> None:
        self.target = target
        self.user = user
        self.database = database
        self.idle: list[ServerConnection] = []
        self.opening = 0
        self._taken = ""
        """The password that the engine has last taken."""

        self._doubted_at: float | None = None
        """Since when it takes that no longer."""

        self.welcome = Welcome()
        self.now = target.now
        self.statements = target.statements

    @property
    def strict(self) -> bool:
        """Pin on everything that AWS pins on."""
        return self.target.strict

    def take_idle(self, session: ClientSession) -> ServerConnection | None:
        """An idle connection, best one that has the session's settings already."""
        idle = self.idle
        if not idle:
            return None
        version = session.state.version
        for index in range(len(idle) - 1, max(-1, len(idle) - 9), -1):
            if idle[index].applied_version is version:
                return idle.pop(index)
        return idle.pop()

    def logged_in(self, password: str) -> None:
        """The engine has taken this one."""
        self._taken, self._doubted_at = password, None

    def hopeless(self, error: LoginFailed, password: str) -> bool:
        """Whether no retry heals it. Not so a password that was right: it is probably being changed, and the new one is
        on its way here, or has come meanwhile.
        """
        never_right = password == self.user.password and password != self._taken
        if error.sqlstate != _NOT_TAKEN or never_right:
            return error.sqlstate not in _RETRIABLE
        if self._doubted_at is None:
            self._doubted_at = self.now()
        return self.now() - self._doubted_at > ROTATION_S

    def acquire(self, session: ClientSession) -> ServerConnection | None:
        """See `Target.acquire`."""
        return self.target.acquire(session)

    def effects_of(self, sql: bytes) -> tuple[tuple[Effect, ...], ...]:
        """See `Target.effects_of`."""
        return self.target.effects_of(sql)

    def release(self, connection: ServerConnection) -> None:
        """The connection's session does not need it any more; it is clean."""
        target = self.target
        if connection.retired or connection.cancels:
            target.settled(connection)
        elif target.waiters:
            target.hand_over(connection)
        else:
            connection.idle_since = self.now()
            self.idle.append(connection)

    def settled(self, connection: ServerConnection) -> None:
        """See `Target.settled`."""
        self.target.settled(connection)

    def answered(self, connection: ServerConnection, purpose: str, rows: bytes, failed: bool) -> None:
        """See `Target.answered`."""
        self.target.answered(connection, purpose, rows, failed)

    def forget(self, connection: ServerConnection) -> None:
        """See `Target.forget`."""
        self.target.forget(connection)

    def abandoned(self, connection: ServerConnection, *, dirty: bool, started: bool) -> None:
        """Its session has gone: what it left is cleaned away, or goes with the connection if it is at work."""
        if connection.closed:
            return
        if connection.expected or started:
            # The engine would go on with it, and not see before its end that nobody is there any more.
            connection.cancels += 1  # from now on nobody else gets it
            task = asyncio.get_running_loop().create_task(self._end(connection))
            self.target.tasks.add(task)
            task.add_done_callback(self.target.tasks.discard)
            return
        if connection.status != ord("I"):
            connection.ask(b"ROLLBACK", "rollback")
        if dirty:
            connection.ask(CLEAN, "clean")
        if not connection.expected:
            self.settled(connection)

    async def _end(self, connection: ServerConnection) -> None:
        try:
            await self.cancel(connection)
        finally:
            connection.close()

    async def cancel(self, connection: ServerConnection) -> None:
        """Cancels what the connection is doing. It cannot change hands before the engine has taken the request."""
        place = self.target.database.place
        if place is None or connection.closed:
            return
        connection.cancels += 1
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                if isinstance(place, str):
                    reader, writer = await asyncio.open_unix_connection(place)
                else:
                    reader, writer = await asyncio.open_connection(*place)
                with suppress(OSError):
                    writer.write(wire.cancel_request(connection.process_id, connection.secret))
                    await reader.read()
                writer.close()
        except (OSError, TimeoutError) as error:
            log.warning("proxy.cancel_failed", connection=connection.process_id, error=str(error))
        finally:
            connection.cancels -= 1

    def left(self, session: ClientSession) -> None:
        """The client is gone."""
        target = self.target
        if session.waiting:
            self.forget_waiter(session)
        target.metrics.add("ClientConnectionsClosed")
        target.on_left(session)

    def forget_waiter(self, session: ClientSession) -> None:
        """The session does not want a connection any more."""
        self.target.forget_waiter(session)

    def pinned(self, session: ClientSession, reason: str) -> None:
        """A session stays on its connection from now on."""
        self.target.metrics.pinned(reason)
        connection = 0 if session.server is None else session.server.process_id
        log.warning(
            "The client session was pinned to the database connection"
            f" [dbConnection={connection}] for the remainder of the session. The proxy can't reuse this connection"
            f" until the session ends. Reason: {reason}",
            proxyEndpoint=session.endpoint,
            clientConnection=session.number,
        )

    def unpinned(self, session: ClientSession) -> None:
        """Nothing is left of what pinned the session."""
        log.info("proxy.unpinned", proxyEndpoint=session.endpoint, clientConnection=session.number)
