"""Brings a dump of PostgreSQL into a database. See `EngineDumps` for what is guaranteed.

There is one way in for every format: SQL and data, read by `dump_text.py` and sent by the protocol's extended query
(manual 54.2.3), in which a message holds one statement and no more. So whatever the dump is, nothing of it is run but
by the engine, as the user who was named, within our transaction.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import TupleRow

from mainstay.engines.dumps import Loaded, LoadOrder
from mainstay.engines.postgresql.configuration import ADMIN_ROLE
from mainstay.engines.postgresql.dump_sources import open_script
from mainstay.engines.postgresql.dump_text import WHOLE_SERVER, ScriptReader, Statement, shown
from mainstay.engines.postgresql.logins import DEFAULT_DATABASE
from mainstay.engines.postgresql.sessions import CONNECT_TIMEOUT_S
from mainstay.model.errors import Permanent, Transient

POLL_S = 1.0
CANCEL_TIMEOUT_S = 5.0
MESSAGE_CHARACTERS = 1000
DONE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.SINGLE_TUPLE, ExecStatus.EMPTY_QUERY)
GONE = ("08", "57")
"""Classes of errors with which a session ends, whatever became of its commit (manual, appendix A)."""

SETTING = re.compile(rb"SET\s|SELECT pg_catalog\.set_config\(", re.IGNORECASE)
"""With these begins what pg_dump writes of anything, and what pg_restore does of an archive it reads nothing in."""

PASSED_OVER = frozenset(
    {(first, *more) for first in ("BEGIN", "COMMIT", "END") for more in ((), ("WORK",), ("TRANSACTION",))}
    | {("START", "TRANSACTION")}
)
ENDING = frozenset({"COMMIT", "END", "ROLLBACK", "ABORT"})
BEGINNING = frozenset({"BEGIN", "START"})
ENCODINGS_REFUSED = frozenset({"BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"})
"""In these a byte of a character may look like a quote or a backslash (manual 23.3.2)."""

HINTS = {
    "42501": "The user lacks a right that the dump wants: of archives, --no-owner and --no-privileges leave owners and"
    " grants out.",
    "42704": "Create the missing role or what else it names first; of archives, --no-owner and --no-privileges leave"
    " owners and grants out.",
    "53200": "So many objects in one transaction need more locks: raise max_locks_per_transaction in the DB parameter"
    " group.",
    "53100": "Increase AllocatedStorage.",
}
"""By SQLSTATE, what the engine's own words leave open."""


class PostgresqlDumps:
    """`EngineDumps` for PostgreSQL."""

    default_database = DEFAULT_DATABASE

    def load(self, dump: Path, order: LoadOrder, note: Callable[[int, int], None]) -> Loaded:
        if order.user == ADMIN_ROLE:
            raise Permanent(f"{ADMIN_ROLE} is the service's own superuser, and loads nothing")
        with open_script(dump, order, note) as script, _connected(order) as connection:
            loading = _Loading(connection.pgconn, ScriptReader(script), time.monotonic() + order.timeout_s)
            try:
                return loading.run(script.finish)
            except psycopg.OperationalError as error:
                raise loading.lost(str(error).strip()) from error
            finally:
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)


