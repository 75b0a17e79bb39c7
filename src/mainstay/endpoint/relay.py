"""The user-space path: accepts clients, decides about them, connects them to the engine, hands both to a pump.

Guarantees, tested in tests/unit/endpoint/test_relay.py: a client that the access list does not admit, or that is over
a limit, is reset before one byte of it is read; a new client waits up to `hold_s` while there is no primary or the
engine refuses, then is closed; the engine sees a loopback client under the client's own address; after `apply`
returned, no connection of an older epoch exists or can still come up.

Everything here runs on the event loop; only the pumps have a thread and processes. Bytes are never looked at, so TLS is
end to end.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter

import structlog

from mainstay.endpoint import limits
from mainstay.endpoint.carrier import Tag
from mainstay.endpoint.listeners import listen
from mainstay.endpoint.pump import close_with_reset
from mainstay.endpoint.pumps import Pumps
from mainstay.endpoint.routing import Change, admitted, survives
from mainstay.model.route import Route

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: choose the source port at connect(), unique per destination only
_KEEPALIVE_IDLE_S = 60
_KEEPALIVE_INTERVAL_S = 15
_KEEPALIVE_PROBES = 4
_OUT_OF_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = structlog.get_logger()


class _Endpoint:
    """One listening socket, the route it serves now, and the clients that are not connected to an engine yet."""

    def __init__(self, route: Route, listener: socket.socket) -> None:
        self.route: Route | None = route
        self.listener = listener
        self.changed = asyncio.Event()
        self.waiting: set[asyncio.Task[None]] = set()

    def change(self, route: Route | None) -> None:
        """Wakes everybody who waits for a target."""
        self.route = route
        self.changed.set()
        self.changed = asyncio.Event()


class Relay:
    """All endpoints of this process. Must be used from one event loop."""

    def __init__(
        self,
        *,
        connections_max: int,
        per_endpoint_max: int = limits.CONNECTIONS_PER_ENDPOINT_MAX,
        hold_s: float = limits.HOLD_S,
        processes: int = 0,
    ) -> None:
        self._quota = limits.Quota(connections_max, per_endpoint_max)
        self._hold_s = hold_s
        self._gate = limits.LogGate()
        self._endpoints: dict[str, _Endpoint] = {}
        self.pumps = Pumps(lambda tag: self._quota.give_back(tag.endpoint_id), processes_max=processes)
        self._counters: dict[str, Counter[str]] = {}

    def start(self) -> None:
        """Starts what carries bytes."""
        self.pumps.start()

    async def stop(self) -> None:
        """Stops listening, then resets every connection."""
        for endpoint_id in [*self._endpoints]:
            self._drop(endpoint_id)
        await self.pumps.stop()

    async def apply(self, change: Change) -> int:
        """Makes sockets agree with the change; how many connections were cut.

        Raises `Permanent` or `Transient`, changing nothing, when the new place cannot be listened on.
        """
        route, previous = change.route, change.previous
        if route is not None:
            known = self._endpoints.get(route.endpoint_id)
            if known is None or change.listens_anew:
                listener = listen(route.address, route.port)
                self._drop(route.endpoint_id)
                self._listen(route, listener)
            else:
                known.change(route)
        elif previous is not None:
            self._drop(previous.endpoint_id)
            self._gate.forget(previous.endpoint_id)
        subject = route or previous
        return 0 if subject is None else await self._cut(subject.endpoint_id, route)

    def listens(self, endpoint_id: str) -> bool:
        """Whether the endpoint's socket is open."""
        return endpoint_id in self._endpoints

    def counters(self) -> dict[str, dict[str, int]]:
        """Per endpoint: connections open now, accepted and turned away since start, by reason."""
        opened = self._quota.open()
        names = self._counters.keys() | opened.keys()
        return {name: {"open": opened.get(name, 0), **self._counters.get(name, {})} for name in sorted(names)}

    async def _cut(self, endpoint_id: str, route: Route | None) -> int:
        def doomed(tag: Tag) -> bool:
            return tag.endpoint_id == endpoint_id and not survives(route, tag.epoch, tag.target)

        return await self.pumps.cut(doomed)

    def _listen(self, route: Route, listener: socket.socket) -> None:
        endpoint = _Endpoint(route, listener)
        self._endpoints[route.endpoint_id] = endpoint
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, endpoint)

    def _drop(self, endpoint_id: str) -> None:
        endpoint = self._endpoints.pop(endpoint_id, None)
        if endpoint is None:
            return
        asyncio.get_running_loop().remove_reader(endpoint.listener.fileno())
        endpoint.listener.close()
        endpoint.change(None)
        for task in endpoint.waiting:
            task.cancel()

    def _accept(self, endpoint: _Endpoint) -> None:
        for _ in range(limits.ACCEPTS_PER_WAKEUP):
            try:
                client, peer = endpoint.listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_ROOM:
                    raise
                self._pause(endpoint, error)
                return
            self._consider(endpoint, client, str(peer[0]))

    def _pause(self, endpoint: _Endpoint, error: OSError) -> None:
        """Without room for one more socket the listener would stay readable and spin; it rests instead."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(endpoint.listener.fileno())

        def resume() -> None:
            if endpoint.route is not None:
                loop.add_reader(endpoint.listener.fileno(), self._accept, endpoint)

        loop.call_later(limits.ACCEPT_PAUSE_S, resume)
        if endpoint.route is not None:
            self._complain("endpoint.accept_paused", endpoint.route, reason=error.strerror)

    def _consider(self, endpoint: _Endpoint, client: socket.socket, client_address: str) -> None:
        """Admits the client or resets it; nothing has been read from it yet."""
        route = endpoint.route
        if route is None:
            close_with_reset(client)
            return
        if not admitted(route, client_address):
            close_with_reset(client)
            self._complain("endpoint.not_admitted", route, client=client_address)
            return
        if (limit := self._quota.take(route.endpoint_id)) is not None:
            close_with_reset(client)
            self._complain("endpoint.limit_reached", route, limit=limit)
            return
        self._count(route, "accepted")
        client.setblocking(False)
        task = asyncio.create_task(self._introduce(endpoint, route.endpoint_id, client, client_address))
        endpoint.waiting.add(task)
        task.add_done_callback(endpoint.waiting.discard)

    async def _introduce(
        self, endpoint: _Endpoint, endpoint_id: str, client: socket.socket, client_address: str
    ) -> None:
        """Finds the client an engine and hands both to a pump; closes the client when that takes too long."""
        handed_over = False
        try:
            async with asyncio.timeout(self._hold_s) as deadline:
                route, engine = await self._reach_engine(endpoint, client_address)
                deadline.reschedule(None)
            if route.target is not None:
                for connection in (client, engine):
                    _tune(connection)
                self.pumps.add(client, engine, Tag(endpoint_id, route.epoch, route.target))
                handed_over = True
        except TimeoutError:
            if endpoint.route is not None:
                self._complain("endpoint.no_primary", endpoint.route, held_s=self._hold_s)
        except OSError as error:  # the client went away meanwhile
            log.debug("endpoint.client_lost", endpoint_id=endpoint_id, reason=error.strerror)
        finally:
            if not handed_over:
                client.close()
                self._quota.give_back(endpoint_id)

    async def _reach_engine(self, endpoint: _Endpoint, client_address: str) -> tuple[Route, socket.socket]:
        """A connection to the engine of the route as it is when the connection stands; tries until cancelled."""
        while True:
            route, changed = endpoint.route, endpoint.changed
            if route is None:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the endpoint is gone")
            if route.target is None:
                await changed.wait()
                continue
            try:
                engine = await _connect(route.target, client_address)
            except (OSError, TimeoutError) as error:
                self._complain("endpoint.engine_unreachable", route, reason=str(error))
                await asyncio.sleep(limits.CONNECT_RETRY_INTERVAL_S)
                continue
            if survives(endpoint.route, route.epoch, route.target):
                return route, engine
            engine.close()

    def _complain(self, event: str, route: Route, **details: object) -> None:
        self._count(route, event.removeprefix("endpoint."))
        held = self._gate.passes(event, route.endpoint_id, asyncio.get_running_loop().time())
        if held is not None:
            log.warning(event, endpoint_id=route.endpoint_id, suppressed=held, **details)

    def _count(self, route: Route, name: str) -> None:
        self._counters.setdefault(route.endpoint_id, Counter())[name] += 1


async def _connect(target: tuple[str, int], client_address: str) -> socket.socket:
    """A connection to the engine; from the client's own address if both are loopback, for pg_hba and activity views."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    engine = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if client_address.startswith("127.") and target[0].startswith("127."):
            engine.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            engine.bind((client_address, 0))
        async with asyncio.timeout(limits.CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(engine, target)
    except BaseException:
        engine.close()
        raise
    return engine


def _tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
