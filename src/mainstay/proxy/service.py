"""One proxy: its listeners, its target, its clients, brought to each new spec without disturbing who is connected."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from mainstay.model.errors import Transient
from mainstay.model.proxy import ProxyListener, ProxySpec, ProxyStatus, ProxyUser, TargetState
from mainstay.protocol.postgres import kinds
from mainstay.proxy.cancel_keys import Keys
from mainstay.proxy.listener import Listener, secured
from mainstay.proxy.login import VerifyToken
from mainstay.proxy.metrics import Metrics
from mainstay.proxy.session import ClientSession
from mainstay.proxy.target import Database, Target

BACKLOG = 1024
SESSIONS_SHOWN_MAX = 10_000
IDLE_CLIENT = "Idle client timeout: the client has sent nothing for longer than the proxy allows."

log = structlog.get_logger()


def listen(address: str, port: int) -> socket.socket:
    """A listening socket. Raises `Transient` if the address cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Transient(f"{address}:{port} cannot be listened on: {error}") from error
    listening.setblocking(False)
    return listening


class Sockets:
    """Listening sockets as a process that is alone gets them."""

    crowded: Callable[[], bool] | None = None

    async def listening(self, address: str, port: int) -> socket.socket:
        """One, the caller's to close. Raises `Transient` if the address cannot be had."""
        return listen(address, port)

    def listens_no_more(self, address: str, port: int) -> None:
        """The caller has closed it, and nobody here wants it any more."""


