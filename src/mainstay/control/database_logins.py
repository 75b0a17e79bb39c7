"""Where engines ask about IAM logins: an LDAP server, on loopback, that knows simple binds and nothing else.

The bind's name is "dbuser:<DbiResourceId>/<user>", its password the token. Both sides show a certificate of the
service's authority: the engine sends a token to nobody who only took the port, and an instance's engine can ask about
that instance alone; other users of the machine can ask nothing. Limits: `CONNECTIONS_MAX` at once, of which the oldest
that has not shown its certificate makes room for a new one; `LOGIN_TIMEOUT_S` from connection to answer; one bind.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import structlog

from mainstay.control.database_tokens import DatabaseTokens, Verdict, endpoint_of
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.clock import Clock
from mainstay.host.files import write_atomically
from mainstay.host.randomness import Randomness
from mainstay.model.database_logins import LoginListener
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import MainstayError, Permanent
from mainstay.protocol.ldap import VERSION, BindRequest, LdapError, MessageReader, ResultCode, bind_response
from mainstay.services.iam.database_tokens import TOKEN_CHARACTERS_MAX
from mainstay.services.rds.refresh import request_refresh_in
from mainstay.settings import Settings
from mainstay.store import Store

ADDRESS = "127.0.0.1"
NAME_PREFIX = b"dbuser:"
MESSAGE_BYTES_MAX = TOKEN_CHARACTERS_MAX + 1024
"""The longest token and a name: an instance's id and a user name of 63 bytes."""

CHUNK_BYTES = 16 * 1024
CONNECTIONS_MAX = 256
LOGIN_TIMEOUT_S = 5.0
GOODBYE_TIMEOUT_S = 1.0
DIAGNOSTIC_CHARACTERS_MAX = 512
CERTIFICATE_AGE_MAX_S = 30 * 24 * 3600.0
PORTS = (10_000, 32_767)
"""Below the range that Linux takes ports of outgoing connections from, so that none sits on ours while we restart."""

PORT_ATTEMPTS = 100
TAKEN_RETRIES, TAKEN_PAUSE_S = 10, 0.2
log = structlog.get_logger()


