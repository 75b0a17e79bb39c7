"""Letting a client in: the first packets, TLS, the password or the token, and the welcome of a real server.

Every step has its share of one deadline; what a client may send before it is known is limited to a few kilobytes.
Messages are those of RDS Proxy. Sources: PostgreSQL documentation 55.2.1, 55.2.10; RDS user guide, "RDS Proxy:
connecting".
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog

from mainstay.model.proxy import ClientPasswordAuthType, ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.scram import (
    ITERATIONS,
    SCRAM,
    SCRAM_PLUS,
    ScramError,
    ScramServer,
    Verifier,
    md5_password,
    verifier,
)
from mainstay.protocol.postgres.startup import (
    MINOR_NEWEST,
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    first_packet,
)
from mainstay.protocol.postgres.wire import WireError
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.loop import running_poller
from mainstay.proxy.pool import Pool
from mainstay.proxy.session import ClientSession
from mainstay.proxy.state import Settings, setting_sql
from mainstay.proxy.streams import Stream

if TYPE_CHECKING:
    from mainstay.proxy.service import Listener

LOGIN_TIMEOUT_S = 30.0
HANDSHAKE_TIMEOUT_S = 10.0
PASSWORD_BYTES_MAX = 64 * 1024
LONG_KEY_BYTES = 32
APPLICATION_NAME_MAX = 63
"""The engine cuts it there (NAMEDATALEN)."""

MOCK_SALT = secrets.token_bytes(16)

log = structlog.get_logger()
VerifyToken = Callable[[str, ProxyUser, "Listener"], Awaitable[bool]]


class Refused(Exception):
    """The client is told why and must go."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class Login:
    """A connection until it is a session; then the transport is the session's."""

    def __init__(self, listener: Listener, connection: socket.socket) -> None:
        self._listener = listener
        self._transport = Stream(running_poller(), connection, self)
        self._data = bytearray()
        self._arrived = asyncio.Event()
        self._gone = False
        self._secure = False
        self._entering = False
        listener.arrived(self)
        self._task = asyncio.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        """See `transport.Receiver`."""
        self._data += data
        if len(self._data) > 2 * PASSWORD_BYTES_MAX:
            self._transport.abort()
        self._arrived.set()

    def pause_writing(self) -> None:
        """A login writes little."""

    def resume_writing(self) -> None:
        """See `transport.Receiver`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See `transport.Receiver`."""
        self._gone = True
        self._arrived.set()
        if self._entering:
            self._task.cancel()  # nobody is there for whom to wait for the database

    def abort(self) -> None:
        """Ends the connection."""
        self._transport.abort()

    async def _run(self) -> None:
        listener = self._listener
        listener.metrics.add("ClientConnectionsReceived")
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                if not listener.admits(self._peer()):
                    raise Refused("28000", "no security group of this proxy lets this address in")
                known = await self._identify()
            listener.known(self)
            if known is not None and not self._gone:
                self._entering = True
                await self._enter(*known)
        except (Refused, WireError) as error:
            listener.metrics.add("ClientConnectionsSetupFailedAuth")
            log.info("proxy.client_refused", proxyEndpoint=listener.name, reason=str(error))
            if not self._gone:
                self._transport.write(wire.error_response(error.sqlstate, str(error), severity="FATAL"))
                self._transport.close()
        except (TimeoutError, ConnectionError, ssl.SSLError):
            self._transport.abort()
        finally:
            listener.known(self)

    def _peer(self) -> str:
        peer = self._transport.peer()
        return "127.0.0.1" if peer is None else peer[0]

    async def _identify(self) -> tuple[StartupMessage, ProxyUser] | None:
        """Who it is and what it wants; None if it wanted no session. Raises `Refused` or `WireError`."""
        packet = await self._first_packet()
        if packet is None:
            return None
        listener = self._listener
        if packet.replication:
            raise Refused(
                "0A000", "Feature not supported: RDS Proxy currently doesn't support streaming replication mode."
            )
        if listener.require_tls and not self._secure:
            raise Refused("28000", "This RDS Proxy requires TLS connections.")
        if packet.minor > MINOR_NEWEST or packet.refused:
            minor = min(packet.minor, MINOR_NEWEST)
            self._transport.write(wire.negotiate_protocol_version(minor, packet.refused))
        user = listener.user(packet.user)
        await self._authenticate(packet.user, user)
        if user is None:
            raise Refused(
                "28P01",
                f"This RDS proxy has no credentials for the role {packet.user}. Check the credentials for this role and"
                " try again.",
            )
        return packet, user

    async def _enter(self, packet: StartupMessage, user: ProxyUser) -> None:
        """Makes it a session. Waits for the database no longer than the borrow timeout."""
        listener = self._listener
        pool = listener.pool(user, packet.database)
        settings: Settings = {name: setting_sql(name, value) for name, value in packet.settings.items()}
        number, secret = listener.new_key(LONG_KEY_BYTES if packet.minor >= MINOR_NEWEST else 4)
        session = ClientSession(pool, self._transport, settings, number, secret, listener.name)
        try:
            parameters = await self._welcome(pool, session, packet.settings)
        except BaseException:
            session.forsake()
            raise
        self._greet(parameters, session)

    def _greet(self, parameters: dict[str, str], session: ClientSession) -> None:
        told = _told(tuple(parameters.items()))
        key = wire.backend_key_data(session.number, session.secret)
        if self._gone:
            session.close()
            return
        self._entering = False
        self._listener.entered(session)
        self._transport.set_protocol(session)
        self._transport.write(wire.authentication(0) + told + key + wire.ready_for_query(b"I"))
        if self._data:
            data, self._data = bytes(self._data), bytearray()
            session.data_received(data)

    # First packets

    async def _first_packet(self) -> StartupMessage | None:
        while True:
            found = first_packet(self._data)
            if found is None:
                await self._more()
                continue
            packet, length = found
            del self._data[:length]
            if isinstance(packet, StartupMessage):
                return packet
            if isinstance(packet, CancelRequest):
                await self._listener.cancel(packet)
                self._transport.close()
                return None
            if self._data:  # bytes sent before the answer would be taken for bytes sent inside TLS (CVE-2021-23214)
                raise Refused("08P01", "received unencrypted data after SSL request")
            if isinstance(packet, GSSENCRequest) or self._secure:
                self._transport.write(b"N")
            elif isinstance(packet, SSLRequest):
                await self._start_tls()

    async def _start_tls(self) -> None:
        self._transport.write(b"S")
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            await self._transport.start_tls(self._listener.tls)
        self._secure = True

    async def _more(self) -> None:
        if self._gone:
            raise ConnectionError("the client left")
        self._arrived.clear()
        await self._arrived.wait()

    async def _message(self, kind: bytes) -> bytes:
        """The body of the next message, which must be of this type."""
        while True:
            if len(self._data) >= 5:
                length = int.from_bytes(self._data[1:5], "big")
                if self._data[:1] != kind or not 4 <= length <= PASSWORD_BYTES_MAX:
                    raise WireError(f"expected a message of type {kind.decode()!r}")
                if len(self._data) > length:
                    body = bytes(self._data[5 : length + 1])
                    del self._data[: length + 1]
                    return body
            await self._more()

    # Who it is

    async def _authenticate(self, name: str, user: ProxyUser | None) -> None:
        """Raises `Refused` unless the client knows what it must know. An unknown user is asked as any other is."""
        if user is not None and user.iam_required:
            await self._check_token(user)
        elif user is not None and user.client_password_auth_type is ClientPasswordAuthType.POSTGRES_MD5:
            await self._check_md5(user)
        else:
            await self._check_scram(name, user)

    async def _check_token(self, user: ProxyUser) -> None:
        if not self._secure:
            raise Refused("28000", "IAM authentication is allowed only with SSL connections.")
        self._transport.write(wire.authentication(3))
        body = await self._message(b"p")
        token = body.rstrip(b"\0").decode(errors="replace")
        if not await self._listener.verify_token(token, user, self._listener):
            raise Refused(
                "28P01",
                f"The IAM authentication failed for the role {user.username}. Check the IAM token for this role and"
                " try again.",
            )

    async def _check_md5(self, user: ProxyUser) -> None:
        salt = secrets.token_bytes(4)
        self._transport.write(wire.authentication(5, salt))
        answer = (await self._message(b"p")).rstrip(b"\0")
        if not hmac.compare_digest(answer, md5_password(user.username, user.password, salt).encode()):
            raise Refused("28P01", f"The password that was provided for the role {user.username} is wrong.")

    async def _check_scram(self, name: str, user: ProxyUser | None) -> None:
        end_point = self._listener.end_point if self._secure else b""
        offered = [SCRAM_PLUS, SCRAM] if end_point else [SCRAM]
        self._transport.write(wire.authentication(10, b"".join(map(wire.cstring, offered)) + b"\0"))
        body = await self._message(b"p")
        mechanism, position = wire.one_string(body)
        if mechanism.decode(errors="replace") not in offered:
            raise Refused("28000", "RDS supports only IAM, MD5, or SCRAM authentication.")
        # An unknown user gets a salt that is always the same, and can never prove anything.
        salt = _salt(name)
        if user is None:
            known = Verifier(salt, ITERATIONS, secrets.token_bytes(32), secrets.token_bytes(32))
        else:
            known = verifier(user.password, salt)
        server = ScramServer(known, secrets.token_urlsafe(18), end_point, plus=mechanism == SCRAM_PLUS.encode())
        try:
            self._transport.write(wire.authentication(11, server.first(body[position + 4 :])))
            final = server.final(await self._message(b"p"))
        except ScramError as error:
            if user is None:
                return  # told by the caller, in the words for it
            raise Refused("28P01", f"The password that was provided for the role {name} is wrong.") from error
        self._transport.write(wire.authentication(12, final))

    # The welcome

    async def _welcome(self, pool: Pool, session: ClientSession, asked: dict[str, str]) -> dict[str, str]:
        """What the engine would report to this client: asked of a real connection when it is not known.

        A client that brings settings gets them from a connection that was given these settings, so that it is told of
        their values as the engine writes them, or that it does not take them.
        """
        name = asked.get("application_name", "")
        if pool.welcome and not (set(asked) - {"application_name"}) and name.isascii() and name.isprintable():
            return pool.welcome | {key: name[:APPLICATION_NAME_MAX] for key in asked}
        end = pool.await_refusal(session.welcome_refused)
        try:
            return await session.learn_parameters()
        except LoginFailed as error:
            text = str(error)
            told = text.startswith(("Request returned", "Timed-out"))
            raise Refused(error.sqlstate, text if told else f"Request returned an error: {text}") from error
        finally:
            end()


@lru_cache(maxsize=256)
def _salt(name: str) -> bytes:
    return hmac.digest(MOCK_SALT, name.encode(), "sha256")[:16]


@lru_cache(maxsize=64)
def _told(parameters: tuple[tuple[str, str], ...]) -> bytes:
    return b"".join(wire.parameter_status(name, value) for name, value in parameters)
