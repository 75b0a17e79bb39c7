"""Letting a client in: the first packets, TLS, the password or the token, and the welcome of a real server.

The bytes of the client drive it, message by message; nothing waits but for what others must be asked: a token, a
cancel, the engine's first welcome. All of it has one deadline, up to the wait for the database, which has the borrow
timeout; what a client may send before it is known is limited to a few kilobytes. Messages are those of RDS Proxy.
Sources: PostgreSQL documentation 55.2.1, 55.2.10; RDS user guide, "RDS Proxy: connecting".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from mainstay.model.proxy import ProxyUser
from mainstay.protocol.postgres import kinds, wire
from mainstay.protocol.postgres.packets import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage
from mainstay.protocol.postgres.startup import MINOR_NEWEST, first_packet
from mainstay.protocol.postgres.wire import HEADER_BYTES, WireError
from mainstay.proxy.authentication import Exchange, Refused, exchange, no_credentials, wrong_token
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.session import ClientSession
from mainstay.proxy.state import brought
from mainstay.proxy.streams import Poller, Stream
from mainstay.proxy.transport import DirectReceiver

if TYPE_CHECKING:
    from mainstay.proxy.listener import Listener
    from mainstay.proxy.pool import Pool

LOGIN_TIMEOUT_S: Final = 30.0
PASSWORD_BYTES_MAX: Final = 64 * 1024
LONG_KEY_BYTES: Final = 32
ALPN: Final = "postgresql"
_LET_IN: Final = wire.authentication(0)
_READY: Final = wire.ready_for_query(b"I")
_CLIENT_HELLO: Final = 0x16
"""The first byte of TLS (RFC 8446, 5.1), and of no other first packet that is short enough."""

# What is expected of the client.
_FIRST_PACKET: Final = 0
_PROOF: Final = 1
_NOTHING: Final = 2
"""Others are asked; what the client sends meanwhile is for the session."""

_OVER: Final = 3

log = structlog.get_logger()
VerifyToken = Callable[[str, ProxyUser, "Listener"], Awaitable[bool]]


class Login(DirectReceiver):
    """A connection until it is a session; then the stream is the session's."""

    def __init__(self, listener: Listener, poller: Poller, fd: int, address: str) -> None:
        self.deadline_at = monotonic() + LOGIN_TIMEOUT_S
        self._listener = listener
        self._stream = Stream(poller, fd, self)
        self._data = b""
        self._expected = _FIRST_PACKET
        self._secure = False
        self._end_point = b""
        """The hash of the certificate that the client has seen; b"" without TLS."""

        self._packet: StartupMessage | None = None
        self._user: ProxyUser | None = None
        self._exchange: Exchange | None = None
        """How it proves who it is; None: by a token."""

        self._session: ClientSession | None = None
        self._made: ClientSession | None = None
        """A session for it, as long as it has not proven who it is."""

        self._welcome = b""
        """What it is told when it is let in, if that is known before."""

        listener.arrived(self)
        if not listener.admits(address):
            self._refuse("28000", "no security group of this proxy lets this address in")

    # What the stream calls

    def data_received(self, data: bytes) -> None:
        """See `transport.Receiver`."""
        # Of an incomplete message at most `PASSWORD_BYTES_MAX` are here, so this costs little even byte by byte.
        self._data = self._data + data if self._data else data
        if len(self._data) > 2 * PASSWORD_BYTES_MAX:
            self.abort()
            return
        try:
            while self._advance():
                pass
        except Refused as refused:
            self._refuse(refused.sqlstate, str(refused))
        except WireError as error:
            self._refuse(error.sqlstate, str(error))

    def pause_writing(self) -> None:
        """A login writes little."""

    def resume_writing(self) -> None:
        """See `transport.Receiver`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See `transport.Receiver`."""
        self._expected = _OVER
        self._listener.known(self)
        session, self._session = self._session, None
        if session is not None:  # nobody is there for whom to wait for the database
            session.forsake()

    def abort(self) -> None:
        """Ends the connection."""
        self._expected = _OVER
        self._stream.abort()

    # Step by step

    def _advance(self) -> bool:
        """Takes one packet or message; whether there was one that is for the login. Raises `Refused` or `WireError`."""
        if self._expected == _FIRST_PACKET:
            return self._first_packet()
        if self._expected >= _NOTHING:
            return False
        body = self._password_message()
        if body is None:
            return False
        proof, user = self._exchange, self._user
        if proof is not None:
            answer = proof.answer(body)
            if proof.proven:
                self._enter(answer)
            else:
                self._stream.write(answer)
                proof.prepare()
                self._prepare()
        elif user is not None:
            self._expected = _NOTHING
            self._listener.spawn(self._verify(body.rstrip(b"\0").decode(errors="replace"), user))
        return True

    def _password_message(self) -> bytes | None:
        data = self._data
        if len(data) < HEADER_BYTES:
            return None
        end = wire.end_of(data, 0)
        if data[0] != kinds.PASSWORD or not HEADER_BYTES <= end <= PASSWORD_BYTES_MAX:
            raise WireError("expected a message of type 'p'")
        if len(data) < end:
            return None
        self._data = data[end:]
        return data[HEADER_BYTES:end]

    def _first_packet(self) -> bool:
        data = self._data
        if not self._secure and data and data[0] == _CLIENT_HELLO:  # direct TLS (55.2.11)
            self._data = b""
            self._start_tls(data, ALPN)
            return False
        found = first_packet(data)
        if found is None:
            return False
        packet, length = found
        self._data = data[length:]
        if isinstance(packet, StartupMessage):
            self._begin(packet)
        elif isinstance(packet, CancelRequest):
            self._expected = _NOTHING
            self._listener.spawn(self._cancel(packet))
        elif self._data:  # what came before the answer would be taken for sent inside TLS (CVE-2021-23214)
            raise Refused("08P01", "received unencrypted data after SSL request")
        elif isinstance(packet, GSSENCRequest) or self._secure:
            self._stream.write(b"N")
        elif isinstance(packet, SSLRequest):
            self._stream.write(b"S")
            self._start_tls()
        return bool(self._data)

    def _start_tls(self, received: bytes = b"", alpn: str = "") -> None:
        """With the certificate that the listener has now; it may have another one before the proof comes."""
        self._secure, self._end_point = True, self._listener.end_point
        self._stream.start_tls(self._listener.tls, received, alpn=alpn)

    async def _cancel(self, packet: CancelRequest) -> None:
        await self._listener.cancel(packet)
        self._expected = _OVER
        self._stream.close()

    def _begin(self, packet: StartupMessage) -> None:
        """Asks for the proof."""
        listener = self._listener
        if packet.replication:
            raise Refused(
                "0A000", "Feature not supported: RDS Proxy currently doesn't support streaming replication mode."
            )
        if listener.require_tls and not self._secure:
            raise Refused("28000", "This RDS Proxy requires TLS connections.")
        before = b""
        if packet.minor > MINOR_NEWEST or packet.refused:
            before = wire.negotiate_protocol_version(min(packet.minor, MINOR_NEWEST), packet.refused)
        if listener.read_only:
            settings = {"default_transaction_read_only": "on", **packet.settings}
            packet = msgspec.structs.replace(packet, settings=settings)
        user = listener.user(packet.user)
        self._packet, self._user, self._expected = packet, user, _PROOF
        if user is None or not user.iam_required:
            self._exchange = proof = exchange(packet.user, user, self._end_point)
            self._stream.write(before + proof.begin())
            proof.prepare()
        elif self._secure:
            self._stream.write(before + wire.authentication(3))
        else:
            raise Refused("28000", "IAM authentication is allowed only with SSL connections.")

    async def _verify(self, token: str, user: ProxyUser) -> None:
        allowed = await self._listener.verify_token(token, user, self._listener)
        if self._expected == _OVER:
            return
        if allowed:
            self._enter(b"")
        else:
            refused = wrong_token(user.username)
            self._refuse(refused.sqlstate, str(refused))

    # In, or out

    def _prepare(self) -> None:
        """Makes what the client gets when it has proven who it is, while it still computes the proof, which takes it
        milliseconds. Only for a pool that is there: who is not known yet must not have one made.
        """
        packet, user = self._packet, self._user
        if packet is not None and user is not None:
            pool = self._listener.present_pool(user, packet.database)
            if pool is not None:
                self._make(pool, packet)

    def _make(self, pool: Pool, packet: StartupMessage) -> ClientSession:
        """A session that nobody knows of yet."""
        listener = self._listener
        settings = brought(tuple([one for one in packet.settings.items()]))
        number, secret = listener.new_key(LONG_KEY_BYTES if packet.minor >= MINOR_NEWEST else 4)
        self._made = session = ClientSession(pool, self._stream, settings, number, secret, listener.name)
        told = pool.welcome.told(packet.settings)
        self._welcome = _welcome(session, told) if told else b""
        return session

    def _enter(self, answer: bytes) -> None:
        """Makes it a session. `answer` is the last word of the proof."""
        packet, user, listener = self._packet, self._user, self._listener
        if packet is None or user is None:
            raise no_credentials("" if packet is None else packet.user)
        self._expected = _NOTHING
        pool = listener.pool(user, packet.database)
        session, self._made = self._made, None
        if session is None or session.pool is not pool:
            session = self._make(pool, packet)
        session.last_request_at = pool.now()
        if self._welcome:
            self._greet(session, answer + self._welcome)
        else:
            if answer:
                self._stream.write(answer)
            listener.known(self)
            self._session = session
            session.learn_parameters(self._learned)

    def _learned(self, found: dict[str, str] | LoginFailed) -> None:
        """What the engine reports to this session, or why it lets it not in."""
        session = self._session
        if session is None or self._packet is None:
            return
        if isinstance(found, LoginFailed):
            self._refuse(found.sqlstate, str(found))
        else:
            self._greet(session, _welcome(session, session.pool.welcome.learn_with(self._packet.settings, found)))

    def _greet(self, session: ClientSession, welcome: bytes) -> None:
        """The client, which waits for this, is told first; it is heard when all is in its place."""
        self._session, self._expected = None, _OVER
        self._stream.write(welcome)
        self._stream.set_protocol(session)
        self._listener.known(self)
        self._listener.entered(session)
        if self._data:
            session.data_received(self._data)

    def _refuse(self, sqlstate: str, text: str) -> None:
        listener = self._listener
        self._expected = _OVER
        listener.known(self)
        session, self._session = self._session, None
        if session is not None:
            session.forsake()
        listener.metrics.add("ClientConnectionsSetupFailedAuth")
        log.info("proxy.client_refused", proxyEndpoint=listener.name, reason=text)
        self._stream.write(wire.error_response(sqlstate, text, severity="FATAL"))
        self._stream.close()


def _welcome(session: ClientSession, told: bytes) -> bytes:
    """All that a client gets when it is let in. `told`: the engine's parameters."""
    key = wire.backend_key_data(session.number, session.secret)
    return b"".join((_LET_IN, told, key, _READY))