class DatabaseLogins:
    """The listener. Its port is chosen at the first start and kept; a port that is taken is replaced everywhere."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        randomness: Randomness,
        authorities: CertificateAuthorities,
        tokens: DatabaseTokens,
    ) -> None:
        self._directory: Path = settings.home / "control"
        self._scope = LoginListener.scope_of(settings.account_id)
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self._authorities = authorities
        self._tokens = tokens
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None
        self._tls_made_at = 0.0
        self._strangers: dict[asyncio.Task[None], None] = {}  # oldest first
        self._known: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens. When no port can be had the rest of the service goes on without IAM logins."""
        try:
            listener = await self._listen()
        except Permanent as error:
            log.error("database_logins.not_listening", error=error.message)
            return
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))
        log.info("database_logins.listening", port=listener.getsockname()[1])

    async def stop(self) -> None:
        """Drops every connection."""
        tasks = [*self._strangers, *self._known]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    async def _listen(self) -> socket.socket:
        kept = self._store.view().get(LoginListener, self._scope, "current")
        if kept is not None:
            for _ in range(TAKEN_RETRIES):
                if (listener := _bound(kept.port)) is not None:
                    return listener
                await asyncio.sleep(TAKEN_PAUSE_S)
            log.error("database_logins.port_taken", port=kept.port)
        for _ in range(PORT_ATTEMPTS):
            port = PORTS[0] + self._randomness.below(PORTS[1] - PORTS[0] + 1)
            if (listener := _bound(port)) is not None:
                self._remember(kept, port)
                return listener
        raise Permanent(f"no TCP port of {ADDRESS} from {PORTS[0]} to {PORTS[1]} can be listened on")

    def _remember(self, kept: LoginListener | None, port: int) -> None:
        """Keeps the port, and has it told to every engine that asks here."""
        record = LoginListener(scope=self._scope, port=port)
        with self._store.transaction() as tx:
            if kept is None:
                tx.insert(record)
            else:
                tx.put(record)
            for instance in tx.scan(DBInstance):
                if instance.iam_database_authentication_enabled:
                    request_refresh_in(tx, self._clock.wall(), instance)

    def _context(self) -> ssl.SSLContext:
        """Our side of TLS, with a certificate that is never old."""
        now = self._clock.wall()
        if self._tls is None or not 0 <= now - self._tls_made_at < CERTIFICATE_AGE_MAX_S:
            issued, _valid_till = self._authorities.issue((), (ADDRESS,))
            certificate, key = (self._directory / f"database-logins.{end}" for end in ("crt", "key"))
            write_atomically(certificate, issued.certificate_pem.encode())
            write_atomically(key, issued.private_key_pem.encode())
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(cadata=self._authorities.bundle_pem)
            context.verify_mode = ssl.CERT_REQUIRED
            self._tls, self._tls_made_at = context, now
        return self._tls

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _peer = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:  # no descriptors left, most likely
                log.error("database_logins.not_accepted", error=str(error))
                await asyncio.sleep(TAKEN_PAUSE_S)
                continue
            if not self._make_room():
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection))
            self._strangers[task] = None
            task.add_done_callback(self._forget)

    def _make_room(self) -> bool:
        """Whether one more connection can be had; the longest unidentified one goes for it."""
        if len(self._strangers) + len(self._known) < CONNECTIONS_MAX:
            return True
        oldest = next(iter(self._strangers), None)
        if oldest is None:
            return False
        del self._strangers[oldest]
        oldest.cancel()
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
        self._known.discard(task)

    async def _serve(self, connection: socket.socket) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                reader, writer = await _identified(connection, self._context())
                self._recognise()
                await self._answer(reader, writer)
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                    await reader.read(CHUNK_BYTES)
        except (OSError, EOFError, LdapError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            log.info("database_logins.dropped", error=f"{type(error).__name__}: {error}"[:DIAGNOSTIC_CHARACTERS_MAX])
        finally:
            if writer is not None:
                writer.transport.abort()
            connection.close()

    def _recognise(self) -> None:
        """The connection of this task has shown its certificate."""
        task = asyncio.current_task()
        if task is not None and task in self._strangers:
            del self._strangers[task]
            self._known.add(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        messages = MessageReader(MESSAGE_BYTES_MAX)
        while True:
            data = await reader.read(CHUNK_BYTES)
            if not data:
                return
            for request in messages.feed(data):
                if isinstance(request, BindRequest):
                    code, reason = self._bind(request, _addresses(writer))
                    writer.write(bind_response(request.message_id, code, reason[:DIAGNOSTIC_CHARACTERS_MAX]))
                    await writer.drain()
                return

    def _bind(self, request: BindRequest, addresses: frozenset[str]) -> tuple[ResultCode, str]:
        if request.version != VERSION:
            return ResultCode.PROTOCOL_ERROR, f"only version {VERSION} is spoken here"
        if not request.simple:
            return ResultCode.AUTH_METHOD_NOT_SUPPORTED, "only simple binds are taken"
        try:
            resource_id, _, username = request.name.removeprefix(NAME_PREFIX).decode().partition("/")
            token = request.password.decode("ascii")
        except UnicodeDecodeError:
            return ResultCode.INVALID_CREDENTIALS, "the user name is not UTF-8, or the token not ASCII"
        if not request.name.startswith(NAME_PREFIX) or not self._is_asked_by(resource_id, addresses):
            log.warning("database_logins.wrong_engine", name=request.name[:128], addresses=sorted(addresses))
            return ResultCode.INVALID_CREDENTIALS, "this engine cannot ask about that DB instance"
        verdict: Verdict = self._tokens.at_instance(resource_id, username, token)
        return (ResultCode.SUCCESS if verdict.allowed else ResultCode.INVALID_CREDENTIALS), verdict.reason

    def _is_asked_by(self, dbi_resource_id: str, addresses: frozenset[str]) -> bool:
        """Whether the certificate with these addresses is one of this instance's."""
        view = self._store.view()
        try:
            found = view.find(DBInstance, None, "dbi-resource-id", dbi_resource_id)
        except MainstayError:
            return False
        return any(host in addresses for instance in found for host, _port in endpoint_of(view, instance))


async def _identified(
    connection: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The connection under TLS, once both sides have shown a certificate. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2 * MESSAGE_BYTES_MAX)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, connection, ssl=context, ssl_handshake_timeout=LOGIN_TIMEOUT_S
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _addresses(writer: asyncio.StreamWriter) -> frozenset[str]:
    """The addresses in the certificate that the peer has shown and the authority has signed."""
    shown = writer.get_extra_info("ssl_object").getpeercert() or {}
    return frozenset(value for kind, value in shown.get("subjectAltName", ()) if kind == "IP Address")


def _bound(port: int) -> socket.socket | None:
    """A socket that listens on the port, None when it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
    except OSError:
        listener.close()
        return None
    return listener