class Proxy:
    """One proxy of this host."""

    def __init__(
        self, spec: ProxySpec, directory: Path, keys: Keys, verify_token: VerifyToken, sockets: Sockets | None = None
    ) -> None:
        self.spec = spec
        self._sockets = sockets or Sockets()
        self.keys = keys
        self.verify_token = verify_token
        self.metrics = Metrics()
        self.users: dict[str, ProxyUser] = {}
        self.target = Target(Database(), self.metrics, time.monotonic)
        self.target.sessions_of_all = keys.sessions
        self.failure = ""
        self.stopped = False
        self._applying = asyncio.Lock()
        self._settled = 0
        self._idle_look_at = 0.0
        self._directory = directory
        self._listeners: dict[str, Listener] = {}

    @property
    def sessions(self) -> dict[int, ClientSession]:
        """Every client that was let in, by number."""
        return self.target.sessions

    async def apply(self, spec: ProxySpec) -> None:
        """Brings everything to the spec, unless it has been brought to a newer one. Raises `Transient`."""
        async with self._applying:
            if not self.stopped and spec.generation >= self.spec.generation:
                await self._apply(spec)

    async def _apply(self, spec: ProxySpec) -> None:
        if spec.target != self.spec.target:
            self.target.close()
            self.target.max_connections = 0
        self.spec = spec
        self.users = {user.username: user for user in spec.users}
        target, pool = self.target, spec.pool
        target.know(self.users)
        target.max_connections_percent = pool.max_connections_percent
        target.max_idle_percent = pool.max_idle_connections_percent
        target.borrow_timeout_s = pool.connection_borrow_timeout_s
        target.initialise_by(pool.init_query.encode())
        target.strict = pool.strict_pinning
        wanted = {listener.endpoint_id: listener for listener in spec.listeners}
        for endpoint_id, listener in list(self._listeners.items()):
            if endpoint_id not in wanted:
                del self._listeners[endpoint_id]
                self._stop(listener)
        for endpoint_id, one in wanted.items():
            await self._listen(endpoint_id, one)
        self._settled, self.failure, self._idle_look_at = spec.generation, "", 0.0
        target.serve()

    async def _listen(self, endpoint_id: str, wanted: ProxyListener) -> None:
        present = self._listeners.get(endpoint_id)
        if present is not None and (present.spec.address, present.spec.port) == (wanted.address, wanted.port):
            if present.spec.certificate != wanted.certificate:
                present.tls, present.end_point = secured(wanted, self._directory)
            present.spec = wanted
            return
        listener = Listener(self, wanted, self._directory)
        listening = await self._sockets.listening(wanted.address, wanted.port)
        if self.stopped:
            listening.close()
            return
        listener.start(listening, self._sockets.crowded)
        present = self._listeners.get(endpoint_id)
        self._listeners[endpoint_id] = listener
        if present is not None:
            self._stop(present)

    def _stop(self, listener: Listener) -> None:
        listener.stop()
        self._sockets.listens_no_more(listener.spec.address, listener.spec.port)

    def stop(self) -> None:
        """Every client and connection ends."""
        self.stopped = True
        for listener in self._listeners.values():
            self._stop(listener)
        for session in list(self.sessions.values()):
            session.fail("57P01", "The RDS Proxy was deleted or is shutting down.")
        self.target.close()

    def tidy(self) -> None:
        """What must be looked at now and then; called several times a second, ten while somebody waits."""
        self.target.expire()

    def tidy_slowly(self) -> None:
        """As `tidy`, about once a second."""
        self.target.tidy()
        for listener in self._listeners.values():
            listener.tidy()
        if self.target.now() >= self._idle_look_at:
            self._end_idle_clients()

    def _end_idle_clients(self) -> None:
        """With ten thousand clients it matters that this looks at them only when one may be due."""
        now, timeout_s = self.target.now(), self.spec.idle_client_timeout_s
        earliest = now
        for session in list(self.sessions.values()):
            if session.last_request_at < now - timeout_s and session.idle:
                session.fail("57P05", IDLE_CLIENT)
            else:
                earliest = min(earliest, session.last_request_at)
        self._idle_look_at = earliest + timeout_s

    def status(self) -> ProxyStatus:
        """What control is told."""
        state, reason = self._health()
        return ProxyStatus(
            proxy_id=self.spec.proxy_id,
            generation=self._settled,
            target_state=state,
            target_reason=reason,
            target_description=self.target.opener.health_problem if reason else "",
            failure=self.failure,
            metrics=self.stats(),
        )

    def _health(self) -> tuple[TargetState, str]:
        target = self.target
        if not self.spec.users:
            return TargetState.UNAVAILABLE, "AUTH_FAILURE"
        if target.connections and not target.opener.health_problem:
            return TargetState.AVAILABLE, ""
        if target.database.place is None:
            return TargetState.UNAVAILABLE, "UNREACHABLE"
        if target.opener.health_problem:
            return TargetState.UNAVAILABLE, "AUTH_FAILURE" if target.opener.refuses_user else "CONNECTION_FAILED"
        return TargetState.AVAILABLE, ""

    def stats(self) -> dict[str, float]:
        """Counters and gauges by CloudWatch's names."""
        target = self.target
        idle = sum(len(pool.idle) for pool in target.pools.values())
        gauges = {
            "ClientConnections": len(self.sessions),
            "DatabaseConnections": len(target.connections),
            "DatabaseConnectionsCurrentlyBorrowed": len(target.connections) - idle,
            "DatabaseConnectionsCurrentlyInTransaction": sum(
                1 for one in target.connections if one.status != kinds.IDLE
            ),
            "DatabaseConnectionsCurrentlySessionPinned": sum(
                1 for one in target.connections if one.owner is not None and one.owner.state.pins
            ),
            "MaxDatabaseConnectionsAllowed": target.whole_budget if target.max_connections else 0,
            "ClientConnectionsWaiting": len(target.waiters),
        }
        reasons = {f"Pinned: {reason}": count for reason, count in self.metrics.pin_reasons.items()}
        return {**self.metrics.totals(), **gauges, **reasons}

    def sessions_shown(self) -> list[dict[str, Any]]:
        """Every client session, for `mainstay proxy sessions`."""
        shown = []
        for session in list(self.sessions.values())[:SESSIONS_SHOWN_MAX]:
            peer = session.transport.peer()
            shown.append(
                {
                    "client": session.number,
                    "address": f"{peer[0]}:{peer[1]}" if peer else "",
                    "endpoint": session.endpoint,
                    "user": session.pool.user.username,
                    "database": session.pool.database,
                    "state": session.activity,
                    "connection": 0 if session.server is None else session.server.process_id,
                    "pinned": sorted(session.state.pins),
                    "idle_s": round(self.target.now() - session.last_request_at, 3),
                }
            )
        return shown
