"""One client: its bytes go to a server connection that it owns for a transaction, or as long as it must.

Messages are forwarded as they came; only names of prepared statements are replaced by ours. A session without a server
connection asks the pool for one when it sends something that needs one, and gives it back when the answer to the last
request is through, no transaction is open and nothing pins it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from mainstay.protocol.postgres import kinds, wire
from mainstay.protocol.postgres.effects import SETTINGS_CHANGED, TEMPORARY, makes_temporary
from mainstay.protocol.postgres.wire import HEADER_BYTES, WireError
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.expected import CALL, EXECUTE, QUERY, SYNC, Expected
from mainstay.proxy.requests import Requests
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.state import STATE_LEFT, SessionState, Settings, difference
from mainstay.proxy.streams import Stream
from mainstay.proxy.transport import DirectReceiver, Transport

if TYPE_CHECKING:
    from mypy_extensions import i64

    from mainstay.proxy.pool import Pool

BACKLOG_BYTES_MAX: Final = 262144
"""What a client may send ahead while it waits for a connection, before we stop reading from it."""

LONG_BYTES: Final = 65536
MESSAGE_BYTES_MAX: Final = 268435456
"""The longest message that is kept whole. Rows and COPY data are streamed and have no such limit."""

_COMMITS = re.compile(rb"(?:\A|;|\*/|\n|\r)[ \t\f\v]*(?:commit|end|prepare\s+transaction)\b", re.IGNORECASE)

log = structlog.get_logger()


class ClientSession(DirectReceiver):
    """A logged-in client; `login.py` brings it here."""

    def __init__(
        self, pool: Pool, transport: Transport, settings: Settings, number: int, secret: bytes, endpoint: str
    ) -> None:
        self.pool = pool
        self.transport = transport
        self._stream = transport if isinstance(transport, Stream) else None
        self.number = number
        self.secret = secret
        self.endpoint = endpoint
        self.state = SessionState(settings)
        self.state.lasting = pool.strict
        self.server: ServerConnection | None = None
        self.status = kinds.IDLE
        self.last_request_at = pool.now()
        """When it has last sent something, or been answered, to about a quarter of a second."""

        self.waiting = False
        self.asking = False
        self.closed = False
        self._told: Callable[[dict[str, str] | LoginFailed], None] | None = None
        self._pending: bytes | bytearray = b""
        self._wanted = 0
        self._backlog = b""
        self._skip = 0
        self.requests = Requests(self)
        self._skipping = False
        self._lost_transaction = False
        self._write_paused = False
        self._reading_paused = False

    @property
    def idle(self) -> bool:
        """Whether it is the client's turn: it waits for nothing, though it may have a transaction open."""
        return not self.waiting and (self.server is None or not self.server.expected)

    @property
    def activity(self) -> str:
        """In a word, for people."""
        if self.waiting:
            return "waiting"
        if self.server is None:
            return "idle"
        if self.server.expected:
            return "active"
        return "pinned" if self.status == kinds.IDLE else "in transaction"

    # Before the client is let in

    def learn_parameters(self, told: Callable[[dict[str, str] | LoginFailed], None]) -> None:
        """Tells, now or later, what a server connection with this session's settings reports, or why there is none."""
        self._told = told
        if self._acquire():
            self.maybe_release()

    def _tell(self, found: dict[str, str] | LoginFailed) -> bool:
        """What was to be learnt; whether somebody wanted to know it."""
        told, self._told = self._told, None
        if told is not None:
            told(found)
        return told is not None

    def forsake(self) -> None:
        """The client was not let in; nothing of the session is left."""
        self.closed = True
        self._told = None
        server, self.server = self.server, None
        if server is not None:
            server.owner = None
            self.pool.abandoned(server, dirty=False, started=False)
        self.pool.left(self)

    # The client's bytes

    def data_received(self, data: bytes) -> None:
        """See `transport.Receiver`."""
        self.last_request_at = self.pool.target.looked_at
        if self.waiting or self.asking:
            self._backlog += data
            if len(self._backlog) > BACKLOG_BYTES_MAX:
                self.pause_reading()
            return
        if self._pending:
            self._pending += data
            if len(self._pending) < self._wanted:
                return
            data, self._pending = bytes(self._pending), b""
        try:
            self._consume(data)
        except WireError as error:
            self.fail(error.sqlstate, str(error))

    def _consume(self, data: bytes) -> None:
        """Every complete message of `data`; what is left waits in `_pending` or, for want of a server, `_backlog`."""
        position: i64 = 0
        start: i64 = 0
        size: i64 = len(data)
        out: list[bytes] = []
        self._wanted = 0
        if self._skip:
            position = min(self._skip, size)
            self._skip -= position
            start = position if self.server is None else 0
        while size - position >= 5:
            kind: i64 = data[position]
            end = wire.end_of(data, position)
            if (end > size or end < position + HEADER_BYTES) and not self._streams(kind, position, end):
                self._wanted = end - position
                break
            if kind == kinds.TERMINATE:
                self.close()
                return
            if self.server is None and not self._needs_no_server(kind, data, position, end) and not self._acquire():
                self._backlog = data[position:]
                return
            if self.server is None or self._skipping:
                if self._skipping and kind == kinds.SYNC:
                    self._skipping = False
                    self.write(wire.ready_for_query(b"I"))
                start = min(end, size)
            else:
                start = self.requests.note(self.server, kind, data, start, position, end, out)
            position = end
            if end > size:  # COPY data is passed on as it comes
                self._skip, position = end - size, size
        if position < size:
            self._pending = bytearray(data[position:]) if self._wanted > LONG_BYTES else data[position:]
        else:
            self._pending = b""
        self._forward(data, start, position, out)

    def _streams(self, kind: i64, position: i64, end: i64) -> bool:
        """Whether a message that is not complete is passed on in pieces. Raises `WireError` for impossible lengths."""
        if end < position + HEADER_BYTES:
            raise WireError("invalid message length")
        if end - position > MESSAGE_BYTES_MAX and kind != kinds.COPY_DATA:
            raise WireError(f"a message is longer than {MESSAGE_BYTES_MAX} bytes", "54000")
        return kind == kinds.COPY_DATA

    def _forward(self, data: bytes, start: i64, end: i64, out: list[bytes]) -> None:
        server = self.server
        if server is None:
            return
        if not out:
            if start < end:
                server.write(data if end - start == len(data) else data[start:end])
        else:
            if start < end:
                out.append(data[start:end])
            server.write(out[0] if len(out) == 1 else b"".join(out))
        if not server.expected and not self._pending and not self._skip:
            self.maybe_release()

    def _needs_no_server(self, kind: i64, data: bytes, position: i64, end: i64) -> bool:
        """What needs none: a lone Sync or Flush, rests of a COPY that failed."""
        if self._lost_transaction and (kind == kinds.SYNC or kind in kinds.REQUESTS):
            return self._tell_lost_transaction(kind, data[position + 5 : end])
        if self._skipping:
            return True
        if kind == kinds.QUERY or kind == kinds.BIND or kind in kinds.REQUESTS:
            return False
        if kind == kinds.SYNC:
            self.write(wire.ready_for_query(b"I"))
            return True
        if kind == kinds.FLUSH or kind in kinds.COPY:
            return True
        raise WireError(f"unexpected message type {chr(kind)!r}")

    def _tell_lost_transaction(self, kind: i64, body: bytes) -> bool:
        """The first request after the transaction's connection was lost between two of its statements."""
        self._lost_transaction = False
        if kind == kinds.QUERY and body.strip(b"\0 ;\n").upper() in (b"ROLLBACK", b"ABORT"):
            self.write(wire.message(b"C", b"ROLLBACK\0") + wire.ready_for_query(b"I"))
            return True
        self.write(
            wire.error_response(
                "08006", "The database connection of this transaction was lost; the transaction was rolled back."
            )
        )
        if kind in (kinds.QUERY, kinds.FUNCTION_CALL, kinds.SYNC):
            self.write(wire.ready_for_query(b"I"))
        else:
            self._skipping = True
        return True

    # The server connection

    def _acquire(self) -> bool:
        """Asks the pool; True if there is a connection at once."""
        server = self.pool.acquire(self)
        if server is None:
            self.waiting = True
            return False
        self._take(server)
        return True

    def granted(self, server: ServerConnection) -> None:
        """The pool's answer, later: what was sent meanwhile goes on."""
        self.waiting = False
        self._take(server)
        self._go_on()
        self.maybe_release()

    def refused(self, sqlstate: str, text: str) -> None:
        """There was no connection in time: each request that waits is answered so."""
        self.waiting = False
        if self._tell(LoginFailed(sqlstate, text)):
            return
        data, self._backlog = self._backlog, b""
        self._refuse(data, sqlstate, text)
        self.resume_reading()

    def _refuse(self, data: bytes, sqlstate: str, text: str) -> None:
        position = 0
        told = False
        while len(data) - position >= 5:
            kind = data[position]
            end = wire.end_of(data, position)
            if end > len(data):
                break
            if kind == kinds.TERMINATE:
                self.close()
                return
            if kind in (kinds.QUERY, kinds.FUNCTION_CALL):
                self.write(wire.error_response(sqlstate, text) + wire.ready_for_query(b"I"))
            elif kind == kinds.SYNC:
                self.write((b"" if told else wire.error_response(sqlstate, text)) + wire.ready_for_query(b"I"))
                told = False
            elif kind in (kinds.PARSE, kinds.BIND, kinds.DESCRIBE, kinds.EXECUTE, kinds.CLOSE) and not told:
                self.write(wire.error_response(sqlstate, text))
                told = True
            position = end
        self._skipping = told
        self._pending = data[position:]

    def _take(self, server: ServerConnection) -> None:
        self.server = server
        server.owner = self
        if self._write_paused:
            server.pause_reading()
        if server.applied_version is not self.state.version:
            if makes_temporary(self.state.settings.get("search_path", b"")):  # it came with the startup packet
                self._pin(TEMPORARY, probe=True)
            sql = difference(server.applied, self.state.settings, self.pool.target.init_query, bare=server.bare)
            server.applied, server.applied_version, server.bare = self.state.settings, self.state.version, False
            if sql:
                server.ask(sql, "settings")
        if server.misleads:
            self.misread()

    def _go_on(self) -> None:
        data = bytes(self._pending) + self._backlog if self._pending else self._backlog
        self._backlog = self._pending = b""
        self.resume_reading()
        if data:
            try:
                self._consume(data)
            except WireError as error:
                self.fail(error.sqlstate, str(error))

    def maybe_release(self) -> None:
        """Everything is answered and no transaction is open: the connection goes back unless something pins it."""
        server = self.server
        if server is None or server.expected or server.status != kinds.IDLE or self._skip or self.requests.batch_open:
            return
        self.requests.transaction_ended()
        state = self.state
        state.reads_anew = False
        if state.pins:
            if self._told is not None:  # what the client brings pins it before it is let in
                self._tell(dict(server.parameters))
            if server.applied != state.settings:  # a RESET has brought the engine's defaults, not this client's
                self._take(server)
            if state.probeable and state.may_unpin and not self.asking:
                state.may_unpin = False
                self.asking = True
                server.ask(STATE_LEFT, "state-left")
            return
        if self._pending:
            return
        self.server = None
        server.owner = None
        if self._write_paused:  # this client reads slowly; the next one must not suffer from it
            server.resume_reading()
        learned = None if self._told is None else dict(server.parameters)
        self.pool.release(server)
        if learned is not None:
            self._tell(learned)

    def misread(self) -> None:
        """The engine sees, or may see, other statements in a text than we do."""
        self._pin(SETTINGS_CHANGED, probe=False)

    def _pin(self, reason: str, *, probe: bool) -> None:
        if self.state.pin(reason, probe=probe):
            self.pool.pinned(self, reason)

    def state_left(self, some: bool) -> None:
        """The engine has counted what would pin the session."""
        self.asking = False
        if not some:
            self.state.unpin()
            self.pool.unpinned(self)
        self._go_on()
        self.maybe_release()

    def settings_refused(self, error: LoginFailed) -> None:
        """The server connection does not take this session's settings: the request fails with the database's words."""
        server = self.server
        if server is not None:
            self.server, server.owner, self.requests.batch_open = None, None, False
            pending = [one for one in server.expected.entries() if not one.swallow]
            server.close()
            if self._tell(LoginFailed(error.sqlstate, f"Request returned an error: {error}")):
                return
            self._answer_lost(pending, error.sqlstate, str(error))

    def server_lost(self, server: ServerConnection, reason: str) -> None:
        """One clear error for what was under way; the session goes on if its protocol allows it."""
        self.server = None
        batch_open = self.requests.batch_open
        self.asking = self.requests.batch_open = False
        log.info("proxy.server_lost", client=self.number, reason=reason, open=chr(server.status))
        if self._tell(LoginFailed("08006", f"Request returned an error: {reason}")):
            return
        pending = [one for one in server.expected.entries() if not one.swallow]
        unknown = bool(pending) and (server.status == kinds.IDLE or _may_commit(self.requests.last, pending))
        if self.state.pins:
            words = "; whether the statement took effect is not known" if unknown else ""
            sqlstate = "08007" if unknown else "57P01"
            self.fail(sqlstate, f"The pinned database connection of this session was lost: {reason}{words}.")
            return
        if server.mid_message or self._skip:
            self.transport.abort()
            return
        if not pending:
            self.requests.lost()
            self._lost_transaction = server.status != kinds.IDLE or batch_open
            self._go_on()
            return
        if unknown:
            self._answer_lost(pending, "08007", f"{reason}; whether the statement took effect is not known")
        else:
            self._answer_lost(pending, "08006", f"{reason}; the transaction was rolled back")
        self._go_on()

    def _answer_lost(self, pending: list[Expected], sqlstate: str, text: str) -> None:
        self.write(wire.error_response(sqlstate, text))
        ends = [one for one in pending if one.kind in (QUERY, SYNC, CALL)]
        self.requests.lost()
        for index, _one in enumerate(ends):
            self.write((wire.error_response(sqlstate, text) if index else b"") + wire.ready_for_query(b"I"))
        self._skipping = not ends or pending[-1].kind not in (QUERY, SYNC, CALL)

    # The end, and the flow of bytes

    def write(self, data: bytes) -> None:
        """To the client."""
        if self.closed:
            return
        stream = self._stream
        if stream is not None:
            stream.write(data)
        else:
            self.transport.write(data)

    def fail(self, sqlstate: str, text: str) -> None:
        """Ends the session with a reason."""
        self.write(wire.error_response(sqlstate, text, severity="FATAL"))
        self.close()

    def close(self) -> None:
        """Ends the session; its server connection is cleaned and goes back, or is closed."""
        if self.closed:
            return
        self.closed = True
        stream = self._stream
        if stream is not None:
            stream.close()
        elif not self.transport.is_closing():
            self.transport.close()
        server, self.server = self.server, None
        if server is not None:
            server.owner = None
            server.retired = server.retired or self.state.stained
            if self._write_paused:
                server.resume_reading()
            self.pool.abandoned(
                server, dirty=bool(self.state.pins), started=bool(self._skip) or self.requests.batch_open
            )
        self.pool.left(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `transport.Receiver`."""
        self.close()

    def pause_writing(self) -> None:
        """See `transport.Receiver`."""
        self._write_paused = True
        if self.server is not None:
            self.server.pause_reading()

    def resume_writing(self) -> None:
        """See `transport.Receiver`."""
        self._write_paused = False
        if self.server is not None:
            self.server.resume_reading()

    def pause_reading(self) -> None:
        """The server does not take what the client sends as fast as it comes."""
        self._reading_paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """It does again."""
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()


def _may_commit(last: bytes, pending: list[Expected]) -> bool:
    """Whether a transaction's end may be among the requests: its last text is known, earlier ones are not."""
    requests = sum(1 for one in pending if one.kind in (QUERY, SYNC, CALL))
    return requests > 1 or sum(1 for one in pending if one.kind == EXECUTE) > 1 or _COMMITS.search(last) is not None
