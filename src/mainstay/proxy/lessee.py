"""A worker's side of the shared budget: what it needs goes to the coordinator, sockets and limits come back.

While the coordinator is away everything goes on with what is here, and nothing more is had. When it is back it is told,
with a descriptor of each, what the worker holds and which of what it has given up may not have ended yet.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from mainstay.model.errors import Transient
from mainstay.proxy.channel import (
    Ask,
    Channel,
    Crowd,
    Custody,
    Ended,
    Gone,
    Hello,
    Holds,
    Kept,
    Knows,
    Lease,
    Listen,
    Listening,
    Message,
    Needs,
    NoLease,
    Opened,
    Settled,
    Terms,
)
from mainstay.proxy.connecting import log_in
from mainstay.proxy.ledger import UNUSED_S, Need
from mainstay.proxy.loop import running_poller
from mainstay.proxy.pool import Pool
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.streams import Stream
from mainstay.proxy.target import Target
from mainstay.proxy.transport import Transport

RETRY_S = 0.05
NO_LIMIT = 1 << 30
LISTEN_TIMEOUT_S = 5.0
log = structlog.get_logger()


class Held:
    """One lease in a worker's hands. `socket` stays open until the engine has ended the connection."""

    def __init__(self, message: Lease | Custody, descriptor: socket.socket) -> None:
        self.number = message.lease
        self.place = message.place
        self.socket = descriptor
        self.process_id = 0
        self.secret = b""
        self.ended = False
        if isinstance(message, Custody):
            self.process_id, self.secret, self.ended = message.process_id, bytes.fromhex(message.secret), True


