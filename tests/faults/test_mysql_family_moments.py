"""Backups of MariaDB and MySQL under load, and restores to moments, judged by what clients know (B1, B2 and B7).

Short rounds here; `--faults-full` restores eight backups and twenty random moments.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.backups import judge_restore
from harness.dialects import MARIADB, MYSQL, EngineUnderTest, newest_of
from harness.mysql_family_pairs import MysqlFamilyMultiAZ
from harness.service import Service, eventually
from harness.shop import Shop
from harness.writers import Outcome, Row
from mainstay.engines.mysql.binlog import MYSQL_LOG
from mainstay.engines.mysql_family.binlog import events

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]
TOGETHER = 2
"""So many restores at once."""

WIDE_ROWS = 50


@pytest.fixture(scope="module", params=[*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def pair(request: pytest.FixtureRequest) -> Iterator[MysqlFamilyMultiAZ]:
    engine: EngineUnderTest = request.param
    with Service() as service:
        members = {"MultiAZ": True, "DBName": "shop", "BackupRetentionPeriod": 1}
        yield MysqlFamilyMultiAZ(service, engine, engine.create(service, "m1", **members))


def restored(pair: MysqlFamilyMultiAZ, moments: dict[str, float]) -> Iterator[tuple[str, list[Row]]]:
    """What is in the table as of each moment."""
    rds, names = pair.service.client("rds"), list(moments)
    for first in range(0, len(names), TOGETHER):
        together = names[first : first + TOGETHER]
        for name in together:
            rds.restore_db_instance_to_point_in_time(
                SourceDBInstanceIdentifier="m1", TargetDBInstanceIdentifier=name, BackupRetentionPeriod=0,
                RestoreTime=datetime.fromtimestamp(moments[name], UTC),
            )  # fmt: skip
        for name in together:
            pair.service.await_status(name, "available")
            rows = Shop(pair.service, pair._engine, name).run("SELECT session, sequence FROM kept")
            yield name, [(int(one), int(other)) for one, other in rows]
            pair.service.delete_instance(name)


@contextmanager
def movements(pair: MysqlFamilyMultiAZ) -> Iterator[list[int]]:
    """A client that changes wide rows and, in the same transaction, what they add up to; so many are committed."""
    with pair.connect() as session:
        session.execute("CREATE TABLE IF NOT EXISTS wide (id int PRIMARY KEY, version int NOT NULL, padding longtext)")
        session.execute("CREATE TABLE IF NOT EXISTS total (versions int NOT NULL)")
        for table in ("wide", "total"):
            session.execute(f"DELETE FROM {table}")
        session.execute("INSERT INTO total VALUES (0)")
        for number in range(WIDE_ROWS):
            session.execute("INSERT INTO wide VALUES (%s, 0, REPEAT(SHA2(UUID(), 256), 1000))", (number,))
    moved, ended = [0], threading.Event()

    def move() -> None:
        with pair.connect() as session:
            while not ended.is_set():
                session.execute("BEGIN")
                change = (
                    "UPDATE wide SET version = version + 1, padding = REPEAT(SHA2(UUID(), 256), 1000) WHERE id = %s"
                )
                session.execute(change, (moved[0] % WIDE_ROWS,))
                session.execute("UPDATE total SET versions = versions + 1")
                session.execute("COMMIT")
                moved[0] += 1

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    try:
        yield moved
    finally:
        ended.set()
        mover.join(60)


def test_a_backup_under_load_is_whole_and_of_one_moment(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    """B1. Of MariaDB it is being stored while it is prepared: what changed thereby must not be what is restored."""
    rds = pair.service.client("rds")
    pair.await_in_sync()
    pair.make_table()
    asked: dict[str, tuple[float, float, int]] = {}
    with pair.writers() as writers, movements(pair) as moved:
        for number in range(8 if full else 1):
            count = moved[0]
            eventually(lambda count=count: moved[0] > count + 50)
            before, name = time.monotonic(), f"s{number}"
            rds.create_db_snapshot(DBInstanceIdentifier="m1", DBSnapshotIdentifier=name)
            eventually(
                lambda name=name: (
                    rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]["Status"] == "available"
                )
            )
            asked[name] = (before, time.monotonic(), moved[0])
        writers.stop()
    for name, (before, after, most) in asked.items():
        rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier=f"of-{name}", DBSnapshotIdentifier=name)
        pair.service.await_status(f"of-{name}", "available")
        of = Shop(pair.service, pair._engine, f"of-{name}")
        [(versions,)], [(total,)] = of.run("SELECT SUM(version) FROM wide"), of.run("SELECT versions FROM total")
        assert 50 < versions == total <= most + 1, "a transaction is there in part"
        checked = of.run("CHECK TABLE kept, wide, total EXTENDED")
        assert {row[3] for row in checked if row[2] == "status"} == {"OK"}, checked
        there = {(int(one), int(other)) for one, other in of.run("SELECT session, sequence FROM kept")}
        acknowledged = [one for one in writers.operations if one.outcome is Outcome.ACKNOWLEDGED]
        assert not {one.row for one in acknowledged if one.ended < before} - there, "missing"
        assert not {one.row for one in writers.operations if one.began > after} & there, "from later"
        print(f"B1, {pair.name}: {len(there)} commits and {versions} movements, each once")
        pair.service.delete_instance(f"of-{name}")
        rds.delete_db_snapshot(DBSnapshotIdentifier=name)


def await_restorable(pair: MysqlFamilyMultiAZ, moment: float) -> None:
    Shop(pair.service, pair._engine, "m1").restorable(datetime.fromtimestamp(moment, UTC))


def test_every_moment_is_exact_also_across_a_failover(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pair.await_in_sync()
    pair.make_table()
    with pair.writers() as writers:
        begun = time.time()
        for _ in range(3 if full else 1):
            count = writers.acknowledged()
            eventually(lambda count=count: writers.acknowledged() > count + 100)
            time.sleep(6 if full else 2)
            before = pair.await_in_sync()
            killed = pair.kill(before.primary)
            pair.await_epoch(before.epoch + 1)
            eventually(lambda since=killed: writers.acknowledged_since(since) > 100)
        time.sleep(1.5)
        ended = time.time()
        writers.stop()
    await_restorable(pair, int(ended) + 2.0)
    # Of MariaDB a moment is the beginning of its second (docs/mariadb.md).
    digits = 3 if pair.name == "mysql" else 0
    drawn = [float(int(begun) + 1), *(chance.uniform(begun + 1, ended) for _ in range(19 if full else 2))]
    moments = {f"r{number}": round(one, digits) for number, one in enumerate(drawn)}
    verdicts = {name: judge_restore(writers.operations, rows, moments[name]) for name, rows in restored(pair, moments)}
    rows = pair.rows()
    assert judge_restore(writers.operations, rows, ended + 1) == "", "all of it"
    assert "missing" in judge_restore(writers.operations, rows[:-50], ended + 1), "the test would notice a loss"
    assert "begun after" in judge_restore(writers.operations, rows, (begun + ended) / 2), "and what is too much"
    print(f"B2, {pair.name}: {len(moments)} moments, {len(rows)} commits, {verdicts}")
    assert not any(verdicts.values()), verdicts


def moments_of_commits(log: Path) -> list[int]:
    """When the transactions of a MySQL binary log that wrote to the table `kept` were committed, in microseconds."""
    found: list[int] = []
    committed_us = 0
    for event in events([log.read_bytes()]):
        if (begun := MYSQL_LOG.begun(event)) is not None and begun.committed_us is not None:
            committed_us = begun.committed_us
        elif b"\x04shop\0\x04kept\0" in event.data:
            found.append(committed_us)
    return found


def test_mysql_is_exact_on_the_boundary_of_a_transaction(pair: MysqlFamilyMultiAZ) -> None:
    """To the microsecond that the log gives for the commit: at that moment it is not there, one later it is."""
    if pair.name != "mysql":
        pytest.skip("MariaDB's log does not tell when a transaction was committed")
    record = pair.await_in_sync()
    pair.make_table()
    with pair.connect() as session:
        for number in range(3):
            session.execute("INSERT INTO kept VALUES (%s, %s)", (7, number))
    at = moments_of_commits(max((pair.volume(record.primary) / "data").glob("mysql-bin-changelog.0*")))[-2]
    await_restorable(pair, int(time.time()) + 1.0)
    assert dict(restored(pair, {"at": at / 1e6, "later": (at + 1) / 1e6})) == {
        "at": [(7, 0)],
        "later": [(7, 0), (7, 1)],
    }