@contextmanager
def _connected(order: LoadOrder) -> Iterator[psycopg.Connection[TupleRow]]:
    """Nothing of our own surroundings is used: no variables, passwords, certificates or services of libpq."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    place = order.place
    try:
        connection = psycopg.connect(
            host=place.host,
            hostaddr=place.address,
            port=place.port,
            user=order.user,
            password=order.password.reveal(),
            passfile=os.devnull,
            dbname=place.database,
            sslmode="verify-full",
            sslrootcert=str(place.authorities),
            sslcertmode="disable",
            gssencmode="disable",
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="mainstay-load",
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        raise Permanent(f"{order.user} cannot log in to {place.database}: {shown(str(error).encode())}") from None
    try:
        yield connection
    finally:
        connection.close()


class _Loading:
    """One dump on its way into one session. Every wait ends at the deadline (of the monotonic clock)."""

    def __init__(self, pgconn: PGconn, reader: ScriptReader, deadline: float) -> None:
        self._pgconn = pgconn
        self._reader = reader
        self._deadline = deadline
        self._poll = select.poll()
        self._statements = 0
        self._rows = 0
        self._found = False
        self._committing = False

    def run(self, finish: Callable[[], None]) -> Loaded:
        """All of it, committed when this returns."""
        self._execute(Statement(b"BEGIN", 0))
        if self._pgconn.transaction_status != TransactionStatus.INTRANS:
            raise Permanent("the engine began no transaction")
        while (statement := self._reader.next_statement()) is not None:
            if self._means_nothing_inside(statement):
                continue
            self._execute(statement)
            self._statements += 1
            self._found = self._found or not SETTING.match(statement.text)
            self._look_at_session(statement)
        finish()
        if not self._found:
            raise Permanent("there is nothing in the dump, or nothing that can be read")
        self._committing = True
        self._execute(Statement(b"COMMIT", 0))
        return Loaded(statements=self._statements, rows=self._rows)

    def lost(self, words: str) -> Transient:
        """What it means that the engine went away."""
        if self._committing:
            return Transient(
                f"the engine went away while it committed: look whether the dump is loaded. {shown(words.encode())}"
            )
        return Transient(f"the engine went away, and nothing was loaded: {shown(words.encode())}")

    def _means_nothing_inside(self, statement: Statement) -> bool:
        """Whether it is a BEGIN or COMMIT, as pg_dump writes around large objects: the transaction is ours.

        Raises `Permanent` for what would end it in another way.
        """
        words = statement.words
        if statement.words_only and words in PASSED_OVER:
            return True
        if words[:2] in (("CREATE", "DATABASE"), ("DROP", "DATABASE")):
            raise Permanent(
                f"line {statement.line} of the dump: {' '.join(words[:2])} is not part of one database",
                hint=WHOLE_SERVER,
            )
        first = words[0] if words else ""
        to_savepoint = first == "ROLLBACK" and "TO" in words[1:3]
        if (first in ENDING and not to_savepoint) or first in BEGINNING or words[:2] == ("PREPARE", "TRANSACTION"):
            raise Permanent(
                f"line {statement.line} of the dump: {' '.join(words[:2])} would end the transaction it is loaded in",
                hint="A dump is loaded as a whole or not at all.",
            )
        return False

    def _look_at_session(self, statement: Statement) -> None:
        """What the statement has made of the session: how the rest of the dump is to be read, and whether it is."""
        if self._pgconn.transaction_status != TransactionStatus.INTRANS:
            raise Permanent(
                f"line {statement.line} of the dump ended the transaction: what was before it may be in the database",
                hint=shown(statement.text),
            )
        encoding = (self._pgconn.parameter_status(b"client_encoding") or b"").decode().upper()
        if encoding in ENCODINGS_REFUSED:
            raise Permanent(
                f"line {statement.line} of the dump: {encoding} cannot be read safely",
                hint="Take it with `pg_dump --encoding=UTF8`.",
            )
        self._reader.backslash_quotes = self._pgconn.parameter_status(b"standard_conforming_strings") == b"off"

    def _execute(self, statement: Statement) -> None:
        """Sends it and takes all that comes of it; results are thrown away as they come."""
        self._pgconn.send_query_params(statement.text, None)
        self._pgconn.set_single_row_mode()
        self._flush()
        failed: PGresult | None = None
        while (result := self._result()) is not None:
            if result.status == ExecStatus.COPY_IN:
                self._send_data()
            elif result.status == ExecStatus.COPY_OUT:
                raise Permanent(f"line {statement.line} of the dump asks for data: {shown(statement.text)}")
            elif result.status not in DONE:
                failed = failed or result
            elif statement.text[:4].upper() == b"COPY":
                self._rows += result.command_tuples or 0
        if failed is not None:
            self._refuse(statement, failed)

    def _send_data(self) -> None:
        for piece in self._reader.copy_data():
            while self._pgconn.put_copy_data(piece) == 0:
                self._wait(writing=True)
            self._flush()
        while self._pgconn.put_copy_end() == 0:
            self._wait(writing=True)
        self._flush()

    def _result(self) -> PGresult | None:
        while self._pgconn.is_busy():
            self._wait()
        return self._pgconn.get_result()

    def _flush(self) -> None:
        while self._pgconn.flush():
            self._wait(writing=True)

    def _wait(self, *, writing: bool = False) -> None:
        """Until something can be read (which is taken) or, if asked for, written."""
        socket = self._pgconn.socket
        self._poll.register(socket, select.POLLIN | (select.POLLOUT if writing else 0))
        while True:
            if time.monotonic() > self._deadline:
                raise Permanent("it takes too long, and nothing was loaded")
            for _, event in self._poll.poll(POLL_S * 1000):
                if event & ~select.POLLOUT:
                    self._pgconn.consume_input()
                return

    def _refuse(self, statement: Statement, result: PGresult) -> NoReturn:
        state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
        if not state or (self._committing and state.startswith(GONE)):
            raise psycopg.OperationalError(result.get_error_message())
        fields = (DiagnosticField.MESSAGE_PRIMARY, DiagnosticField.MESSAGE_DETAIL, DiagnosticField.CONTEXT)
        said = [shown(text, MESSAGE_CHARACTERS) for field in fields if (text := result.error_field(field))]
        where = f"line {statement.line} of the dump" if statement.line else "the engine"
        raise Permanent(
            f"{where}: {'; '.join(said)} (SQLSTATE {state}) in: {shown(statement.text)}. Nothing was loaded.",
            hint=HINTS.get(state) or shown(result.error_field(DiagnosticField.MESSAGE_HINT) or b""),
        )
