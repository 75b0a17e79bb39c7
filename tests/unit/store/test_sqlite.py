"""The store's promises: atomic, durable, typed, found by key and by index; nothing kept of what failed."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mainstay.model.addresses import AddressLease
from mainstay.model.errors import Permanent
from mainstay.model.records import Scope
from mainstay.store import Conflict, Duplicate, Event, Job, SqliteStore, StoreFull
from mainstay.store.sqlite import SCHEMA_STEPS

SCOPE = Scope("123456789012", "us-east-1")
OTHER = Scope("123456789012", "eu-west-1")


def lease(address: str, holder: str = "h", scope: Scope = SCOPE) -> AddressLease:
    return AddressLease(scope=scope, address=address, holder=holder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "store.sqlite")
    yield opened
    opened.close()


def test_records_come_back_typed_by_key_and_by_index(store: SqliteStore) -> None:
    with store.transaction() as tx:
        for number in range(5):
            tx.insert(lease(f"127.64.0.{number}", holder=f"h{number % 2}"))
        tx.insert(lease("127.64.0.9", scope=OTHER))
    with store.read() as view:
        assert view.get(AddressLease, SCOPE, "127.64.0.3") == lease("127.64.0.3", "h1")
        assert view.get(AddressLease, OTHER, "127.64.0.3") is None
        assert [found.address for found in view.find(AddressLease, SCOPE, "holder", "h1")] == [
            "127.64.0.1",
            "127.64.0.3",
        ]
        assert [found.address for found in view.scan(AddressLease, SCOPE, after="127.64.0.2", limit=1)] == [
            "127.64.0.3"
        ]
        assert len(view.scan(AddressLease)) == 6 and view.count(AddressLease, OTHER) == 1


def test_an_index_follows_its_record(store: SqliteStore) -> None:
    with store.transaction() as tx:
        tx.insert(lease("127.64.0.1", "before"))
        tx.put(lease("127.64.0.1", "after"))
        assert tx.find(AddressLease, SCOPE, "holder", "before") == []
        assert tx.find(AddressLease, SCOPE, "holder", "after") == [lease("127.64.0.1", "after")]
        tx.delete(lease("127.64.0.1"))
        tx.delete(lease("127.64.0.1"))
        assert tx.find(AddressLease, SCOPE, "holder", "after") == []


def test_duplicates_and_vanished_records_are_told(store: SqliteStore) -> None:
    with store.transaction() as tx:
        tx.insert(lease("127.64.0.1"))
        with pytest.raises(Duplicate):
            tx.insert(lease("127.64.0.1"))
        with pytest.raises(Conflict):
            tx.put(lease("127.64.0.2"))


def test_a_failed_transaction_leaves_nothing(store: SqliteStore) -> None:
    with pytest.raises(KeyError), store.transaction() as tx:
        tx.insert(lease("127.64.0.1"))
        tx.add_job(Job(program="p", subject="s", scope=SCOPE, step="a"))
        raise KeyError("anything")
    with store.read() as view:
        assert view.scan(AddressLease) == [] and view.jobs() == []


def test_jobs_are_due_in_order_and_one_of_a_program_per_subject(store: SqliteStore) -> None:
    with store.transaction() as tx:
        late = tx.add_job(Job(program="p", subject="s", scope=SCOPE, step="a", due_at=20.0))
        soon = tx.add_job(Job(program="q", subject="s", scope=SCOPE, step="a", due_at=10.0))
        with pytest.raises(Duplicate):
            tx.add_job(Job(program="p", subject="s", scope=SCOPE, step="a"))
    assert store.next_due_at() == 10.0
    assert [job.id for job in store.due_jobs(30.0, 10)] == [soon.id, late.id]
    assert store.due_jobs(9.0, 10) == []
    with store.transaction() as tx:
        tx.put_job(msgspec.structs.replace(soon, step="b", due_at=40.0))
        tx.finish_job(late)
        with pytest.raises(Conflict):
            tx.put_job(late)
    assert [job.step for job in store.due_jobs(50.0, 10)] == ["b"]


def test_events_are_kept_per_scope_and_pruned(store: SqliteStore) -> None:
    def event(at: float, scope: Scope = SCOPE) -> Event:
        return Event(scope=scope, at=at, source_type="db-instance", source_id="x", source_arn="a", categories=(),
                     message=str(at))  # fmt: skip

    with store.transaction() as tx:
        for at in (3.0, 1.0, 2.0):
            tx.append_event(event(at))
        tx.append_event(event(2.0, OTHER))
    with store.read() as view:
        assert [found.at for found in view.events(SCOPE, 1.0, 3.0)] == [1.0, 2.0]
    assert store.prune_events(2.5) == 3


WRITER = """
import sys
from mainstay.model.addresses import AddressLease
from mainstay.model.records import Scope
from mainstay.store import Job, SqliteStore
scope = Scope("123456789012", "us-east-1")
store = SqliteStore(sys.argv[1])
for number in range(1_000_000):
    with store.transaction() as tx:
        tx.insert(AddressLease(scope=scope, address=f"{number:07}", holder="h"))
        tx.add_job(Job(program="p", subject=str(number), scope=scope, step="a"))
    print(number + 1, flush=True)
