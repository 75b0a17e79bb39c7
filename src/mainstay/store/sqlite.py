"""The embedded store: SQLite in WAL mode with full fsync (sqlite.org, "Write-Ahead Logging", "PRAGMA synchronous").

Guarantees: what `Store` promises. One connection, one writer; used from one thread. Record documents are msgspec JSON;
the columns beside the document exist only to find it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from mainstay.model.errors import Permanent
from mainstay.model.records import Record, Scope
from mainstay.store.base import Conflict, Duplicate, Event, Job, StoreFull

R = TypeVar("R", bound=Record)

_FIRST_SCHEMA = """
CREATE TABLE records (
    kind TEXT NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (kind, scope, key)
) WITHOUT ROWID;
CREATE TABLE record_index (
    kind TEXT NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY (kind, scope, name, value, key)
) WITHOUT ROWID;
CREATE INDEX record_index_by_key ON record_index (kind, scope, key);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, program TEXT NOT NULL, subject TEXT NOT NULL, due_at REAL NOT NULL,
    document BLOB NOT NULL, UNIQUE (subject, program)
);
CREATE INDEX jobs_by_due_at ON jobs (due_at);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, at REAL NOT NULL, document BLOB NOT NULL
);
CREATE INDEX events_by_scope ON events (scope, at);
"""
_FIND_IN_ALL_SCOPES = "CREATE INDEX record_index_by_value ON record_index (kind, name, value, scope, key);"
SCHEMA_STEPS = (_FIRST_SCHEMA, _FIND_IN_ALL_SCOPES)
"""A store of schema version N has had the first N of these; a change of the schema is one more."""

_encoder = msgspec.json.Encoder()
_decoders: dict[type, msgspec.json.Decoder[object]] = {}
_job_decoder = msgspec.json.Decoder(Job)
_event_decoder = msgspec.json.Decoder(Event)


def _decode(kind: type[R], document: bytes) -> R:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    record = decoder.decode(document)
    assert isinstance(record, kind)  # noqa: S101 - narrows the decoder's type; the decoder itself validated it
    return record


class SqliteTransaction:
    """A `Transaction` on the store's one connection, between BEGIN and COMMIT."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @property
    def changes(self) -> int:
        return self._db.total_changes

    def get(self, kind: type[R], scope: Scope, key: str) -> R | None:
        row = self._db.execute(
            "SELECT document FROM records WHERE kind = ? AND scope = ? AND key = ?", (kind.KIND, str(scope), key)
        ).fetchone()
        return None if row is None else _decode(kind, row[0])

    def find(self, kind: type[R], scope: Scope | None, name: str, value: str) -> list[R]:
        if scope is None:
            rows = self._db.execute(
                "SELECT r.document FROM record_index i JOIN records r USING (kind, scope, key)"
                " WHERE i.kind = ? AND i.name = ? AND i.value = ? ORDER BY i.scope, i.key",
                (kind.KIND, name, value),
            )
            return [_decode(kind, row[0]) for row in rows]
        rows = self._db.execute(
            "SELECT r.document FROM record_index i JOIN records r USING (kind, scope, key)"
            " WHERE i.kind = ? AND i.scope = ? AND i.name = ? AND i.value = ? ORDER BY i.key",
            (kind.KIND, str(scope), name, value),
        )
        return [_decode(kind, row[0]) for row in rows]

    def scan(self, kind: type[R], scope: Scope | None = None, *, after: str = "", limit: int = 1_000_000) -> list[R]:
        if scope is None:
            rows = self._db.execute(
                "SELECT document FROM records WHERE kind = ? ORDER BY scope, key LIMIT ?", (kind.KIND, limit)
            )
        else:
            rows = self._db.execute(
                "SELECT document FROM records WHERE kind = ? AND scope = ? AND key > ? ORDER BY key LIMIT ?",
                (kind.KIND, str(scope), after, limit),
            )
        return [_decode(kind, row[0]) for row in rows]

    def count(self, kind: type[R], scope: Scope) -> int:
        row = self._db.execute(
            "SELECT count(*) FROM records WHERE kind = ? AND scope = ?", (kind.KIND, str(scope))
        ).fetchone()
        return int(row[0])

    def events(self, scope: Scope, since: float, until: float) -> list[Event]:
        rows = self._db.execute(
            "SELECT document FROM events WHERE scope = ? AND at >= ? AND at < ? ORDER BY at, id",
            (str(scope), since, until),
        )
        return [_event_decoder.decode(row[0]) for row in rows]

    def jobs(self, subject: str | None = None) -> list[Job]:
        if subject is None:
            rows = self._db.execute("SELECT document FROM jobs ORDER BY id")
        else:
            rows = self._db.execute("SELECT document FROM jobs WHERE subject = ? ORDER BY id", (subject,))
        return [_job_decoder.decode(row[0]) for row in rows]

    def insert(self, record: Record) -> None:
        try:
            self._db.execute(
                "INSERT INTO records (kind, scope, key, document) VALUES (?, ?, ?, ?)",
                (record.KIND, str(record.scope), record.key(), _encoder.encode(record)),
            )
        except sqlite3.IntegrityError as error:
            raise Duplicate(f"{record.KIND} {record.key()} already exists") from error
        self._write_index(record)

    def put(self, record: Record) -> None:
        cursor = self._db.execute(
            "UPDATE records SET document = ? WHERE kind = ? AND scope = ? AND key = ?",
            (_encoder.encode(record), record.KIND, str(record.scope), record.key()),
        )
        if cursor.rowcount != 1:
            raise Conflict(f"{record.KIND} {record.key()} does not exist any more")
        self._clear_index(record)
        self._write_index(record)

    def delete(self, record: Record) -> None:
        self._clear_index(record)
        self._db.execute(
            "DELETE FROM records WHERE kind = ? AND scope = ? AND key = ?",
            (record.KIND, str(record.scope), record.key()),
        )

    def append_event(self, event: Event) -> None:
        self._db.execute(
            "INSERT INTO events (scope, at, document) VALUES (?, ?, ?)",
            (str(event.scope), event.at, _encoder.encode(event)),
        )

    def add_job(self, job: Job) -> Job:
        try:
            cursor = self._db.execute(
                "INSERT INTO jobs (program, subject, due_at, document) VALUES (?, ?, ?, ?)",
                (job.program, job.subject, job.due_at, b"{}"),
            )
        except sqlite3.IntegrityError as error:
            raise Duplicate(f"{job.program} already runs for {job.subject}") from error
        stored = msgspec.structs.replace(job, id=int(cursor.lastrowid or 0))
        self.put_job(stored)
        return stored

    def put_job(self, job: Job) -> None:
        cursor = self._db.execute(
            "UPDATE jobs SET due_at = ?, document = ? WHERE id = ?", (job.due_at, _encoder.encode(job), job.id)
        )
        if cursor.rowcount != 1:
            raise Conflict(f"job {job.id} ({job.program} for {job.subject}) has ended")

    def finish_job(self, job: Job) -> None:
        self._db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))

    def _clear_index(self, record: Record) -> None:
        self._db.execute(
            "DELETE FROM record_index WHERE kind = ? AND scope = ? AND key = ?",
            (record.KIND, str(record.scope), record.key()),
        )

    def _write_index(self, record: Record) -> None:
        rows = [(record.KIND, str(record.scope), name, value, record.key()) for name, value in record.index().items()]
        self._db.executemany("INSERT INTO record_index (kind, scope, name, value, key) VALUES (?, ?, ?, ?, ?)", rows)


