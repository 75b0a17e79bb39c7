"""Messages between a worker and the coordinator, some with a descriptor (SCM_RIGHTS, unix(7)).

Over a record channel (`host/channel.py`) in a directory that only we can enter. In the order of sending; a message is
a line of JSON, tagged with its type. What a peer sends that is no message of these ends the channel.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import msgspec

from mainstay.host.channel import RecordChannel
from mainstay.host.records import Record
from mainstay.proxy.ledger import Need


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker's first message; what it holds from before follows, up to `Settled`."""

    worker: int
    pid: int


class Kept(msgspec.Struct, frozen=True, tag=True):
    """A listening socket that it has; the descriptor comes along."""

    address: str
    port: int


class Holds(msgspec.Struct, frozen=True, tag=True):
    """A lease that it has, or has `ended` and not been told that it is gone; the descriptor comes along."""

    lease: int
    proxy_id: str
    place: str
    process_id: int
    secret: str
    ended: bool


class Knows(msgspec.Struct, frozen=True, tag=True):
    """max_connections of the engine at this place, as one of its connections has just told, or once did."""

    proxy_id: str
    place: str
    epoch: int
    max_connections: int


class Settled(msgspec.Struct, frozen=True, tag=True):
    """That is all it holds."""


class Needs(msgspec.Struct, frozen=True, tag=True):
    """What it needs of a proxy's connections from now on."""

    proxy_id: str
    need: Need


class Crowd(msgspec.Struct, frozen=True, tag=True):
    """How many clients a worker has; to a worker: how many a worker has on an average."""

    clients: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The connection of a lease is logged in; with these its statements can be cancelled (PostgreSQL, 55.2.8)."""

    lease: int
    process_id: int
    secret: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The worker uses it no more."""

    lease: int


class Listen(msgspec.Struct, frozen=True, tag=True):
    """The worker asks for the listening socket of this address."""

    address: str
    port: int


class Listening(msgspec.Struct, frozen=True, tag=True):
    """Here it is, the descriptor comes along; or why it cannot be had."""

    address: str
    port: int
    failure: str = ""


class Terms(msgspec.Struct, frozen=True, tag=True):
    """What holds for a worker's part of a proxy. `place` None: the database is nowhere. `max_connections` 0: not known.
    `limit` and `idle_allowed` are this worker's.
    """

    proxy_id: str
    place: str | None
    epoch: int
    max_connections: int
    limit: int
    idle_allowed: int


class Lease(msgspec.Struct, frozen=True, tag=True):
    """One connection to the engine at `place`, not logged in; the descriptor comes along."""

    lease: int
    proxy_id: str
    place: str


class Custody(msgspec.Struct, frozen=True, tag=True):
    """An ended lease of a worker that has died, the descriptor comes along: to be told of to the next coordinator,
    should this one die before the engine has ended it.
    """

    lease: int
    proxy_id: str
    place: str
    process_id: int
    secret: str


class NoLease(msgspec.Struct, frozen=True, tag=True):
    """A grant whose connection could not be opened."""

    proxy_id: str
    reason: str


class Gone(msgspec.Struct, frozen=True, tag=True):
    """The engine has ended the lease's connection."""

    lease: int


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Somebody lacks connections of this proxy: what does the worker need, and not use, right now?"""

    proxy_id: str


Message = (
    Hello | Kept | Holds | Knows | Settled | Needs | Crowd | Opened | Ended | Listen
    | Listening | Terms | Lease | Custody | NoLease | Gone | Ask
)  # fmt: skip
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_ENCODER = msgspec.json.Encoder()

Heard = Callable[[Message, "socket.socket | None"], None]


class Channel:
    """One end of a connection. `heard` gets every message; `ended` is called once, when there are no more."""

    def __init__(self, connection: socket.socket, heard: Heard, ended: Callable[[], None]) -> None:
        self._heard = heard
        self._records = RecordChannel(connection, self._understand, ended)

    def send(self, message: Message, carried: socket.socket | None = None) -> None:
        """Sends, now or as soon as the peer takes it; `carried` stays ours as well."""
        self._records.send(_ENCODER.encode(message), () if carried is None else (carried,))

    def close(self) -> None:
        """No more; `ended` is called."""
        self._records.close()

    def _understand(self, record: Record) -> None:
        try:
            message = _DECODER.decode(record.data)
        except msgspec.DecodeError:
            for carried in record.carried:
                carried.close()
            self.close()
            return
        self._heard(message, record.carried[0] if record.carried else None)
