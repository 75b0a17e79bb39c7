"""One connection to the database: its answers are carried to whichever client session owns it now.

Every request sent is an `Expected` in a queue, so that it is known of every answer whose it is: the client's, ours (to
be swallowed), or one that we give in the server's place. A connection is free when the queue is empty and the server
says that no transaction is open; nothing else counts (PostgreSQL documentation 55.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mainstay.protocol.postgres import kinds, wire
from mainstay.protocol.postgres.effects import DeallocateAll, DiscardAll, RollbackTo, misleads
from mainstay.protocol.postgres.wire import HEADER_BYTES, WireError
from mainstay.proxy.engine_login import LoginFailed
from mainstay.proxy.expected import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    PARSE,
    PLAIN_BIND,
    PLAIN_DESCRIBE,
    PLAIN_EXECUTE,
    PLAIN_PARSE,
    PLAIN_QUERY,
    PLAIN_SYNC,
    QUERY,
    SYNC,
    UNKNOWN,
    Expectations,
    Expected,
)
from mainstay.proxy.prepared import Prepared
from mainstay.proxy.server_link import ServerLink
from mainstay.proxy.state import Settings, applied, resets
from mainstay.proxy.statements import Statement

if TYPE_CHECKING:
    from mypy_extensions import i64

    from mainstay.proxy.pool import Pool
    from mainstay.proxy.session import ClientSession

OUT_OF_STEP = "the database sent an answer to something that was not asked"
_COMPLETES: Final = {kinds.PARSE_COMPLETE: PARSE, kinds.BIND_COMPLETE: BIND, kinds.CLOSE_COMPLETE: CLOSE}
_STALE_PLAN: Final = b"\0RRevalidateCachedQuery\0"
"""Where the engine reports "cached plan must not change result type", whatever the language of its messages."""

_STREAMED: Final = b"DdV"
"""Rows, COPY data and results of function calls can be long; they are passed on as they come."""


class ServerConnection(ServerLink):
    """A logged-in session of one user in one database."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.expected = Expectations()
        self.applied: Settings = {}
        self.applied_version: object = None
        self.prepared = Prepared()
        self.unnamed: Statement | None = None
        self.status = kinds.IDLE
        self.cancels = 0
        self.opened_at = self.idle_since = 0.0
        self.retired = False
        self.bare = False
        """Whether what the initialization query has set may be gone."""

        self.closed = False
        self.ask_error: LoginFailed | None = None
        self._tail, self._skip = b"", 0
        self._statement_index = 0
        self._failed = False
        self.ignoring = False
        """Whether the server ignores everything up to the next Sync, which has not been sent yet."""

        self._gives = False
        """Whether some answer that is expected is ours to give."""

        self._collected: bytearray | None = None

    # Requests

    def send(self, data: bytes, expected: Expected) -> None:
        """Sends a request and remembers what will be answered."""
        self.expected.append(expected)
        self.write(data)

    def give(self, expected: Expected) -> None:
        """An answer of ours, in its turn."""
        self._gives = True
        self.expected.append(expected)

    @property
    def free(self) -> bool:
        """Whether another session may have it now."""
        return not self.expected and self.status == kinds.IDLE and not self.cancels and not self._skip

    def ask(self, sql: bytes, purpose: str) -> None:
        """A query of our own; its outcome is told to the pool or the owner, its answers to nobody."""
        self._collected = bytearray()
        self.unnamed = None  # a simple query ends the unnamed statement (55.2.3)
        self.send(wire.query(sql), Expected(QUERY, swallow=True, ask=purpose))

    def remember(self, statement: Statement) -> bytes:
        """The statement will be prepared here; returns messages that must go before, to close it or another one."""
        closing = b""
        for one in self.prepared.add(statement):
            self.expected.append(Expected(CLOSE, swallow=True, statement=one))
            closing += wire.message(b"C", b"S" + one.name + b"\0")
        return closing

    # Answers

    def data_received(self, data: bytes) -> None:
        """See `transport.Receiver`."""
        if self._login is not None:
            self._login.data_received(data)
            return
        if self._skip:
            data = self._pass_on(data)
            if not data:
                return
        if self._tail:
            data = self._tail + data
            self._tail = b""
        self._carry(data)

    def _carry(self, data: bytes) -> None:
        """Every message of `data`, in turn; what is the client's goes to it in one piece."""
        position: i64 = 0
        start: i64 = 0
        size: i64 = len(data)
        spans: list[bytes] = []
        while size - position >= 5:
            kind: i64 = data[position]
            end = wire.end_of(data, position)
            if end > size or end < position + 5:
                break
            if kind == kinds.DATA_ROW or kind == kinds.COPY_DATA:
                if not self._row(data, position, end):
                    spans.append(data[start:position])
                    start = end
            elif not self._plain(kind, data, position, end):
                start = self._special(kind, data, start, position, end, spans)
                if self.closed:
                    return
            position = end
        if position < size:
            if not self._may_begin(data, position, size):
                self._forward(data, start, position, spans)
                self.lost("the database sent a message of invalid length")
                return
            position = self._partial(data, position, size)
        self._deliver(data, start, position, spans)

    def _plain(self, kind: i64, data: bytes, position: i64, end: i64) -> bool:
        """An answer to a request of which nothing is remembered, as nearly all are: whether it was one. It is the
        client's as it came.
        """
        expected, owner = self.expected, self.owner
        if owner is None or self._gives or not expected:
            return False
        first = expected.first()
        if kind == kinds.READY_FOR_QUERY:
            if (first is not PLAIN_SYNC and first is not PLAIN_QUERY) or end - position != 6 or owner.state.waits:
                return False
            return self._ready(first, data[position + 5])
        if kind == kinds.COMMAND_COMPLETE:
            if owner.state.attentive:
                return False
            if first is PLAIN_QUERY:
                self._statement_index += 1
                return True
            plain = first is PLAIN_EXECUTE
        elif kind == kinds.ROW_DESCRIPTION:
            if first is PLAIN_QUERY:
                return True
            plain = first is PLAIN_DESCRIBE
        elif kind == kinds.BIND_COMPLETE:
            plain = first is PLAIN_BIND
        else:
            plain = kind == kinds.PARSE_COMPLETE and first is PLAIN_PARSE
        if plain:
            expected.popleft()
        return plain

    def _special(self, kind: i64, data: bytes, start: i64, position: i64, end: i64, spans: list[bytes]) -> i64:
        """Any other answer. Returns where in `data` what is still to be forwarded begins; `spans` is what comes before.

        What may be the connection's last message is looked at after all before it has gone out: the answer to a commit
        may stand directly before it.
        """
        owner, renamed = self.owner, b""
        if kind == kinds.ERROR or not self.expected:
            self._forward(data, start, position, spans)
            spans.clear()
            start = position
            if kind == kinds.ERROR and owner is not None:
                renamed = owner.requests.renamed(data[position:end])
        forward = self._answer_or_end(data, start, position, end, spans)
        if self.closed:
            return end
        if renamed and forward:
            spans += (data[start:position], renamed)
            start = end
        elif not forward:
            spans.append(data[start:position])
            start = end
        if self._gives and self.expected and self.expected.first().given:
            spans += (data[start:end], self._given_now())
            start = end
        return start

    def _may_begin(self, data: bytes, position: i64, size: i64) -> bool:
        """Whether a message that is not complete, or of a length that cannot be, may be waited for."""
        if size - position < HEADER_BYTES:
            return True
        length = wire.end_of(data, position) - position
        if length < HEADER_BYTES:
            return False
        return length <= wire.MESSAGE_BYTES_MAX or data[position] in _STREAMED

    def _row(self, data: bytes, position: i64, end: i64) -> bool:
        """A row or a piece of a COPY; ours are kept. Returns whether it is for the client."""
        if not (self.expected and self.expected.first().swallow):
            return True
        if self._collected is not None:
            self._collected += data[position + 5 : end]
        return False

    def _deliver(self, data: bytes, start: i64, end: i64, spans: list[bytes]) -> None:
        """To the owner, if there is one; then the connection may be free."""
        self._forward(data, start, end, spans)
        owner = self.owner
        if owner is None:
            if self.free:
                self.pool.settled(self)
        elif not self.expected and self.status == kinds.IDLE:
            owner.maybe_release()

    def _forward(self, data: bytes, start: i64, end: i64, spans: list[bytes]) -> None:
        """To the owner, if there is one."""
        owner = self.owner
        if owner is None:
            return
        if spans:
            spans.append(data[start:end])
            owner.write(b"".join(spans))
        elif start < end:
            owner.write(data if end == len(data) and not start else data[start:end])

    def _pass_on(self, data: bytes) -> bytes:
        """The middle of a long message, for the client as it comes."""
        part = data[: self._skip]
        self._skip -= len(part)
        if self.owner is not None:
            self.owner.write(part)
        return data[len(part) :]

    def _partial(self, data: bytes, position: i64, size: i64) -> i64:
        """The beginning of a message: of a long row it is passed on at once, anything else waits for its rest."""
        kind = data[position]
        wanted = self.expected.first() if self.expected else None
        if size - position >= 5 and kind in _STREAMED and wanted is not None and not wanted.swallow:
            self._skip = 1 + int.from_bytes(data[position + 1 : position + 5], "big") - (size - position)
            return size
        self._tail = data[position:]
        return position

    def _given_now(self) -> bytes:
        """Answers that are ours to give and whose turn has come."""
        expected = self.expected
        given = []
        while expected and expected.first().given:
            given.append(expected.popleft().given)
        self._gives = any(one.given for one in expected.entries())
        return b"".join(given)

    def _answer_or_end(self, data: bytes, start: i64, position: i64, end: i64, spans: list[bytes]) -> bool:
        """`_answer`; out of step, the connection ends after what stands before has gone out."""
        try:
            return self._answer(data[position], data, position, end)
        except WireError as error:
            self._forward(data, start, position, spans)
            self.lost(str(error))
            return False

    def _answer(self, kind: i64, data: bytes, position: i64, end: i64) -> bool:
        """One message that is no row. Returns whether it is for the client."""
        if kind == kinds.PARAMETER_STATUS:
            name, value, _ = wire.two_strings(data[position + 5 : end])
            self.parameters[name.decode(errors="replace")] = value.decode(errors="replace")
            self.misleads = misleads(self.parameters)
            if self.misleads and self.owner is not None:
                self.owner.misread()
            return self.owner is not None and not (self.expected and self.expected.first().swallow)
        if kind == kinds.NOTIFICATION or kind == kinds.NOTICE:
            return self.owner is not None
        if not self.expected:
            self._unasked(kind, data[position + 5 : end])
            return False
        expected = self.expected.first()
        if kind == kinds.READY_FOR_QUERY:
            if end - position != 6 or not expected.ends_with_ready():
                raise WireError(OUT_OF_STEP)
            return self._ready(expected, data[position + 5])
        if kind == kinds.ERROR:
            # Of a Parse that the client did not send now it must know why the Bind after it is not answered.
            return self._error(data[position + 5 : end]) and not (expected.swallow and expected.kind != PARSE)
        if expected.kind != QUERY:
            self._step(expected, kind, data, position, end)
        elif kind == kinds.COMMAND_COMPLETE:
            if expected.effects or (self.owner is not None and self.owner.state.attentive):
                self._completed(expected, wire.text_of(data, position, end))
            else:
                self._statement_index += 1
        return not expected.swallow

    def _step(self, expected: Expected, kind: i64, data: bytes, position: i64, end: i64) -> None:
        """One message of the answer to a batch of the extended protocol."""
        if kind == kinds.NO_DATA or (kind == kinds.ROW_DESCRIPTION and expected.kind == DESCRIBE):
            self.expected.popleft()
        elif kind in _COMPLETES:
            if expected.kind != _COMPLETES[kind]:
                raise WireError(OUT_OF_STEP)
            self.expected.popleft()
            if expected.statement is not None:
                self.prepared.confirmed(expected.statement)
        elif expected.kind == EXECUTE and (
            kind == kinds.COMMAND_COMPLETE or kind == kinds.EMPTY_QUERY or kind == kinds.PORTAL_SUSPENDED
        ):
            self.expected.popleft()
            # Suspended after a row: SELECT set_config has done what it does.
            if kind != kinds.EMPTY_QUERY and (
                expected.effects or (self.owner is not None and self.owner.state.attentive)
            ):
                self._statement_index = 0
                self._completed(expected, wire.text_of(data, position, end) if kind == kinds.COMMAND_COMPLETE else b"")
                self._statement_index = 0

    def _unasked(self, kind: int, body: bytes) -> None:
        """A message nobody waits for: the server is going away, or broken."""
        if kind == kinds.ERROR:
            self.lost(wire.sqlstate_and_text(body)[1])
        else:
            self.lost(f"the database sent an unexpected message {chr(kind)!r}")

    def _completed(self, expected: Expected, tag: bytes) -> None:
        owner = self.owner
        if owner is None or expected.swallow:
            return
        index, self._statement_index = self._statement_index, self._statement_index + 1
        effects = expected.effects[index] if index < len(expected.effects) else ()
        if tag == b"ROLLBACK":
            owner.state.may_unpin = True  # what was made in the transaction has gone with it
        if effects:
            owner.state.done(effects)
            if any(isinstance(effect, DeallocateAll) for effect in effects):
                self.prepared.clear()
        if (
            owner.state.waits
            and tag in (b"COMMIT", b"ROLLBACK")
            and not any(isinstance(e, RollbackTo) for e in effects)
        ):
            self._transaction_ended(owner, committed=tag == b"COMMIT")

    def _transaction_ended(self, owner: ClientSession, *, committed: bool) -> None:
        """What the transaction has set counts from now on, or never did; here as in the client's session."""
        changes = owner.state.transaction_ended(committed=committed)
        self.applied = applied(self.applied, {}, changes)
        self.applied_version = owner.state.version if self.applied == owner.state.settings else None
        if self.pool.target.init_query and any(resets(change) for change in changes):
            self.bare, self.applied_version = True, None
        if any(isinstance(change, DiscardAll) for change in changes):
            self.prepared.clear()
            self.unnamed = None
            self.retired = self.retired or owner.state.stained

    def _error(self, body: bytes) -> bool:
        """Answers up to the end of the request will not come (55.2.3, 55.2.2). False if the whole connection ends."""
        if b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self.lost(wire.sqlstate_and_text(body)[1])
            return False
        self._failed = True
        expected = self.expected
        if expected.first().swallow and expected.first().ask:
            self.ask_error = LoginFailed(*wire.sqlstate_and_text(body))
        if not expected.first().ends_with_ready():
            skipped = []
            while expected and expected.first().kind != SYNC:
                skipped.append(expected.popleft())
            for entry in reversed(skipped):
                self._undo(entry)
            self.ignoring = not expected
        if self.owner is not None:
            self.owner.state.may_unpin = True
        if _STALE_PLAN in body:  # this connection's plans are stale, and what is prepared anew must not be one of them
            self.retired = True
            self.pool.statements.renew()
        return True

    def _undo(self, entry: Expected) -> None:
        """The server has not done this; what was noted as done is undone."""
        statement, owner = entry.statement, self.owner
        if entry.kind == PARSE:
            if statement is None:
                self.unnamed = UNKNOWN
                if owner is not None:
                    owner.requests.forget_unnamed()
                return
            if not entry.given:
                self.prepared.undone(statement)
            if owner is not None and entry.undo is not None:
                owner.state.statements.pop(entry.undo, None)
        elif statement is not None and entry.kind == CLOSE:
            if entry.swallow:
                self.prepared.doubt(statement)
            elif owner is not None and entry.undo is not None:
                owner.state.statements[entry.undo] = statement

    def _ready(self, expected: Expected, status: int) -> bool:
        """The end of a request. What a transaction has set counts when it is over and went well."""
        self.expected.popleft()
        failed, completed = self._failed, self._statement_index
        self._failed, self._statement_index = False, 0
        self.status = status
        if expected.ask:
            self._asked(expected.ask, failed)
            return False
        owner = self.owner
        if owner is not None and not expected.swallow:
            owner.status = status
            owner.last_request_at = self.pool.target.looked_at
            if expected.effects and not failed and completed != len(expected.effects):
                owner.misread()
            if owner.state.waits and status == kinds.IDLE:
                self._transaction_ended(owner, committed=not failed)
        return not expected.swallow

    def _asked(self, purpose: str, failed: bool) -> None:
        collected, self._collected = bytes(self._collected or b""), None
        if purpose == "state-left" and self.owner is not None:
            # One row, one column: two bytes of count, four of length, then the digits.
            self.owner.state_left(failed or collected[6:] != b"0")
        elif purpose == "settings":
            if failed and self.owner is not None and self.ask_error is not None:
                error, self.ask_error = self.ask_error, None
                self.retired = True
                self.owner.settings_refused(error)
        else:
            self.pool.answered(self, purpose, collected, failed)

    # The end

    def lost(self, reason: str) -> None:
        """The connection is of no use any more; its owner is told what that means for it."""
        if self.closed:
            return
        owner, self.owner = self.owner, None
        self.close()
        if owner is not None:
            owner.server_lost(self, reason)

    def close(self) -> None:
        """Ends the connection; an open transaction is rolled back by the database."""
        if self.closed:
            return
        self.closed = True
        if not self.expected and not self.transport.is_closing():
            self.write(wire.message(b"X"))
            self.transport.close()
        else:
            self.transport.abort()
        self.pool.forget(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `transport.Receiver`."""
        if self._login is not None:
            self._login.failed(LoginFailed("08006", "the database closed the connection during login"))
        self.lost("the connection to the database was lost")
        self.pool.disconnected(self)

    @property
    def mid_message(self) -> bool:
        """Whether the client has got the beginning of a message whose rest will never come."""
        return self._skip > 0