class SqliteStore:
    """A `Store` in one SQLite file, created on first use with mode 0600."""

    def __init__(self, path: Path | str) -> None:
        if path != ":memory:":
            Path(path).touch(mode=0o600)
        self._db = sqlite3.connect(str(path), isolation_level=None, timeout=5.0)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._open_schema()

    @contextmanager
    def read(self) -> Iterator[SqliteTransaction]:
        """A consistent view. Reads nested in an open transaction see that transaction's own writes."""
        if self._db.in_transaction:
            yield SqliteTransaction(self._db)
            return
        self._db.execute("BEGIN")
        try:
            yield SqliteTransaction(self._db)
        finally:
            self._db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Atomic and durable. Raises `StoreFull` when SQLite cannot write; nothing is kept then."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield SqliteTransaction(self._db)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._rollback()
            raise StoreFull(
                f"the store could not be written: {error}", hint="Free disk space under MAINSTAY_HOME."
            ) from error
        except BaseException:
            self._rollback()
            raise

    def view(self) -> SqliteTransaction:
        """Reads outside any transaction (SQLite commits each statement by itself)."""
        return SqliteTransaction(self._db)

    def next_due_at(self) -> float | None:
        row = self._db.execute("SELECT min(due_at) FROM jobs").fetchone()
        return None if row[0] is None else float(row[0])

    def due_jobs(self, now: float, limit: int) -> list[Job]:
        rows = self._db.execute("SELECT document FROM jobs WHERE due_at <= ? ORDER BY due_at, id LIMIT ?", (now, limit))
        return [_job_decoder.decode(row[0]) for row in rows]

    def prune_events(self, before: float) -> int:
        with self.transaction():
            return self._db.execute("DELETE FROM events WHERE at < ?", (before,)).rowcount

    def close(self) -> None:
        self._db.close()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _open_schema(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        known = len(SCHEMA_STEPS)
        if version > known:
            raise Permanent(
                f"the store has schema version {version}, this Mainstay knows {known}",
                hint="Start the newer Mainstay that wrote it.",
            )
        if version < known:
            steps = "".join(SCHEMA_STEPS[version:])
            self._db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {known}; COMMIT;")
