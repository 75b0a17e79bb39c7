"""What a client's requests mean for a server connection: what will be answered, and what must be sent in their place.

Prepared statements belong to the client by name and to the server connection by text: names are replaced, and a
statement that this connection does not have yet is prepared on it first, unseen (PostgreSQL documentation 55.2.3).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mainstay.protocol.postgres import kinds, wire
from mainstay.protocol.postgres.effects import STATEMENT_BYTES_MAX, TOO_LONG, Deallocate, Effect
from mainstay.protocol.postgres.suspicion import suspicious
from mainstay.protocol.postgres.wire import HEADER_BYTES, WireError
from mainstay.proxy.expected import (
    CLOSE,
    EXECUTE,
    PARSE,
    PLAIN_BIND,
    PLAIN_CALL,
    PLAIN_CLOSE,
    PLAIN_DESCRIBE,
    PLAIN_EXECUTE,
    PLAIN_PARSE,
    PLAIN_QUERY,
    PLAIN_SYNC,
    QUERY,
    Expected,
)
from mainstay.proxy.server import ServerConnection
from mainstay.proxy.statements import Statement

if TYPE_CHECKING:
    from mypy_extensions import i64

    from mainstay.proxy.session import ClientSession

_PARSED: Final = b"1\0\0\0\4"
_CLOSED: Final = b"3\0\0\0\4"
_OUR_NAME = re.compile(rb'"(mainstay_\d+)"')
_ENDS = re.compile(rb"\s*(?:commit|rollback|end|abort|prepare\s+transaction)\b", re.IGNORECASE)
_EMPTY: Final[tuple[tuple[Effect, ...], ...]] = ()


class Requests:
    """The requests of one client session."""

    __slots__ = (
        "_bound_as",
        "_bound_name",
        "_names",
        "_portals",
        "_read_as",
        "_session",
        "_unnamed",
        "batch_open",
        "last",
    )

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._unnamed: Statement | None = None
        self._read_as: object = None
        """The version of the session's settings with which that was parsed last."""

        self._portals: dict[bytes, Statement] = {}
        self._names: dict[bytes, bytes] = {}
        self._bound_name, self._bound_as = b"", b""
        """What `_names` says of the one that was used last: most transactions use one only."""

        self.last = b""
        """The text that was last asked to be run."""

        self.batch_open = False
        """Messages of the extended protocol were sent, and their Sync was not: a transaction is open."""

    def transaction_ended(self) -> None:
        """Portals end with their transaction."""
        if self._portals:
            self._portals.clear()
        if self._names:
            self._names.clear()
        self._bound_name = b""

    def forget_unnamed(self) -> None:
        """The unnamed statement was not parsed."""
        self._unnamed = None

    def renamed(self, error: bytes) -> bytes:
        """An error that names a prepared statement, with the client's name for it; b"" if it names none."""
        if b'"mainstay_' not in error:
            return b""
        body = _OUR_NAME.sub(lambda found: b'"' + self._name_of(found[1]) + b'"', error[HEADER_BYTES:])
        return wire.message(b"E", body)

    def _name_of(self, ours: bytes) -> bytes:
        """The client's name of a prepared statement that its transaction has used, by ours."""
        return self._bound_as if ours == self._bound_name else self._names.get(ours, ours)

    def lost(self) -> None:
        """The server connection is gone, and all that was on it."""
        self._portals.clear()
        self.batch_open = False

    def note(
        self, server: ServerConnection, kind: i64, data: bytes, start: i64, position: i64, end: i64, out: list[bytes]
    ) -> i64:
        """Notes what will be answered to the message from `position` to `end`. Returns where in `data` what is still to
        be sent begins, `start` if the message goes as it is; `out` is what comes before.
        """
        if kind == kinds.QUERY:
            sql = wire.text_of(data, position, end)
            if suspicious(sql) or (len(sql) > STATEMENT_BYTES_MAX and self._session.pool.strict):
                found = self._effects_of(sql)
                if self._deallocates(server, found):
                    return _instead(b"", data, start, position, end, out)
                server.expected.append(Expected(QUERY, effects=found) if found else PLAIN_QUERY)
            else:
                server.expected.append(PLAIN_QUERY)
            self._unnamed = None  # a simple query ends the unnamed statement (55.2.3)
            server.unnamed = None
            self.last = sql
        elif kind == kinds.SYNC:
            self.batch_open = server.ignoring = False
            server.prepared.batch += 1
            server.expected.append(PLAIN_SYNC)
        elif kind in (kinds.BIND, kinds.DESCRIBE, kinds.EXECUTE, kinds.PARSE, kinds.CLOSE):
            self.batch_open = True
            if server.ignoring:
                return _instead(b"", data, start, position, end, out)
            if kind == kinds.BIND:
                return self._bind(server, data, start, position, end, out)
            replaced = self._extended(server, kind, data, position, end)
            if replaced is not None:
                return _instead(replaced, data, start, position, end, out)
        elif kind == kinds.FUNCTION_CALL:
            server.expected.append(PLAIN_CALL)
        elif kind != kinds.FLUSH and kind not in kinds.COPY:
            raise WireError(f"unexpected message type {chr(kind)!r}")
        return start

    def _extended(self, server: ServerConnection, kind: i64, data: bytes, position: i64, end: i64) -> bytes | None:
        """A message of the extended protocol, not Bind; its transaction stays open until the next Sync (55.2.3).
        Returns what to send in its place, None for the message as it is.
        """
        if kind == kinds.PARSE:
            unnamed = self._unnamed
            if unnamed is not None and data[position + 5 : position + 6] == b"\0":
                rest = data[position + 6 : max(position + 6, end)]
                same = unnamed.rest == rest and self._read_as is self._session.state.version
                if same and len(rest) <= STATEMENT_BYTES_MAX:  # as the last time: judged and known
                    server.unnamed = unnamed
                    server.expected.append(PLAIN_PARSE)
                    return None
            return self._parse(server, data[position + 5 : end])
        if kind == kinds.DESCRIBE:
            if end == position + 5 or data[position + 5] != kinds.STATEMENT:
                server.expected.append(PLAIN_DESCRIBE)
                return None
            return self._describe(server, data[position:end])
        if kind == kinds.CLOSE:
            return self._close_message(server, data[position:end])
        if self._portals:
            self._execute(server, data[position + 5 : end])
        else:
            server.expected.append(PLAIN_EXECUTE)
        return None

    def _effects_of(self, sql: bytes) -> tuple[tuple[Effect, ...], ...]:
        """What the text does to the session, pins noted at once; empty if nothing."""
        known = self._session.pool.effects_of(sql)
        self._judge_length(sql)
        for statement in known:
            self._started(statement)
        return known

    def _started(self, effects: tuple[Effect, ...]) -> None:
        session = self._session
        for reason in session.state.started(effects):
            session.pool.pinned(session, reason)
        if session.state.reads_anew:
            self._read_as = None

    def _judge_length(self, sql: bytes) -> None:
        session = self._session
        if session.pool.strict and len(sql) > STATEMENT_BYTES_MAX and session.state.pin(TOO_LONG, probe=False):
            session.pool.pinned(session, TOO_LONG)

    def _deallocates(self, server: ServerConnection, found: tuple[tuple[Effect, ...], ...]) -> bool:
        """DEALLOCATE of a statement of the extended protocol: the engine knows it under our name, so we do it."""
        if len(found) != 1 or server.expected or server.status == kinds.FAILED:
            return False
        names = [one.name.encode(errors="surrogateescape") for one in found[0] if isinstance(one, Deallocate)]
        if not names or self._session.state.statements.pop(names[0], None) is None:
            return False
        self._session.write(wire.message(b"C", b"DEALLOCATE\0") + wire.ready_for_query(bytes([server.status])))
        return True

    def _parse(self, server: ServerConnection, body: bytes) -> bytes | None:
        name, end = wire.one_string(body)
        rest = body[end:]
        sql, _ = wire.one_string(rest)
        found: tuple[tuple[Effect, ...], ...] = _EMPTY
        if suspicious(sql):
            found = self._session.pool.effects_of(sql)
        self._judge_length(sql)
        state = self._session.state
        statement = self._statement(rest, found[0] if found else ())
        if not name:
            self._unnamed = server.unnamed = statement
            self._read_as = state.version
            server.expected.append(PLAIN_PARSE)
            return None
        if name in state.statements:
            # The engine refuses a name that is taken; so must we, though it has never heard this one.
            taken = self._known_as(server, name, state.statements[name])
            self._names[taken.name] = name
            before = self._bring(server, taken)
            server.expected.append(PLAIN_PARSE)
            return before + wire.parse(taken.name, rest)
        state.statements[name] = statement
        self._names[statement.name] = name
        if server.prepared.knows(statement):
            # In a failed transaction the engine refuses it before it looks at the name.
            if server.status == kinds.FAILED and not _ENDS.match(sql):
                server.expected.append(Expected(PARSE, statement=statement, undo=name))
                return wire.parse(statement.name, rest)
            self._give(server, Expected(PARSE, given=_PARSED, statement=statement, undo=name))
            return b""
        closing = server.remember(statement)
        server.expected.append(Expected(PARSE, statement=statement, undo=name))
        return closing + wire.parse(statement.name, rest)

    def _statement(self, rest: bytes, effects: tuple[Effect, ...]) -> Statement:
        """What a text that is parsed now will mean; others who send it may mean the same."""
        state, statements = self._session.state, self._session.pool.statements
        if state.reads_anew:
            return statements.alone(rest, effects, state.reading())
        return statements.intern(rest, effects, state.reading())

    def _known_as(self, server: ServerConnection, name: bytes, statement: Statement) -> Statement:
        """The statement itself; if this server has to parse it while the session reads literals otherwise than when
        the client had it parsed, another one, so that nobody else takes it for what others mean by it.
        """
        state = self._session.state
        if not statement.shared or server.prepared.knows(statement):
            return statement
        if statement.reading == state.reading() and not state.reads_anew:
            return statement
        other = self._statement(statement.rest, statement.effects)
        if not state.reads_anew:
            state.statements[name] = other
        return other

    def _bind(
        self, server: ServerConnection, data: bytes, start: i64, position: i64, end: i64, out: list[bytes]
    ) -> i64:
        """As `note`: of the whole message only the name is replaced."""
        first = wire.zero_after(data, position + HEADER_BYTES, end)
        second: i64 = -1
        if first >= 0:
            second = wire.zero_after(data, first + 1, end)
        if second < 0:
            raise WireError("a string is not terminated")
        if second == first + 1:
            before = self._bring_unnamed(server)
            self._bound(data[position + 5 : first], self._unnamed)
            self.last = b"" if self._unnamed is None else self._unnamed.rest
            server.expected.append(PLAIN_BIND)
            return _instead(before, data, start, position, position, out) if before else start
        name = data[first + 1 : second]
        statement = self._session.state.statements.get(name)
        self._bound(data[position + 5 : first], statement)
        if statement is None:  # the engine says that there is no such statement
            server.expected.append(PLAIN_BIND)
            _instead(b"", data, start, position, position, out)
            return _renamed(data, position, end, first + 1, second, _nobodys(name), out)
        if not server.prepared.knows(statement):
            statement = self._known_as(server, name, statement)
        self.last = statement.rest
        ours = statement.name
        if ours != self._bound_name:
            if self._bound_name:
                self._names[self._bound_name] = self._bound_as
            self._bound_name = ours
        self._bound_as = name
        before = self._bring(server, statement)
        server.expected.append(PLAIN_BIND)
        _instead(before, data, start, position, position, out)
        return _renamed(data, position, end, first + 1, second, ours, out)

    def _bound(self, portal: bytes, statement: Statement | None) -> None:
        if statement is not None and statement.effects:
            self._portals[portal] = statement
        elif self._portals:
            self._portals.pop(portal, None)

    def _bring(self, server: ServerConnection, statement: Statement) -> bytes:
        """What must be sent first so that the server knows the statement."""
        if server.prepared.knows(statement):
            return b""
        closing = server.remember(statement)
        server.expected.append(Expected(PARSE, swallow=True, statement=statement))
        return closing + wire.parse(statement.name, statement.rest)

    def _bring_unnamed(self, server: ServerConnection) -> bytes:
        """The unnamed statement lives on over transactions, though perhaps on another server connection."""
        if server.unnamed is self._unnamed:
            return b""
        server.unnamed = self._unnamed
        if self._unnamed is None:  # what is there is another client's
            server.expected.append(Expected(CLOSE, swallow=True))
            return wire.message(b"C", b"S\0")
        server.expected.append(Expected(PARSE, swallow=True))
        return wire.parse(b"", self._unnamed.rest)

    def _execute(self, server: ServerConnection, body: bytes) -> None:
        portal, _ = wire.one_string(body)
        statement = self._portals.get(portal)
        if statement is None:
            server.expected.append(PLAIN_EXECUTE)
            return
        self._started(statement.effects)
        server.expected.append(Expected(EXECUTE, effects=(statement.effects,)))

    def _describe(self, server: ServerConnection, message: bytes) -> bytes | None:
        name, _ = wire.one_string(message[6:])
        statement = self._session.state.statements.get(name) if name else None
        if statement is not None:
            statement = self._known_as(server, name, statement)
            self._names[statement.name] = name
            before = self._bring(server, statement)
        else:
            before = b"" if name else self._bring_unnamed(server)
        server.expected.append(PLAIN_DESCRIBE)
        theirs = _nobodys(name) if statement is None else statement.name
        return before + wire.message(b"D", b"S" + theirs + b"\0")

    def _close_message(self, server: ServerConnection, message: bytes) -> bytes | None:
        name, _ = wire.one_string(message[6:])
        if message[5:6] != b"S" or not name:
            if message[5:6] == b"S":
                self._unnamed = server.unnamed = None
            server.expected.append(PLAIN_CLOSE)
            return None
        # Others may use the same statement on this server: only the client's name for it goes.
        statement = self._session.state.statements.pop(name, None)
        self._give(server, Expected(CLOSE, given=_CLOSED, statement=statement, undo=name))
        return b""

    def _give(self, server: ServerConnection, expected: Expected) -> None:
        """An answer of ours, in its turn."""
        if server.expected:
            server.give(expected)
        else:
            self._session.write(expected.given)


def _instead(replaced: bytes, data: bytes, start: i64, position: i64, end: i64, out: list[bytes]) -> i64:
    """This goes in the place of what is between `position` and `end`. Returns as `Requests.note` does."""
    if position > start:
        out.append(data[start:position])
    if replaced:
        out.append(replaced)
    return end


def _renamed(data: bytes, position: i64, end: i64, begin: i64, stop: i64, name: bytes, out: list[bytes]) -> i64:
    """This name goes in the place of what is between `begin` and `stop` in a Bind. Returns as `Requests.note` does."""
    out.append(wire.bind_head(end - position - 1 - (stop - begin) + len(name)))
    out.append(data[position + HEADER_BYTES : begin])
    out.append(name)
    return stop


def _nobodys(name: bytes) -> bytes:
    """A name that the client has not given to any statement, so that it is nobody's on the server either."""
    return name + b"?" if name.startswith(b"mainstay_") else name
