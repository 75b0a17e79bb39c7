"""Multi-AZ MariaDB and MySQL under kills: no acknowledged commit is lost, none seen that was not, writes go on soon.

The controls take a protection out and must see a loss or a stall; else these tests would prove nothing.
"""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterator

import pymysql
import pytest

from harness.dialects import MARIADB, MYSQL, EngineUnderTest, newest_of
from harness.mysql_family_pairs import MysqlFamilyMultiAZ
from harness.service import Service, eventually
from harness.writers import describe_gaps, gaps, judge, loss_bound

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

WORDS = {"mariadb": ("master", "SLAVE"), "mysql": ("source", "REPLICA")}
"""What each calls the two nodes."""


@pytest.fixture(scope="module", params=[*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def pair(request: pytest.FixtureRequest) -> Iterator[MysqlFamilyMultiAZ]:
    engine: EngineUnderTest = request.param
    with Service() as service:
        yield MysqlFamilyMultiAZ(service, engine, engine.create(service, "m1", MultiAZ=True, DBName="shop"))


@pytest.fixture(autouse=True)
def whole(pair: MysqlFamilyMultiAZ) -> None:
    """Every test begins with a pair that is in sync, and an empty table."""
    pair.await_in_sync()
    pair.make_table()


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make faults`."""
    return bool(request.config.getoption("--faults-full"))


def test_primary_killed(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    with pair.writers() as writers:
        kills = pair.kill_rounds_here(writers, 100 if full else 4, ("everything", "shim"))
        pair.await_in_sync()
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"F1, {pair.name}: {verdict}")
    print(f"F1, {pair.name}: {describe_gaps(gaps(writers.operations, kills))}; {loss_bound(len(kills))}")
    assert verdict.clean, str(verdict)
    assert verdict.acknowledged > 0 and writers.read


def test_standby_killed_stops_no_write_for_long_and_loses_nothing(pair: MysqlFamilyMultiAZ) -> None:
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 30)
        before = pair.await_in_sync()
        killed = pair.kill(before.standby)
        eventually(lambda: writers.acknowledged_since(killed) > 30)
        eventually(lambda: pair.record.since > before.since and pair.record.standby)
        record = pair.await_in_sync()
        assert record.primary == before.primary and record.epoch == before.epoch
        pair.kill(record.primary)
        pair.await_epoch(record.epoch + 1)
        eventually(lambda: writers.acknowledged_since(time.monotonic() - 1))
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    assert verdict.clean, str(verdict)


def test_both_killed_at_once_nothing_is_lost(pair: MysqlFamilyMultiAZ) -> None:
    """What the standby had received and not applied is gone with its process: it must not lead then."""
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 100)
        before = pair.await_in_sync()
        with pair.service.stopped("agent"):
            for node in (before.standby, before.primary):
                pair.kill(node)
        after_kill = time.monotonic()
        eventually(lambda: writers.acknowledged_since(after_kill))
        pair.await_in_sync()
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"both killed, {pair.name}: {verdict}")
    assert verdict.clean, str(verdict)


def test_new_primary_killed_while_it_takes_over(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    """What it had received and not applied is gone with it; the former primary, killed before, has everything."""
    taken_back = 0
    with pair.writers() as writers:
        for _round in range(20 if full else 3):
            count = writers.acknowledged()
            eventually(lambda count=count: writers.acknowledged() > count + 200)
            before = pair.await_in_sync()
            pair.kill(before.primary)
            after = pair.await_epoch(before.epoch + 1)
            killed = pair.kill(after.primary)
            eventually(lambda since=killed: writers.acknowledged_since(since))
            record = pair.await_in_sync()
            taken_back += record.failovers[-1].row == "taken-back"
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"new primary killed, {pair.name}: {verdict}; {taken_back} times the former one led again")
    assert verdict.clean, str(verdict)


def test_frozen_standby_lets_writes_go_on_after_it_was_recorded(pair: MysqlFamilyMultiAZ) -> None:
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 30)
        before = pair.await_in_sync()
        with pair.stopped(before.standby):
            frozen = time.monotonic()
            eventually(lambda: not pair.record.standby)
            eventually(lambda: writers.acknowledged_since(frozen))
            recorded = pair.record
            assert recorded.primary == before.primary
        pair.await_in_sync()
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    assert verdict.clean, str(verdict)


def test_hung_primary_is_fenced(pair: MysqlFamilyMultiAZ) -> None:
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 30)
        before = pair.await_in_sync()
        pid = pair.postmaster(before.primary)
        os.kill(pid, signal.SIGSTOP)
        hung = time.monotonic()
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        eventually(lambda: writers.acknowledged_since(hung))
        pair.await_in_sync()
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    assert verdict.clean, str(verdict)


def test_control_a_primary_that_does_not_wait_loses_commits(pair: MysqlFamilyMultiAZ) -> None:
    """Semi-synchronous replication off, behind the pair's back, and a standby that does not receive: rows are lost."""
    before = pair.await_in_sync()
    sockets = pair.service.settings.runtime / "nodes"
    _sql(sockets / before.primary / "mysqld.sock", f"SET GLOBAL rpl_semi_sync_{WORDS[pair.name][0]}_enabled = 0")
    with pair.writers() as writers:
        _sql(sockets / before.standby / "mysqld.sock", f"STOP {WORDS[pair.name][1]} IO_THREAD")
        count = writers.acknowledged()
        eventually(lambda: writers.acknowledged() > count + 50, interval_s=0.005)
        pair.kill(before.primary)
        if pair.record.standby:
            pair.await_epoch(before.epoch + 1)
        eventually(lambda: writers.acknowledged_since(time.monotonic() - 1))
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    assert verdict.lost, "the test would not notice a loss"


def _sql(socket_path: object, statement: str) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    with pymysql.connect(unix_socket=str(socket_path), user=user, ssl_disabled=True) as connection:
        connection.cursor().execute(statement)