class Share:
    """One proxy's part of the budget in this worker: the `Lender` of its target."""

    def __init__(self, target: Target, proxy_id: str, say: Callable[[Message], None]) -> None:
        self.limit = NO_LIMIT
        self.idle_allowed = NO_LIMIT
        self.held: dict[int, Held] = {}
        self._target = target
        self._proxy_id = proxy_id
        self._say = say
        self._spare: list[Held] = []
        self._claimed = 0
        self._received = 0
        self._users: dict[ServerConnection, Held] = {}
        self._told: Need | None = None
        self._telling = False
        self.closed = False
        self.opener: Callable[[Held, ServerConnection], Transport] = _stream
        target.lender = self
        target.opener.connector = self.connect

    # What the target asks: see `Lender`

    @property
    def spare(self) -> int:
        """See `Lender`."""
        return len(self._spare) - self._claimed

    def claim(self) -> bool:
        """See `Lender`."""
        if self.spare <= 0:
            return False
        self._claimed += 1
        return True

    def lacks(self) -> None:
        """See `Lender`."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self.tell)

    def disconnected(self, connection: ServerConnection) -> None:
        """See `Lender`."""
        held = self._users.pop(connection, None)
        if held is not None:
            self._end(held)

    def learned(self, max_connections: int) -> None:
        """See `Lender`."""
        database = self._target.database
        if isinstance(database.place, str):
            self._say(Knows(self._proxy_id, database.place, database.epoch, max_connections))

    async def connect(self, pool: Pool) -> ServerConnection:
        """A connection on a lease that was claimed. Raises as `connecting.open_connection`."""
        self._claimed -= 1
        if not self._spare:
            raise OSError("the database moved meanwhile")
        held = self._spare.pop()
        connection = ServerConnection(pool)
        try:
            connection.connection_made(self.opener(held, connection))
        except BaseException:
            self._end(held)
            raise
        self._users[connection] = held
        await log_in(pool, connection)
        held.process_id, held.secret = connection.process_id, connection.secret
        self._say(Opened(held.number, held.process_id, held.secret.hex()))
        return connection

    # What the coordinator tells

    def heard(self, message: Lease | Custody | NoLease | Terms | Ask, carried: socket.socket | None) -> None:
        """One message that is this proxy's."""
        match message:
            case Terms():
                self.terms(message)
            case Ask():
                self.tell()
            case NoLease():
                self.refused(message)
            case Custody() if carried is not None:
                self.held[message.lease] = Held(message, carried)
            case Lease() if carried is not None:
                self.granted(message, carried)
            case _:
                log.error("proxy.descriptor_lost", message=type(message).__name__)

    def granted(self, message: Lease, descriptor: socket.socket) -> None:
        """One more connection may be used: here it is."""
        self._received += 1
        held = self.held[message.lease] = Held(message, descriptor)
        target = self._target
        if message.place != target.database.place or not target.waiters:
            self._end(held)
            self.lacks()
            return
        self._spare.append(held)
        target.serve()
        self.shed()

    def refused(self, message: NoLease) -> None:
        """There is none: the engine does not answer."""
        self._received += 1
        self._target.opener.unreachable(message.reason)
        self.lacks()

    def terms(self, message: Terms) -> None:
        """What holds from now on."""
        target = self._target
        place, epoch = target.database.place, target.database.epoch
        target.moved(message.place, message.epoch)
        if (place, epoch) != (target.database.place, target.database.epoch):
            self._end_spare(len(self._spare))
        if message.max_connections:
            target.max_connections = message.max_connections
        self.limit, self.idle_allowed = message.limit, message.idle_allowed
        self.shed()

    def gone(self, lease: int) -> None:
        """The engine has ended it."""
        held = self.held.pop(lease, None)
        if held is not None:
            held.socket.close()

    def shed(self) -> None:
        """Gives back what it may not keep, and what nobody here waits for any more."""
        target = self._target
        unneeded = self.spare - max(0, len(target.waiters) - target.opener.under_way)
        self._end_spare(min(self.spare, max(unneeded, target.surplus)))
        target.shrink()

    def tell(self) -> None:
        """Tells what it needs, if that has changed."""
        self._telling = False
        target = self._target
        # Those that are idle while somebody waits are other users': whoever waits cannot have them.
        unused_since = target.looked_at - (0.0 if target.waiters else UNUSED_S)
        need = Need(
            wanted=max(0, target.wanted - self.spare),
            idle=sum(1 for pool in target.pools.values() for one in pool.idle.all() if one.idle_since <= unused_since),
            received=self._received,
        )
        if need != self._told:
            self._told = need
            self._say(Needs(self._proxy_id, need))

    # The coordinator comes and goes

    def introduce(self, channel: Channel) -> None:
        """Tells one that knows nothing yet what is held here."""
        self._received, self._told = 0, None
        for held in self.held.values():
            told = Holds(held.number, self._proxy_id, held.place, held.process_id, held.secret.hex(), held.ended)
            channel.send(told, held.socket)
        database = self._target.database
        if isinstance(database.place, str) and self._target.max_connections:
            known = Knows(self._proxy_id, database.place, database.epoch, self._target.max_connections)
            channel.send(known)

    def close(self) -> None:
        """The proxy is no more here."""
        self.closed = True
        self._end_spare(len(self._spare))

    def _end_spare(self, count: int) -> None:
        for _ in range(count):
            self._end(self._spare.pop())

    def _end(self, held: Held) -> None:
        """The engine is told that nothing more comes; its own end is seen by the coordinator."""
        held.ended = True
        with suppress(OSError):
            held.socket.shutdown(socket.SHUT_WR)
        self._say(Ended(held.number))


def _stream(held: Held, connection: ServerConnection) -> Transport:
    return Stream(running_poller(), held.socket.dup().detach(), connection)