"""


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        committed = 0
        while committed < 50:
            committed = int(writer.stdout.readline())
        writer.kill()
        committed = max([committed, *(int(line) for line in writer.stdout.read().split())])
    opened = SqliteStore(path)
    with opened.read() as view:
        records, jobs = len(view.scan(AddressLease)), len(view.jobs())
    opened.close()
    assert records == jobs and committed <= records <= committed + 1


def test_the_file_is_private_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    opened = SqliteStore(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opened._db.execute("PRAGMA user_version = 99")
    opened.close()
    with pytest.raises(Permanent, match="schema version 99"):
        SqliteStore(path)


def test_a_full_disk_is_told_and_keeps_what_was_there(tmp_path: Path) -> None:
    opened = SqliteStore(tmp_path / "store.sqlite")
    with opened.transaction() as tx:
        tx.insert(lease("127.64.0.1"))
    (pages,) = opened._db.execute("PRAGMA page_count").fetchone()
    opened._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull), opened.transaction() as tx:
        for number in range(5000):
            tx.insert(lease(f"x{number}"))
    with opened.read() as view:
        assert [found.address for found in view.scan(AddressLease)] == ["127.64.0.1"]
    opened.close()


def test_an_older_store_is_brought_up_to_date_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    before = sqlite3.connect(path)
    before.executescript(f"{SCHEMA_STEPS[0]} PRAGMA user_version = 1;")
    before.close()
    store = SqliteStore(path)
    with store.transaction() as tx:
        tx.insert(lease("127.64.0.1"))
        tx.insert(lease("127.64.0.2", scope=OTHER))
    store.close()
    again = SqliteStore(path)
    assert [one.address for one in again.view().find(AddressLease, None, "holder", "h")] == ["127.64.0.2", "127.64.0.1"]
    again.close()


@pytest.mark.parametrize("scope", [SCOPE, None], ids=["one scope", "all scopes"])
def test_finding_by_index_reads_what_it_finds_and_nothing_else(
    store: SqliteStore, tmp_path: Path, scope: Scope | None
) -> None:
    """What SQLite says that it does: a scan of an index would cost more with every record."""
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    store.view().find(AddressLease, scope, "holder", "h")
    store._db.set_trace_callback(None)
    (query,) = asked
    plan = [row[3] for row in sqlite3.connect(tmp_path / "store.sqlite").execute(f"EXPLAIN QUERY PLAN {query}")]
    (index,) = (step for step in plan if " i " in step)
    assert index.startswith("SEARCH") and "name=? AND value=?" in index, plan
