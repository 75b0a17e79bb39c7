"""Backups of a Multi-AZ instance are read from its standby, and are right whatever happens to it meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from harness.backups import Kept, workers_of
from harness.pairs import MultiAZ
from harness.service import Service, eventually
from mainstay.agent.backup_facts import read_facts
from mainstay.backups.manifests import list_backups
from mainstay.engines.builds import Builds

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

MARK = "mark-of-the-node"


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with Service() as service:
        service.create_instance("source", BackupRetentionPeriod=7, MultiAZ=True)
        made = Kept(service, "source")
        made.await_window()
        with made.connect() as session:
            session.execute("CREATE TABLE bulk AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 500000) g")
            session.execute("CREATE INDEX ON bulk (id)")
            session.execute("CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS one")
        yield made


@pytest.fixture
def pair(kept: Kept) -> Iterator[MultiAZ]:
    """In sync, with a file in the data directory of each node that names it."""
    found = MultiAZ(kept.service, kept.service.describe("source"))
    found.await_in_sync()
    kept.await_status("source")
    mark(found)
    yield found
    found.await_in_sync()


def mark(pair: MultiAZ) -> None:
    for node_id in pair.node_ids:
        (pair.volume(node_id) / "data" / MARK).write_text(node_id)


def change(kept: Kept, number: int) -> dict[str, tuple[int, str]]:
    """Changes pages everywhere in the moment before a backup: in no file of the standby yet; what there is then."""
    with kept.connect() as session:
        session.execute("UPDATE bulk SET v = md5(v) WHERE mod(id, 7) = mod(%s, 7)", (number,))
        session.execute(f"CREATE TABLE t{number} AS SELECT repeat('x', g) FROM generate_series(1, 2000) g")
        session.execute(f"CREATE INDEX ON t{number} (repeat)")
    return kept.checksums(without=("fleeting",))


def restored(kept: Kept, snapshot: str) -> str:
    """Makes an instance of the snapshot and checks every page; returns whose mark it bears."""
    target = f"of-{snapshot}"
    kept.restore_snapshots({target: snapshot})
    kept.await_status(target)
    data = Path(kept.service.node(target)["data_directory"])
    return (data / MARK).read_text()


def check_pages(kept: Kept, identifier: str) -> None:
    service = kept.service
    build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
    data = service.node(identifier)["data_directory"]
    kept.rds.stop_db_instance(DBInstanceIdentifier=identifier)
    eventually(lambda: service.describe(identifier)["DBInstanceStatus"] == "stopped")
    done = subprocess.run(
        [str(build.bin_directory / "pg_checksums"), "--check", f"--pgdata={data}"],
        env=build.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def from_standby(kept: Kept) -> bool:
    """Of the newest backup, as its manifest says."""
    repository = kept.repository()
    facts = read_facts(repository, max(list_backups(repository)))
    assert facts is not None
    return facts.from_standby


def backups_begun(kept: Kept) -> int:
    """At the engine: how often the agent has said so."""
    return (kept.service.home / "logs" / "agent.log").read_text().count('"event": "job.reads"')


@contextmanager
def held(kept: Kept, snapshot: str) -> Iterator[None]:
    """A snapshot has begun at the engine, and the process that is to read the files stands still before the first."""
    begun = backups_begun(kept)
    kept.begin_snapshot(snapshot)
    (worker,) = eventually(lambda: workers_of(kept.service.process("agent")), interval_s=0.002, timeout_s=120.0)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        eventually(lambda: backups_begun(kept) > begun)
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_the_files_are_those_of_the_standby(kept: Kept, pair: MultiAZ) -> None:
    with pair.connect() as session:
        session.execute("DROP TABLE IF EXISTS kept")
    pair.make_table()
    standby = pair.standby
    with pair.writers(writers=2, readers=0, pause_s=0.002) as writers:
        eventually(lambda: writers.acknowledged() > 100)
        before = change(kept, 1)
        kept.begin_snapshot("plain")
        kept.await_snapshot("plain")
    del before["kept"]
    assert from_standby(kept)
    assert restored(kept, "plain") == standby
    assert kept.checksums("of-plain", without=("kept", "fleeting")) == before
    written = {one for one in kept.rows("of-plain")}
    assert written <= {one.row for one in writers.operations} and written
    check_pages(kept, "of-plain")
    kept.drop("of-plain")
    passing = pair.service.home / "agent" / "nodes" / standby / "conf" / "passing.conf"
    assert passing.read_text() == "", "the standby checkpoints as before"
    assert kept.damages() == ()


def write_later(kept: Kept) -> bool:
    """Something on a timeline that the old primary knows nothing of; False while the new one does not take it yet."""
    try:
        with kept.connect() as session:
            session.execute("CREATE TABLE IF NOT EXISTS later AS SELECT 1 AS one")
    except psycopg.OperationalError:
        return False
    return True


def test_a_failover_while_the_files_are_read(kept: Kept, pair: MultiAZ) -> None:
    """The standby's files are the new primary's then, and the backup that was begun at the old one never ends."""
    before, record = change(kept, 2), pair.record
    with held(kept, "failed-over"):
        pair.kill(record.primary)
        pair.await_epoch(record.epoch + 1)
        eventually(lambda: write_later(kept))
    kept.await_snapshot("failed-over")
    restored(kept, "failed-over")
    found = kept.checksums("of-failed-over", without=("kept", "fleeting"))
    assert "later" in found, "the backup that counts was begun after the failover"
    assert {name: found[name] for name in before if name != "kept"} == {
        name: value for name, value in before.items() if name != "kept"
    }
    check_pages(kept, "of-failed-over")
    kept.drop("of-failed-over")
    assert kept.damages() == ()


def test_a_standby_that_is_restarted_while_its_files_are_read(kept: Kept, pair: MultiAZ) -> None:
    before = change(kept, 3)
    with held(kept, "restarted"):
        pair.kill(pair.standby)
        pair.await_in_sync()
        eventually(lambda: pair.processes(pair.standby))
    kept.await_snapshot("restarted")
    messages = (kept.service.home / "logs" / "agent.log").read_text()
    assert "the standby was restarted or has taken over while its files were read" in messages
    restored(kept, "restarted")
    assert kept.checksums("of-restarted", without=("kept", "fleeting")) == {
        name: value for name, value in before.items() if name != "kept"
    }
    kept.drop("of-restarted")


def test_without_its_standby_the_primary_is_read(kept: Kept, pair: MultiAZ) -> None:
    record = pair.record
    with pair.stopped(pair.standby):
        eventually(lambda: not pair.record.standby)
        kept.begin_snapshot("alone")
        kept.await_snapshot("alone")
    assert not from_standby(kept)
    assert restored(kept, "alone") == record.primary
    kept.drop("of-alone")