class Lessee:
    """A worker's connection to the coordinator, made again whenever it breaks. `clients` counts the worker's."""

    def __init__(self, path: Path, worker: int, clients: Callable[[], int]) -> None:
        self._path = path
        self._worker = worker
        self._clients = clients
        self._channel: Channel | None = None
        self._shares: dict[str, Share] = {}
        self._terms: dict[str, Terms] = {}
        self._listening: dict[tuple[str, int], socket.socket] = {}
        self._asked: dict[tuple[str, int], list[asyncio.Future[socket.socket]]] = {}
        self._told_clients = -1
        self._mean = 0
        self._broken = asyncio.Event()
        self.away_since: float | None = asyncio.get_running_loop().time()
        """Since when there is no coordinator; None: there is one."""

    async def keep(self) -> None:
        """Forever."""
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.connect(str(self._path))
            except OSError:
                connection.close()
                await asyncio.sleep(RETRY_S)
                continue
            self._broken.clear()
            self._channel = channel = Channel(connection, self._heard, self._broken.set)
            self._introduce(channel)
            await self._broken.wait()
            self._channel, self.away_since = None, asyncio.get_running_loop().time()
            for key in list(self._asked):
                self._answer(key, Transient("the coordinator has gone"))
            log.warning("proxy.coordinator_away", worker=self._worker)
            await asyncio.sleep(RETRY_S)

    def _introduce(self, channel: Channel) -> None:
        self.away_since = None
        channel.send(Hello(self._worker, os.getpid()))
        for (address, port), listening in self._listening.items():
            channel.send(Kept(address, port), listening)
        for share in self._shares.values():
            share.introduce(channel)
        channel.send(Settled())
        self._told_clients = -1
        self.tell()

    def _say(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def tell(self) -> None:
        """Tells what has changed; called often."""
        for proxy_id, share in list(self._shares.items()):
            if share.closed and not share.held:
                del self._shares[proxy_id]
                continue
            share.shed()
            share.tell()
        clients = self._clients()
        if clients != self._told_clients:
            self._told_clients = clients
            self._say(Crowd(clients))

    @property
    def crowded(self) -> bool:
        """Whether others should take the next client: this worker has more than its part of them."""
        return self._clients() > self._mean + self._mean // 10 + 2

    def share(self, target: Target, proxy_id: str) -> None:
        """From now on the connections of this target come from here."""
        share = self._shares[proxy_id] = Share(target, proxy_id, self._say)
        if proxy_id in self._terms:
            share.terms(self._terms[proxy_id])

    def forget(self, proxy_id: str) -> None:
        """The proxy is deleted; its leases end with its connections."""
        share = self._shares.get(proxy_id)
        if share is not None:
            share.close()

    async def listening(self, address: str, port: int) -> socket.socket:
        """The socket that all workers share. Raises `Transient` if it cannot be had."""
        key = (address, port)
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(future)
        self._say(Listen(address, port))
        try:
            async with asyncio.timeout(LISTEN_TIMEOUT_S):
                return await future
        except TimeoutError as error:
            raise Transient(f"{address}:{port}: no answer from the coordinator") from error

    def listens_no_more(self, address: str, port: int) -> None:
        """The endpoint is gone."""
        listening = self._listening.pop((address, port), None)
        if listening is not None:
            listening.close()

    # What comes

    def _heard(self, message: Message, carried: socket.socket | None) -> None:
        match message:
            case Lease() | Custody() | NoLease() | Terms() | Ask():
                if isinstance(message, Terms):
                    self._terms[message.proxy_id] = message
                share = self._shares.get(message.proxy_id)
                if share is not None:
                    share.heard(message, carried)
                elif carried is not None:
                    carried.close()
            case Gone():
                for share in self._shares.values():
                    share.gone(message.lease)
            case Crowd():
                self._mean = message.clients
            case Listening():
                key = (message.address, message.port)
                if carried is None:
                    self._answer(key, Transient(message.failure))
                else:
                    self.listens_no_more(*key)
                    self._listening[key] = carried
                    self._answer(key, carried)
            case _:
                log.error("proxy.unexpected_message", message=type(message).__name__)

    def _answer(self, key: tuple[str, int], found: socket.socket | Transient) -> None:
        for future in self._asked.pop(key, []):
            if future.done():
                continue
            if isinstance(found, Transient):
                future.set_exception(found)
            else:
                future.set_result(found.dup())
